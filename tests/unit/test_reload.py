"""What the keeper sees of a folder, and what it does with what comes back. Processes are in integration/."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import reload
from gateway.config import Config, Upstream
from gateway.config import Policies as Settings
from gateway.inforce import Outcome
from gateway.reload import Compiled, Failed, Keeper, Stage, framed, look, receive

ROOT = Path(__file__).parents[2]


def look_at(folder: Path) -> reload.Look:
    return look((str(folder),))


def test_looking_twice_sees_the_same(tmp_path):
    (tmp_path / "x.cedar").write_text("x")
    assert look_at(tmp_path) == look_at(tmp_path)


@pytest.mark.parametrize("name", ["x.cedar", "invariants.toml", "own.cedarschema"])
def test_a_file_that_comes_or_goes_is_a_change(tmp_path, name):
    before = look_at(tmp_path)
    (tmp_path / name).write_text("x")
    there = look_at(tmp_path)
    (tmp_path / name).unlink()
    assert (there != before, look_at(tmp_path) == before) == (True, True)


@pytest.mark.parametrize("name", [".x.cedar.swp", "x.cedar~", "4913", "README.md"])
def test_what_is_no_part_of_a_set_is_no_change(tmp_path, name):
    before = look_at(tmp_path)
    (tmp_path / name).write_text("x")
    assert look_at(tmp_path) == before


def test_a_file_of_the_same_length_whose_time_was_set_back_is_a_change(tmp_path):
    file = tmp_path / "x.cedar"
    file.write_text("x")
    stood, before = file.stat(), look_at(tmp_path)
    with file.open("r+") as same:
        same.write("y")
    os.utime(file, ns=(stood.st_atime_ns, stood.st_mtime_ns))
    assert look_at(tmp_path) != before


def test_a_file_that_is_renamed_over_another_is_a_change(tmp_path):
    (tmp_path / "x.cedar").write_text("x")
    before = look_at(tmp_path)
    (tmp_path / "new").write_text("x")
    os.replace(tmp_path / "new", tmp_path / "x.cedar")
    assert look_at(tmp_path) != before


def test_a_link_behind_a_link_that_is_turned_is_a_change(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.cedar").write_text("x")
    (tmp_path / "data").symlink_to("a")
    (tmp_path / "x.cedar").symlink_to("data/x.cedar")
    before = look_at(tmp_path)
    (tmp_path / "data_new").symlink_to("b")
    os.replace(tmp_path / "data_new", tmp_path / "data")
    assert look_at(tmp_path) != before


def test_what_cannot_be_looked_at_is_seen_and_raises_nothing(tmp_path):
    missing = look_at(tmp_path / "missing")
    (tmp_path / "x.cedar").symlink_to("nowhere")
    dangling = look_at(tmp_path)
    (tmp_path / "nowhere").write_text("x")
    assert (bool(missing), look_at(tmp_path) != dangling) == (True, True)


class Holder:
    """One that serves, and remembers what it was told; it may refuse tables."""

    def __init__(self, fault: str | None = None) -> None:
        self.fault = fault
        self.did: list[object] = []

    async def stage(self, generation: int, packed: bytes) -> None:
        self.did.append(("stage", generation, packed))
        if self.fault is not None:
            raise Failed(self.fault)

    def put_in_force(self, generation: int, packed: bytes) -> None:
        self.did.append(("put in force", generation, packed))

    async def tell(self, outcome: Outcome) -> None:
        self.did.append(outcome.word)


def a_config(local: Path) -> Config:
    upstream = Upstream(url="http://127.0.0.1:9")
    return Config("http://127.0.0.1:1", upstream, policies=Settings(local=str(local)))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Compiled | Outcome]:
    """What the compiling process comes to, one after the other; it is started in integration/."""
    made: list[Compiled | Outcome] = []

    async def give(_: Config) -> Compiled | Outcome:
        return made.pop(0)

    monkeypatch.setattr(reload, "compile_apart", give)
    return made


async def test_a_table_is_ready_everywhere_before_the_number_is_raised_and_told_of_after(tmp_path, compiled):
    holder = Holder()
    compiled.append(Compiled("digest", b"table"))
    await Keeper(a_config(tmp_path), holder, look_at(tmp_path)).reload()
    assert holder.did == [("stage", 1, b"table"), ("put in force", 1, b"table"), "loaded"]


async def test_a_table_that_one_process_cannot_take_comes_into_force_nowhere_nor_does_its_number(
    tmp_path, compiled
):
    holder = Holder("cannot be taken over")
    keeper = Keeper(a_config(tmp_path), holder, look_at(tmp_path))
    compiled += [Compiled("one", b"one"), Compiled("two", b"two")]
    await keeper.reload()
    holder.fault = None
    await keeper.reload()
    assert holder.did[:3] == [("stage", 1, b"one"), "failed", ("stage", 2, b"two")]
    assert holder.did[3:] == [("put in force", 2, b"two"), "loaded"]


def test_a_compiling_process_that_hangs_in_the_engine_is_ended_by_the_kernel():
    hanging = (
        "import re, socket, sys, time; from gateway import reload;"
        "reload._compiled = lambda _: re.match('(a+)+$', 'a' * 64 + 'b');"
        "reload._compile(None, socket.socket(), 0.1)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", hanging], cwd=ROOT, check=False, timeout=30)
    assert done.returncode == -signal.SIGALRM
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        ("lambda _: os._exit(3)", "ended early (exit code 3)"),
        ("lambda _: re.match('(a+)+$', 'a' * 64 + 'b')", f"ended early (exit code -{signal.SIGALRM.value})"),
        ("lambda _: reload.failed('the engine is of another kind')", "the engine is of another kind"),
    ],
)
def test_a_start_whose_compiling_process_comes_to_nothing_says_why(happens, said):
    starting = (
        "import os, re; from gateway import config, reload;"
        "settings = config.Config('http://a', config.Upstream('http://b'),"
        " policies=config.Policies(reload_timeout_s=0.2));"
        f"reload._compiled = {happens};"
        "reload.load_apart(settings)"
    )
    done = subprocess.run(
        [sys.executable, "-c", starting], cwd=ROOT, check=False, timeout=30, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1].startswith("RuntimeError: ")
    assert done.stderr.splitlines()[-1].endswith(said)


def test_a_start_compiles_in_a_process_of_its_own():
    starting = (
        "import os; from gateway import config, reload;"
        "load = reload.load_sets;"
        "reload.load_sets = lambda *given: (print(os.getpid(), flush=True), load(*given))[1];"
        "made = reload.load_apart(config.Config('http://a', config.Upstream('http://b')));"
        "print(os.getpid(), made.enforced.digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", starting], cwd=ROOT, check=True, timeout=30, capture_output=True, text=True
    )
    compiled, serves, digest = done.stdout.split()
    assert compiled != serves
    assert len(digest) == 64


@given(st.binary(max_size=2_000), st.lists(st.integers(1, 300), max_size=8))
@settings(max_examples=50, deadline=None)
def test_a_message_arrives_whole_however_it_is_cut(packed, cuts):
    async def exchange() -> object:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            waiting = asyncio.create_task(receive(ours))
            rest = framed(Stage(7, packed))
            for cut in cuts:
                theirs.sendall(rest[:cut])
                rest = rest[cut:]
                await asyncio.sleep(0)
            theirs.sendall(rest)
            return await waiting

    assert asyncio.run(exchange()) == Stage(7, packed)


@pytest.mark.parametrize("sent", [b"", framed(Stage(1, b"table"))[:-1], (2**60).to_bytes(8, "big")])
async def test_half_a_message_or_one_without_measure_is_the_end(sent):
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        with theirs:
            theirs.sendall(sent)
        with pytest.raises(EOFError):
            await receive(ours)
