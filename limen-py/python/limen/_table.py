"""Lists as tables, for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ._model import Vm
from ._value import Value

_MANY = 8


def _cells(value: Value) -> dict[str, str]:
    if isinstance(value, Vm):
        spec = value.spec
        return {
            "name": value.name,
            "state": value.status.state + (" (stale)" if value.status.stale else ""),
            "host": value.host,
            "vCPUs": str(spec.vcpus) if spec else "",
            "memory (MiB)": str(spec.memory_mib) if spec else "",
            "addresses": ", ".join(address.address for address in value.status.addresses),
            "id": value.id,
        }
    plain = {name: field for name, field in value.to_dict().items() if isinstance(field, (str, int, float))}
    return {name: str(plain[name]) for name in list(plain)[:_MANY]}


def html_of(values: Sequence[Value], more: bool) -> str:
    """A table of HTML; every text in it is escaped."""
    rows = [_cells(value) for value in values]
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(row.get(name, ''))}</td>" for name in names) + "</tr>" for row in rows
    )
    end = f"<caption>{len(rows)} item(s){', and more' if more else ''}</caption>"
    return f"<table>{end}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
