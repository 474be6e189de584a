"""Child processes: started on a CPU, measured through /proc, and ended whatever happens. Linux alone.

A child is told by the kernel to end when this process does, so that not even a kill leaves one behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 30.0
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Tools:
    """Where programs are looked for: in `folder` first (as unpacked packages have them), then on PATH."""

    folder: Path | None = None

    def find(self, name: str) -> str | None:
        places = (
            [str(self.folder / sub) for sub in (".", "bin", "sbin", "usr/bin", "usr/sbin")]
            if self.folder
            else []
        )
        return shutil.which(name, path=os.pathsep.join([*places, os.environ.get("PATH", ""), "/usr/sbin"]))

    def env(self) -> dict[str, str]:
        """What an unpacked program needs to find its libraries; nothing when there is no folder."""
        if self.folder is None:
            return {}
        folders = [
            str(path) for sub in ("lib", "usr/lib") for path in sorted((self.folder / sub).glob("*-linux-*"))
        ]
        return {"LD_LIBRARY_PATH": os.pathsep.join(folders)} if folders else {}


def two_cpus() -> tuple[set[int], set[int]]:
    """A CPU for what is measured and one for what measures it. The same set twice when there is only one."""
    mine = sorted(os.sched_getaffinity(0))
    return ({mine[0]}, {mine[1]}) if len(mine) > 1 else (set(mine), set(mine))


@dataclass
class Child:
    """One process that we started, the leader of its group."""

    name: str
    process: subprocess.Popen[bytes]
    errors: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self, within_s: float = PATIENCE_S) -> str:
        """The next line of its standard output. Raises: RuntimeError when it ends or is silent for too long."""
        out = self.process.stdout
        assert out is not None
        got, deadline = b"", time.monotonic() + within_s
        while not got.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([out], [], [], left)[0]:
                raise RuntimeError(f"{self.name} said nothing for {within_s:.0f} s")
            byte = os.read(out.fileno(), 1)
            if not byte:
                raise RuntimeError(f"{self.name} ended before it said anything: {self.said()}")
            got += byte
        return got.decode().rstrip("\n")

    def said(self) -> str:
        """The end of what it wrote to standard error."""
        return self.errors.read_text(errors="replace")[-2000:].strip()


@dataclass
class Children:
    """Starts children and ends them all on leaving. `folder` is for what they write to standard error."""

    folder: Path
    _running: list[Child] = field(default_factory=list)

    def start(
        self,
        name: str,
        command: Sequence[str],
        cpus: set[int] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> Child:
        errors = self.folder / f"{name}-{len(self._running)}.stderr"
        with errors.open("wb") as err:
            process = subprocess.Popen(  # noqa: S603
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=err,
                cwd=cwd,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | dict(env or {}),
                start_new_session=True,
                preexec_fn=_settle(cpus),
            )
        self._running.append(Child(name, process, errors))
        return self._running[-1]

    def stop(self, child: Child, within_s: float = 8.0) -> int:
        """Ask a child and its group to end, and make sure. Returns its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.process.wait(within_s)
        except subprocess.TimeoutExpired:
            sys.stderr.write(f"{child.name} did not end within {within_s:.0f} s of SIGTERM and was killed\n")
        with contextlib.suppress(ProcessLookupError):  # whatever is left of the group, leader or not
            os.killpg(child.pid, signal.SIGKILL)
        code = child.process.wait(within_s)
        if child.process.stdout is not None:
            child.process.stdout.close()
        if child in self._running:
            self._running.remove(child)
        return code

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_all()

    def stop_all(self) -> None:
        for child in reversed(list(self._running)):
            self.stop(child)


def _settle(cpus: set[int] | None) -> Callable[[], None]:
    libc = ctypes.CDLL(None)  # loaded before the fork: little may be done after it

    def settle() -> None:
        libc.prctl(_DEATH_SIGNAL, signal.SIGKILL)
        if cpus:
            os.sched_setaffinity(0, cpus)

    return settle


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind like Ctrl-C does, so that children are ended."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tree(pid: int) -> list[int]:
    """A process and all its descendants that are alive."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, of a process and its descendants."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def memory_mb(pid: int) -> float:
    """Resident memory of a process and its descendants. What they share is counted once for each."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1])
    return total / 1024


def tcp_memory_mb() -> float:
    """What the kernel holds in the buffers of all TCP connections of this machine (of this network namespace)."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        for line in Path("/proc/net/sockstat").read_text().splitlines():
            if line.startswith("TCP:"):
                return int(line.split()[line.split().index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return 0.0


def open_files(pid: int) -> int:
    """Open descriptors of a process and its descendants."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            total += len(os.listdir(f"/proc/{each}/fd"))
    return total


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, child: Child | None = None, within_s: float = PATIENCE_S) -> None:
    """Until something accepts on a port of loopback. Raises: RuntimeError."""
    deadline = time.monotonic() + within_s
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if child is not None and child.process.poll() is not None:
            raise RuntimeError(f"{child.name} did not start: {child.said()}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing listens on port {port}")
        time.sleep(0.01)


def allow_files(wanted: int) -> int:
    """Raise the limit of open files for this process and its children, as far as it may; the limit then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < wanted:
        soft = wanted if hard == unlimited else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == unlimited else soft


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def write_json(path: str, document: object) -> None:
    Path(path).write_text(json.dumps(document, indent=1) + "\n")
