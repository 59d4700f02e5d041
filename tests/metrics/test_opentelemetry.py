"""What OpenTelemetry gets, and what becomes of the instrumentations of FastAPI."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.metrics.conftest import two_events
from tests.unit.driving import drive
from tests.unit.subscribing import fall_behind, streaming

from sse_starlette import EventSourceResponse, Hub
from sse_starlette.metrics.opentelemetry import OpenTelemetryMetrics
from sse_starlette.observe import is_observed

pytestmark = pytest.mark.anyio


def app_with_stream() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def numbers() -> EventSourceResponse:
        return EventSourceResponse(two_events(), ping=0)

    return app


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def metrics(hub: Hub, reader: InMemoryMetricReader) -> Iterator[OpenTelemetryMetrics]:
    provider = MeterProvider([reader])
    made = OpenTelemetryMetrics(hub, meter_provider=provider)
    yield made
    made.close()
    made.close()
    provider.shutdown()
    assert not is_observed()


def points(reader: InMemoryMetricReader) -> dict[str, list[tuple[dict[str, Any], Any]]]:
    """The points of each instrument: their attributes and values."""
    data = reader.get_metrics_data()
    found: dict[str, list[tuple[dict[str, Any], Any]]] = {}
    if data is None:
        return found
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    value = getattr(point, "value", getattr(point, "count", 0))
                    found.setdefault(metric.name, []).append((dict(point.attributes or {}), value))
    return found


async def test_streams_and_channels_are_counted(
    metrics: OpenTelemetryMetrics, reader: InMemoryMetricReader, hub: Hub
) -> None:
    channel = hub.channel("news", history=1)
    channel.subscribe("another.5")
    async with drive(app_with_stream()) as exchange:
        await exchange.returns()
    await fall_behind(channel)
    async with streaming(channel.subscribe()):
        found = points(reader)

    (name,) = {attributes["sse.endpoint"] for attributes, _ in found["sse.streams.open"]} - {""}
    assert name.endswith("numbers")
    assert ({"sse.endpoint": name}, 0) in found["sse.streams.open"]
    assert ({"sse.endpoint": ""}, 1) in found["sse.streams.open"]
    assert ({"sse.endpoint": name}, 2) in found["sse.source.events"]
    assert ({"sse.endpoint": name}, len(exchange.body)) in found["sse.sent"]
    assert len(found["sse.sends"]) == 2
    ended = [attributes["sse.close_reason"] for attributes, _ in found["sse.stream.duration"]]
    assert sorted(ended) == ["end", "lagging"]
    assert found["sse.subscribers"] == [({}, 1)]
    assert found["sse.published"] == [({}, 4)]
    assert found["sse.delivered"][0][1] >= 0
    assert found["sse.log.up"] == [({}, 1)]
    assert found["sse.gaps"] == [({"sse.gap_reason": "epoch"}, 1)]
    assert found["sse.subscribers.lagged"] == [({"sse.stream_ended": True}, 1)]


async def test_figures_need_no_hub(reader: InMemoryMetricReader) -> None:
    provider = MeterProvider([reader])
    metrics = OpenTelemetryMetrics(meter_provider=provider)
    async with drive(app_with_stream()) as exchange:
        await exchange.returns()

    assert "sse.subscribers" not in points(reader)
    assert "sse.sent" in points(reader)
    metrics.close()
    provider.shutdown()


async def test_span_of_the_request_tells_how_its_stream_ended(
    metrics: OpenTelemetryMetrics,
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    app = app_with_stream()

    async def traced(scope: Any, receive: Any, send: Any) -> None:
        with tracer.start_as_current_span("request"):
            await app(scope, receive, send)

    async with drive(traced) as exchange:
        await exchange.returns()

    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["sse.close_reason"] == "end"
    assert span.attributes["sse.events"] == 2
    assert span.attributes["sse.sent_bytes"] == len(exchange.body)
    assert not trace.get_current_span().is_recording()


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "sse_starlette.metrics.opentelemetry")

    with pytest.raises(ImportError, match="OpenTelemetryMetrics needs the opentelemetry extra"):
        importlib.import_module("sse_starlette.metrics.opentelemetry")
