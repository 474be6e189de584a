"""The real program as child processes, in front of a raw upstream; every wait is bounded, nothing is left behind.

All of it is blocking on purpose: the program under test runs elsewhere, and the upstream has threads of its own.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.left import LEFT

ROOT = Path(__file__).parents[1]
PATIENCE_S = 30.0
UPSTREAM_TOKEN = "upstream-credential-of-network-33"
NI = "/api/2022-08-01/33/advertisers.json"
TX = "/api/2020-10-01/advertisers/transactions/706.json"


class Program:
    """One run of `python -m gateway` in a process group of its own; its output goes to files."""

    def __init__(self, folder: Path, arguments: Sequence[str], env: dict[str, str] | None = None) -> None:
        self._out, self._err = folder / "stdout", folder / "stderr"
        self._read = 0
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=ROOT,
                env=os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)} | (env or {}),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def line(self) -> str:
        """The next line of standard output. Fails when the program ends, or is silent for too long."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            ended = self._process.poll() is not None
            text = self._out.read_bytes()[self._read :]
            if b"\n" in text:
                line = text[: text.index(b"\n") + 1]
                self._read += len(line)
                LEFT.said(line.decode().strip())
                return line.decode().rstrip("\n")
            assert not ended, f"ended with {self._process.returncode} before it said a line: {self.stderr}"
            assert time.monotonic() < deadline, f"said nothing for {PATIENCE_S} s: {self.stderr}"
            time.sleep(0.005)

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, within_s: float = PATIENCE_S) -> int:
        """The exit code. Fails when it takes longer, or when a process of the program outlives it for as long."""
        code = self._process.wait(within_s)
        for line in self.stdout.splitlines():
            LEFT.said(line)
        eventually(lambda: not alive(-self.pid), "no process of the program is left", within_s)
        return code

    def stop(self, number: int = signal.SIGTERM, within_s: float = 10.0) -> int:
        self.send(number)
        return self.wait(within_s)

    def kill(self) -> None:
        """End every process of the program at once, as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(PATIENCE_S)

    def children(self) -> list[int]:
        """The pids of its worker processes."""
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parent = int(status.read_text().rpartition(")")[2].split()[1])
                if parent == self.pid and b"spawn_main" in (status.parent / "cmdline").read_bytes():
                    found.append(int(status.parent.name))
        return sorted(found)


class Programs:
    """Starts programs below a folder, and ends at the end whatever still runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Program] = []

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> Program:
        folder = self._folder / f"program-{len(self._started)}"
        folder.mkdir()
        self._started.append(Program(folder, arguments, env))
        return self._started[-1]

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
        """(exit code, standard output, standard error) of a program that ends by itself."""
        program = self.start(*arguments, env=env)
        code = program.wait()
        return code, program.stdout, program.stderr

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._started:
            program.kill()


def alive(pid: int) -> bool:
    """Whether there is a process, or with a negative number a process of that group. One that ended is there until
    its parent has asked for its exit code: only then are all its threads gone, and its sockets closed.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def eventually(check: Any, what: str, within_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The kind of the problem, or an empty string when it is none."""
        return (
            self.json["type"].rsplit(":", 1)[1]
            if "problem+json" in self.headers.get("Content-Type", "")
            else ""
        )

    @property
    def verdict(self) -> tuple[int, str]:
        return self.status, self.problem


