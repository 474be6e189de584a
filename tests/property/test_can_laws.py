"""The law of asking: what `POST /gateway/can` says of a request is what that request then gets, on both ways."""

from __future__ import annotations

import asyncio
import itertools
import json

from hypothesis import assume, example, given
from hypothesis import strategies as st

from gateway.demo import ADVERTISER, AFFILIATE, NETWORK, OTHER_ADVERTISER
from gateway.model import ROLES, SCOPES, Account
from gateway.problem import KINDS
from tests.conftest import add_person
from tests.integration.test_wire import JSON, NI, ONE, connect, head, quick
from tests.property.test_fast_path_laws import LOOPS, QUICKLY, Both
from tests.property.test_judging_laws import SEEDS, spellings
from tests.upstream import nothing

__all__ = ["quick"]

READ = frozenset({"transactions:read"})
TX = "/api/2020-10-01/networks/transactions/33.json"


STRANGER = Account("network", "44", "44")
ACCOUNTS = (NETWORK, ADVERTISER, AFFILIATE, OTHER_ADVERTISER, STRANGER)
# Asked for as documented, spelled differently, or with a query; by the verbs of the APIs and by others.
TX_SEEDS = [path for path in SEEDS if "/transactions/" in path]
columns = st.sampled_from(
    ["duration", "city", "revenue", "$invoca_default_columns", "$invoca_custom_columns", "own", "custom_data"]
)
queries = st.builds(
    "{}={}".format,
    st.sampled_from(["include_columns", "exclude_columns", "limit", "from", "column_separator", "other"]),
    st.lists(columns, max_size=4, unique=True).map(",".join),
)
paths = (
    st.sampled_from(SEEDS)
    | spellings()
    | st.sampled_from(SEEDS).map("{}?users[]=1&limit=2".format)
    | st.builds("{}?{}".format, st.sampled_from(TX_SEEDS), queries)
)
methods = st.sampled_from(["GET", "GET", "GET", "POST", "PUT", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"])
bodies = st.none() | st.lists(
    st.sampled_from(["name", "users", "sites", "oauth_token", "_method", "x" * 300, "access[token]"]),
    max_size=3,
    unique=True,
)
owners = st.tuples(st.sampled_from(ACCOUNTS), st.sampled_from(ROLES), st.booleans())
scopes = st.frozensets(st.sampled_from(SCOPES), min_size=1) | st.just(frozenset(SCOPES))
subsets = st.none() | st.sets(st.sampled_from([account.key for account in ACCOUNTS]), min_size=1)


class Asked(Both):
    """Both gateways, with a user for each owner that a law comes upon, and a token for each example."""

    numbers = itertools.count()

    @staticmethod
    async def then(peer):
        await nothing(peer)

    async def token(self, at, owner, scopes, accounts):
        account, role, administrator = owner
        name = f"{account.key}-{role}-{administrator}".replace(":", "-")
        if name not in at.running.tokens:
            await add_person(at.running, name, account, role, administrator)
        issuer = at.running.gateway.issuer
        return (
            await issuer.create(
                owner_id=at.running.owners[name],
                description=f"example {next(self.numbers)}",
                scopes=sorted(scopes),
                expires_at=int(at.running.clock()) + 3600,
                accounts=accounts and sorted(accounts),
            )
        )[1]

    async def told_and_got(self, at, who, method, path, keys):
        token = await self.token(at, *who)
        question = {"method": method, "path": path} | ({} if keys is None else {"body": keys})
        answer = await at.running.request("POST", "/gateway/can", token, json=question)
        assert (answer.status, answer.headers["Gateway-Answer"]) == (200, "ok"), answer.body
        body = b"" if keys is None else json.dumps(dict.fromkeys(keys)).encode()
        fields = [] if keys is None else [JSON, f"Content-Length: {len(body)}"]
        before = len(at.requests)
        async with connect(at.running) as line:
            await line.send(head(f"{method} {path} HTTP/1.1", *fields, token=token) + body)
            heard = await line.answer(to_head=method == "HEAD")
        sent = [request.partition(b" ")[0].decode() for request in at.requests[before:]]
        columns = heard.headers.get("gateway-withheld", "")
        return answer.json, (heard.status, heard.headers.get("gateway-answer", ""), columns, sent)


@LOOPS
def test_what_is_told_is_what_is_then_got(tmp_path, loop_factory):
    with asyncio.Runner(loop_factory=loop_factory) as runner, Asked(runner, tmp_path) as both:

        @QUICKLY
        @example(((NETWORK, "super", False), frozenset(SCOPES), None), "GET", NI, None)
        @example(((NETWORK, "super", False), frozenset(SCOPES), None), "PUT", ONE, ["users"])
        @example(((NETWORK, "super", False), READ, None), "GET", TX, None)
        @example(((NETWORK, "super", False), READ, None), "GET", f"{TX}?include_columns=city", None)
        @example(
            ((NETWORK, "super", False), READ, None), "GET", f"{TX}?include_columns=city,own,duration", None
        )
        @example(((NETWORK, "super", False), READ, None), "GET", f"{TX}?from=2026-01-01", None)
        @example(((NETWORK, "super", False), frozenset({"network:write"}), None), "PUT", ONE, ["users"])
        @example(((NETWORK, "member", False), frozenset(SCOPES), None), "PUT", ONE, ["users"])
        @example(((NETWORK, "super", False), frozenset(SCOPES), {"advertiser:706"}), "GET", NI, None)
        @example(
            ((STRANGER, "super", False), frozenset(SCOPES), None), "GET", NI.replace("/33/", "/44/"), None
        )
        @given(st.tuples(owners, scopes, subsets), methods, paths, bodies)
        def law(who, method, path, keys):
            assume(path.startswith("/") and path.isascii() and path.isprintable() and " " not in path)
            for at in (both.short, both.general):
                told, got = runner.run(both.told_and_got(at, who, method, path, keys))
                *said, columns, sent = got
                if told["decision"] == "allow":
                    # What replaces a stored set is sent once it was read, twice.
                    assert (said, sent[-1:]) == ([200, ""], [method]), told
                    assert sent[:-1] in ([], ["GET", "GET"]), told
                    withheld = told.get("withheld_columns", {})
                    assert columns == ", ".join(f"{name};columns={n}" for name, n in withheld.items()), told
                    assert told["withheld"] == [*withheld]
                else:
                    assert (said, sent) == ([KINDS[told["problem"]].status, told["problem"]], []), told

        law()
        assert any(both.short.taken)
