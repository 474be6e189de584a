"""What the suite's gateways left behind, looked through for everything that was handed out: the run fails when any of
it is there.

Whatever is drawn by chance to be a secret (`secrets.token_urlsafe` of 16 bytes or more: ids of tokens, sessions,
codes) is known here as soon as it is drawn; what other processes hand out, and what people choose, as soon as it goes
through one of the doors by which tests speak to a gateway. At the end of a run every database, write-ahead log,
backup, record and log below its temporary folder is searched for all of that, and for anything with a token's form, in
whatever spelling (`gateway.finder`). A write-ahead log is looked at while its gateway runs, too: closing empties it.

Each process of the run looks through what it made; under xdist the first one gathers what they found.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from gateway.finder import Finder
from gateway.tokens import FORM, scrub

GRAM, PIECE = 12, 24
"""Characters: what is shorter is no secret, and so long a piece from its beginning is too much."""
SECRET = frozenset({"token", "upstream_token", "password", "old_password", "code", "csrf_token"})
"""Members of documents whose values nobody keeps."""
PLANTED = frozenset({"cookies.sqlite3"})
"""What tests of `scan` make for it to find."""
LONGEST = 67_108_864
ZEROS = bytes(256)
_DATABASES = (
    b"SQLite format 3\0",
    b"\x37\x7f\x06\x82",
    b"\x37\x7f\x06\x83",
    b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7",
)
_RUN = re.compile(rb"[\x20-\x7e\x80-\xff]{%d,}" % GRAM)


class Spoken(Protocol):
    """An answer of a gateway."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Left:
    """What was handed out, and the text that was found so far in what was left."""

    folder: Path | None = None
    handed_out: dict[bytes, str] = field(default_factory=dict)
    runs: dict[bytes, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    files: int = 0

    # --- what was handed out

    def handed(self, text: object, what: str) -> None:
        """A secret; of a token its id and its signature, because its form is looked for anyway."""
        if isinstance(text, str) and FORM.fullmatch(text):
            _, payload, signature = text.split(".")
            self.handed(signature, f"the signature of {what}")
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            self.handed(claims.get("jti"), f"the id within {what}")
        elif isinstance(text, str) and len(text.encode()) >= GRAM and not text.startswith("tok_"):  # a name
            self.handed_out.setdefault(text.encode()[:PIECE], what)

    def door(self, document: object, where: str) -> None:
        """Everything secret in a document that goes into a gateway or comes out of it."""
        if isinstance(document, Mapping):
            for name, value in document.items():
                if isinstance(value, str) and (name in SECRET or FORM.fullmatch(value)):
                    self.handed(value, f"{where} {name}")
                else:
                    self.door(value, where)
        elif isinstance(document, list):
            for value in document:
                self.door(value, where)

    def exchanged(self, sent: object, answer: Spoken, where: str) -> None:
        """A request and its answer. What was refused may be anything: an address tried as a password is no secret."""
        if answer.status < 400:
            self.door(sent, where)
        self.handed(
            answer.headers.get("Set-Cookie", "").partition(";")[0].partition("=")[2], f"{where} cookie"
        )
        self.document(answer.body, where)

    def document(self, text: bytes | str, where: str) -> None:
        """What a text hands out, if it is JSON."""
        try:
            self.door(json.loads(text), where)
        except ValueError:
            pass

    def said(self, line: str) -> None:
        """A line of standard output: what is handed over there stands alone, or in a document for scripts."""
        if re.fullmatch(r"[\w-]{43}|eyJ[\w.-]+", line, re.ASCII):
            self.handed(line, "what a command handed over")
        elif line.startswith("{"):
            self.document(line, "what a command handed over")

    # --- what was left

    def look(self, content: bytes, name: str) -> None:
        """Keep the text of something that was left, each run of it once, and tell tokens at once."""
        content = content.replace(ZEROS, b"\0")  # most of a small database
        finder = Finder()
        if [*finder.feed(content), *finder.close()]:
            self.faults.append(f"{name}: something with the form of a token")
        for run in _RUN.findall(content):
            self.runs.setdefault(run, name)

    def look_at(self, path: Path) -> None:
        """Look at a file, if a gateway writes such: a database with what belongs to it, a record, or a log."""
        with path.open("rb") as file:
            head = file.read(16)
            log = path.name == "stderr" or ".jsonl" in path.name or path.suffix == ".stderr"
            if path.name in PLANTED or not (log or head.startswith(_DATABASES)):
                return
            self.files += 1
            content = head + file.read(LONGEST)
        if head.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        name = str(path if self.folder is None else path.relative_to(self.folder))
        if log and (b"$argon2id$" in content or b"PRIVATE KEY" in content):
            self.faults.append(f"{name}: a hash of a password, or a key")
        self.look(content, name)

    def look_now(self, database: str) -> None:
        """Look at a write-ahead log that is about to be emptied."""
        if (wal := Path(f"{database}-wal")).is_file():
            self.look_at(wal)

    def look_below(self, folder: Path) -> None:
        for path in sorted(folder.rglob("*")):
            try:
                if path.is_file() and not path.is_symlink():
                    self.look_at(path)
            except (OSError, EOFError, gzip.BadGzipFile):  # spoilt by a test of what happens then
                pass

    def found(self) -> list[str]:
        """Where there is something that was handed out."""
        begins: dict[bytes, list[bytes]] = {}
        for secret in self.handed_out:
            begins.setdefault(secret[:GRAM], []).append(secret)
        for run, name in self.runs.items():
            for at in range(len(run) - GRAM + 1):
                for secret in begins.get(run[at : at + GRAM], ()):
                    if run.startswith(secret, at):
                        self.faults.append(f"{name}: {self.handed_out[secret]}")
        return sorted(set(self.faults))


LEFT = Left()


# --- the run


def watch_chance() -> Callable[[], None]:
    """Know every secret that this process draws from now on; what ends that."""
    draw = secrets.token_urlsafe

    def drawn(nbytes: int | None = None) -> str:
        text = draw(nbytes)
        if nbytes is None or nbytes >= 16:  # what is shorter is the name of something, and no secret
            LEFT.handed(text, "a secret drawn in this process")
        return text

    def end() -> None:
        secrets.token_urlsafe = draw

    secrets.token_urlsafe = drawn
    return end


def pytest_configure(config: pytest.Config) -> None:
    config.add_cleanup(watch_chance())


@pytest.fixture(scope="session", autouse=True)
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Below which folder everything of this process is left."""
    LEFT.folder = tmp_path_factory.getbasetemp()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    report = yield
    if (
        report.caplog
    ):  # as the log would have it: it is written without tokens, whatever a library put into a line
        LEFT.look(scrub(report.caplog).encode(), f"the log of {item.nodeid}")
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Look through what this process made; the process that gathers makes the run fail."""
    config, began = session.config, time.monotonic()
    faults: list[str] = []
    if LEFT.folder is not None:
        LEFT.look_below(LEFT.folder)
        faults = LEFT.found()
    said = {
        "faults": faults,
        "secrets": len(LEFT.handed_out),
        "files": LEFT.files,
        "s": time.monotonic() - began,
    }
    if hasattr(config, "workeroutput"):
        config.workeroutput["left"] = said
        return
    gathered = config.stash.setdefault(GATHERED, [])
    if LEFT.folder is not None:
        gathered.append(said)
    if any(one["faults"] for one in gathered):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


GATHERED = pytest.StashKey[list[dict[str, Any]]]()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    said = getattr(node, "workeroutput", {}).get("left")
    lost = {"faults": ["a worker ended without looking"], "secrets": 0, "files": 0, "s": 0.0}
    node.config.stash.setdefault(GATHERED, []).append(said or lost)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    gathered = config.stash.get(GATHERED, [])
    faults = [fault for one in gathered for fault in one["faults"]]
    known, files = (sum(one[what] for one in gathered) for what in ("secrets", "files"))
    if faults:
        terminalreporter.section("SECRETS WERE LEFT BEHIND", red=True, bold=True)
        for fault in faults[:50]:
            terminalreporter.write_line(fault)
        terminalreporter.write_line(f"{len(faults)} in all: the run has failed")
    elif files:
        took = max(one["s"] for one in gathered)
        terminalreporter.write_line(
            f"none of {known} secrets is in the {files} files that were left ({took:.1f} s)"
        )
