"""The loads of the timed runs, and what carries them out: wrk where there is one, else our own generator."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.bodies import LARGE, MEDIUM, SMALL
from bench.processes import PATIENCE_S, ROOT, Tools, cpu_s, python


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load. `credential` says which token is sent, `status` what every answer has to be."""

    id: str
    says: str
    path: str
    connections: int
    credential: str = "good"
    status: int = 200
    forge: bool = False


LOADS = (
    Load("small", "1.2 kB JSON, 64 connections", SMALL, 64),
    Load("one", "1.2 kB JSON, 1 connection", SMALL, 1),
    Load("refused", "401, the same forged token, 64 connections", SMALL, 64, "forged", 401),
    Load("guessed", "401, another forged token each time, 64 connections", SMALL, 64, "forged", 401, True),
    Load("medium", "64 kB, 64 connections", MEDIUM, 64),
    Load("large", "10 MB, 4 connections", LARGE, 4),
)


@dataclass(frozen=True, slots=True)
class Timing:
    """One timed run. `wrong` are answers of another status and exchanges that broke off."""

    requests: int
    seconds: float
    bytes: int
    wrong: int
    p50_us: float
    p99_us: float
    cpu_s: float | None

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @property
    def mb_per_s(self) -> float:
        return self.bytes / self.seconds / 1e6

    @property
    def cpu_us(self) -> float | None:
        return None if self.cpu_s is None or not self.requests else self.cpu_s * 1e6 / self.requests


FORGE = """
local serial, was, head, tail = 0, nil, nil, nil
function request()
  if not was then
    was = wrk.headers["Authorization"]
    head, tail = was:sub(1, #was - 30), was:sub(#was - 19)
  end
  serial = serial + 1
  wrk.headers["Authorization"] = head .. string.format("%010d", serial) .. tail
  return wrk.format()
end
"""
DONE = """
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d %d\\n", summary.requests, summary.duration, summary.bytes,
    e.status, e.connect + e.read + e.write + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"""
RESULT = re.compile(r"^RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)$", re.MULTILINE)


class Generator:
    """Carries out loads on the CPUs it is given. `name` says what does it."""

    def __init__(self, tools: Tools, cpus: set[int]) -> None:
        self._wrk = tools.find("wrk")
        self._env = tools.env()
        self._cpus = cpus
        self.name = "wrk" if self._wrk else "bench.generator (there is no wrk)"

    def run(
        self, load: Load, url: str, fields: Mapping[str, str], seconds: float, pid: int | None = None
    ) -> Timing:
        """One load on one system; with the CPU time of `pid` and its descendants. Raises: RuntimeError."""
        before, began = (0.0 if pid is None else cpu_s(pid)), time.monotonic()
        whole = max(1, round(seconds))
        found = (self._by_wrk if self._wrk else self._by_generator)(load, url + load.path, fields, whole)
        spent = None if pid is None else cpu_s(pid) - before
        if time.monotonic() - began > whole + PATIENCE_S:
            raise RuntimeError(f"{load.id} took far longer than it was given")
        return Timing(*found, spent)

    def _command(self, command: list[str], seconds: int) -> str:
        pinned = (
            ["taskset", "-c", ",".join(map(str, sorted(self._cpus))), *command] if self._cpus else command
        )
        done = subprocess.run(  # noqa: S603
            pinned, capture_output=True, text=True, timeout=seconds + PATIENCE_S, cwd=ROOT, check=False,
            env=os.environ | self._env,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout)[-500:]}")
        return done.stdout

    def _by_wrk(
        self, load: Load, url: str, fields: Mapping[str, str], seconds: int
    ) -> tuple[int, float, int, int, float, float]:
        with tempfile.TemporaryDirectory(prefix="bench-wrk-") as folder:
            script = Path(folder) / "done.lua"
            script.write_text(DONE + (FORGE if load.forge else ""))
            command = [str(self._wrk), "-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "20s",
                       "-s", str(script)]  # fmt: skip
            for name, value in fields.items():
                command += ["-H", f"{name}: {value}"]
            out = self._command([*command, url], seconds)
        found = RESULT.search(out)
        if found is None:
            raise RuntimeError(f"wrk said something else: {out[-500:]}")
        requests, duration_us, size, failed, broken, p50, p99 = map(int, found.groups())
        # wrk counts statuses of 400 and above: where a refusal is wanted, all of them have to be.
        wrong = failed if load.status < 400 else requests - failed
        return requests, duration_us / 1e6, size, wrong + broken, p50, p99

    def _by_generator(
        self, load: Load, url: str, fields: Mapping[str, str], seconds: int
    ) -> tuple[int, float, int, int, float, float]:
        command = python(
            "bench.generator", url, "--connections", str(load.connections), "--seconds", str(seconds)
        )
        for name, value in fields.items():
            command += ["--header", f"{name}: {value}"]
        got = json.loads(self._command(command + (["--forge"] if load.forge else []), seconds))
        wrong = got["requests"] - got["statuses"].get(str(load.status), 0) + got["faults"]
        return got["requests"], got["seconds"], got["bytes"], wrong, got["p50_us"], got["p99_us"]
