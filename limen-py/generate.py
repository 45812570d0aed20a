#!/usr/bin/env python3
"""Writes what of the package follows from something else, so that nothing is written twice.

    python/limen/_model.py   the values of limen-core: classes, enums, errors, their documentation
    python/limen/_client.py  the blocking client, of python/limen/_async_client.py
    python/limen/_parts.py   and what its answers can do, of python/limen/_async_parts.py

`generate.py` writes them; `generate.py --check` fails when they are not what it would write. It reads
the sources of limen-core and needs nothing but Python. Run it when a value of limen-core has changed;
the tests of this package do the rest of the asking.
"""

from __future__ import annotations

import re
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORE = HERE.parent / "limen-core" / "src"
PACKAGE = HERE / "python" / "limen"

SOURCES = [
    *sorted((CORE / "model").glob("*.rs")),
    CORE / "error.rs",
    CORE / "context.rs",
    *(CORE / "service" / f"{name}.rs" for name in ("figures", "hosts", "identity", "quota", "refusals")),
]

ENUMS = {
    "VmState": "VmState",
    "VmPhase": "VmPhase",
    "Firmware": "Firmware",
    "DiskMode": "DiskMode",
    "VolumeFormat": "VolumeFormat",
    "ImageFormat": "ImageFormat",
    "ImagePhase": "ImagePhase",
    "PowerAction": "PowerAction",
    "ConsoleKind": "ConsoleKind",
    "OperationKind": "OperationKind",
    "OperationState": "OperationState",
    "EventKind": "EventKind",
    "HostState": "HostState",
    "VirtType": "VirtType",
    "Role": "Role",
    "Action": "Action",
    "AuditOutcome": "AuditOutcome",
    "FindingKind": "FindingKind",
    "Severity": "Severity",
    "ErrorKind": "ErrorKind",
}

# The classes that callers see, by their names in Rust, in an order in which each follows what it is
# made of. Those whose name begins with an underscore are bases of what `_surface.py` completes.
CLASSES = {
    "Address": "Address",
    "Disk": "Disk",
    "Iso": "Iso",
    "Nic": "Nic",
    "VmSpec": "VmSpec",
    "ObservedSpec": "ObservedSpec",
    "VmStatus": "VmStatus",
    "Vm": "Vm",
    "CreateDisk": "CreateDisk",
    "Image": "Image",
    "HostInfo": "HostInfo",
    "HostMetrics": "HostMetrics",
    "HostSample": "HostSample",
    "Traffic": "Traffic",
    "DiskSample": "DiskSample",
    "NicSample": "NicSample",
    "VmSample": "VmSample",
    "Host": "Host",
    "HostHealth": "HostHealth",
    "Health": "Health",
    "Network": "Network",
    "ActorRef": "ActorRef",
    "Progress": "Progress",
    "QuotaFigures": "QuotaFigures",
    "OperationError": "OperationFailure",
    "Operation": "OperationRecord",
    "Quota": "Quota",
    "Usage": "Usage",
    "QuotaView": "QuotaView",
    "User": "_User",
    "UserView": "User",
    "Token": "Token",
    "VmObject": "EventVm",
    "StatusObject": "EventStatus",
    "HostObject": "EventHost",
    "EventView": "Event",
    "AuditRecord": "AuditRecord",
    "Finding": "Finding",
    "CheckReport": "CheckReport",
    "Restore": "Restore",
    "RestoredVm": "RestoredVm",
    "Restored": "Restored",
    "Refusals": "Refusals",
    "Durations": "Durations",
    "HostFigures": "HostFigures",
    "OperationFigures": "OperationFigures",
    "OwnerFigures": "OwnerFigures",
    "Figures": "Figures",
}

# Those that a caller makes too.
INPUTS = {"CreateDisk", "Quota"}

# What the service writes into the JSON of a value beside its own fields.
MORE = {
    "VmStatus": [
        ("observed_at", "Option<OffsetDateTime>", "When the VM's host was last observed in full."),
        ("stale", "bool", "Whether that is more than 5 seconds ago: this is how the VM was last seen."),
    ],
    "Vm": [
        ("etag", "Option<String>", "What `update_vm` and `delete_vm` take as `expected`; of `get_vm` alone."),
        ("event", "Option<EventNumber>", "The number of the event that it shows; of `get_vm` alone."),
    ],
}

