"""Another set of policies without a restart: who notices, who compiles, and how all workers change over at once.

The keeper (the parent of several workers, or a task of the only process) waits for SIGHUP, or for the folders to have
changed and to be quiet again. A child process compiles and proves what is there: no worker's loop does, and an engine
that crashes or hangs takes nobody with it. The finished table goes to every worker, each says that it has it, and only
then is the number raised by which all of them change over (`inforce.py`). Whatever goes wrong before that leaves the
old set in force, with an alarm, and with the reason in readiness.

Nothing but the policies is read again. A set is tried once: what did not load is tried again when it changes, or on
SIGHUP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Protocol

from gateway.config import Config
from gateway.inforce import LOADED, Outcome
from gateway.load import Packed, Sets, load_catalogue, load_sets
from gateway.tomlfile import ConfigError, Fault

if TYPE_CHECKING:  # the child imports this module, and has no use for the rest of a gateway
    from gateway.app import Gateway

SPAWN = multiprocessing.get_context("spawn")
FORK = multiprocessing.get_context("fork")
LOOK_S = 1.0
"""How often the folders are looked at. They are quiet when two looks are alike."""
READ = (".cedar", ".cedarschema", ".toml")
"""How files end that belong to a set. Editors leave others beside them for a moment."""
MAX_BYTES = 256 * 1_048_576
"""More than any table has."""
NICE = 5
"""The child gives way to the workers where processors are few."""
log = logging.getLogger("gateway.reload")


# --- Noticing

Look = tuple[tuple[object, ...], ...]


def folders(config: Config) -> tuple[str, ...]:
    """The folders that a set is read from, but for the packaged one."""
    return tuple(filter(None, (config.policies.local, config.policies.shadow)))


def look(folders: Sequence[str]) -> Look:
    """What tells a changed folder from one that is as it was: names, and what stands behind them. Never raises.

    Links are followed, so one that is turned elsewhere is a change (Kubernetes replaces mounted files like that).
    When an inode last changed is part of it: a tool may set a file's time back, but never that one.
    """
    return tuple(entry for folder in folders for entry in _look(folder))


def _look(folder: str) -> Look:
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(READ))
    except (OSError, ValueError) as error:
        return ((folder, type(error).__name__),)
    return tuple((folder, name, *_standing(os.path.join(folder, name))) for name in names)


def _standing(path: str) -> tuple[object, ...]:
    try:
        found = os.stat(path)
    except OSError as error:
        return (type(error).__name__,)
    kind, place = stat.S_IFMT(found.st_mode), (found.st_dev, found.st_ino)
    return kind, place, found.st_size, found.st_mtime_ns, found.st_ctime_ns


# --- Compiling


@dataclass(frozen=True, slots=True)
class Compiled:
    """What loads: the digest of the set to enforce, and its table, with that of the one to try."""

    digest: str
    packed: Packed


def failed(text: str) -> Outcome:
    """The end of a reload for a reason that is no fault of the set."""
    return Outcome("failed", (Fault("policies", 0, "", text),))


async def compile_apart(config: Config) -> Compiled | Outcome:
    """Load, compile and prove the policies of a configuration in a process of its own, and wait for its end.

    It is given up after `policies.reload_timeout_s`. The outcome, where there is one, is not `loaded`.
    """
    limit_s = config.policies.reload_timeout_s
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        return failed(f"the compiling process cannot be started: {type(error).__name__}")
    with ours:
        ours.setblocking(False)
        with theirs:
            process = SPAWN.Process(target=_compile, args=(config, theirs, limit_s), daemon=True)
            try:
                process.start()
            except OSError as error:
                return failed(f"the compiling process cannot be started: {type(error).__name__}")
        try:
            async with asyncio.timeout(limit_s):
                found = await receive(ours)
        except TimeoutError:
            return failed(f"compiling took longer than {limit_s:g} s")
        except (OSError, EOFError):
            await asyncio.to_thread(process.join, 1.0)
            return failed(f"the compiling process ended early (exit code {process.exitcode})")
        finally:
            process.kill()
            await asyncio.to_thread(process.join, 5.0)
    assert isinstance(found, Compiled | Outcome)
    return found


def load_apart(config: Config) -> Sets:
    """The policies a gateway starts with, compiled and proved in a child: where Cedar's engine has run it leaves 8 MB
    behind, and what serves only looks up.

    It blocks, and it forks (a start has no second to give to another interpreter): for a process without threads.
    Raises: ConfigError as `load_sets`; RuntimeError when the child came to nothing.
    """
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_compile_first, args=(config, theirs), daemon=True)
    process.start()
    theirs.close()
    with ours:
        try:
            found = ours.recv()
        except EOFError:
            found = None
        finally:
            process.kill()
            process.join()
    if isinstance(found, Compiled):
        return Sets.unpack(found.packed)
    if isinstance(found, Outcome) and found.word == "refused":
        raise ConfigError(list(found.faults))
    why = f"the compiling process ended early (exit code {process.exitcode})"
    raise RuntimeError(str(found.faults[0].text) if isinstance(found, Outcome) else why)


def _compile_first(config: Config, to: Connection) -> None:
    leave_to_keeper()
    _end_after(config.policies.reload_timeout_s)
    to.send(_compiled(config))


def _compile(config: Config, to: socket.socket, limit_s: float) -> None:
    """The child of a reload."""
    leave_to_keeper()
    _end_after(limit_s + 1)
    os.nice(NICE)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    to.sendall(framed(_compiled(config)))


def _end_after(limit_s: float) -> None:
    """The kernel's clock ends this process, whoever has forgotten it and whatever hangs in it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limit_s)


