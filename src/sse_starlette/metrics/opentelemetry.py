"""The figures of streams, channels and event logs, for OpenTelemetry: `sse-starlette[opentelemetry]`.

Figures are read when the reader of the meter asks. A stream makes no span of its own: how it has ended is written
on the span of its request, if an instrumentation of the application has begun one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..observe import Observer, StreamRecord, observe
from ._tally import Tally

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, Observation
except ImportError as _missing:
    raise ImportError(
        "OpenTelemetryMetrics needs the opentelemetry extra: give pip the distribution that this package was "
        "installed from, with [opentelemetry], or install opentelemetry-api beside it"
    ) from _missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackT, Histogram, MeterProvider

    from ..hub import Hub
    from ._tally import HubFigures, Sent

__all__ = ["OpenTelemetryMetrics"]

_ENDPOINT = "sse.endpoint"
_REASON = "sse.close_reason"


class OpenTelemetryMetrics:
    """
    Exports what happens to the streams of this process, and to the channels of a hub.

    ```python
    metrics = OpenTelemetryMetrics(hub)
    FastAPIInstrumentor.instrument_app(app, exclude_spans=["send", "receive"])
    ```

    Without `exclude_spans` the instrumentations of ASGI make a span of each message that is sent.
    """

    def __init__(
        self, hub: Hub | None = None, *, meter_provider: MeterProvider | None = None
    ) -> None:
        """
        Observe from now on.

        Args:
            hub: whose channels and event log are exported; None: streams alone.
            meter_provider: where the instruments are made; None: the global one.
        """
        self._tally = Tally(hub)
        meter = metrics.get_meter("sse_starlette", meter_provider=meter_provider)
        seconds = meter.create_histogram(
            "sse.stream.duration", unit="s", description="How long streams lasted"
        )
        meter.create_observable_up_down_counter(
            "sse.streams.open", [self._open], description="Streams that are open"
        )
        meter.create_observable_counter(
            "sse.sent",
            [self._sent(lambda sums: sums.sent_bytes)],
            unit="By",
            description="Bytes of bodies",
        )
        meter.create_observable_counter(
            "sse.sends",
            [self._sent(lambda sums: sums.sends)],
            description="Messages with a part of a body",
        )
        meter.create_observable_counter(
            "sse.source.events",
            [self._sent(lambda sums: sums.events)],
            description="Events that sources have yielded",
        )
        meter.create_observable_counter(
            "sse.gaps", [self._gaps], description="Gaps that clients were told of"
        )
        meter.create_observable_counter(
            "sse.subscribers.lagged", [self._lagged], description="Clients that were too slow"
        )
        if hub is not None:
            meter.create_observable_gauge(
                "sse.log.up",
                [self._of_hub(lambda figures: int(figures.connected))],
                description="Whether the event log is in reach",
            )
            meter.create_observable_up_down_counter(
                "sse.subscribers",
                [self._of_hub(_subscribers)],
                description="Subscriptions that are open",
            )
            meter.create_observable_counter(
                "sse.published",
                [self._of_hub(lambda figures: figures.published)],
                description="Events added to channels",
            )
            meter.create_observable_counter(
                "sse.delivered",
                [self._of_hub(lambda figures: figures.delivered)],
                description="Events handed to connections",
            )
        self._ends = [observe(self._tally), observe(_Endings(seconds))]

    def close(self) -> None:
        """Observe no more; what has been counted stays. May be called twice."""
        for end in self._ends:
            end()

    def _open(self, _: CallbackOptions) -> Iterable[Observation]:
        for endpoint, number in self._tally.open_by_endpoint().items():
            yield Observation(number, {_ENDPOINT: endpoint})

    def _sent(self, figure: Callable[[Sent], int]) -> CallbackT:
        def observations(_: CallbackOptions) -> Iterable[Observation]:
            for endpoint, sums in self._tally.sent_by_endpoint().items():
                yield Observation(figure(sums), {_ENDPOINT: endpoint})

        return observations

    def _gaps(self, _: CallbackOptions) -> Iterable[Observation]:
        for reason, number in self._tally.gaps.copy().items():
            yield Observation(number, {"sse.gap_reason": reason})

    def _lagged(self, _: CallbackOptions) -> Iterable[Observation]:
        for is_over, number in self._tally.lagged.copy().items():
            yield Observation(number, {"sse.stream_ended": is_over})

    def _of_hub(self, figure: Callable[[HubFigures], int]) -> CallbackT:
        def observations(_: CallbackOptions) -> Iterable[Observation]:
            found = self._tally.hub_figures()
            assert found is not None  # noqa: S101  (there is a hub)
            yield Observation(figure(found))

        return observations


def _subscribers(figures: HubFigures) -> int:
    return sum(channel.subscribers for channel in figures.channels.values())


class _Endings(Observer):
    def __init__(self, seconds: Histogram) -> None:
        self._seconds = seconds

    def stream_ended(self, stream: StreamRecord) -> None:
        reason = stream.reason or "error"
        self._seconds.record(stream.seconds or 0.0, {_ENDPOINT: stream.endpoint, _REASON: reason})
        self.stream_completes(stream)

    def stream_completes(self, stream: StreamRecord) -> None:
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attributes(
                {
                    _REASON: stream.reason or "error",
                    "sse.sends": stream.sends,
                    "sse.sent_bytes": stream.sent_bytes,
                    "sse.events": stream.events,
                }
            )
