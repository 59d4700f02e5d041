"""Firefox, driven by what it speaks itself: WebDriver BiDi, with no driver in between.

Owns one process with a profile of its own, and one connection to it, used by one thread.
"""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.servers.serving import READY_SECONDS, Program, program
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

PREFERENCES = {
    "app.normandy.enabled": False,
    "browser.safebrowsing.update.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.systemAddon.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.proxy.type": 0,
    "services.settings.server": "data:,",
}
"""It asks nobody but who a test has it ask."""


class Firefox:
    """A headless Firefox with a fresh profile, and the tabs that are opened in it."""

    def __init__(self, folder: Path) -> None:
        self._profile = folder / "firefox"
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        self._profile.mkdir()
        lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});" for k, v in PREFERENCES.items()]
        (self._profile / "user.js").write_text("\n".join(lines), "utf-8")
        self._program = Program(
            [
                *(program("firefox-esr"), "--headless", "--no-remote"),
                *("--profile", self._profile, "--remote-debugging-port", "0"),
            ],
            cwd=self._profile,
        )
        self._program.__enter__()
        try:
            port = int(self._program.wait_for_line(r"BiDi listening on ws://127.0.0.1:(\d+)")[1])
            self._socket = socket.create_connection(("127.0.0.1", port), READY_SECONDS)
            self._connection = WSConnection(ConnectionType.CLIENT)
            self._events = self._read()
            self._send(Request(host=f"127.0.0.1:{port}", target="/session"))
            assert isinstance(next(self._events), AcceptConnection)
            self.do("session.new", capabilities={})
        except BaseException:
            self._program.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, AssertionError):
            self.do("browser.close")
        self._socket.close()
        self._program.stop()

    def new_page(self) -> FirefoxTab:
        return FirefoxTab(self, self.do("browsingContext.create", type="tab")["context"])

    def do(self, method: str, **params: Any) -> Any:
        """Give one command and return its result."""
        number = next(self._numbers)
        self._send(TextMessage(json.dumps({"id": number, "method": method, "params": params})))
        text = ""
        for event in self._events:
            assert isinstance(event, TextMessage), event
            text += event.data
            if event.message_finished:
                answer, text = json.loads(text), ""
                if answer.get("id") == number:
                    assert answer["type"] == "success", answer
                    return answer["result"]
        raise AssertionError("Firefox has gone")

    def _send(self, event: Request | TextMessage) -> None:
        self._socket.sendall(self._connection.send(event))

    def _read(self) -> Iterator[Any]:
        while data := self._socket.recv(65536):
            self._connection.receive_data(data)
            for event in self._connection.events():
                if isinstance(event, CloseConnection):
                    return
                yield event


class FirefoxTab:
    """A tab, with those of playwright's methods that a test asks it for."""

    def __init__(self, firefox: Firefox, context: str) -> None:
        self._firefox = firefox
        self._context = context

    def goto(self, url: str) -> None:
        self._firefox.do(
            "browsingContext.navigate", context=self._context, url=url, wait="complete"
        )

    def evaluate(self, expression: str, arg: Any = None) -> Any:
        """Call a function of one argument; what it returns comes as JSON."""
        program = (
            f"async (given) => JSON.stringify(await ({expression})(JSON.parse(given)) ?? null)"
        )
        answer = self._firefox.do(
            "script.callFunction",
            functionDeclaration=program,
            arguments=[{"type": "string", "value": json.dumps(arg)}],
            target={"context": self._context},
            awaitPromise=True,
        )
        assert answer["type"] == "success", answer
        return json.loads(answer["result"]["value"])

    def close(self) -> None:
        self._firefox.do("browsingContext.close", context=self._context)
