"""What every value, name and error of LIMEN has in common."""

from __future__ import annotations

import copy
import json
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

if TYPE_CHECKING:
    from typing_extensions import Self

class Name(str, Enum):
    """A name out of a list. It is a `str` and equal to the plain one: `vm.status.state == "running"`.

    A name that this version does not know, of a newer server, is a member of its own.
    """

    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, form: str) -> str:
        return str.__format__(self, form)

    @classmethod
    def _missing_(cls, value: object) -> Any:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = value.upper()
        member._value_ = value
        cls._value2member_map_[value] = member
        return member


class Value:
    """A value of LIMEN's: it never changes, and is equal to another one of the same contents.

    It is made from JSON as its parts are asked for, so a list of a thousand VMs costs little until
    it is looked at.
    """

    __slots__ = ("_data",)
    _fields: ClassVar[tuple[str, ...]] = ()
    _hidden: ClassVar[frozenset[str]] = frozenset()
    _data: dict[str, Any]

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__} is what LIMEN answers with; it is not made by hand")

    @classmethod
    def _of(cls, data: dict[str, Any]) -> Self:
        value = object.__new__(cls)
        object.__setattr__(value, "_data", data)
        return value

    def _give(self, fields: dict[str, Any]) -> None:
        object.__setattr__(self, "_data", fields)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain dictionaries, lists, numbers and strings: what JSON can hold."""
        return copy.deepcopy(self._data)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed: {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed: {name}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Value) or other.__class__ is not type(self):
            return NotImplemented
        return self._data == other._data

    def __hash__(self) -> int:
        return hash((type(self), json.dumps(self._data, sort_keys=True)))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self)._of, (self._data,))

    def __repr__(self) -> str:
        fields = (f"{name}={'***' if name in self._hidden else repr(getattr(self, name))}" for name in self._fields)
        return f"{type(self).__name__}({', '.join(fields)})"


def time_of(text: str) -> datetime:
    """A time of RFC 3339, to the microsecond, in UTC."""
    day, _, rest = text.partition("T")
    clock, zone = (rest[:-1], "+00:00") if rest.endswith("Z") else (rest[:-6], rest[-6:])
    whole, _, fraction = clock.partition(".")
    micros = f".{fraction[:6]:0<6}" if fraction else ""
    return datetime.fromisoformat(f"{day}T{whole}{micros}{zone}").astimezone(timezone.utc)


class LimenError(Exception):
    """Something that LIMEN did not do. Each kind has a class of its own; `docs/errors.md` has the table.

    `str(error)` is one sentence for people. What programs act on are the class and the fields.
    """

    kind: ClassVar[str] = "error"
    """The stable code of this kind, on every surface."""
    is_retryable: ClassVar[bool] = False
    """Whether the same call may succeed later without being changed."""

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message, details or {})

    def __str__(self) -> str:
        return str(self.args[0])

    def _detail(self, name: str) -> Any:
        return self.args[1].get(name)

    @property
    def message(self) -> str:
        """What went wrong, in one sentence."""
        return str(self)

    @property
    def field(self) -> str | None:
        """The argument that it is about, as a path: `disks[0].size_gib`."""
        field: str | None = self._detail("field")
        return field

    @property
    def operation_id(self) -> str | None:
        """The operation that holds the object, that goes on after a timeout, or that failed."""
        operation: str | None = self._detail("operation_id")
        return operation

    @property
    def retry_after(self) -> float | None:
        """How many seconds to wait before the next try."""
        seconds: float | None = self._detail("retry_after")
        return seconds

    @property
    def resource(self) -> str | None:
        """What the quota has no more of: `vms`, `vcpus`, `memory_mib`, `disk_gib` or `snapshots`."""
        resource: str | None = self._quota("resource")
        return resource

    @property
    def limit(self) -> int | None:
        """The owner's limit of `resource`."""
        limit: int | None = self._quota("limit")
        return limit

    @property
    def used(self) -> int | None:
        """How much of `resource` was in use when the call was refused."""
        used: int | None = self._quota("used")
        return used

    @property
    def oldest(self) -> int | None:
        """The number of the oldest event that is still kept."""
        number: int | None = self._detail("oldest")
        return number

    def _quota(self, name: str) -> Any:
        return (self._detail("quota") or {}).get(name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class ClosedError(LimenError):
    """The client was closed, before the call or while it was at work. What it recorded goes on when
    the Store is opened again."""

    kind = "closed"


class ForkedError(LimenError):
    """This process was forked from one that had opened a client: the threads and connections are the
    parent's, and so may be locks that nobody will release. Open the first client in the child, or start
    processes with the method `spawn`."""

    kind = "forked"
