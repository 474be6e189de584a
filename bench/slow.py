"""Slow clients beside honest ones: does the gateway stay quick and small, and is every slow one cut in time?

A third of the slow ones drip a request head, a third drip a body, a third ask for a large answer and hardly read
it. Who is cut comes back a second later, so the pressure lasts. First the honest clients are timed alone, then
under attack. Loopback alone: the upstream, the gateway and all clients are started here.

Exit 1 when the honest p99 more than doubles (and by more than `--noise-ms`), the gateway's memory grows by more
than `--max-growth-mb`, an honest answer is wrong, or a slow client outlives its deadline and the slack.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.bodies import LARGE, SMALL
from bench.processes import (
    Child,
    Children,
    Tools,
    allow_files,
    ending_on_signals,
    memory_mb,
    python,
    tcp_memory_mb,
    two_cpus,
    wait_for_port,
    write_json,
)  # fmt: skip
from bench.report import note, number, say, spread, table
from bench.serving import CREDENTIAL, Serving, serve
from bench.systems import Starter

KINDS = ("head", "body", "reader")
ESTABLISHED = 1  # tcp(7), TCP_INFO: the first byte is the state
BACK_AFTER_S = 1.0
READ_BYTES = 256
SLICE_MS = 2.0


@dataclass(frozen=True, slots=True)
class Deadlines:
    """When a slow client of each kind has to be gone at the latest, counted from its first byte."""

    head_s: float
    body_s: float
    slack_s: float

    def of(self, kind: str) -> float:
        """The reader's runs from when the gateway's writes stall, a moment after its request; hence the slack."""
        return (self.head_s if kind == "head" else self.body_s) + self.slack_s


@dataclass
class Slow:
    """One slow client: the connection it has now, and how long those before lasted."""

    kind: str
    sock: socket.socket | None = None
    began: float = 0.0
    again_at: float = 0.0
    answered: bytes = b""

    def age(self, now: float) -> float:
        return now - self.began if self.sock is not None else 0.0


@dataclass
class Attack:
    """All slow clients, in one thread: each does its little every `drip_s`."""

    port: int
    token: str
    drip_s: float
    slow: list[Slow]
    lasted: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    statuses: dict[str, dict[str, int]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    oldest: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    refused: int = 0
    kernel_mb: float = 0.0

    def turn(self, begin: int, end: int) -> None:
        """Some of them: connect who is away, drip for who is there, and see who was cut."""
        for client in self.slow[begin:end]:
            now = time.monotonic()
            if client.sock is None:
                if now >= client.again_at:
                    self._connect(client, now)
                continue
            self.oldest[client.kind] = max(self.oldest[client.kind], client.age(now))
            if not self._drip(client):
                self._cut(client, now)

    def _connect(self, client: Slow, now: float) -> None:
        made = socket.socket()
        if client.kind == "reader":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.settimeout(5)
        try:
            made.connect(("127.0.0.1", self.port))
            made.settimeout(0)
            made.send(opening(client.kind, self.token))
        except OSError:
            self.refused += 1
            made.close()
            client.again_at = now + BACK_AFTER_S
            return
        client.sock, client.began, client.answered = made, time.monotonic(), b""

    def _drip(self, client: Slow) -> bool:
        """The client's next little bit. False when it was cut, or has its answer."""
        sock = client.sock
        assert sock is not None
        try:
            if client.kind != "reader":
                sock.send(b"a")
            got = sock.recv(READ_BYTES)
        except BlockingIOError:
            return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED
        except OSError:
            return False
        if not got:
            return False
        client.answered = (client.answered + got)[:16]
        # Who drips has an answer before the end of the request: a refusal. A reader's is slow only if it is a 200.
        wanted = client.kind == "reader" and client.answered.startswith(b"HTTP/1.1 200")
        return wanted and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED

    def _cut(self, client: Slow, now: float) -> None:
        assert client.sock is not None
        answer = client.answered[9:12].decode("latin-1") or "none"
        seen = self.statuses[client.kind]
        seen[answer] = seen.get(answer, 0) + 1
        if answer != "503":  # turned away at once, as one too many: not slow at all
            self.lasted[client.kind].append(client.age(now))
        client.sock.close()
        client.sock, client.again_at = None, now + BACK_AFTER_S * random.uniform(0.5, 1.5)  # noqa: S311

    def connected(self) -> int:
        return sum(client.sock is not None for client in self.slow)

    def close(self) -> None:
        for client in self.slow:
            if client.sock is not None:
                client.sock.close()
                client.sock = None


