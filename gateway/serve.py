"""Processes, sockets and signals: start, drain, stop.

One worker serves in the process that was started. More are processes of their own that bind the same port and
share nothing but the store and the set of policies; the parent holds the port, restarts a worker that dies, passes
signals on, and is the keeper of the policies (`reload.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import logging
import multiprocessing
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from gateway.app import Gateway, bind, build, load_credentials, load_tls
from gateway.config import Config
from gateway.credentials import Credentials, LiveCredentials
from gateway.inforce import LOADED, Outcome, Policies
from gateway.load import Packed, Sets
from gateway.reload import (
    SPAWN,
    Failed,
    Here,
    Keeper,
    Look,
    Stage,
    Staged,
    folders,
    follow,
    leave_to_keeper,
    load_apart,
    look,
    receive,
    send,
)
from gateway.store import open_store
from gateway.store.keys import load_or_create_keys
from gateway.tokens import scrub

T = TypeVar("T")
STOPS = (signal.SIGTERM, signal.SIGINT)
START_TIMEOUT_S = 60.0
RESTART_PAUSE_S = 1.0
log = logging.getLogger("gateway.serve")


class Formatter(logging.Formatter):
    """Log lines without tokens, whatever a library put into them."""

    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))


def set_up_logging(level: int = logging.INFO) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine under uvloop where it exists, else under plain asyncio."""
    factory = None
    if importlib.util.find_spec("uvloop"):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


async def prepare(config: Config) -> Sets:
    """What has to be there before any worker starts: TLS, policies that load, keys, a migrated store.

    Returns the policies, compiled. Raises: ConfigError, OSError.
    """
    load_tls(config.listen)
    sets = load_apart(config)
    load_or_create_keys(config.store.keys)
    store = await open_store(config.store, time.time)
    try:
        await LiveCredentials.open(config, store)
    finally:
        await store.close()
    return sets