ID = re.compile(r"^(Vm|Volume|Image|User|Owner|Operation|Host|Session|Token|Install)Id$")
PLAIN = {
    "String": "str",
    "bool": "bool",
    "u32": "int",
    "u64": "int",
    "i64": "int",
    "f64": "float",
    "EventNumber": "int",
    "Uuid": "str",
    "IpAddr": "str",
}


@dataclass
class Item:
    """A struct or enum of limen-core."""

    name: str
    docs: str
    # Of a struct: name, type, documentation; of an enum: name, value, documentation.
    fields: list[tuple[str, str, str]] = field(default_factory=list)


def prose(lines: list[str]) -> str:
    """Documentation of Rust's as Python's: links are their names, kinds of errors are classes."""
    text = "\n".join(lines).strip()
    text = re.sub(r"\[`?([^\]`]+)`?\]\([^)]*\)", r"`\1`", text)
    text = re.sub(r"\[`(?:\w+::)*(\w+)`\]", r"`\1`", text)
    text = text.replace("`None` is", "None is").replace("``", "`")
    # A table says the same as the text around it.
    return re.sub(r"\n\n#.*", "", text, flags=re.S)


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def read() -> dict[str, Item]:
    """Every public struct and enum of the sources."""
    items: dict[str, Item] = {}
    tables = {"context.rs": "Action", "event_view.rs": "EventKind", "finding.rs": "FindingKind", "error.rs": "ErrorKind"}
    for path in SOURCES:
        item: Item | None = None
        is_enum = False
        docs: list[str] = []
        attributes: list[str] = []
        in_macro = False
        for line in path.read_text().split("\n#[cfg(test)]")[0].splitlines():
            text = line.strip()
            if text.startswith("macro_rules!"):
                in_macro = True
            elif line == "}" and in_macro:
                in_macro = False
            if text.startswith("///"):
                docs.append(text[3:].removeprefix(" "))
                continue
            if text.startswith("#["):
                attributes.append(text)
                continue
            if in_macro:
                docs, attributes = [], []
                continue
            if found := re.match(r"^pub (struct|enum) (\w+)(<T>)? \{$", line):
                is_enum = found[1] == "enum"
                item = items[found[2]] = Item(found[2], prose(docs))
            elif re.match(r"^(kinds|actions|findings) ?! ?\{$", line):
                name = tables[path.name]
                about = {
                    "Action": "What somebody wants to do: the name of a method.",
                    "EventKind": "What an event is about. New kinds may be added.",
                    "FindingKind": "What does not agree. New kinds may be added.",
                    "ErrorKind": "What went wrong, as a caller may act on it. New kinds may be added.",
                }
                is_enum = True
                item = items[name] = Item(name, about[name])
            elif line == "resources! {":
                for name, about_ in (
                    ("Quota", "An owner's limits, each 0 to 10^12; None is without limit."),
                    ("Usage", "What VMs come to, in the units of `Quota`."),
                ):
                    items[name] = Item(name, about_)
                item = None
                is_enum = False
            elif line == "}":
                item = None
            elif found := re.match(r'^    (\w+) = "(\w+)".*;$', line):
                assert item is not None, (path, line)
                item.fields.append((found[1], found[2], prose(docs)))
            elif found := re.match(r"^    (\w+);$", line):
                if "Quota" in items and path.name == "quota.rs":
                    items["Quota"].fields.append((found[1], "Option<i64>", prose(docs)))
                    items["Usage"].fields.append((found[1], "i64", prose(docs)))
            elif item is not None and is_enum and (found := re.match(r"^    (\w+),$", line)):
                item.fields.append((found[1], snake(found[1]), prose(docs)))
            elif item is not None and not is_enum and (found := re.match(r"^    pub (\w+): (.+),$", line)):
                if any("skip)" in attribute for attribute in attributes):
                    pass
                elif any("flatten" in attribute for attribute in attributes):
                    item.fields += items[found[2]].fields
                else:
                    item.fields.append((found[1], found[2], prose(docs)))
            docs, attributes = [], []
    return items


