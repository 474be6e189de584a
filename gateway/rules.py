"""What is withheld from somebody of a Network Integration reply, by the names of members; and a tally of what was.

A rule looks at a name alone, and is worked out once for each that is met: an upstream sends few, again and again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from gateway.fields import FieldClass, Hosts, Look, field_class, holds_users, of_a_user
from gateway.filter import Unfilterable
from gateway.shapes import Judged, Shapes

MAX_NAMES = 1_000
"""Names of withheld members that are told apart."""
KNOWN = 4_096


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """What is withheld from somebody. `personal`: whether pii is. `users`: whether the whole reply is about users."""

    hosts: Hosts
    look: Look
    personal: bool
    users: bool = False
    known: dict[bytes, Name] = field(default_factory=dict)
    shapes: Shapes = field(default_factory=Shapes)

    def name(self, key: bytes) -> Name:
        """What is to be done about a member, by its name as it is written, quotes included. Raises: Unfilterable."""
        found = self.known.get(key)
        if found is None:
            text = decoded(key)
            found = Name(
                text,
                field_class(text),
                self.personal and of_a_user(text),
                self.personal and holds_users(text),
            )
            if len(self.known) < KNOWN and len(key) < 128:
                self.known[key] = found
        return found

    def judge(self, key: bytes, among_users: bool) -> Judged:
        """Of a member that is not muted: the class for which it is left out, if its value is no reason not to."""
        name = self.name(key)
        cls = name.cls
        if cls == "pii" and not self.personal:
            cls = None
        elif cls is None and among_users and name.of_a_user:
            cls = "pii"
        return cls, name.text, name.users


@dataclass(frozen=True, slots=True)
class Name:
    """A member's name: its class, whether it is pii within a user, whether its value holds users."""

    text: str
    cls: FieldClass | None
    of_a_user: bool
    users: bool


NAMELESS = Name("", None, False, False)


class Tally:
    """Names that were withheld at least once, by class."""

    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def withhold(self, cls: FieldClass, name: str) -> None:
        names = self._names.setdefault(cls, set())
        if len(names) < MAX_NAMES:
            names.add(name)

    @property
    def withheld(self) -> dict[str, int]:
        return {cls: len(names) for cls, names in sorted(self._names.items())}


def decoded(text: bytes) -> str:
    """The text of a string as the grammar has accepted it. Raises: Unfilterable when it is not UTF-8."""
    if b"\\" not in text:
        return utf8(text)[1:-1]
    return str(json.loads(utf8(text)))


def utf8(text: bytes) -> str:
    """Bytes as text. Raises: Unfilterable when they are not UTF-8."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise Unfilterable("the body is not UTF-8") from None
