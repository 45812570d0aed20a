"""How the asyncio client waits: its event loop is woken through a socket when answers are there."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._model import TimeoutError
from ._open import message_of, result_of, value_of

if TYPE_CHECKING:
    from ._limen import Core, Pending


class _Post:
    """The answers that one event loop waits for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        from ._limen import Mailbox

        self.mailbox = Mailbox()
        self.waiting: dict[int, asyncio.Future[None]] = {}
        self.number = 0
        loop.add_reader(self.mailbox.fileno(), self.fetch)

    def fetch(self) -> None:
        for number in self.mailbox.fetch():
            future = self.waiting.pop(number, None)
            if future is not None and not future.done():
                future.set_result(None)

    async def arrival(self, pending: Pending, timeout: float | None) -> None:
        self.number += 1
        number = self.number
        future = asyncio.get_running_loop().create_future()
        self.waiting[number] = future
        pending.notify(self.mailbox, number)
        try:
            if timeout is None:
                await future
            else:
                await asyncio.wait((future,), timeout=timeout)
        finally:
            self.waiting.pop(number, None)


_posts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Post] = weakref.WeakKeyDictionary()


def _post() -> _Post:
    loop = asyncio.get_running_loop()
    post = _posts.get(loop)
    if post is None:
        post = _posts[loop] = _Post(loop)
    return post


class _Aio:
    """A core, and who asks it."""

    __slots__ = ("_core", "_as", "__weakref__")
    _core: Core
    _as: Mapping[str, str] | None

    def _start(self, method: str, args: Mapping[str, Any], key: str | None = None, body: bytes | None = None) -> Pending:
        return self._core.start(method, message_of(self._as, args, key), body)

    async def _finish(self, pending: Pending, timeout: float | None = None) -> Any:
        await _post().arrival(pending, timeout)
        answer = pending.wait(0)
        if answer is None:
            raise TimeoutError(f"Nothing came within {timeout} s.")
        return result_of(answer)

    async def _call(self, method: str, args: Mapping[str, Any], key: str | None = None, body: bytes | None = None) -> Any:
        return value_of(await self._finish(self._start(method, args, key, body)))

    async def _close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._core.close)