def ask(
    url: str,
    path: str,
    token: str = "",
    *,
    method: str = "GET",
    body: dict[str, Any] | None = None,
    tls: ssl.SSLContext | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request on a new connection. Raises: OSError or http.client.HTTPException when none answers."""
    place = urlsplit(url)
    made = (
        http.client.HTTPSConnection(place.hostname or "", place.port, timeout=PATIENCE_S, context=tls)
        if place.scheme == "https"
        else http.client.HTTPConnection(place.hostname or "", place.port, timeout=PATIENCE_S)
    )
    fields = dict(headers or {})
    if token:
        fields["Authorization"] = f"Bearer {token}"
    if body is not None:
        fields["Content-Type"] = "application/json"
    with contextlib.closing(made) as connection:
        connection.request(method, path, None if body is None else json.dumps(body), fields)
        answer = connection.getresponse()
        got = Answer(answer.status, dict(answer.getheaders()), answer.read())
    LEFT.exchanged({"document": body, "token": token}, got, f"{method} {path}")
    return got


def create(url: str, manager: str, **body: Any) -> Any:
    """A token made through the admin API; its document."""
    body.setdefault("description", f"made by a test {time.monotonic_ns()}")
    answer = ask(url, "/admin/api/tokens", manager, method="POST", body=body)
    assert answer.status == 201, answer.body
    return answer.json


def delete(url: str, manager: str, token_id: str) -> Answer:
    return ask(url, f"/admin/api/tokens/{token_id}", manager, method="DELETE")


@dataclass
class RecordingUpstream:
    """Answers every request with a list of `filling`, and keeps the heads as they came.

    Clear `go_on` to hold answers half-way: the head and the first byte are out, the rest waits.
    """

    port: int = 0
    filling: bytes = b""
    heads: list[bytes] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fields(self, name: bytes) -> list[bytes]:
        """Every value of a header of the last request, byte for byte."""
        lines = self.heads[-1].split(b"\r\n")[1:]
        return [line.partition(b": ")[2] for line in lines if line.partition(b":")[0].lower() == name]

    def serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
            while head := self._head(stream):
                self.heads.append(head)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n[" % (2 + len(self.filling))
                )
                self.go_on.wait(PATIENCE_S)
                connection.sendall(self.filling + b"]")

    @staticmethod
    def _head(stream: Any) -> bytes:
        head = b""
        while line := stream.readline():
            head += line
            if line == b"\r\n":
                length = [part for part in head.lower().split(b"\r\n") if part.startswith(b"content-length:")]
                stream.read(int(length[0][15:]) if length else 0)
                return head
        return b""


@contextlib.contextmanager
def recording_upstream(port: int = 0) -> Iterator[RecordingUpstream]:
    with socket.create_server(("127.0.0.1", port)) as listening:
        made = RecordingUpstream(listening.getsockname()[1])
        made.go_on.set()
        open_now: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    open_now.append(connection)
                    threads.append(threading.Thread(target=made.serve, args=(connection,), daemon=True))
                    threads[-1].start()

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield made
        finally:
            made.go_on.set()
            for connection in [listening, *open_now]:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in [acceptor, *threads]:
                thread.join(5)
            for connection in open_now:
                connection.close()


class Site:
    """A folder with a configuration file for `serve`, and what tests do with it. `port` is the public one."""

    def __init__(
        self, folder: Path, upstream: str, *, scheme: str = "http", port: int = 0, **tables: str
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.config = folder / "config.toml"
        self.env = {"INVOCA_TOKEN_33": UPSTREAM_TOKEN}
        LEFT.handed(UPSTREAM_TOKEN, "the upstream credential of network:33")
        settings = {
            "listen": f"port = {self.port}",
            "upstream": f'url = "{upstream}"',
            "upstream.credentials": '"network:33" = { env = "INVOCA_TOKEN_33" }',
            "limits": "requests_per_minute = 0\nfailed_authentications_per_minute = 0",
        }
        for name, lines in tables.items():
            settings[name] = f"{settings[name]}\n{lines}" if name in settings else lines
        text = "".join(f"\n[{name}]\n{lines}\n" for name, lines in settings.items())
        self.config.write_text(f'public_url = "{self.url}"\n{text}')

    def command(self, *words: str) -> list[str]:
        return [*words, "--config", str(self.config)]

    def serve(self, programs: Programs) -> Program:
        """`serve`, once it is ready."""
        program = programs.start(*self.command("serve"), env=self.env)
        assert program.line() == f"ready: {self.url}"
        return program

    def add_administrator(self, programs: Programs, email: str = "admin@example.com") -> str:
        """A user of network 33 who is an administrator; the text of their bootstrap token."""
        more = ("--account", "network:33", "--administrator", "--bootstrap-token")
        code, out, err = programs.run(*self.command("user", "add", email), *more)
        assert code == 0, err
        return out.removesuffix("\n")
