"""TOML text into frozen dataclasses; every fault at once, each as `file:line: key: what is wrong`.

Configuration and policy data share this reader, so that both fail in the same words. Reading has no effects:
nothing is opened, resolved or created here.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a file: where, and in words for the person who wrote it."""

    file: str
    line: int
    key: str
    text: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        return f"{where}{self.key}: {self.text}" if self.key else where + self.text


class ConfigError(Exception):
    """A file that cannot be used, with every fault found in it."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults


class Lines:
    """Where each key of a TOML text stands, for messages.

    `tomllib` gives values without positions. Headers and `key =` lines are found again by reading the text
    line by line; a key inside an inline table gets the line of the key that holds it.
    """

    _HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
    _KEY = re.compile(
        r"""^\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+))*)\s*="""
    )
    _PART = re.compile(r""""([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+)""")

    def __init__(self, text: str) -> None:
        self._at: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        seen: dict[tuple[str, ...], int] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if header := self._HEADER.match(line):
                table = self._split(header[2])
                if header[1] == "[[":
                    seen[table] = seen.get(table, -1) + 1
                    table = (*table, str(seen[table]))
                self._at.setdefault(table, number)
            elif key := self._KEY.match(line):
                path = (*table, *self._split(key[1]))
                for end in range(len(table) + 1, len(path) + 1):
                    self._at.setdefault(path[:end], number)

    def _split(self, dotted: str) -> tuple[str, ...]:
        return tuple(a or b or c for a, b, c in self._PART.findall(dotted))

    def of(self, path: tuple[str, ...]) -> int:
        """The line of the key, of the nearest table around it, or 0."""
        while path:
            if path in self._at:
                return self._at[path]
            path = path[:-1]
        return 0


def parse(text: str, name: str) -> dict[str, Any]:
    """The values of a TOML text. Raises: ConfigError with the line of the first syntax error."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+)", str(error))
        what = re.sub(r" \(at .*\)$", "", str(error))
        line = int(found[1]) if found else text.count("\n") + 1  # "at end of document"
        raise ConfigError([Fault(name, line, "", f"not TOML: {what}")]) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets thousands deep
        raise ConfigError([Fault(name, 0, "", "not TOML: a number too long, or nested too deep")]) from None


def read(cls: type[T], text: str, name: str) -> T:
    """`text` as one `cls`, a frozen dataclass nested as the file is.

    A field's type says what is accepted: bool, int, float, str, tuple[X, ...], dict[str, X], X | None, a
    Literal, another dataclass. A dataclass may have a `check(self)` that yields `(key, text)` for values that
    do not go together. Raises: ConfigError with every fault.
    """
    lines = Lines(text)
    faults: list[Fault] = []
    value = _table(cls, parse(text, name), (), _Sink(name, lines, faults))
    if faults:
        raise ConfigError(sorted(faults, key=lambda fault: fault.line))
    return typing.cast(T, value)


@dataclasses.dataclass
class _Sink:
    name: str
    lines: Lines
    faults: list[Fault]

    def add(self, path: tuple[str, ...], text: str) -> None:
        self.faults.append(Fault(self.name, self.lines.of(path), ".".join(path), text))


_hints = functools.cache(typing.get_type_hints)


def _table(cls: Any, raw: Mapping[str, Any], path: tuple[str, ...], sink: _Sink) -> Any:
    hints = _hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    before = len(sink.faults)
    for key in sorted(raw.keys() - fields.keys()):
        close = difflib.get_close_matches(key, fields, 1)
        sink.add((*path, key), "is not a setting" + (f" (did you mean {close[0]}?)" if close else ""))
    values: dict[str, Any] = {}
    wrong: set[str] = set()
    for key, field in fields.items():
        known = len(sink.faults)
        if key in raw:
            values[key] = _value(hints[key], raw[key], (*path, key), sink)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            if dataclasses.is_dataclass(
                hints[key]
            ):  # a section left out: its own required settings are named
                values[key] = _table(hints[key], {}, (*path, key), sink)
            else:
                sink.add((*path, key), "is required")
        if len(sink.faults) > known:
            wrong.add(key)
            values[key] = _stand_in(field)
    made = cls(**values)
    for key, text in _checks(made, hopeful=bool(wrong)):
        if key.split(".")[0] not in wrong:
            sink.add((*path, *key.split(".")), text)
    return None if len(sink.faults) > before else made


def _stand_in(field: dataclasses.Field[Any]) -> Any:
    """What stands for a setting that is wrong, so that the others can still be checked."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _checks(made: Any, hopeful: bool) -> Iterator[tuple[str, str]]:
    """What a settings object finds wrong with itself. `hopeful`: parts of it are stand-ins it may stumble over."""
    check = getattr(made, "check", None)
    if check is None:
        return
    try:
        yield from check()
    except (TypeError, ValueError, AttributeError):
        if not hopeful:
            raise


def _value(hint: Any, raw: Any, path: tuple[str, ...], sink: _Sink) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [arg for arg in args if arg is not type(None)]
        return _value(inner[0], raw, path, sink)
    if origin is typing.Literal:
        if raw not in args:
            sink.add(path, f"expected one of {', '.join(map(str, args))}, got {_shown(raw)}")
        return raw
    if origin is tuple:
        if not isinstance(raw, list):
            return sink.add(path, f"expected a list, got {_shown(raw)}")
        return tuple(_value(args[0], item, (*path, str(i)), sink) for i, item in enumerate(raw))
    if origin is dict:
        if not isinstance(raw, dict):
            return sink.add(path, f"expected a table, got {_shown(raw)}")
        return {key: _value(args[1], item, (*path, key), sink) for key, item in raw.items()}
    if dataclasses.is_dataclass(hint):
        if not isinstance(raw, dict):
            return sink.add(path, f"expected a table, got {_shown(raw)}")
        return _table(hint, raw, path, sink)
    if type(raw) is int and not -(2**63) <= raw < 2**63:  # TOML 1.0: more than that need not be held
        return sink.add(path, "is not a number of 64 bits")
    if hint is float and type(raw) is int:
        return float(raw)
    if type(raw) is not hint:
        return sink.add(path, f"expected {hint.__name__}, got {_shown(raw)}")
    return raw


def _shown(raw: object) -> str:
    try:
        text = repr(raw)
    except ValueError:  # an integer of thousands of digits in it
        return type(raw).__name__
    return text if len(text) <= 60 else type(raw).__name__
