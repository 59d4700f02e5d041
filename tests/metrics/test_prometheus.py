"""What Prometheus gets."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Route
from tests.metrics.conftest import two_events
from tests.unit.driving import drive
from tests.unit.subscribing import fall_behind, streaming

from sse_starlette import EventSourceResponse, Hub
from sse_starlette.metrics.prometheus import PrometheusMetrics
from sse_starlette.observe import is_observed

pytestmark = pytest.mark.anyio

DASHBOARD = Path(__file__).parents[2] / "examples" / "grafana" / "dashboard.json"


async def numbers(request: object) -> EventSourceResponse:
    return EventSourceResponse(two_events(), ping=0)


APP = Starlette(routes=[Route("/", numbers)])


def samples(registry: CollectorRegistry) -> dict[str, float]:
    """What a scrape reads, by name and labels as Prometheus writes them."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(hub: Hub, registry: CollectorRegistry) -> Iterator[PrometheusMetrics]:
    made = PrometheusMetrics(hub, registry=registry)
    yield made
    made.close()
    made.close()
    assert not is_observed()
    assert samples(registry) == {}


async def test_streams_are_counted_open_ended_and_by_what_they_sent(
    metrics: PrometheusMetrics, registry: CollectorRegistry, hub: Hub
) -> None:
    async with drive(APP) as exchange:
        await exchange.returns()
    async with streaming(hub.channel("news").subscribe()) as open_stream:
        found = samples(registry)

    assert found["sse_streams_open{endpoint=numbers}"] == 0
    assert found["sse_streams_open{endpoint=}"] == 1
    assert found["sse_streams_ended_total{endpoint=numbers,reason=end}"] == 1
    assert found["sse_source_events_total{endpoint=numbers}"] == 2
    assert found["sse_sent_bytes_total{endpoint=numbers}"] == len(exchange.body)
    assert found["sse_sent_bytes_total{endpoint=}"] == len(open_stream.body)
    assert found["sse_sends_total{endpoint=numbers}"] >= 1
    assert found["sse_stream_seconds_count{endpoint=numbers}"] == 1
    assert found["sse_subscribers{channel=}"] == 1
    assert found["sse_lag{channel=}"] == 0
    assert found["sse_channels{}"] == 1
    assert found["sse_log_up{}"] == 1


async def test_slow_clients_gaps_and_events_of_channels_are_counted(
    metrics: PrometheusMetrics, registry: CollectorRegistry, hub: Hub
) -> None:
    channel = hub.channel("news", history=1)
    channel.subscribe("another.5")
    await fall_behind(channel)

    found = samples(registry)

    assert found["sse_subscribers_lagged_total{stream=ended}"] == 1
    assert found["sse_gaps_total{reason=epoch}"] == 1
    assert found["sse_published_total{}"] == 4
    assert found["sse_streams_ended_total{endpoint=,reason=lagging}"] == 1


async def test_channels_have_a_label_only_where_that_is_asked_for(
    registry: CollectorRegistry,
) -> None:
    hub = Hub()
    news = hub.channel("news")
    metrics = PrometheusMetrics(hub, registry=registry, channels=True)
    async with streaming(news.subscribe()):
        found = samples(registry)

    metrics.close()
    assert found["sse_subscribers{channel=news}"] == 1
    assert found["sse_lag{channel=news}"] == 0


def test_figures_need_neither_a_hub_nor_a_registry() -> None:
    metrics = PrometheusMetrics(registry=None)

    names = {family.name for family in metrics.collect()}

    metrics.close()
    assert "sse_streams_open" in names
    assert "sse_channels" not in names


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "sse_starlette.metrics.prometheus")

    with pytest.raises(ImportError, match="PrometheusMetrics needs the prometheus extra"):
        importlib.import_module("sse_starlette.metrics.prometheus")


def test_dashboard_asks_for_figures_that_there_are(
    metrics: PrometheusMetrics, registry: CollectorRegistry
) -> None:
    """Those without a value yet have their family all the same."""
    there = set()
    for family in metrics.collect():
        there |= {family.name, f"{family.name}_total", f"{family.name}_bucket"}
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    queries = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())
    ]

    asked = {name for query in queries for name in re.findall(r"\bsse_\w+", query)}

    assert len(queries) >= 10
    assert asked - there == set()
