"""Minutes of moderate load in front of an upstream that misbehaves, with clients that misbehave too.

Every answer is checked: a 200 has exactly the right body, a cut body never looks whole, a fault of the upstream's
is a problem of the gateway's with 502 or 504. Memory, descriptors and the pool are sampled all the while, and a
line is laid through them. Afterwards everything has to come to rest.

Exit 1 on a wrong answer, on rising memory or descriptors, or when the pool does not return to idle.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.bodies import SMALL
from bench.client import Answer, Broken, Client
from bench.processes import (
    Children,
    allow_files,
    ending_on_signals,
    memory_mb,
    open_files,
    two_cpus,
    write_json,
)
from bench.report import NOTHING, note, number, say, slope, table
from bench.scripted import FAULTS, Expected, Scripted, body
from bench.serving import CREDENTIAL, Serving, gauges, serve

STATUS = {"upstream-timeout": 504}  # all other problems of the upstream's are 502
LASTING = ("hang", "stall")  # they wait for a deadline, and have clients of their own
SIZES = (40, 1_200, 1_200, 1_200, 20_000, 300_000)
DEADLINES = {
    "first_byte_timeout_s": 2.0,
    "gap_timeout_s": 2.0,
    "idle_timeout_s": 3.0,
    "connect_timeout_s": 2.0,
}
PATIENCE_S = 30.0
WARM = 0.25  # the part of the run that is taken for warming up, and kept out of the lines
SHOWN = 20
LONG_S = 300.0  # what a shorter run rises by in an hour is anybody's guess


@dataclass
class Verdicts:
    """What was asked, what came of it, and what was wrong."""

    asked: Counter[str] = field(default_factory=Counter)
    came: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, fault: str, came: str, complaint: str | None) -> None:
        self.asked[fault] += 1
        self.came[f"{fault}: {came}"] += 1
        if complaint is not None and len(self.wrong) < 10_000:
            self.wrong.append(f"{fault}: {complaint}")


def judge(expected: Expected, answer: Answer | None, right: bytes) -> str | None:
    """What is wrong about an answer; None for an exchange that broke off."""
    if answer is None:
        return None if expected.broken else "the exchange broke off"
    if answer.status == 200:
        if answer.body != right:
            return f"a 200 with another body, {len(answer.body)} bytes instead of {len(right)}"
        return None if expected.whole else "a 200 that looks whole"
    if answer.problem not in expected.problems:
        return f"{answer.status} {answer.problem or 'without a problem'}"
    wanted = STATUS.get(answer.problem, 502)
    return None if answer.status == wanted else f"{answer.problem} with status {answer.status}"


@dataclass(frozen=True, slots=True)
class Sample:
    """The gateway at one moment."""

    at_s: float
    memory_mb: float
    files: int
    open: float
    busy: float


@dataclass
class Soak:
    """The run: clients of three kinds, and the sampler."""

    serving: Serving
    seconds: float
    pause_s: float
    chance: random.Random
    verdicts: Verdicts = field(default_factory=Verdicts)
    samples: list[Sample] = field(default_factory=list)
    serial: int = 0

    def request(self, fault: str, token: str) -> tuple[bytes, bytes]:
        """One request's bytes, and the body that belongs to it."""
        self.serial += 1
        n, size = self.serial, self.chance.choice(SIZES)
        lines = (
            f"GET {SMALL}?fault={fault}&n={n}&size={size} HTTP/1.1",
            "Host: 127.0.0.1",
            f"Authorization: Bearer {token}",
        )
        return ("\r\n".join(lines) + "\r\n\r\n").encode(), body(n, size)

    async def honest(self, end: float, token: str, faults: Sequence[str]) -> None:
        """Asks, checks and asks again, on one connection as long as it lasts."""
        client = Client("127.0.0.1", self.serving.port)
        try:
            while time.monotonic() < end:
                fault = self.chance.choice(faults)
                wire, right = self.request(fault, token)
                answer, came = None, "broke off"
                try:
                    await client.send(wire)
                    answer = await client.answer(PATIENCE_S)
                    came = f"{answer.status} {answer.problem}".strip()
                except Broken:
                    pass
                self.verdicts.add(fault, came, judge(FAULTS[fault], answer, right))
                await asyncio.sleep(self.pause_s * self.chance.uniform(0.5, 1.5))
        finally:
            client.close()

    async def leaver(self, end: float, token: str) -> None:
        """Asks and leaves: before the answer, or with some of it read."""
        while time.monotonic() < end:
            client = Client("127.0.0.1", self.serving.port)
            with contextlib.suppress(Broken):
                await client.send(
                    self.request(self.chance.choice(("slow", "dribble", "none", "hang")), token)[0]
                )
                await asyncio.sleep(self.chance.choice((0.0, 0.01, 0.1, 0.4)))
            client.close()
            self.verdicts.add("leaver", "left", None)
            await asyncio.sleep(self.pause_s)

    async def babbler(self, end: float) -> None:
        """Sends what is no request: the answer is a refusal, or none."""
        while time.monotonic() < end:
            client = Client("127.0.0.1", self.serving.port)
            came, complaint = "broke off", None
            try:
                await client.send(garbage(self.chance))
                answer = await client.answer(PATIENCE_S)
                came = str(answer.status)
                if answer.status < 400 or answer.status == 500:
                    complaint = f"garbage was answered with {answer.status}"
            except Broken:
                pass
            client.close()
            self.verdicts.add("babbler", came, complaint)
            await asyncio.sleep(self.pause_s)

    async def sample(self, end: float, every_s: float) -> None:
        began = time.monotonic()
        while True:
            pid = self.serving.child.pid
            numbers = await asyncio.to_thread(gauges, self.serving.url)
            self.samples.append(
                Sample(time.monotonic() - began, memory_mb(pid), open_files(pid), numbers["upstream_connections"],
                       numbers["upstream_busy"])
            )  # fmt: skip
            if time.monotonic() >= end:
                return
            await asyncio.sleep(min(every_s, max(0.0, end - time.monotonic())))

    async def run(self, honest: int, lasting: int, leavers: int, babblers: int, every_s: float) -> None:
        """Everything at once, until the time is over."""
        end = time.monotonic() + self.seconds
        tokens = self.serving.tokens
        quick = [fault for fault in FAULTS if fault not in LASTING]
        # As many of the good as of all the bad together: moderate load, not a storm.
        mixed = quick + ["none"] * len(quick)
        await asyncio.gather(
            *(self.honest(end, tokens[n % len(tokens)], mixed) for n in range(honest)),
            *(self.honest(end, tokens[n % len(tokens)], LASTING) for n in range(lasting)),
            *(self.leaver(end, tokens[n % len(tokens)]) for n in range(leavers)),
            *(self.babbler(end) for _ in range(babblers)),
            self.sample(end, every_s),
        )


