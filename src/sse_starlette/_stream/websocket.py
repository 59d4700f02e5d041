"""The answer to an attempt to open a websocket where there's an event stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Message, Send


def denying_websocket(send: Send) -> Send:
    """Send a response as that answer (ASGI, "Websocket Denial Response")."""

    async def deny(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return deny
