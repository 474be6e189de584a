"""`policies/README.md`, done as a newcomer would do it: its files written, its commands run, its answers compared.

A fenced block with a file's name behind the language is written to that file. In a `console` block, lines that begin
with `$ ` are run by a shell, in order, all in one folder; `$?` is the last one's exit code. What a command prints has
to be what stands below it: a line that is only `…` stands for any lines, or none, and `…` in a line for any text.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cases import Case, CasePrincipal
from gateway.load import load_catalogue
from gateway.policy import PolicySet, packaged
from gateway.tomlfile import ConfigError
from gateway.words import PATHS

ROOT = Path(__file__).parents[2]
DOCUMENT = (packaged() / "README.md").read_text(encoding="utf-8")
PATIENCE_S = 60.0
ANY = "…"
HEAD = '@id("it") @source("the document") @reason("An example") '


@dataclass(frozen=True)
class Block:
    """One fenced block: what stands behind its first fence, its text, and the paragraph before it."""

    language: str
    file: str
    text: str
    before: str


@dataclass(frozen=True)
class Step:
    """A command, and what the document says that it prints."""

    command: str
    expected: str


def blocks(document: str) -> list[Block]:
    found, fence = [], re.compile(r"^```(\w*)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for match in fence.finditer(document):
        before = document[: match.start()].rstrip().rpartition("\n\n")[2]
        found.append(Block(match[1], match[2] or "", match[3], before))
    return found


def steps(text: str) -> list[Step]:
    """The commands of a console block. What stands before the first is nobody's answer."""
    first, *rest = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert not first, f"no command prints {first!r}"
    return [Step(*part.split("\n", 1)) for part in rest]


def agrees(expected: str, printed: str) -> bool:
    pattern = ""
    for line in expected.splitlines():
        if line.strip() == ANY:
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += r"[^\n]*?".join(map(re.escape, line.split(ANY))) + r"\n"
    return re.fullmatch(pattern, printed) is not None


BLOCKS = blocks(DOCUMENT)
RULES = [block for block in BLOCKS if block.language == "cedar" and not block.file]


class Newcomer:
    """Somebody with a shell in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.ran: list[str] = []
        self._code = 0
        self._folder = folder / "here"
        self._folder.mkdir()
        tools = folder / "bin"
        tools.mkdir()
        program = tools / "invoca-gateway"
        program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m gateway "$@"\n')
        program.chmod(0o755)
        self._env = {"PATH": f"{tools}:{os.environ['PATH']}", "TMPDIR": str(folder), "LC_ALL": "C.UTF-8"}

    def write(self, name: str, text: str) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(self, command: str) -> str:
        """What it prints, to wherever."""
        done = subprocess.run(
            ["sh", "-c", f"(exit {self._code})\n{command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self._folder,
            env=self._env,
            timeout=PATIENCE_S,
            check=False,
        )
        self._code = done.returncode
        self.ran.append(command)
        return done.stdout


def test_what_the_document_says_is_what_happens(tmp_path):
    newcomer = Newcomer(tmp_path)
    for block in BLOCKS:
        if block.file:
            newcomer.write(block.file, block.text)
        for step in steps(block.text) if block.language == "console" else ():
            printed = newcomer.run(step.command)
            assert agrees(step.expected, printed), (
                f"$ {step.command}\nprints\n{printed}\nand not\n{step.expected}"
            )
    commands = re.findall(r"^\$ (.*)$", DOCUMENT, re.MULTILINE)
    assert newcomer.ran == commands, "a command of the document is not run: it belongs in a console block"


def test_every_block_is_a_file_a_console_or_a_rule_that_is_tried():
    for block in BLOCKS:
        assert block.language in ("console", "cedar", "toml"), f"nobody tries what is in {block.text!r}"
        assert block.language != "toml" or block.file, f"of which file is {block.text!r}?"
        # A page that shows Markdown does not show the name behind the fence.
        assert not block.file or f"`{block.file}`" in block.before, f"the reader is not told of {block.file}"
    assert DOCUMENT.count("\n```") == 2 * len(BLOCKS), "a block has no end"


def refused(folder: Path, text: str) -> list[str]:
    """What is wrong with a policy, in words."""
    (folder / "own.cedar").write_text(text, encoding="utf-8")
    try:
        PolicySet.load(local=folder, operations=load_catalogue().variants())
    except ConfigError as error:
        return [fault.text for fault in error.faults]
    return []


def test_the_rules_that_are_shown_would_load(tmp_path):
    shipped = "".join((packaged() / name).read_text() for name in ("vendor.cedar", "access.cedar"))
    for block in RULES:
        if block.text not in shipped:
            assert refused(tmp_path, block.text) == [], block.text
    assert any(block.text in shipped for block in RULES), "the rule that is shown first is one of the shipped"


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of the tables below a heading, up to the next one, without their first rows."""
    section = re.split(r"^#+ ", DOCUMENT.partition(f" {heading}\n")[2], flags=re.MULTILINE)[0]
    for line in re.findall(r"^\| (`.*) \|$", section, re.MULTILINE):
        yield [cell.strip("`").strip() for cell in line.split(" | ")]


