"""What is told once."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from ._model import Token
from ._value import Value, time_of


class Secret(Value):
    """Something that is told this once. `secret` is it; what is printed has asterisks in its place."""

    __slots__ = ()
    _fields: ClassVar[tuple[str, ...]] = ("secret",)
    _hidden = frozenset({"secret"})

    @property
    def secret(self) -> str:
        """The secret itself."""
        secret: str = self._data["secret"]
        return secret


class Ticket(Secret):
    """What opens one console of one VM, once, within 30 seconds."""

    __slots__ = ()
    _fields = ("secret", "expires_at")

    @property
    def expires_at(self) -> datetime:
        """When it is no longer good."""
        return time_of(self._data["expires_at"])


class NewToken(Secret):
    """An API token that was made just now."""

    __slots__ = ()
    _fields = ("token", "secret")

    @property
    def token(self) -> Token:
        """What there is to know of it; `list_tokens` shows the same."""
        return Token._of(self._data["token"])
