"""The figures of streams, channels and event logs, for Prometheus: `sse-starlette[prometheus]`.

A collector: nothing is written while events are sent, all is read when Prometheus asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ..observe import Observer, StreamRecord, observe
from ._tally import Tally

try:
    from prometheus_client import REGISTRY, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
except ImportError as _missing:
    raise ImportError(
        "PrometheusMetrics needs the prometheus extra: give pip the distribution that this package was installed "
        "from, with [prometheus], or install prometheus-client beside it"
    ) from _missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

    from ..hub import Hub
    from ._tally import HubFigures

__all__ = ["PrometheusMetrics"]

_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 600.0, 1_800.0, 3_600.0, 14_400.0, 86_400.0)


class PrometheusMetrics:
    """
    Exports what happens to the streams of this process, and to the channels of a hub.

    ```python
    metrics = PrometheusMetrics(hub)
    app.mount("/metrics", prometheus_client.make_asgi_app())
    ```

    It's a collector, which prometheus-client's multiprocess mode knows nothing of: where a service has several
    workers, each has its own figures, and Prometheus is to ask each.
    """

    def __init__(
        self,
        hub: Hub | None = None,
        *,
        registry: CollectorRegistry | None = REGISTRY,
        channels: bool = False,
    ) -> None:
        """
        Observe from now on.

        Args:
            hub: whose channels and event log are exported; None: streams alone.
            registry: where the figures are registered; None: nowhere, `collect` is called by hand.
            channels: whether channels are told apart by a label. Leave it off where their names have no
                bound, such as one for each user.
        """
        self._hub = hub
        self._tally = Tally(hub)
        self._by_channel = channels
        self._seconds = Histogram(
            "sse_stream_seconds",
            "How long streams lasted",
            ["endpoint"],
            registry=None,
            buckets=_SECONDS,
        )
        self._registry = registry
        self._ends = [observe(self._tally), observe(_Durations(self._seconds))]
        if registry is not None:
            registry.register(cast("Collector", self))

    def close(self) -> None:
        """Observe no more, and take the figures back. May be called twice."""
        for end in self._ends:
            end()
        registry, self._registry = self._registry, None
        if registry is not None:
            registry.unregister(cast("Collector", self))

    def describe(self) -> list[Metric]:
        """Say nothing: so that registering asks the hub for no figures."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the figures as they are now."""
        yield from self._of_streams()
        yield from self._seconds.collect()
        if (found := self._tally.hub_figures()) is not None:
            yield from self._of_hub(found)

    def _of_streams(self) -> Iterator[Metric]:
        tally = self._tally
        opened = GaugeMetricFamily("sse_streams_open", "Streams that are open", labels=["endpoint"])
        for endpoint, number in tally.open_by_endpoint().items():
            opened.add_metric([endpoint], number)
        yield opened
        ended = CounterMetricFamily(
            "sse_streams_ended", "Streams that have ended, and why", labels=["endpoint", "reason"]
        )
        for labels, number in tally.ended.copy().items():
            ended.add_metric(labels, number)
        yield ended
        sends = CounterMetricFamily(
            "sse_sends", "Messages with a part of a body, pings among them", labels=["endpoint"]
        )
        sent = CounterMetricFamily("sse_sent_bytes", "Bytes of bodies", labels=["endpoint"])
        events = CounterMetricFamily(
            "sse_source_events", "Events that sources have yielded", labels=["endpoint"]
        )
        for endpoint, sums in tally.sent_by_endpoint().items():
            sends.add_metric([endpoint], sums.sends)
            sent.add_metric([endpoint], sums.sent_bytes)
            events.add_metric([endpoint], sums.events)
        yield from (sends, sent, events)
        lagged = CounterMetricFamily(
            "sse_subscribers_lagged",
            "Clients that read more slowly than their channel was published to",
            labels=["stream"],
        )
        for is_over, number in tally.lagged.copy().items():
            lagged.add_metric(["ended" if is_over else "goes on"], number)
        yield lagged
        yield CounterMetricFamily(
            "sse_events_dropped", "Events that slow clients never got", value=tally.dropped
        )
        gaps = CounterMetricFamily("sse_gaps", "Gaps clients were told of", labels=["reason"])
        for reason, number in tally.gaps.copy().items():
            gaps.add_metric([reason], number)
        yield gaps

    def _of_hub(self, found: HubFigures) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "sse_log_up",
            "Whether the event log is in reach; 1 if there's none",
            value=found.connected,
        )
        yield CounterMetricFamily(
            "sse_log_losses", "How often the event log was out of reach", value=found.losses
        )
        yield CounterMetricFamily(
            "sse_log_catch_ups",
            "How often a channel read from the event log what it hadn't heard",
            value=found.catch_ups,
        )
        yield GaugeMetricFamily("sse_channels", "Channels in use", value=len(found.channels))
        yield CounterMetricFamily(
            "sse_published",
            "Events that were added to the channels this process reads",
            value=found.published,
        )
        yield CounterMetricFamily(
            "sse_delivered", "Events handed to connections of clients", value=found.delivered
        )
        subscribers = GaugeMetricFamily(
            "sse_subscribers", "Subscriptions that are open", labels=["channel"]
        )
        lag = GaugeMetricFamily(
            "sse_lag", "Events that the slowest open subscription is behind", labels=["channel"]
        )
        shown = found.channels if self._by_channel else {}
        for name, one in shown.items():
            subscribers.add_metric([name], one.subscribers)
            lag.add_metric([name], one.lag)
        if not self._by_channel:
            all_ = found.channels.values()
            subscribers.add_metric([""], sum(one.subscribers for one in all_))
            lag.add_metric([""], max((one.lag for one in all_), default=0))
        yield from (subscribers, lag)


class _Durations(Observer):
    def __init__(self, seconds: Histogram) -> None:
        self._seconds = seconds

    def stream_ended(self, stream: StreamRecord) -> None:
        self._seconds.labels(stream.endpoint).observe(stream.seconds or 0.0)
