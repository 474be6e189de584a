"""How long a deleted token goes on being accepted: from the acknowledgement on, by any worker, not at all.

A gateway with several workers. Each round makes a token and uses it until every worker has accepted it, and so
remembers it; deletes it, by the API and on the command line in turn; and sends it, as soon as the acknowledgement is
there, over new connections, and over those on which it was accepted before. Which worker a connection reached is
read from /proc.

Exit 1 when any request was accepted, or got another answer than 401, or when not every worker was asked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.bodies import SMALL
from bench.client import Client
from bench.processes import Children, allow_files, ending_on_signals, python, write_json
from bench.report import number, say, table
from bench.scripted import Scripted
from bench.serving import CREDENTIAL, Serving, serve, workers_of

WAYS = ("API", "command line")
MOST_TO_WARM = 400
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Round:
    """One token's end. Times are in ms: from the deletion to its acknowledgement, from there to the last refusal.

    `kept` are the connections on which the token was accepted before, `new` those made afterwards.
    """

    way: str
    deletion_ms: float
    refused_ms: float
    accepted: int
    refused: int
    other: tuple[str, ...]
    kept: int
    new: int
    workers: int


def faults(rounds: Sequence[Round], workers: int) -> list[str]:
    """What is wrong about these rounds."""
    found = []
    for at, one in enumerate(rounds, 1):
        if one.accepted:
            found.append(f"round {at}: {one.accepted} requests were accepted after the acknowledgement")
        if one.other:
            found.append(f"round {at}: answers that are neither: {', '.join(sorted(set(one.other)))}")
        if one.workers < workers:
            found.append(f"round {at}: new connections reached {one.workers} of {workers} workers")
    return found


def owner_of(serving: Serving, ports: Sequence[int]) -> dict[int, int]:
    """The worker that holds the other end of each connection, by the port it comes from."""
    rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
    inodes = {
        row[9]: int(row[2].rpartition(":")[2], 16)
        for row in rows
        if int(row[1].rpartition(":")[2], 16) == serving.port
    }
    found = {}
    for pid in workers_of(serving.child):
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inode = os.readlink(handle).removeprefix("socket:[").removesuffix("]")
                found[inodes.get(inode, 0)] = pid
    return {port: found[port] for port in ports if port in found}


class Asking:
    """Connections that send one token."""

    def __init__(self, serving: Serving, text: str) -> None:
        self._serving = serving
        lines = (f"GET {SMALL} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {text}")
        self._wire = ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def on(self, client: Client) -> str:
        """One request: the status, and the problem where there is one."""
        await client.send(self._wire)
        answer = await client.answer(TIMEOUT_S)
        return f"{answer.status} {answer.problem}".strip()

    async def anew(self) -> tuple[Client, str]:
        client = Client("127.0.0.1", self._serving.port)
        return client, await self.on(client)

    async def warm(self, workers: int) -> list[Client]:
        """Connections on which the token is accepted, some to every worker. Raises: RuntimeError."""
        clients: list[Client] = []
        while len({*owner_of(self._serving, [client.port for client in clients]).values()}) < workers:
            if len(clients) > MOST_TO_WARM:
                raise RuntimeError(f"{len(clients)} connections reached fewer than {workers} workers")
            for client, said in await asyncio.gather(*(self.anew() for _ in range(workers))):
                clients.append(client)
                if said != "200":
                    raise RuntimeError(f"a new token is answered with {said}")
        return clients


async def one_round(serving: Serving, way: str, connections: int, workers: int) -> Round:
    api = Client("127.0.0.1", serving.port)
    made = await _admin(api, serving, "POST", "/admin/api/tokens", {"description": f"to be deleted {time.time()}",
                                                                    "scopes": ["network:read"]})  # fmt: skip
    asking = Asking(serving, str(made["token"]))
    kept = await asking.warm(workers)
    began = time.perf_counter()
    if way == "API":
        await _admin(api, serving, "DELETE", f"/admin/api/tokens/{made['id']}")
    else:
        await _command(serving, "token", "delete", str(made["id"]))
    acknowledged = time.perf_counter()
    new = await asyncio.gather(*(asking.anew() for _ in range(connections)), return_exceptions=True)
    again = await asyncio.gather(*(asking.on(client) for client in kept), return_exceptions=True)
    refused_at = time.perf_counter()
    clients = [one[0] for one in new if not isinstance(one, BaseException)]
    reached = owner_of(serving, [client.port for client in clients])
    said = [type(one).__name__ if isinstance(one, BaseException) else one[1] for one in new]
    said += [type(one).__name__ if isinstance(one, BaseException) else one for one in again]
    for client in (api, *kept, *clients):
        client.close()
    refused = said.count("401 invalid-token")
    accepted = sum(1 for one in said if one.startswith("2"))
    other = tuple(one for one in said if one != "401 invalid-token" and not one.startswith("2"))
    return Round(way, (acknowledged - began) * 1e3, (refused_at - acknowledged) * 1e3, accepted, refused, other,
                 len(kept), len(clients), len({*reached.values()}))  # fmt: skip


async def _admin(
    client: Client, serving: Serving, method: str, path: str, body: object = None
) -> dict[str, object]:
    text = b"" if body is None else json.dumps(body).encode()
    lines = (f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {serving.manager}",
             "Content-Type: application/json", f"Content-Length: {len(text)}")  # fmt: skip
    await client.send("\r\n".join([*lines, "", ""]).encode() + text)
    answer = await client.answer(TIMEOUT_S)
    if answer.status not in (201, 204):
        raise RuntimeError(f"{method} {path}: {answer.status} {answer.problem}")
    document: dict[str, object] = json.loads(answer.body or b"{}")
    return document


async def _command(serving: Serving, *words: str) -> None:
    """Back when the command has said that it is done. Raises: RuntimeError when it does not."""
    process = await asyncio.create_subprocess_exec(
        *python("gateway", *words, "--config", str(serving.config)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line.startswith(b"deleted: "):
        raise RuntimeError(f"{' '.join(words)}: exit {await process.wait()}")
    await process.wait()


async def revoke(options: argparse.Namespace, children: Children, folder: Path) -> list[Round]:
    upstream = Scripted(CREDENTIAL)
    async with upstream.serving() as url:
        serving = await asyncio.to_thread(serve, children, folder, url, tokens=0, workers=options.workers)
        return [
            await one_round(serving, WAYS[at % len(WAYS)], options.connections, options.workers)
            for at in range(options.rounds)
        ]


def report(options: argparse.Namespace, rounds: Sequence[Round]) -> int:
    found = faults(rounds, options.workers)
    say(f"A deleted token, {options.workers} workers, {options.connections} new connections in each round\n")
    head = ["round", "deleted by", "acknowledged after, ms", "new connections", "workers reached", "kept ones",
            "accepted", "refused", "last refusal after the acknowledgement, ms"]  # fmt: skip
    rows = [[str(at), one.way, number(one.deletion_ms), str(one.new), str(one.workers), str(one.kept),
             str(one.accepted), str(one.refused), number(one.refused_ms)]
            for at, one in enumerate(rounds, 1)]  # fmt: skip
    say(table(head, rows))
    asked = sum(one.accepted + one.refused + len(one.other) for one in rounds)
    say(
        f"\n{sum(one.accepted for one in rounds)} of {asked:,} requests were accepted after the acknowledgement."
    )
    for fault in found:
        say(f"FAULT: {fault}")
    if options.json:
        write_json(options.json, {"rounds": [asdict(one) for one in rounds], "faults": found})
    return 1 if found else 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.revoke", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--connections", type=int, default=200, help="that are made after each deletion")
    parser.add_argument("--data", metavar="DIR", help="keep store, keys and records here")
    parser.add_argument("--json", metavar="FILE", help="write the numbers here")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    allow_files(4096)
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending_on_signals())
        folder = Path(options.data or stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        folder.mkdir(exist_ok=True)
        children = stack.enter_context(Children(folder))
        return report(options, asyncio.run(revoke(options, children, folder)))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