def garbage(chance: random.Random) -> bytes:
    """Bytes that are no request, in one of several ways."""
    return chance.choice(
        (
            chance.randbytes(chance.randint(1, 2000)).replace(b"\n", b"x") + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n",
            b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 500 + b"\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        )
    )


def growth(samples: Sequence[Sample], what: str) -> tuple[float, float]:
    """What a line through the samples after the warm-up rises by over their time, and in an hour."""
    if not samples:
        return 0.0, 0.0
    warm = samples[-1].at_s * WARM
    kept = [(one.at_s, float(getattr(one, what))) for one in samples if one.at_s >= warm]
    if len(kept) < 3:
        return 0.0, 0.0
    per_s = slope(kept)
    return per_s * (kept[-1][0] - kept[0][0]), per_s * 3600


async def comes_to_rest(serving: Serving, files_before: int, within_s: float) -> list[str]:
    """What is still not idle when the upstream's idle time is over; the descriptors as they were before."""
    deadline = time.monotonic() + within_s
    while True:
        numbers = await asyncio.to_thread(gauges, serving.url)
        files = open_files(serving.child.pid)
        left = []
        if numbers["upstream_busy"]:
            left.append(f"{numbers['upstream_busy']:.0f} connections of the pool are busy with nothing to do")
        if numbers["upstream_connections"]:
            left.append(
                f"{numbers['upstream_connections']:.0f} connections of the pool outlive their idle time"
            )
        if files > files_before + 2:  # the look itself is a connection
            left.append(f"{files} descriptors are open, {files_before} were before the load")
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(0.3)


async def soak(options: argparse.Namespace, children: Children, folder: Path) -> int:
    upstream = Scripted(CREDENTIAL)
    async with upstream.serving() as url:
        return await _soak(options, children, folder, upstream, url)


async def _soak(
    options: argparse.Namespace, children: Children, folder: Path, upstream: Scripted, url: str
) -> int:
    gateway_cpus, _ = two_cpus()
    serving = await asyncio.to_thread(
        serve, children, folder, url, tokens=4, cpus=gateway_cpus, upstream=DEADLINES
    )
    seed = options.seed if options.seed is not None else random.randrange(2**32)  # noqa: S311
    say(f"{options.minutes:g} minutes, {options.clients} clients, seed {seed}")
    run = Soak(serving, options.minutes * 60, options.pause_ms / 1000, random.Random(seed))  # noqa: S311
    files_before = open_files(serving.child.pid)
    clients = options.clients
    task = asyncio.create_task(
        run.run(clients, max(2, clients // 8), max(2, clients // 8), max(1, clients // 16), options.every)
    )
    while not task.done():
        await asyncio.wait([task], timeout=30)
        if run.samples:
            last = run.samples[-1]
            note(f"{last.at_s:5.0f} s  {run.verdicts.asked.total():,} exchanges, {len(run.verdicts.wrong)} wrong, "
                 f"{last.memory_mb:.0f} MB, {last.files} files, pool {last.open:.0f}")  # fmt: skip
        if serving.child.process.poll() is not None:
            break
    faults = [] if serving.child.process.poll() is None else ["the gateway ended: " + serving.child.said()]
    if faults:
        task.cancel()
    else:
        await task
        faults += await comes_to_rest(serving, files_before, DEADLINES["idle_timeout_s"] + 10)
        alarms = (await asyncio.to_thread(gauges, serving.url)).get("alarms_total", 0)
        due = run.verdicts.asked["401"]  # each refusal of the gateway's own credential is one
        if alarms != due:
            faults.append(f"{alarms:.0f} alarms, and {due} were due")
    return report(options, run, upstream, faults)


def report(options: argparse.Namespace, run: Soak, upstream: Scripted, faults: list[str]) -> int:
    say("\nWhat was asked for, and what came\n")
    rows = [[fault, f"{n:,}", "; ".join(f"{name.partition(': ')[2]} × {count:,}" for name, count in
            sorted(run.verdicts.came.items()) if name.startswith(fault + ": "))]
            for fault, n in sorted(run.verdicts.asked.items())]  # fmt: skip
    say(table(["fault", "exchanges", "came"], rows))
    say("\nThe gateway over time (the first quarter is left out of the lines)\n")
    rows = []
    for what, name, allowed in (("memory_mb", "resident memory, MB", options.max_growth_mb),
                                ("files", "open descriptors", options.max_growth_files)):  # fmt: skip
        rose, hourly = growth(run.samples, what)
        seen = [float(getattr(one, what)) for one in run.samples] or [0.0]
        rows.append(
            [
                name,
                number(seen[0]),
                number(max(seen)),
                number(seen[-1]),
                number(rose),
                number(hourly) if run.seconds >= LONG_S else NOTHING,
            ]
        )
        if rose > allowed:
            faults.append(f"{name}: the line rises by {rose:.1f}, {allowed:g} are allowed")
    say(table(["", "first", "most", "last", "line rises by", "in an hour"], rows))
    say(f"\nUpstream: {upstream.served:,} requests, {upstream.wrong} without the credential, "
        f"{upstream.connections} connections left")  # fmt: skip
    if upstream.wrong:
        faults.append(f"{upstream.wrong} requests went upstream without the credential")
    if run.verdicts.wrong:
        faults.append(f"{len(run.verdicts.wrong)} wrong answers")
        for complaint, count in Counter(run.verdicts.wrong).most_common(SHOWN):
            say(f"WRONG × {count}: {complaint}")
    if faults and run.serving.child.said():
        say(f"\nThe gateway said at last:\n{run.serving.child.said()}")
    say("\n" + ("\n".join(f"FAULT: {fault}" for fault in faults) if faults else "It came through."))
    if options.json:
        write_json(options.json, {"asked": run.verdicts.asked, "came": run.verdicts.came, "faults": faults,
                                  "wrong": run.verdicts.wrong[:1000],
                                  "samples": [asdict(one) for one in run.samples]})  # fmt: skip
    return 1 if faults else 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=32, help="that ask and check; some others come on top")
    parser.add_argument("--pause-ms", type=float, default=50.0, help="of each between two requests")
    parser.add_argument("--every", type=float, default=3.0, metavar="SECONDS", help="between two samples")
    parser.add_argument("--seed", type=int, help="of what is drawn by lot")
    parser.add_argument("--max-growth-mb", type=float, default=10.0)
    parser.add_argument("--max-growth-files", type=float, default=10.0)
    parser.add_argument("--json", metavar="FILE", help="write the numbers here")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    allow_files(4096)
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending_on_signals())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        return asyncio.run(soak(options, stack.enter_context(Children(folder)), folder))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