def _compiled(config: Config) -> Compiled | Outcome:
    try:
        sets = load_sets(config, load_catalogue(config))
        return Compiled(sets.enforced.digest, sets.pack())
    except ConfigError as error:
        return Outcome("refused", tuple(error.faults))
    except Exception as error:
        return failed(f"compiling failed: {type(error).__name__}: {error}")


def leave_to_keeper() -> None:
    """Ignore what a terminal, or a careless `kill`, sends to every process of the gateway, and is the keeper's."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


# --- From process to process


@dataclass(frozen=True, slots=True)
class Stage:
    """To a worker: have this table ready."""

    generation: int
    packed: Packed


@dataclass(frozen=True, slots=True)
class Staged:
    """From a worker: it is ready, unless a `fault` says why it cannot be."""

    generation: int
    fault: str | None = None


_LENGTH = struct.Struct("!Q")


def framed(message: object) -> bytes:
    """A message between processes of one gateway, for a socket that nobody else has."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


async def send(to: socket.socket, message: object) -> None:
    """Raises: OSError."""
    await asyncio.get_running_loop().sock_sendall(to, framed(message))


async def receive(of: socket.socket) -> object:
    """The next message. Raises: EOFError when the other end is gone or sends too much; OSError."""
    (length,) = _LENGTH.unpack(await _exactly(of, _LENGTH.size))
    if length > MAX_BYTES:
        raise EOFError
    return pickle.loads(await _exactly(of, length))  # noqa: S301 (see `framed`)


async def _exactly(of: socket.socket, size: int) -> bytearray:
    loop, received = asyncio.get_running_loop(), bytearray()
    while len(received) < size:
        piece = await loop.sock_recv(of, min(size - len(received), 262_144))
        if not piece:
            raise EOFError
        received += piece
    return received


# --- Those that serve


class Failed(Exception):
    """Why a table cannot be put in force everywhere."""


class Holders(Protocol):
    """All processes that serve, as the keeper sees them."""

    async def stage(self, generation: int, packed: Packed) -> None:
        """Have every process make a table ready, and wait until all have. Raises: Failed."""

    def put_in_force(self, generation: int, packed: Packed) -> None:
        """Raise the number. A process that starts from now on starts with this table."""

    async def tell(self, outcome: Outcome) -> None:
        """Tell every process how a reload ended."""


class Here:
    """The only process that serves, which is this one."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def stage(self, generation: int, packed: Packed) -> None:
        await _stage(self._gateway, Stage(generation, packed))

    def put_in_force(self, generation: int, packed: Packed) -> None:
        self._gateway.policies.put_in_force(generation)

    async def tell(self, outcome: Outcome) -> None:
        self._gateway.reloaded(outcome)


async def follow(keeper: socket.socket, gateway: Gateway) -> None:
    """A worker's part in reloads, for as long as its keeper lives."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            message = await receive(keeper)
            if isinstance(message, Outcome):
                gateway.reloaded(message)
            elif isinstance(message, Stage):
                fault = None
                try:
                    await _stage(gateway, message)
                except Failed as error:
                    fault = str(error)
                await send(keeper, Staged(message.generation, fault))


async def _stage(gateway: Gateway, message: Stage) -> None:
    try:
        sets = await asyncio.to_thread(Sets.unpack, message.packed)
    except ValueError as error:
        raise Failed(f"the table cannot be taken over: {error}") from None
    gateway.policies.stage(message.generation, sets)


# --- The keeper


class Keeper:
    """Looks after the set in force. Set `asked` to have the folders read again, changed or not."""

    def __init__(self, config: Config, holders: Holders, seen: Look) -> None:
        """`seen` is how the folders looked before the set in force was read from them."""
        self.asked = asyncio.Event()
        self._config = config
        self._folders = folders(config)
        self._holders = holders
        self._seen: Look | None = seen
        self._generation = 0

    async def run(self) -> None:
        while True:
            await self._wanted()
            try:
                await self.reload()
            except Exception:
                log.exception("internal-error: a reload of the policies; the set in force stays")

    async def _wanted(self) -> None:
        """Wait until a reload is asked for, or until the folders have changed and two looks are alike."""
        before = self._seen
        while not self.asked.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.asked.wait(), LOOK_S)
            now = await self._look()
            if now == before and now != self._seen:
                return
            before = now

    async def _look(self) -> Look:
        return await asyncio.to_thread(look, self._folders) if self._folders else ()

    async def reload(self) -> None:
        """Try what the folders hold now."""
        self.asked.clear()  # who asks from here on is heard when this is over
        seen = self._seen = await self._look()
        made = await compile_apart(self._config)
        if await self._look() != seen:
            # Read while somebody wrote: half of one set and half of another, which nobody has ever meant.
            log.info(
                "policies-moved: the folder changed while it was read; it is read again once it is quiet"
            )
            self._seen = None
            return
        outcome = await self._hand_over(made) if isinstance(made, Compiled) else made
        for fault in outcome.faults:
            log.error("policies-not-loaded: %s", " ".join(str(fault).split()))
        await self._holders.tell(outcome)

    async def _hand_over(self, made: Compiled) -> Outcome:
        self._generation += 1  # each once, so that what was made ready in vain never comes into force
        try:
            await self._holders.stage(self._generation, made.packed)
        except Failed as error:
            return failed(str(error))
        self._holders.put_in_force(self._generation, made.packed)
        log.info("policies-loaded: %s is in force, generation %d", made.digest[:16], self._generation)
        return LOADED
