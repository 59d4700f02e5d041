"""What a channel that has a type makes of a value: validated, and JSON. Needs pydantic, and is loaded with the first type."""

from __future__ import annotations

from typing import Any

from ..event import Event, ServerSentEvent

try:
    from pydantic import TypeAdapter, ValidationError
except ImportError as _missing:
    raise ImportError(
        "the type of a channel is checked by pydantic, which isn't installed. From a checkout: pip install "
        "'.[fastapi]'. Or leave `type` out: `prices: Channel[Price] = hub.channel(\"prices\")` is checked by "
        "type checkers alone."
    ) from _missing

__all__ = ["Typed"]


class Typed:
    """The type of a channel's data, made ready once."""

    def __init__(self, channel: str, type_: Any) -> None:
        """
        Build the validator and the serializer.

        Raises:
            TypeError: pydantic can't validate such a type.
        """
        self._channel = channel
        self._name = getattr(type_, "__name__", None) or repr(type_)
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(type_)
        except Exception as exc:
            raise TypeError(
                f"type={type_!r} of channel {channel!r} can't be validated by pydantic: give a model, a "
                f"dataclass, a TypedDict or a builtin type ({exc})"
            ) from exc
        self._validator = adapter.validator
        self._serializer = adapter.serializer

    def event(self, event: Event) -> ServerSentEvent:
        """
        Return the event to publish: its data validated, and JSON by its aliases.

        An event without data passes as it is.

        Raises:
            pydantic.ValidationError: the data isn't of the type. It's a `ValueError`.
        """
        if isinstance(event, ServerSentEvent):
            if event.data is None:
                return event
            return ServerSentEvent(
                self._json(event.data),
                event=event.event,
                id=event.id,
                retry=event.retry,
                comment=event.comment,
            )
        return ServerSentEvent(self._json(event))

    def _json(self, value: object) -> str:
        try:
            valid = self._validator.validate_python(value)
        except ValidationError as exc:
            exc.add_note(
                f"channel {self._channel!r} takes {self._name}, or ServerSentEvent(data=…, event=…) with such "
                "data, because it was made with a type."
            )
            raise
        return self._serializer.to_json(valid, by_alias=True).decode()
