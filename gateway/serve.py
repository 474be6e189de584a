"""Processes, sockets and signals: start, drain, stop.

One worker serves in the process that was started. More are processes of their own that bind the same port and
share nothing but the store; the parent holds the port, restarts a worker that dies, and passes signals on.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import multiprocessing
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from gateway.app import Gateway, bind, build, load_catalogue, load_credentials, load_policies, load_tls
from gateway.config import Config
from gateway.credentials import Credentials, LiveCredentials
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


async def prepare(config: Config) -> None:
    """What has to be there before any worker starts: TLS, policies that load, keys, a migrated store.

    Raises: ConfigError, OSError.
    """
    load_tls(config.listen)
    load_policies(config, load_catalogue(config))
    load_or_create_keys(config.store.keys)
    store = await open_store(config.store, time.time)
    try:
        await LiveCredentials.open(config, store)
    finally:
        await store.close()


def serve(config: Config, ready: Callable[[str], None]) -> None:
    """Serve until told to stop. `ready` gets the address once connections are accepted.

    Raises: ConfigError, RuntimeError, OSError: reasons not to start.
    """
    load_credentials(config.upstream)
    if config.listen.workers > 1:  # one alone makes all of it itself
        run(prepare(config))
    with bind(config.listen.host, config.listen.port, reuse_port=config.listen.workers > 1) as listening:
        address = _address(config, listening)
        if config.listen.workers == 1:
            run(_one(config, listening, lambda: ready(address)))
        else:
            _many(config, listening, lambda: ready(address))


async def _one(config: Config, listening: socket.socket, ready: Callable[[], None]) -> None:
    gateway = await build(config)
    await run_until_stopped(gateway, listening, ready)


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


class Workers:
    """Worker processes on one port. `start` waits until every one of them accepts connections."""

    def __init__(self, config: Config, port: int, credentials: Credentials | None = None) -> None:
        self._config = config
        self._port = port
        self._credentials = credentials
        self._context = multiprocessing.get_context("spawn")
        self._ready = self._context.Semaphore(0)
        self._processes: list[BaseProcess] = []

    def start(self) -> None:
        """Raises: RuntimeError when a worker does not come up."""
        self._processes = [self._spawn() for _ in range(self._config.listen.workers)]
        deadline = time.monotonic() + START_TIMEOUT_S
        for _ in self._processes:
            while not self._ready.acquire(timeout=0.2):
                if time.monotonic() > deadline or not all(process.is_alive() for process in self._processes):
                    self.stop()
                    raise RuntimeError("a worker did not start; its reason is in the log above")

    def restart_dead(self) -> None:
        for index, process in enumerate(self._processes):
            if not process.is_alive():
                log.error("worker-died: exit code %s; another is started", process.exitcode)
                self._processes[index] = self._spawn()

    def stop(self) -> None:
        """Ask every worker to finish what is under way, and wait for it; end those that take too long."""
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + self._config.limits.drain_timeout_s + 5
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()

    def _spawn(self) -> BaseProcess:
        process = self._context.Process(
            target=_work, args=(self._config, self._port, self._credentials, self._ready)
        )
        process.start()
        return process


def _work(config: Config, port: int, credentials: Credentials | None, ready: Any) -> None:
    set_up_logging()

    async def work() -> None:
        gateway = await build(config, credentials=credentials)
        listening = bind(config.listen.host, port, reuse_port=True)
        await run_until_stopped(gateway, listening, ready.release, reuse_port=True)

    run(work())


def _many(config: Config, listening: socket.socket, ready: Callable[[], None]) -> None:
    workers = Workers(config, listening.getsockname()[1])
    signalled, wake = os.pipe()  # through it a signal ends the pause below at once
    for number in STOPS:
        signal.signal(number, lambda *_: os.write(wake, b"."))
    workers.start()
    try:
        ready()
        while not select.select([signalled], [], [], RESTART_PAUSE_S)[0]:
            workers.restart_dead()
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            workers.stop()


def _address(config: Config, listening: socket.socket) -> str:
    scheme = "https" if config.listen.tls_certificate else "http"
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
