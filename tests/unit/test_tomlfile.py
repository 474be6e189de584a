"""TOML into frozen values: every fault at once, each with its file, line and key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from gateway.tomlfile import ConfigError, Fault, Lines, parse, read


@dataclass(frozen=True, slots=True)
class Inner:
    url: str
    connect_timeout_s: float = 5.0
    mode: Literal["fast", "slow"] = "fast"


@dataclass(frozen=True, slots=True)
class Item:
    id: str
    tags: tuple[str, ...] = ()
    number: int | None = None

    def check(self):
        if self.id == "bad":
            yield "id", "must not be bad"


@dataclass(frozen=True, slots=True)
class File:
    inner: Inner
    port: int = 80
    on: bool = False
    item: tuple[Item, ...] = ()
    named: dict[str, Item] = field(default_factory=dict)

    def check(self):
        if self.port == 13:
            yield "inner.url", "does not go with port 13"


INNER = '[inner]\nurl = "x"\n'


def faults(text):
    with pytest.raises(ConfigError) as caught:
        read(File, text, "config.toml")
    return str(caught.value).splitlines()


def test_a_file_becomes_what_its_classes_say():
    made = read(
        File,
        'port = 8080\non = true\n[inner]\nurl = "x"\nconnect_timeout_s = 2\nmode = "slow"\n'
        '[[item]]\nid = "a"\ntags = ["x", "y"]\n[[item]]\nid = "b"\nnumber = 3\n[named.one]\nid = "c"\n',
        "config.toml",
    )
    assert made == File(
        Inner("x", 2.0, "slow"), 8080, True, (Item("a", ("x", "y")), Item("b", (), 3)), {"one": Item("c")}
    )
    assert type(made.inner.connect_timeout_s) is float


def test_every_fault_is_reported_at_once_in_the_order_of_the_file():
    assert faults('\n\n\nport = "eighty"\n[inner]\nconnect_timeout = 5\n') == [
        "config.toml:4: port: expected int, got 'eighty'",
        "config.toml:5: inner.url: is required",
        "config.toml:6: inner.connect_timeout: is not a setting (did you mean connect_timeout_s?)",
    ]


def test_a_section_left_out_is_asked_for_by_its_required_settings():
    assert faults("port = 1") == ["config.toml: inner.url: is required"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("port = true\n" + INNER, "1: port: expected int, got True"),
        ("port = 1.0\n" + INNER, "1: port: expected int, got 1.0"),
        ("port = 99999999999999999999\n" + INNER, "1: port: is not a number of 64 bits"),
        ("on = 1\n" + INNER, "1: on: expected bool, got 1"),
        ("on = 2027-02-22\n" + INNER, "1: on: expected bool, got datetime.date(2027, 2, 22)"),
        ("item = 1\n" + INNER, "1: item: expected a list, got 1"),
        ("item = [1]\n" + INNER, "1: item.0: expected a table, got 1"),
        ("named = 1\n" + INNER, "1: named: expected a table, got 1"),
        ("named = {a = 1}\n" + INNER, "1: named.a: expected a table, got 1"),
        ("inner = 1", "1: inner: expected a table, got 1"),
        ("inner = {url = 1}", "1: inner.url: expected str, got 1"),
        ("inner = {url = 'x', mode = 'fats'}", "1: inner.mode: expected one of fast, slow, got 'fats'"),
        (
            "inner.url = 'x'\ninner.connect_timeout_s = 'x'",
            "2: inner.connect_timeout_s: expected float, got 'x'",
        ),
        ("zzz = 1\n" + INNER, "1: zzz: is not a setting"),
        (
            INNER + "\n[[item]]\nid = 'a'\n\n[[item]]\ntags = ['x', 1]\nid = 'b'\n",
            "8: item.1.tags.1: expected str, got 1",
        ),
        (INNER + "\n[[item]]\nid = 'a'\n\n[[item]]\n# x\nid = 'bad'\n", "9: item.1.id: must not be bad"),
        (INNER + "[named.one]\nid = 'bad'", "4: named.one.id: must not be bad"),
        (INNER + "[named.'x y']\nid = 1", "4: named.x y.id: expected str, got 1"),
        ("port = 13\n" + INNER, "3: inner.url: does not go with port 13"),
        (INNER + "[[item]]\n  'id' = [" + "'long', " * 30 + "]", "4: item.0.id: expected str, got list"),
    ],
    ids=lambda value: value[:40],
)
def test_each_fault_names_its_line_and_its_key(text, fault):
    assert faults(text) == [f"config.toml:{fault}"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = \n", 1),
        ("\n\n[x\n", 3),
        ("a = 1\na = 2", 2),
        ("a = '''\n\n", 3),
        ("a = 1979-13-01", 1),
        ("\x00", 1),
    ],
)
def test_what_is_not_toml_is_one_fault_with_its_line(text, line):
    (fault,) = faults(text)
    assert fault.startswith(f"config.toml:{line}: not TOML: ")


@pytest.mark.parametrize(
    "text",
    [
        "port = " + "9" * 5000,
        "port = 0x" + "f" * 5000,
        "item = [0x" + "f" * 5000 + "]",
        "inner = {url = 'x', connect_timeout_s = 1" + "0" * 400 + "}",
        "a = " + "[" * 5000 + "]" * 5000,
        "a = " + "{a = " * 5000,
    ],
    ids=["digits", "hex", "hex in a list", "beyond float", "brackets", "braces"],
)
def test_numbers_and_nesting_beyond_reason_are_faults_like_any_other(text):
    assert faults(text)


def test_a_fault_prints_what_it_knows():
    assert str(Fault("f", 0, "", "x")) == "f: x"
    assert str(Fault("f", 3, "", "x")) == "f:3: x"
    assert str(Fault("f", 3, "k", "x")) == "f:3: k: x"
    assert ConfigError([Fault("f", 0, "", "x"), Fault("g", 1, "k", "y")]).args == ("f: x\ng:1: k: y",)


def test_parsing_alone_gives_plain_values():
    assert parse("[a]\nb = [1, {c = 2}]", "f") == {"a": {"b": [1, {"c": 2}]}}


def test_a_key_is_found_again_in_any_of_toml_s_forms():
    lines = Lines("a.b = 1\n[c.'d e']\n\"f\" = 2\n[[g]]\nh = 1\n[[g]]\nh = 2\n[g.i]\nj = 3 # x\n")
    assert [lines.of(("a",)), lines.of(("a", "b")), lines.of(("c", "d e", "f"))] == [1, 1, 3]
    assert [lines.of(("g", "0", "h")), lines.of(("g", "1", "h")), lines.of(("g", "1", "x"))] == [5, 7, 6]
    assert lines.of(("nowhere",)) == 0
