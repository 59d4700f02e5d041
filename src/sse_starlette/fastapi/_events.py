"""The event as FastAPI's users know it: its data is JSON, whatever it is; `raw_data` is sent as it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Generic, cast

from .. import event as events
from .._wire.frame import check_field, frame_of
from ..event import DataT_co
from ._json import json_of

if TYPE_CHECKING:
    from ..event import FieldText

__all__ = ["ServerSentEvent", "text_of"]


class ServerSentEvent(events.ServerSentEvent[DataT_co], Generic[DataT_co]):
    r"""
    One event, with FastAPI's fields: `data` is sent as JSON, a string too, and `raw_data` as it is.

    A class of one's own gives an event its name, and its type a name in OpenAPI documents:

    ```python
    class Tick(ServerSentEvent[Price], event="tick"):
        "The price has changed."


    yield Tick(Price(symbol="ACME", amount=12.5))
    ```

    Parameters:
        data: any value that FastAPI makes JSON of.
        raw_data: text for the client as it is: a line of a log, a piece of HTML. Instead of `data`.
        event: see `sse_starlette.ServerSentEvent`. As in FastAPI, a line break in it is refused.
        id: the same.
        retry: see there.
        comment: see there.

    Raises:
        TypeError, ValueError: a field isn't what it should be, both `data` and `raw_data` are given, or the event
            of a class with a name is given another one.
    """

    _shown = ("data", "raw_data", "event", "id", "retry", "comment", "sep")

    event_name: ClassVar[str | None] = None
    """The name of all events of this class; None: each has its own, or none."""

    def __init_subclass__(cls, *, event: str | None = None, **options: Any) -> None:
        """Name the events of a subclass: `class Tick(ServerSentEvent[Price], event="tick")`."""
        super().__init_subclass__(**options)
        if event is not None:
            if not isinstance(event, str) or not event:
                raise TypeError(f'event is {event!r}: give the name as a str, event="tick".')
            check_field("event", event)
            cls.event_name = event

    def __init__(
        self,
        data: DataT_co | None = None,
        *,
        raw_data: str | None = None,
        event: FieldText | None = None,
        id: FieldText | None = None,
        retry: int | None = None,
        comment: str | None = None,
    ) -> None:
        if raw_data is not None:
            if data is not None:
                raise ValueError(
                    "the event has both data and raw_data: give data to have it sent as JSON, or raw_data to have "
                    "it sent as it is."
                )
            if not isinstance(raw_data, str):
                raise TypeError(
                    f"raw_data is {type(raw_data).__name__}: give a str, or the value as data."
                )
        name = self.event_name
        if name is not None:
            if event is not None and event != name:
                raise ValueError(
                    f"an event of {type(self).__name__} is named {name!r}, got event={event!r}: leave it out, or "
                    "use a ServerSentEvent."
                )
            event = name
        elif type(event) is str:
            check_field("event", event)
        if type(id) is str:
            check_field("id", id)
        super().__init__(data, event=event, id=id, retry=retry, comment=comment)
        self.raw_data = raw_data

    def encode(self) -> bytes:
        """Return the event as it goes over the wire; see `sse_starlette.ServerSentEvent.encode`."""
        sep = self.sep or self.DEFAULT_SEPARATOR
        return frame_of(sep, text_of(self), self.event, self.id, self.retry, self.comment)

    def json(self) -> Any:
        text = text_of(self)
        if text is None:
            raise ValueError(f"{self!r} has no data.")
        return json.loads(text)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ServerSentEvent) and self.raw_data != other.raw_data:
            return False
        return super().__eq__(other)

    def __hash__(self) -> int:
        return super().__hash__()


def text_of(event: Any) -> str | None:
    """Return what the client gets as the data of an event that has FastAPI's fields; None: it has no data."""
    if event.raw_data is not None:
        return cast("str", event.raw_data)
    return None if event.data is None else json_of(event.data)