def wrapped(docs: str, indent: str, closing: int = 3) -> list[str]:
    """A docstring."""
    width = 100 - len(indent)
    paragraphs = [" ".join(part.split()) for part in docs.split("\n\n")]
    lines = textwrap.wrap(paragraphs[0], width - 3) or [""]
    for paragraph in paragraphs[1:]:
        lines += ["", *textwrap.wrap(paragraph, width)]
    lines[0] = '"""' + lines[0]
    if len(lines) == 1 and len(lines[0]) + closing <= width:
        lines[0] += '"""'
    else:
        lines.append('"""')
    return [indent + line if line else "" for line in lines]


class Types:
    """From types of Rust's to types of Python's, and from JSON to them."""

    def __init__(self) -> None:
        self.names = {**CLASSES, **ENUMS, "Operation": "OperationRecord"}

    def python(self, rust: str) -> str:
        if ID.match(rust):
            return "str"
        if rust in PLAIN:
            return PLAIN[rust]
        if rust == "OffsetDateTime":
            return "datetime"
        if rust == "Duration":
            return "float"
        if rust == "EventObject":
            return "EventVm | EventStatus | OperationRecord | Image | EventHost"
        if rust == "crate::ErrorKind":
            return "ErrorKind"
        if inner := re.match(r"^(Option|Vec|Box)<(.+)>$", rust):
            of = self.python(inner[2])
            return {"Option": f"{of} | None", "Vec": f"tuple[{of}, ...]", "Box": of}[inner[1]]
        if rust == "BTreeMap<String, String>":
            return "Mapping[str, str]"
        if pair := re.match(r"^\((\w+), (\w+)\)$", rust):
            return f"tuple[{self.python(pair[1])}, {self.python(pair[2])}]"
        return self.names[rust]

    def value(self, rust: str, json: str) -> str:
        """The expression of Python's that makes a value of the JSON that `json` names."""
        if inner := re.match(r"^Option<(.+)>$", rust):
            made = self.value(inner[1], "it")
            return json if made == "it" else f"None if (it := {json}) is None else {made}"
        if inner := re.match(r"^Box<(.+)>$", rust):
            return self.value(inner[1], json)
        if inner := re.match(r"^Vec<(.+)>$", rust):
            return f"tuple([{self.value(inner[1], 'one')} for one in {json}])"
        if pair := re.match(r"^\((\w+), (\w+)\)$", rust):
            return f"({self.value(pair[1], json + '[0]')}, {self.value(pair[2], json + '[1]')})"
        if rust == "BTreeMap<String, String>":
            return f"MappingProxyType({json})"
        if rust == "OffsetDateTime":
            return f"time_of({json})"
        if rust == "EventObject":
            return f"event_object(self._data, {json})"
        kind = self.python(rust)
        if kind in ENUMS.values():
            return f"{kind}({json})"
        if kind in CLASSES.values():
            return f"{kind}._of({json})"
        return json


HEAD = '''# Written by generate.py from the sources of limen-core. Do not edit: change those, and run it.
# mypy: disable-error-code="no-any-return"
"""The values of LIMEN: what it is asked with, and what it answers with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from ._value import LimenError, Name, Value, time_of

'''