def opening(kind: str, token: str) -> bytes:
    """What a slow client sends at once."""
    host = b"Host: 127.0.0.1\r\nAuthorization: Bearer " + token.encode() + b"\r\n"
    if kind == "head":
        return b"GET " + SMALL.encode() + b" HTTP/1.1\r\n" + host + b"X-Drip: "
    if kind == "body":
        target = SMALL.replace("advertisers.json", "advertisers/slow-1.json").encode()
        return (b"POST " + target + b" HTTP/1.1\r\n" + host
                + b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n" + b'{"name": "')  # fmt: skip
    return b"GET " + LARGE.encode() + b" HTTP/1.1\r\n" + host + b"\r\n"


@dataclass
class Honest:
    """Honest clients in a process of their own: paced, one answer after the other."""

    children: Children
    serving: Serving
    token: str
    connections: int
    pause_ms: float
    cpus: set[int]

    def begin(self, seconds: float) -> Child:
        command = python(
            "bench.generator", self.serving.url + SMALL, "--connections", str(self.connections), "--seconds",
            str(seconds), "--pause-ms", str(self.pause_ms), "--header", f"Authorization: Bearer {self.token}",
        )  # fmt: skip
        return self.children.start("honest", command, self.cpus)

    def end(self, child: Child) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(child.line())
        self.children.stop(child)
        return found


def attack(
    options: argparse.Namespace, serving: Serving, honest: Honest
) -> tuple[Attack, dict[str, Any], list[float]]:
    """The slow clients for the given time, with the honest ones beside; the gateway's memory as it went."""
    kinds = [options.kinds[n % len(options.kinds)] for n in range(options.slow)]
    crowd = Attack(serving.port, serving.tokens[0], options.drip_ms / 1000, [Slow(kind) for kind in kinds])
    memory: list[float] = []
    # In slices, and by their turn: a thousand machines of their own would not act in one moment, nor twenty in a burst.
    slices = max(1, round(options.drip_ms / SLICE_MS))
    bounds = [options.slow * n // slices for n in range(slices + 1)]
    try:
        child = honest.begin(options.seconds)
        # In earnest they are on machines of their own: here they are not to keep the others from the CPUs they share.
        os.sched_setaffinity(0, honest.cpus)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        began = time.monotonic()
        for turn in itertools.count():
            which = turn % slices
            crowd.turn(bounds[which], bounds[which + 1])
            if which == 0:
                memory.append(memory_mb(serving.child.pid))
                crowd.kernel_mb = max(crowd.kernel_mb, tcp_memory_mb())
            if turn == slices:
                note(f"{crowd.connected()} slow clients are connected")
            due = began + (turn + 1) * crowd.drip_s / slices
            if time.monotonic() >= began + options.seconds:
                break
            time.sleep(max(0.0, due - time.monotonic()))
        return crowd, honest.end(child), memory
    finally:
        crowd.close()


def faults_of(
    options: argparse.Namespace, crowd: Attack, quiet: dict[str, Any], loud: dict[str, Any],
    idle_mb: float, memory: Sequence[float], deadlines: Deadlines,
) -> list[str]:  # fmt: skip
    """Every way in which the gateway did not stand it."""
    faults = []
    before, under = quiet["p99_us"], loud["p99_us"]
    if under > 2 * before and under - before > options.noise_ms * 1000:
        faults.append(f"the honest p99 went from {before / 1000:.1f} to {under / 1000:.1f} ms")
    for when, found in (("quiet", quiet), ("under attack", loud)):
        wrong = found["requests"] - found["statuses"].get("200", 0) + found["faults"]
        if wrong or not found["requests"]:
            faults.append(f"{when}: {wrong} honest answers of {found['requests']} were wrong or did not come")
    if max(memory) - idle_mb > options.max_growth_mb:
        faults.append(f"memory grew by {max(memory) - idle_mb:.0f} MB")
    for kind in KINDS:
        longest = max([crowd.oldest[kind], *crowd.lasted[kind]])
        if longest > deadlines.of(kind):
            faults.append(
                f"a slow {kind} client lasted {longest:.1f} s, {deadlines.of(kind):.0f} s are allowed"
            )
        there = any(client.kind == kind for client in crowd.slow)
        if there and options.seconds > deadlines.of(kind) and not crowd.statuses[kind]:
            faults.append(f"no slow {kind} client was cut")
    return faults


def show(crowd: Attack, quiet: dict[str, Any], loud: dict[str, Any], idle_mb: float, memory: Sequence[float],
         after_mb: float, deadlines: Deadlines) -> None:  # fmt: skip
    rows = [[name, f"{found['requests']:,}", number(found["p50_us"] / 1000), number(found["p99_us"] / 1000),
             number(found["max_us"] / 1000), str(found["statuses"])]
            for name, found in (("quiet", quiet), ("under attack", loud))]  # fmt: skip
    say("\nHonest clients\n")
    say(table(["", "requests", "p50 ms", "p99 ms", "max ms", "statuses"], rows))
    rows = [[kind, f"{sum(crowd.statuses[kind].values())}", str(crowd.statuses[kind]), spread(crowd.lasted[kind]),
             number(deadlines.of(kind))] for kind in KINDS]  # fmt: skip
    say("\nSlow clients (an answer of 503 is one too many, turned away at once; it counts in no duration)\n")
    say(table(["what is slow", "ended", "after an answer of", "lasted, s", "allowed, s"], rows))
    say(
        f"\nMemory of the gateway, MB: {idle_mb:.0f} idle, {max(memory):.0f} at most, {after_mb:.0f} afterwards"
    )
    say(f"Buffers of all TCP connections of the machine, MB: {crowd.kernel_mb:.0f} at most")
    if crowd.refused:
        say(f"Connections that were not accepted: {crowd.refused}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.slow", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--slow", type=int, default=1000, metavar="N", help="slow clients")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of slow clients; default: %(default)s")
    parser.add_argument("--honest", type=int, default=16, metavar="M", help="honest clients")
    parser.add_argument("--seconds", type=float, default=60.0, help="of attack")
    parser.add_argument("--quiet-seconds", type=float, default=15.0)
    parser.add_argument("--pause-ms", type=float, default=50.0, help="of each honest client between requests")
    parser.add_argument("--drip-ms", type=float, default=500.0, help="between two bytes of a slow client")
    parser.add_argument("--head-timeout", type=float, default=10.0, help="the gateway's, in seconds")
    parser.add_argument(
        "--body-timeout", type=float, default=30.0, help="the gateway's, for bodies and for writes"
    )
    parser.add_argument("--slack", type=float, default=5.0, help="seconds beyond a deadline")
    parser.add_argument(
        "--noise-ms", type=float, default=5.0, help="a p99 that grows by less is taken for noise"
    )
    parser.add_argument("--max-growth-mb", type=float, default=100.0)
    parser.add_argument("--tools", type=Path, metavar="DIR", help="look for nginx here before PATH")
    parser.add_argument("--json", metavar="FILE", help="write the numbers here")
    options = parser.parse_args(arguments)
    options.kinds = options.kinds.split(",")
    if not set(options.kinds) <= set(KINDS):
        parser.error(f"--kinds are among {', '.join(KINDS)}")
    if options.slow < len(KINDS) or options.honest < 1:
        parser.error("--slow has to be at least 3 and --honest at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    deadlines = Deadlines(options.head_timeout, options.body_timeout, options.slack)
    wanted = 2 * options.slow + 512
    if allow_files(wanted) < wanted:
        say(f"The limit of open files does not allow {options.slow} slow clients (ulimit -Hn).")
        return 1
    gateway_cpus, load_cpus = two_cpus()
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending_on_signals())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        children = stack.enter_context(Children(folder))
        starter = Starter(
            children, Tools(options.tools), folder, gateway_cpus, load_cpus, upstream_token=CREDENTIAL
        )
        say(f"upstream: {starter.upstream()}; {options.slow} slow and {options.honest} honest clients")
        wait_for_port(starter.upstream_port)
        limits = {"head_timeout_s": options.head_timeout, "body_timeout_s": options.body_timeout}
        serving = serve(children, folder, starter.upstream_url, tokens=2, cpus=gateway_cpus, limits=limits)
        honest = Honest(children, serving, serving.tokens[1], options.honest, options.pause_ms, load_cpus)
        honest.end(honest.begin(2.0))  # warm
        idle_mb = memory_mb(serving.child.pid)
        quiet = honest.end(honest.begin(options.quiet_seconds))
        crowd, loud, memory = attack(options, serving, honest)
        time.sleep(2)
        after_mb = memory_mb(serving.child.pid)
        complaints = serving.child.said() if serving.child.process.poll() is not None else ""
    show(crowd, quiet, loud, idle_mb, memory, after_mb, deadlines)
    faults = faults_of(options, crowd, quiet, loud, idle_mb, memory, deadlines)
    if complaints:
        faults.append(f"the gateway ended: {complaints}")
    say("\n" + ("\n".join(f"FAULT: {fault}" for fault in faults) if faults else "It stood it."))
    if options.json:
        write_json(options.json, {"quiet": quiet, "attacked": loud, "memory_mb": [idle_mb, *memory, after_mb],
                                  "lasted_s": crowd.lasted, "ended": crowd.statuses,
                                  "tcp_mb": crowd.kernel_mb, "faults": faults})  # fmt: skip
    return 1 if faults else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