def serve(config: Config, ready: Callable[[str], None]) -> None:
    """Serve until told to stop. `ready` gets the address once connections are accepted.

    Raises: ConfigError, RuntimeError, OSError: reasons not to start.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is somebody who reloads
    load_credentials(config.upstream)
    seen = look(folders(config))  # before the policies are read: what changes from here on is news
    sets = run(prepare(config))
    with bind(config.listen.host, config.listen.port, reuse_port=config.listen.workers > 1) as listening:
        address = _address(config, listening)
        way = _one if config.listen.workers == 1 else _many
        run(way(config, listening, sets, seen, lambda: ready(address)))


async def _one(
    config: Config, listening: socket.socket, sets: Sets, seen: Look, ready: Callable[[], None]
) -> None:
    gateway = await build(config, policies=Policies(sets))
    async with _keeping(Keeper(config, Here(gateway), seen)):
        await run_until_stopped(gateway, listening, ready)


@contextlib.asynccontextmanager
async def _keeping(keeper: Keeper) -> AsyncIterator[None]:
    """Reload on SIGHUP, and when the folders change."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, keeper.asked.set)
    task = asyncio.create_task(keeper.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def run_until_stopped(
    gateway: Gateway, listening: socket.socket, ready: Callable[[], None], reuse_port: bool = False
) -> None:
    """Start a gateway, tell that it is ready, and stop it on SIGTERM or SIGINT after what is under way."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for stop in STOPS:
        loop.add_signal_handler(stop, stopped.set)
    parent = multiprocessing.parent_process()
    if (
        parent is not None
    ):  # a worker whose parent is gone would keep the port, with nobody to stop or replace it
        _when_readable(loop, parent.sentinel, stopped.set)
    try:
        await gateway.start(listening, reuse_port)
        ready()
        await stopped.wait()
    finally:
        await gateway.stop()


def _when_readable(loop: asyncio.AbstractEventLoop, handle: int, act: Callable[[], None]) -> None:
    def once() -> None:
        loop.remove_reader(handle)
        act()

    loop.add_reader(handle, once)


@dataclass
class _Worker:
    """One process, our end of the socket to it, and the last generation that it has ready."""

    process: BaseProcess
    channel: socket.socket
    staged: int


class Workers:
    """Worker processes on one port, all with one set of policies (`reload.Holders`)."""

    def __init__(self, config: Config, port: int, sets: Sets, credentials: Credentials | None = None) -> None:
        self._config = config
        self._port = port
        self._credentials = credentials
        self._ready = SPAWN.Semaphore(0)
        self._workers: list[_Worker] = []
        self._number = SPAWN.RawValue(ctypes.c_uint64, 0)
        self._set = Stage(0, sets.pack())
        self._last = LOADED

    def start(self) -> None:
        """Start all, and wait until every one accepts connections. Raises: RuntimeError when one does not come up."""
        self._workers = [self._spawn() for _ in range(self._config.listen.workers)]
        deadline = time.monotonic() + START_TIMEOUT_S
        for _ in self._workers:
            while not self._ready.acquire(timeout=0.2):
                if time.monotonic() > deadline or not all(w.process.is_alive() for w in self._workers):
                    self.stop()
                    raise RuntimeError("a worker did not start; its reason is in the log above")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All of them serve, and each that dies is replaced, until this is left. Raises: as `start`."""
        await asyncio.to_thread(self.start)
        replacing = asyncio.create_task(self._replace_dead())
        try:
            yield
        finally:
            replacing.cancel()
            await asyncio.gather(replacing, return_exceptions=True)
            await asyncio.to_thread(self.stop)

    async def _replace_dead(self) -> None:
        while True:
            await asyncio.sleep(RESTART_PAUSE_S)
            try:
                self._restart_dead()
            except OSError as error:  # too many processes or files, for now; those that live go on
                log.error("worker-died: another cannot be started (%s)", error.strerror)

    def _restart_dead(self) -> None:
        for index, worker in enumerate(self._workers):
            if not worker.process.is_alive():
                log.error("worker-died: exit code %s; another is started", worker.process.exitcode)
                self._workers[index] = self._spawn()
                worker.channel.close()

    def stop(self) -> None:
        """Ask every worker to finish what is under way, and wait for it; end those that take too long."""
        for worker in self._workers:
            worker.process.terminate()
        deadline = time.monotonic() + self._config.limits.drain_timeout_s + 5
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.channel.close()

    def _spawn(self) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            given = _Given(self._credentials, self._ready, self._set, self._number, self._last, theirs)
            process = SPAWN.Process(target=_work, args=(self._config, self._port, given))
            process.start()
        ours.setblocking(False)
        return _Worker(process, ours, self._set.generation)

    # -- reload.Holders

    async def stage(self, generation: int, packed: Packed) -> None:
        """A worker that died meanwhile is waited for: its successor needs the table too."""
        message = Stage(generation, packed)
        while behind := [worker for worker in self._workers if worker.staged != generation]:
            answers = await asyncio.gather(*(self._stage(worker, message) for worker in behind))
            fault = next((fault for fault in answers if fault is not None), None)
            if fault is not None:
                raise Failed(fault)

    async def _stage(self, worker: _Worker, message: Stage) -> str | None:
        """Have one worker make a table ready; why it cannot. One that does not answer is ended, and replaced."""
        answer = await self._say(worker, message, answered=True)
        if isinstance(answer, Staged):
            if answer.fault is None:
                worker.staged = answer.generation
            return answer.fault
        await asyncio.sleep(0.05)  # `_restart_dead` has to see it
        return None

    def put_in_force(self, generation: int, packed: Packed) -> None:
        self._set = Stage(generation, packed)
        self._number.value = generation

    async def tell(self, outcome: Outcome) -> None:
        self._last = outcome
        await asyncio.gather(*(self._say(worker, outcome) for worker in self._workers))

    async def _say(self, worker: _Worker, message: object, answered: bool = False) -> object:
        """Send a message, and wait for the answer to it. A worker that cannot be spoken to cannot be kept in step."""
        try:
            async with asyncio.timeout(self._config.policies.reload_timeout_s):
                await send(worker.channel, message)
                return await receive(worker.channel) if answered else None
        except TimeoutError:
            log.error("worker-stuck: process %s took no policies; it is ended", worker.process.pid)
        except (OSError, EOFError):  # it has died, or is about to
            pass
        worker.process.kill()
        return None


@dataclass(frozen=True, slots=True)
class _Given:
    """What a worker starts with, beside the configuration."""

    credentials: Credentials | None
    ready: Any
    policies: Stage
    number: Any
    last: Outcome
    keeper: socket.socket


def _work(config: Config, port: int, given: _Given) -> None:
    leave_to_keeper()
    set_up_logging()
    given.keeper.setblocking(False)

    async def work() -> None:
        sets = Sets.unpack(given.policies.packed)
        policies = Policies(sets, given.policies.generation, given.number, given.last)
        gateway = await build(config, credentials=given.credentials, policies=policies)
        # To the very end: what is still under way when it stops may yet see a set come into force.
        following = asyncio.create_task(follow(given.keeper, gateway))
        listening = bind(config.listen.host, port, reuse_port=True)
        await run_until_stopped(gateway, listening, given.ready.release, reuse_port=True)
        following.cancel()

    run(work())


async def _many(
    config: Config, listening: socket.socket, sets: Sets, seen: Look, ready: Callable[[], None]
) -> None:
    workers = Workers(config, listening.getsockname()[1], sets)
    stopped = asyncio.Event()
    for stop in STOPS:
        asyncio.get_running_loop().add_signal_handler(stop, stopped.set)
    async with workers.running():
        ready()
        async with _keeping(Keeper(config, workers, seen)):
            await stopped.wait()


def _address(config: Config, listening: socket.socket) -> str:
    scheme = "https" if config.listen.tls_certificate else "http"
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