def test_every_word_of_the_schema_is_shown_in_an_example_that_loads(tmp_path):
    asked = {"What a policy can ask": "call", "Columns of an answer": "see"}
    for heading, action in asked.items():
        for word, _, example in rows(heading):
            text = f'{HEAD}forbid (principal, action == Action::"{action}", resource) when {{ {example} }};'
            assert refused(tmp_path, text) == [], example
            assert word in example
    assert [row[0] for row in rows("What a policy can ask")] == sorted(
        PATHS, key=[row[0] for row in rows("What a policy can ask")].index
    )


def test_what_the_document_says_is_refused_is_refused_in_these_words(tmp_path):
    tried = list(rows("What is refused, and why"))
    assert len(tried) > 5
    for condition, text in tried:
        policy = f'{HEAD}forbid (principal, action == Action::"call", resource) when {{ {condition} }};'
        found = refused(tmp_path, policy)
        assert any(text in fault for fault in found), (condition, found)


def test_everything_that_a_case_can_have_is_in_the_example_and_explained():
    (example,) = (block.text for block in BLOCKS if block.file == "reference/cases/columns.toml")
    explained = " ".join(re.findall(r"^\| (`.*?) \|", DOCUMENT, re.MULTILINE))
    for field in fields(Case):
        assert re.search(rf"^{field.name} = ", example, re.MULTILINE), f"the example case has no {field.name}"
        assert f"`{field.name}`" in explained, f"nobody says what {field.name} of a case is"
    for field in fields(CasePrincipal):
        assert f"{field.name} = " in example, f"the example case has no {field.name} of a principal"


# --- The reader itself


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a\n", "a\n", True),
        ("a\n", "b\n", False),
        ("a\n", "a\nb\n", False),
        ("a\n…\n", "a\n", True),
        ("a\n…\nd\n", "a\nb\nc\nd\n", True),
        ("a\n…\nd\n", "a\nb\nc\n", False),
        ("at …, by x\n", "at 12:00, by x\n", True),
        ("at …, by x\n", "at 12:00\n, by x\n", False),
        ("", "", True),
        ("", "a\n", False),
    ],
)
def test_an_ellipsis_stands_for_what_is_left_out_and_nothing_else_does(expected, printed, same):
    assert agrees(expected, printed) is same


LINES = st.lists(st.text(st.characters(exclude_characters="\n…", exclude_categories=["C", "Zl", "Zp"])))


@given(LINES, st.data())
def test_a_text_agrees_with_itself_and_with_itself_shortened(lines, data):
    text = "".join(line + "\n" for line in lines)
    assert agrees(text, text)
    begin = data.draw(st.integers(0, len(lines)))
    end = data.draw(st.integers(begin, len(lines)))
    assert agrees("\n".join([*lines[:begin], ANY, *lines[end:]]) + "\n", text)


@given(LINES, LINES)
def test_two_texts_agree_when_they_are_the_same(one, other):
    one_text, other_text = ("".join(line + "\n" for line in lines) for lines in (one, other))
    assert agrees(one_text, other_text) is (one_text == other_text)
