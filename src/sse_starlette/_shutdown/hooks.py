"""Where a server passes on its way down."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Hook(ABC):
    """Installed as long as there are streams."""

    @abstractmethod
    def install(self) -> None:
        """Watch from now on. Called with each stream that begins: another server may have come."""

    @abstractmethod
    def uninstall(self) -> None:
        """Leave no trace, as far as nobody else has installed something on top."""

    def is_going_down(self) -> bool:
        """Whether the server has passed already, as far as it can be asked."""
        return False

    def passes_after(self, _handler: object, /) -> bool:
        """Whether a server passes here after this handler of a signal, which then needs no hook."""
        return False


class MethodHook(Hook):
    """Stands before a method of a server's class while there are streams."""

    def __init__(
        self, module: str, owner: str, name: str, around: Callable[[Any], Callable[..., Any]]
    ) -> None:
        self._module = module
        self._owner = owner
        self._name = name
        self._around = around
        self._installed: tuple[type, Any, Any] | None = None
        self._made: tuple[Any, Any] = (None, None)

    def install(self) -> None:
        # A server that runs has been imported; no other is looked for.
        owner = getattr(sys.modules.get(self._module), self._owner, None)
        if owner is None:
            return
        found = getattr(owner, self._name)
        if self._installed is None or found is not self._installed[2]:
            original, ours = self._made
            if original is not found:  # Else it serves again.
                ours = self._around(found)
                self._made = (found, ours)
            setattr(owner, self._name, ours)
            self._installed = (owner, found, ours)

    def uninstall(self) -> None:
        if self._installed is not None:
            owner, original, ours = self._installed
            # Where somebody has put theirs on top of ours, it stays; without streams it does nothing.
            if getattr(owner, self._name) is ours:
                setattr(owner, self._name, original)
            self._installed = None
