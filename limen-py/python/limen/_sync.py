"""How the blocking client waits: in the thread that asks, without Python's lock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._model import TimeoutError
from ._open import message_of, result_of, value_of

if TYPE_CHECKING:
    from ._limen import Core, Pending


class _Sync:
    """A core, and who asks it."""

    __slots__ = ("_core", "_as", "__weakref__")
    _core: Core
    _as: Mapping[str, str] | None

    def _start(self, method: str, args: Mapping[str, Any], key: str | None = None, body: bytes | None = None) -> Pending:
        return self._core.start(method, message_of(self._as, args, key), body)

    def _finish(self, pending: Pending, timeout: float | None = None) -> Any:
        answer = pending.wait(timeout)
        if answer is None:
            raise TimeoutError(f"Nothing came within {timeout} s.")
        return result_of(answer)

    def _call(self, method: str, args: Mapping[str, Any], key: str | None = None, body: bytes | None = None) -> Any:
        return value_of(self._finish(self._start(method, args, key, body)))

    def _close(self) -> None:
        self._core.close()
