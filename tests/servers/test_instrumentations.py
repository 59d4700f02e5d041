"""Instrumentations that others make for FastAPI leave streams as they are, and see them to their end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_fastapi_instrumentator import Instrumentator
from tests.unit.driving import drive

from sse_starlette import EventSourceResponse, Hub
from sse_starlette.metrics.opentelemetry import OpenTelemetryMetrics

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def two_events() -> AsyncIterator[str]:
    yield "one"
    yield "two"


HUB = Hub()
NEWS = HUB.channel("news")


def app_with_streams() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def numbers() -> EventSourceResponse:
        return EventSourceResponse(two_events(), ping=0)

    @app.get("/news")
    async def news() -> EventSourceResponse:
        return EventSourceResponse(NEWS.subscribe())

    return app


async def check_streams(app: FastAPI) -> None:
    async with drive(app) as exchange:
        await exchange.returns()
    assert exchange.body == b"data: one\r\n\r\ndata: two\r\n\r\n"
    async with drive(app, scope=None) as again:
        await again.returns()
    assert again.complete


async def check_live_stream(app: FastAPI) -> None:
    from tests.unit.driving import http_scope

    async with drive(app, scope=http_scope(path="/news")) as exchange:
        await exchange.chunk(0)
        NEWS.publish_nowait("live")
        await exchange.contains("live")
        exchange.leave()
        await exchange.returns()


async def test_opentelemetrys_leaves_streams_as_they_are_and_its_span_tells_how_one_ended() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = app_with_streams()
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=provider, exclude_spans=["send", "receive"]
    )
    metrics = OpenTelemetryMetrics()

    await check_streams(app)
    await check_live_stream(app)

    metrics.close()
    FastAPIInstrumentor.uninstrument_app(app)
    reasons = [
        span.attributes and span.attributes["sse.close_reason"]
        for span in exporter.get_finished_spans()
    ]
    assert reasons == ["end", "end", "client"]


async def test_prometheus_fastapi_instrumentator_leaves_streams_as_they_are() -> None:
    registry = CollectorRegistry()
    app = app_with_streams()
    Instrumentator(registry=registry).instrument(app)

    await check_streams(app)
    await check_live_stream(app)

    assert b'handler="/news"' in generate_latest(registry)
