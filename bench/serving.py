"""A real gateway for the endurance runs: `invoca-gateway serve` with deadlines of our choosing, and tokens for it."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Child, Children, free_port, python, tree

CREDENTIAL = "upstream-credential-of-the-bench"
ENV = {"BENCH_UPSTREAM_CREDENTIAL": CREDENTIAL}
SCOPES = ["transactions:read", "network:read", "network:write", "network:destroy", "network:publish"]


@dataclass(frozen=True, slots=True)
class Serving:
    """A gateway that serves, and tokens of one network user. `manager` is the token that made them."""

    url: str
    child: Child
    tokens: tuple[str, ...]
    manager: str
    config: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


def config(
    port: int,
    upstream_url: str,
    limits: Mapping[str, float],
    upstream: Mapping[str, float],
    workers: int = 1,
) -> str:
    """The configuration file."""
    lines = [
        f'public_url = "http://127.0.0.1:{port}"',
        "[listen]",
        f"port = {port}",
        f"workers = {workers}",
        "[upstream]",
        f'url = "{upstream_url}"',
        *(f"{name} = {value}" for name, value in upstream.items()),
        "[upstream.credentials]",
        '"network:33" = { env = "BENCH_UPSTREAM_CREDENTIAL" }',
        "[limits]",
        "requests_per_minute = 0",
        "failed_authentications_per_minute = 0",
        *(f"{name} = {value}" for name, value in limits.items()),
    ]
    return "\n".join(lines) + "\n"


def serve(
    children: Children,
    folder: Path,
    upstream_url: str,
    *,
    tokens: int,
    cpus: set[int] | None = None,
    limits: Mapping[str, float] | None = None,
    upstream: Mapping[str, float] | None = None,
    workers: int = 1,
) -> Serving:
    """Start a gateway in a folder, add a user, and have them make tokens. Raises: RuntimeError, OSError."""
    port = free_port()
    path = folder / "config.toml"
    path.write_text(config(port, upstream_url, limits or {}, upstream or {}, workers))
    add = children.start(
        "user-add",
        python("gateway", "user", "add", "bench@example.com", "--config", str(path), "--account", "network:33",
               "--administrator", "--bootstrap-token"),
        env=ENV,
    )  # fmt: skip
    bootstrap = add.line()
    children.stop(add)
    child = start(children, path, cpus)
    url = child.line().removeprefix("ready: ").strip()
    try:
        made = tuple(_make_token(url, bootstrap, n) for n in range(tokens))
    except OSError as error:
        raise RuntimeError(f"the gateway makes no token: {error}: {child.said()}") from None
    return Serving(url, child, made, bootstrap, path)


def start(children: Children, path: Path, cpus: set[int] | None = None) -> Child:
    """Start `serve` with a configuration; its first line says that it is ready."""
    return children.start("gateway", python("gateway", "serve", "--config", str(path)), cpus, ENV)


def workers_of(child: Child) -> list[int]:
    """The pids of its worker processes that are alive."""
    found = []
    for pid in tree(child.pid)[1:]:
        with contextlib.suppress(OSError):
            # "spawn_main" alone: multiprocessing keeps a tracker of its own too.
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return sorted(found)


def _make_token(url: str, bootstrap: str, serial: int) -> str:
    wanted = {"description": f"bench {serial}", "scopes": SCOPES, "expires_in": 86_400}
    request = urllib.request.Request(  # noqa: S310
        url + "/admin/api/tokens",
        json.dumps(wanted).encode(),
        {"Authorization": f"Bearer {bootstrap}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        return str(json.load(answer)["token"])


def gauges(url: str) -> dict[str, float]:
    """What /metrics says now, by metric name; those with labels are summed."""
    with urllib.request.urlopen(url + "/metrics", timeout=20) as answer:  # noqa: S310
        return parse_metrics(answer.read().decode())


def parse_metrics(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0].removeprefix("invoca_gateway_")
            found[name] = found.get(name, 0.0) + float(value)
    return found


def wait_until(check: object, within_s: float) -> bool:
    """Whether a condition holds within a time; asked every 0.2 s."""
    assert callable(check)
    deadline = time.monotonic() + within_s
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
