"""A real gateway for the endurance runs: `invoca-gateway serve` with deadlines of our choosing, and tokens for it."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Child, Children, free_port, python

CREDENTIAL = "upstream-credential-of-the-bench"
SCOPES = ["transactions:read", "network:read", "network:write", "network:destroy", "network:publish"]


@dataclass(frozen=True, slots=True)
class Serving:
    """A gateway that serves, and tokens of one network user."""

    url: str
    child: Child
    tokens: tuple[str, ...]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


def config(port: int, upstream_url: str, limits: Mapping[str, float], upstream: Mapping[str, float]) -> str:
    """The configuration file."""
    lines = [
        f'public_url = "http://127.0.0.1:{port}"',
        "[listen]",
        f"port = {port}",
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
) -> Serving:
    """Start a gateway in a folder, add a user, and have them make tokens. Raises: RuntimeError, OSError."""
    port = free_port()
    path = folder / "config.toml"
    path.write_text(config(port, upstream_url, limits or {}, upstream or {}))
    env = {"BENCH_UPSTREAM_CREDENTIAL": CREDENTIAL}
    add = children.start(
        "user-add",
        python("gateway", "user", "add", "bench@example.com", "--config", str(path), "--account", "network:33",
               "--administrator", "--bootstrap-token"),
        env=env,
    )  # fmt: skip
    bootstrap = add.line()
    children.stop(add)
    child = children.start("gateway", python("gateway", "serve", "--config", str(path)), cpus, env)
    url = child.line().removeprefix("ready: ").strip()
    try:
        return Serving(url, child, tuple(_make_token(url, bootstrap, n) for n in range(tokens)))
    except OSError as error:
        raise RuntimeError(f"the gateway makes no token: {error}: {child.said()}") from None


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
