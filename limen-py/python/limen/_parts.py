# Written by generate.py from _async_parts.py. Do not edit: change that, and run it.
"""What the asyncio client's answers can do: pages, operations, events and consoles."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ._model import ConflictError, Event, OperationRecord, OperationState, TimeoutError
from ._open import error_of
from ._value import Value

if TYPE_CHECKING:
    from ._client import Client
    from ._limen import Pending

T = TypeVar("T", bound=Value)

_FINISHED = (OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED)


class Page(Sequence[T], Generic[T]):
    """A part of a list: a sequence of its items, which knows how to get the next part.

    In a notebook it shows itself as a table.
    """

    __slots__ = ("_data", "_make", "_more")

    def __init__(
        self, data: dict[str, Any], make: Callable[[dict[str, Any]], T], more: Callable[[str], Page[T]]
    ) -> None:
        self._data = data
        self._make = make
        self._more = more

    @property
    def items(self) -> tuple[T, ...]:
        """The items of this part."""
        return tuple(self)

    @property
    def next_cursor(self) -> str | None:
        """What the call takes as `cursor` for the next part; None at the end."""
        cursor: str | None = self._data["next_cursor"]
        return cursor

    @property
    def event(self) -> int | None:
        """The number of the event that it shows: `watch_events` goes on from there without a gap. None
        of lists that are read from the history."""
        return self._data.get("event")

    def next_page(self) -> Page[T] | None:
        """The part after this one; None at the end."""
        cursor = self.next_cursor
        return None if cursor is None else self._more(cursor)

    def all(self) -> Iterator[T]:
        """The items of this part and of all parts after it, asked for as they are needed."""
        page: Page[T] | None = self
        while page is not None:
            for item in page:
                yield item
            page = page.next_page()

    def to_dicts(self) -> list[dict[str, Any]]:
        """The items of this part as plain dictionaries."""
        return [item.to_dict() for item in self]

    def __len__(self) -> int:
        return len(self._data["items"])

    def __getitem__(self, index: Any) -> Any:
        found = self._data["items"][index]
        if isinstance(self._data["items"], tuple):
            return found
        return tuple(map(self._make, found)) if isinstance(index, slice) else self._make(found)

    def __iter__(self) -> Iterator[T]:
        # A tuple has values already, a list has what they are made of.
        items = self._data["items"]
        return iter(items) if isinstance(items, tuple) else map(self._make, items)

    def __repr__(self) -> str:
        more = "" if self.next_cursor is None else ", and more"
        return f"<{type(self).__name__} of {len(self)} item(s){more}>"

    def _repr_html_(self) -> str:
        from ._table import html_of

        return html_of(self, self.next_cursor is not None)


class Operation(OperationRecord):
    """A change that LIMEN has recorded, and does whether or not anybody waits for it.

    The object is the operation as it was when it was read. `wait` reads it again until it is finished;
    `operation` is the same as `operation.wait()`.
    """

    __slots__ = ("_client",)
    _client: Client

    @classmethod
    def _at(cls, client: Client, data: dict[str, Any]) -> Operation:
        operation = cls._of(data)
        object.__setattr__(operation, "_client", client)
        return operation

    def __reduce__(self) -> tuple[Any, ...]:
        # Elsewhere it has no client.
        return (OperationRecord._of, (self._data,))

    @property
    def is_finished(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in _FINISHED

    def wait(self, timeout: float | None = None) -> Operation:
        """Waits until it is finished, for `timeout` seconds at most, and returns it as it is then.

        What it did shows in this client's answers when this returns. Giving up waiting, by a timeout,
        Ctrl-C or a cancelled task, leaves the operation at work.

        Raises the error of its kind when it failed or was cancelled (`operation_id` is this one's), and
        `limen.TimeoutError` when it is not finished in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            rest = 3600.0 if deadline is None else max(deadline - time.monotonic(), 0.0)
            operation = self._client.wait_operation(self.id, timeout=min(rest, 3600.0))
            if operation.state is OperationState.SUCCEEDED:
                return operation
            if operation.is_finished:
                failure = operation.to_dict().get("error") or {
                    "code": "cancelled",
                    "detail": "The operation was cancelled.",
                }
                details = {"kind": failure["code"], "message": failure["detail"], "operation_id": self.id}
                raise error_of({**details, "field": failure.get("field"), "quota": failure.get("quota")})
            if deadline is not None and time.monotonic() >= deadline:
                text = f"The operation is not finished within {timeout} s; it goes on."
                raise TimeoutError(text, {"operation_id": self.id})

    def cancel(self) -> Operation:
        """Asks it to stop and to take back what it did: `cancel_operation`."""
        return self._client.cancel_operation(self.id)



class Events:
    """The events after a number, and those to come, without a gap and none twice: an iterator.

    It ends when it is closed. Where following goes wrong it raises: `limen.GoneError` when what comes
    next is kept no longer, `limen.UnauthenticatedError` or `limen.ForbiddenError` when the session or
    token has ended or may not any more, `limen.ClosedError` when the client is closed.
    """

    def __init__(self, client: Client, after: int | None) -> None:
        self._client = client
        self._position = after
        self._stream: int | None = None
        self._pending: Pending | None = None
        self._ready: list[dict[str, Any]] = []
        self._ended = False

    @property
    def position(self) -> int | None:
        """The number of the last event that was told: what to follow on from another time."""
        return self._position

    def close(self) -> None:
        """Ends it. Idempotent."""
        self._ended = True
        self._ready.clear()
        if self._stream is not None:
            stream, self._stream = self._stream, None
            if not self._client.closed:
                self._client._call("close_stream", {"stream": stream})

    def __iter__(self) -> Events:
        return self

    def __next__(self) -> Event:
        event = self.next()
        if event is None:
            raise StopIteration
        return event

    def next(self, timeout: float | None = None) -> Event | None:
        """The next event, as soon as there is one; None when it was closed.

        Raises `limen.TimeoutError` when none comes within `timeout` seconds. Giving up waiting loses
        no event.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ready:
            if self._ended:
                return None
            if self._position is None:
                self._position = self._client.event()
            if self._stream is None:
                self._stream = self._client._call("watch_events", {"after": self._position})
            if self._pending is None:
                self._pending = self._client._start("next_events", {"stream": self._stream})
            rest = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            try:
                answer = self._client._finish(self._pending, rest)
            except TimeoutError:
                # The rest is what was left of it after answers without events.
                raise TimeoutError(f"Nothing came within {timeout} s.") from None
            except Exception:
                self._pending, self._stream, self._ended = None, None, True
                raise
            self._pending = None
            batch = json.loads(answer)
            self._ready = batch["events"][::-1]
            if batch["ended"]:
                self._ended = True
        event = Event._of(self._ready.pop())
        self._position = event.number
        return event

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Console:
    """An open console of a VM: bytes from the guest and to it."""

    def __init__(self, client: Client, stream: int) -> None:
        self._client = client
        self._stream: int | None = stream
        self._pending: Pending | None = None
        self._rest = b""

    def read(self, most: int = 65536, *, timeout: float | None = None) -> bytes:
        """Bytes from the guest, as soon as there are some: at most `most`; none at the end.

        Raises `limen.TimeoutError` when none come within `timeout` seconds; they are not lost.
        """
        if self._rest:
            part, self._rest = self._rest[:most], self._rest[most:]
            return part
        if self._stream is None:
            return b""
        if self._pending is None:
            self._pending = self._client._start("read_console", {"stream": self._stream, "max": most})
        try:
            read: bytes = self._client._finish(self._pending, timeout)
        except TimeoutError:
            raise
        except Exception:
            self._pending = None
            raise
        self._pending = None
        self._rest = read[most:]
        return read[:most]

    def read_until(self, end: bytes, *, timeout: float | None = None) -> bytes:
        """Everything from the guest up to `end`, that included; what comes behind it is read next.

        Raises `limen.TimeoutError` when it does not come within `timeout` seconds, and
        `limen.ConflictError` when the console ends before it; what was read is then in `args`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        read = b""
        while end not in read:
            rest = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            try:
                part = self.read(timeout=rest)
            except TimeoutError:
                self._rest = read
                raise TimeoutError(f"{end!r} did not come within {timeout} s.") from None
            if not part:
                raise ConflictError(f"The console ended before {end!r} came; it gave {read!r}.")
            read += part
        place = read.index(end) + len(end)
        self._rest = read[place:] + self._rest
        return read[:place]

    def write(self, data: bytes) -> None:
        """Sends `data` to the guest; returns when the host has taken it."""
        if self._stream is None:
            raise ConflictError("The console is closed.")
        self._client._call("write_console", {"stream": self._stream}, body=bytes(data))

    def close(self) -> None:
        """Closes it. Idempotent."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            if not self._client.closed:
                self._client._call("close_stream", {"stream": stream})

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