def model(items: dict[str, Item]) -> str:
    types = Types()
    out: list[str] = []
    for rust, python in ENUMS.items():
        item = items[rust]
        out += ["", f"class {python}(Name):", *wrapped(item.docs, "    "), ""]
        for name, value, docs in item.fields:
            out.append(f'    {snake(name).upper()} = "{value}"')
            out += wrapped(docs, "    ")
        out.append("")
    for rust, python in CLASSES.items():
        item = items[rust]
        fields = item.fields + MORE.get(rust, [])
        names = ", ".join(f'"{name}"' for name, _, _ in fields)
        out += ["", f"class {python}(Value):", *wrapped(item.docs, "    "), "", "    __slots__ = ()"]
        trailing = "," if len(fields) == 1 else ""
        out += textwrap.wrap(f"_fields = ({names}{trailing})", 100, initial_indent="    ", subsequent_indent="        ")
        if python in INPUTS:
            out += ["", "    def __init__(", "        self,", "        *,"]
            out += [f"        {name}: {types.python(kind)} = None," for name, kind, _ in fields]
            out += ["    ) -> None:"]
            given = ", ".join(f'"{name}": {name}' for name, _, _ in fields)
            out += textwrap.wrap(f"self._give({{{given}}})", 100, initial_indent="        ", subsequent_indent="            ")
        for name, kind, docs in fields:
            get = f'self._data.get("{name}")' if kind.startswith("Option") else f'self._data["{name}"]'
            out += ["", "    @property", f"    def {name}(self) -> {types.python(kind)}:", *wrapped(docs, "        ")]
            out += [f"        return {types.value(kind, get)}"]
        out.append("")
    out += [
        "",
        "def event_object(event: dict[str, Any], data: dict[str, Any]) -> Any:",
        '    """The object of an event, by the event\'s kind."""',
        "    kinds: dict[str, type[Value]] = {",
        '        "vm": EventVm,',
        '        "status": EventStatus,',
        '        "operation": OperationRecord,',
        '        "image": Image,',
        '        "host": EventHost,',
        "    }",
        '    return kinds.get(event["kind"], Value)._of(data)',
        "",
    ]
    out += ["", "# One class of exceptions for each kind of error."]
    for name, code, docs in items["ErrorKind"].fields:
        also = {"invalid": ", ValueError", "timeout": ", TimeoutError"}.get(code, "")
        own = f"{name}Error"
        base = {"timeout": "LimenError, builtins.TimeoutError"}.get(code, f"LimenError{also}")
        out += ["", "", f"class {own}({base}):", *wrapped(docs, "    "), "", f'    kind = "{code}"']
    out += ["", "", "ERRORS: dict[str, type[LimenError]] = {"]
    out += [f'    "{code}": {name}Error,' for name, code, _ in items["ErrorKind"].fields]
    out += ["}", ""]
    retryable = set(re.findall(r'= "(\w+)", retry: true;', (CORE / "error.rs").read_text()))
    text = "\n".join(out)
    for code in sorted(retryable):
        text = text.replace(f'\n    kind = "{code}"', f'\n    kind = "{code}"\n    is_retryable = True')
    names = [python for python in [*ENUMS.values(), *CLASSES.values()] if not python.startswith("_")]
    names += [f"{name}Error" for name, _, _ in items["ErrorKind"].fields]
    head = HEAD.replace("from collections.abc", "import builtins\nfrom collections.abc")
    text = head + text + "\n\n__all__ = [\n" + "".join(f'    "{name}",\n' for name in sorted(names)) + "]\n"
    return re.sub(r"\n{4,}", "\n\n\n", text).replace('"""\n\n\n    __slots__', '"""\n\n    __slots__')


def blocking(name: str) -> str:
    """A file of the blocking client, of one of the other."""
    text = (PACKAGE / f"_async_{name}").read_text()
    head, _, rest = text.partition('"""')
    del head
    text = '"""' + rest
    for pattern, replacement in [
        (r"\bAwaitable\[Async(\w+\[\w+\])\]", r"\1"),
        (r"\bAsyncIterator, Awaitable, Callable, Generator, Iterator,", "Callable, Iterator,"),
        (r"\bAsyncIterator\[", "Iterator["),
        (r"\bawait ", ""),
        (r"\basync def\b", "def"),
        (r"\basync for\b", "for"),
        (r"\basync with\b", "with"),
        (r"\bAsync(Client|Page|Events|Console|Operation)\b", r"\1"),
        (r"__aenter__", "__enter__"),
        (r"__aexit__", "__exit__"),
        (r"__aiter__", "__iter__"),
        (r"__anext__", "__next__"),
        (r"\bStopAsyncIteration\b", "StopIteration"),
        (r"\b_Aio\b", "_Sync"),
        (r"\b_async_(client|parts)\b", r"_\1"),
        (r"from \._aio import", "from ._sync import"),
        (r"^.*# async only\n", ""),
    ]:
        text = re.sub(pattern, replacement, text, flags=re.M)
    text = re.sub(r"\n *# async only:.*?# :async only\n", "\n", text, flags=re.S)
    text = re.sub(r"# sync: ", "", text)
    return f"# Written by generate.py from _async_{name}. Do not edit: change that, and run it.\n" + text


def main() -> int:
    made = {PACKAGE / "_model.py": model(read())}
    made |= {PACKAGE / f"_{name}": blocking(name) for name in ("client.py", "parts.py")}
    old = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if sys.argv[1:] == ["--check"]:
        for path in old:
            print(f"{path} is out of date: run limen-py/generate.py", file=sys.stderr)
        return 1 if old else 0
    for path in old:
        path.write_text(made[path])
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
