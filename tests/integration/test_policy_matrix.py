"""The matrix says what happens: every cell that a request leads to is asked for, through the running gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import product
from typing import Any

from gateway import cli
from gateway.demo import EVERY_NETWORK
from gateway.load import load_catalogue
from gateway.model import ACCOUNT_KINDS, RELATIONS, ROLES, Account, Operation, Owner
from gateway.proof import reachable, request_line
from tests.conftest import Running, add_person
from tests.upstream import RawUpstream, nothing

ACCOUNTS = {
    "network": Account("network", "33", "33"),
    "advertiser": Account("advertiser", "706", "33"),
    "affiliate": Account("affiliate", "808", "33"),
}
# What a request line names as an account under the network, of whichever kind.
UNDER = (Account("affiliate", "706", "33"), Account("advertiser", "706", "33"))
AT_ONCE = 16
Key = tuple[str, str, bool, str, str, str]


def the_matrix(capsys: Any) -> dict[Key, tuple[str, tuple[str, ...]]]:
    """Decision and policies for each cell, as `policy matrix --json` prints them."""
    assert cli.main(["policy", "matrix", "--json"]) == 0
    effects = {operation.id: operation.effect for operation in load_catalogue().operations}
    return {
        (c["kind"], c["role"], c["administrator"], c["relation"], c["operation"],
         c.get("effect", effects[c["operation"]])): (c["decision"], tuple(c["policies"]))
        for c in json.loads(capsys.readouterr().out)
    }  # fmt: skip


def wanted() -> Iterator[tuple[Key, Owner, Operation]]:
    for kind, role, administrator, relation, operation in product(
        ACCOUNT_KINDS, ROLES, (False, True), RELATIONS, load_catalogue().variants()
    ):
        if reachable(kind, operation, relation):
            owner = Owner("", ACCOUNTS[kind], role, administrator)
            key = (kind, role, administrator, relation, operation.id, operation.effect)
            yield key, owner, operation


def as_judged(matrix: dict[Key, tuple[str, tuple[str, ...]]], key: Key, operation: Operation) -> Key:
    plain = (*key[:5], "write")
    return plain if operation.effect == "destroy" and matrix.get(plain, ("allow",))[0] == "deny" else key


def name_of(owner: Owner) -> str:
    return f"{owner.account.kind}_{owner.role}_{'administrator' if owner.administrator else 'plain'}"


async def ask(
    running: Running, key: Key, owner: Owner, operation: Operation
) -> tuple[str, tuple[str, ...] | None]:
    """The decision, as the answer and its record tell it. An allowed answer names no policies: its record does."""
    method, _, path = request_line(owner, operation, key[3]).partition(" ")
    replaced = operation.replaces[:1] if operation.effect == "destroy" else ()
    more: dict[str, Any] = {}
    if method not in ("GET", "DELETE"):
        more["json"] = {name: [] for name in replaced}
    answer = await running.request(method, path, name_of(owner), **more)
    if answer.status == 200:
        return "allow", None
    assert (answer.status, answer.problem) == (403, "denied"), (key, answer)
    return "deny", tuple(policy["id"] for policy in answer.json["policies"])


async def test_every_cell_is_what_a_request_gets(start, capsys):
    matrix = the_matrix(capsys)
    assert len(matrix) == 3 * 4 * 2 * 4 * len(load_catalogue().variants())
    async with RawUpstream(nothing) as raw:
        running = await start(raw.port)
        for account in UNDER:
            await running.gateway.store.add_account(account)
        for kind, role, administrator in product(ACCOUNT_KINDS, ROLES, (False, True)):
            owner = Owner("", ACCOUNTS[kind], role, administrator)
            await add_person(running, name_of(owner), owner.account, role, administrator, EVERY_NETWORK)

        at_once = asyncio.Semaphore(AT_ONCE)

        async def one(key: Key, owner: Owner, operation: Operation) -> None:
            async with at_once:
                decision, policies = await ask(running, key, owner, operation)
            assert decision == matrix[key][0], key
            assert policies is None or sorted(policies) == sorted(matrix[key][1]), key

        cells = list(wanted())
        await asyncio.gather(*(one(*cell) for cell in cells))

    # The records say the same of each, and no cell is missing among them; but whoever may not even write is
    # refused before a body is read, and so for writing.
    people = {running.owners[name_of(owner)]: owner for _, owner, _ in cells}
    recorded = {}
    for record in running.records():
        if record["event"] == "exchange":
            owner = people[record["owner"]]
            key = (
                owner.account.kind, owner.role, owner.administrator,
                record["relation"], record["operation"], record["effect"],
            )  # fmt: skip
            recorded[key] = (record["decision"], tuple(record["policies"]))
    judged = {as_judged(matrix, key, operation) for key, _, operation in cells}
    assert recorded == {key: matrix[key] for key in judged}
