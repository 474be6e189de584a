"""Shapes of JSON: what a member may be, said once, for those who check a request by it and for the document of the API.

Only as much as the admin API speaks of. A shape knows its JSON Schema (2020-12) and what is wrong with a value, in
words that follow the member's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.admin.request import invalid, refuse_unknown
from gateway.problem import Problem

Schema = dict[str, Any]


class Shape(Protocol):
    """One of those below."""

    def schema(self) -> Schema: ...

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""


@dataclass(frozen=True, slots=True)
class Text:
    """A string of some length in characters; or one of a closed set, or of a pattern that both Python and ECMA read."""

    least: int = 0
    most: int = 1_000
    of: tuple[str, ...] = ()
    pattern: str | None = None
    form: str | None = None
    about: str | None = None

    def schema(self) -> Schema:
        if self.of:
            return {"type": "string", "enum": list(self.of)} | _about(self.about)
        made: Schema = {"type": "string", "minLength": self.least, "maxLength": self.most}
        if self.pattern is not None:
            made["pattern"] = self.pattern
        if self.form is not None:
            made["format"] = self.form
        return made | _about(self.about)

    def fault(self, value: Any) -> str | None:
        if self.of:
            return None if value in self.of else f"has to be one of {', '.join(self.of)}"
        if not isinstance(value, str) or not self.least <= len(value) <= self.most:
            return f"has to be a text of {self.least} to {self.most} characters"
        if self.pattern is not None and re.fullmatch(self.pattern, value, re.ASCII) is None:
            return "is not of its form" if self.about is None else f"has to be {self.about}"
        return None


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number."""

    least: int
    most: int
    of: tuple[int, ...] = ()
    about: str | None = None

    def schema(self) -> Schema:
        if self.of:
            return {"type": "integer", "enum": list(self.of)} | _about(self.about)
        return {"type": "integer", "minimum": self.least, "maximum": self.most} | _about(self.about)

    def fault(self, value: Any) -> str | None:
        if type(value) is int and (value in self.of if self.of else self.least <= value <= self.most):
            return None
        if self.of:
            return f"has to be one of {', '.join(map(str, self.of))}"
        return f"has to be a whole number from {self.least} to {self.most}"

    def read(self, text: str) -> Any:
        """A number as a parameter has it, or the text, which is none."""
        return int(text) if re.fullmatch(f"[0-9]{{1,{len(str(self.most))}}}", text, re.ASCII) else text


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false; `always` when only one of them is one."""

    always: bool | None = None

    def schema(self) -> Schema:
        return {"type": "boolean"} | ({} if self.always is None else {"const": self.always})

    def fault(self, value: Any) -> str | None:
        if self.always is not None:
            return None if value is self.always else f"has to be {str(self.always).lower()}"
        return None if isinstance(value, bool) else "has to be true or false"


@dataclass(frozen=True, slots=True)
class Many:
    """A list without repeats, unless it is an answer's."""

    item: Shape
    least: int = 0
    most: int = 100
    unique: bool = True

    def schema(self) -> Schema:
        made = {"type": "array", "items": self.item.schema(), "minItems": self.least, "maxItems": self.most}
        return made | ({"uniqueItems": True} if self.unique else {})

    def fault(self, value: Any) -> str | None:
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            return f"has to be a list of {self.least} to {self.most}"
        wrong = next((fault for fault in map(self.item.fault, value) if fault), None)
        if wrong is not None:
            return f"holds something that {wrong}"
        if self.unique and any(item in value[:place] for place, item in enumerate(value)):
            return "holds the same value twice"
        return None


@dataclass(frozen=True, slots=True)
class Maybe:
    """Something, or null."""

    shape: Shape

    def schema(self) -> Schema:
        return {"anyOf": [self.shape.schema(), {"type": "null"}]}

    def fault(self, value: Any) -> str | None:
        return None if value is None else self.shape.fault(value)


@dataclass(frozen=True, slots=True)
class Members:
    """An object: these members, all of `required`, and no others. `name` is what the document calls it."""

    members: Mapping[str, Shape] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    name: str | None = None
    one_of: tuple[frozenset[str], ...] = ()
    """Sets of members, of which exactly one is there in whole."""
    more: bool = False
    """Whether there may be members that are not named here."""

    def schema(self) -> Schema:
        made: Schema = {
            "type": "object",
            "properties": {name: shape.schema() for name, shape in self.members.items()},
            "additionalProperties": self.more,
        }
        if self.required:
            made["required"] = sorted(self.required)
        if self.one_of:
            made["oneOf"] = [{"required": sorted(names)} for names in self.one_of]
        return made

    def fault(self, value: Any) -> str | None:
        if not isinstance(value, dict):
            return "has to be an object"
        if not (self.required <= value.keys() and (self.more or value.keys() <= self.members.keys())):
            return f"has to have {', '.join(sorted(self.required)) or 'nothing'}, and nothing unknown"
        named = ((name, self.members[name].fault(value[name])) for name in self.members if name in value)
        return next((f"has a {name} that {fault}" for name, fault in named if fault), None)

    def check(self, document: Mapping[str, Any]) -> None:
        """Refuse a request's members. Raises: Problem "invalid-input" naming the first that is wrong."""
        refuse_unknown(document, frozenset(self.members))
        for name in self.members:
            if name in document:
                fault = self.members[name].fault(document[name])
                if fault is not None:
                    raise invalid(name, fault)
            elif name in self.required:
                raise invalid(name, "is required")
        if self.one_of and sum(names <= document.keys() for names in self.one_of) != 1:
            each = ", ".join(" with ".join(sorted(names)) for names in self.one_of)
            raise Problem("invalid-input", f"Exactly one of these is needed: {each}.")

    def check_query(self, query: Mapping[str, str]) -> None:
        """As `check`, for the parameters of a query."""
        shapes = self.members
        self.check(
            {
                name: shape.read(text) if isinstance(shape := shapes.get(name), Whole) else text
                for name, text in query.items()
            }
        )


def all_of(members: Mapping[str, Shape], name: str | None = None) -> Members:
    """An answer's object: every member is always there."""
    return Members(members, frozenset(members), name)


def _about(text: str | None) -> Schema:
    return {} if text is None else {"description": text}
