"""The systems that are timed side by side: how each is started, and the check that each has to pass first."""

from __future__ import annotations

import hashlib
import http.client
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import jwt

from bench import nginx
from bench.bodies import SMALL, all_bodies
from bench.processes import ROOT, Child, Children, Tools, free_port, python, wait_for_port

UPSTREAM_TOKEN = "upstream-credential-of-the-bench"
DAY_S = 86_400
Headers = dict[str, str]


@dataclass
class System:
    """One system that is up. `fields` are the headers of a credential that is good, forged or denied."""

    name: str
    says: str
    url: str
    fields: dict[str, Headers]
    child: Child | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int | None:
        return None if self.child is None else self.child.pid


@dataclass
class Starter:
    """Starts systems in front of one upstream, each on the CPUs for what is measured."""

    children: Children
    tools: Tools
    folder: Path
    gateway_cpus: set[int]
    load_cpus: set[int]
    upstream_port: int = field(default_factory=free_port)
    upstream_token: str = UPSTREAM_TOKEN
    bodies: Mapping[str, bytes] = field(default_factory=all_bodies)

    @property
    def upstream_url(self) -> str:
        return f"http://127.0.0.1:{self.upstream_port}"

    def upstream(self) -> str:
        """Start the upstream; what it is."""
        program = self.tools.find("nginx")
        if program is not None:
            config = nginx.upstream(self.folder, self.upstream_port, self.upstream_token, self.bodies)
            child = self._nginx("upstream", program, config, self.load_cpus)
            try:
                wait_for_port(self.upstream_port, child)
                return "nginx"
            except RuntimeError as error:
                sys.stderr.write(f"nginx is there and does not serve: {error}\n")
                self.children.stop(child)
        command = python("bench.static", str(self.upstream_port), self.upstream_token)
        child = self.children.start("static", command, self.load_cpus)
        wait_for_port(self.upstream_port, child)
        return "bench.static (there is no nginx)"

    def _nginx(self, name: str, program: str, config: Path, cpus: set[int]) -> Child:
        command = [program, "-p", str(self.folder), "-c", str(config), "-e", "stderr"]
        return self.children.start(f"nginx-{name}", command, cpus, self.tools.env())

    def plain(self) -> System:
        """The usual way: aiohttp's server and client, PyJWT."""
        port, secret = free_port(), "of-the-bench-alone-0123456789abcdef"
        command = python(
            "bench.plain", "--port", str(port), "--upstream", self.upstream_url,
            "--upstream-token", self.upstream_token, "--secret", secret,
        )  # fmt: skip
        child = self.children.start("plain", command, self.gateway_cpus)
        wait_for_port(port, child)
        now = int(time.time())
        tokens = {
            kind: jwt.encode(
                {"sub": "somebody", "iat": now, "exp": now + DAY_S, "role": role}, secret, "HS256"
            )
            for kind, role in (("good", "network"), ("denied", "reader"))
        }
        return System("plain", "plain aiohttp proxy", f"http://127.0.0.1:{port}", credentials(tokens), child)

    def nginx(self, program: str) -> System:
        """A plain proxy: it knows three tokens by heart, verifies no signature and has no policy."""
        port = free_port()
        fields = credentials({"good": "t" * 300, "denied": "d" * 300})
        verdicts = {fields["good"]["Authorization"]: 200, fields["denied"]["Authorization"]: 403}
        config = nginx.proxy(self.folder, port, self.upstream_port, self.upstream_token, verdicts)
        child = self._nginx("proxy", program, config, self.gateway_cpus)
        wait_for_port(port, child)
        return System("nginx", "nginx, plain proxy", f"http://127.0.0.1:{port}", fields, child)

    def gateway(self, name: str = "gateway", root: Path = ROOT, says: str = "this gateway") -> System:
        """`invoca-gateway demo` of a source folder, with one worker."""
        data = self.folder / f"data-{name}"
        data.mkdir()
        command = python(
            "gateway", "demo", "--json", "--upstream", self.upstream_url,
            "--upstream-token", self.upstream_token, "--data", str(data),
        )  # fmt: skip
        child = self.children.start(name, command, self.gateway_cpus, cwd=root)
        said = json.loads(child.line())
        tokens = {"good": said["tokens"]["network"], "denied": said["tokens"]["advertiser"]}
        return System(name, says, said["gateway"], credentials(tokens), child)


def credentials(tokens: Mapping[str, str]) -> dict[str, Headers]:
    """Headers for each token, and for one that is as long as the good one and was signed by nobody."""
    fields = {kind: {"Authorization": f"Bearer {token}"} for kind, token in tokens.items()}
    fields["forged"] = {"Authorization": f"Bearer {forged(tokens['good'])}"}
    return fields


def forged(token: str) -> str:
    """The token with another signature; its form stays."""
    at = len(token) - 25
    return token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]


def export(revision: str, folder: Path) -> Path:
    """The files of a commit in a folder of their own; the repository stays as it is."""
    done = subprocess.run(  # noqa: S603
        ["git", "archive", "--format=tar", revision],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"git has no {revision}: {done.stderr.decode().strip()}")
    target = folder / "commit"
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(target, filter="data")
    return target


def get(url: str, path: str, fields: Mapping[str, str], timeout_s: float = 20.0) -> tuple[int, bytes]:
    """Status and body of one request. Raises: OSError or http.client.HTTPException."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"User-Agent": "bench", **fields})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def check(system: System, bodies: Mapping[str, bytes]) -> list[str]:
    """What a system does wrong; nothing when it may be timed."""
    faults: list[str] = []

    def ask(what: str, wanted: int, path: str, fields: Mapping[str, str], body: bytes | None = None) -> None:
        try:
            status, got = get(system.url, path, fields)
        except (OSError, http.client.HTTPException) as error:
            faults.append(f"{what}: {type(error).__name__}")
            return
        if status != wanted:
            faults.append(f"{what}: {status} instead of {wanted}")
        elif body is not None and hashlib.sha256(got).digest() != hashlib.sha256(body).digest():
            faults.append(f"{what}: another body, {len(got)} bytes instead of {len(body)}")

    for path, body in bodies.items():
        ask(f"{len(body)} bytes", 200, path, system.fields["good"], body)
    ask("no token", 401, SMALL, {})
    if "forged" in system.fields:
        ask("a forged token", 401, SMALL, system.fields["forged"])
    ask("the upstream's credential from outside", 401, SMALL, {"Authorization": UPSTREAM_TOKEN})
    if "denied" in system.fields:
        ask("a token that may not", 403, SMALL, system.fields["denied"])
    else:
        system.notes.append("403 where denied was not checked (--denied-header)")
    return faults
