"""Every way to make a token for somebody else, in one table: each is refused, leaves no token, and is recorded."""

from __future__ import annotations

import pytest

from gateway.model import Account
from tests.conftest import add_person
from tests.people import sign_in, with_password

API = "/admin/api/tokens"
MANAGE = ("transactions:read", "tokens:manage")
NAMES = (
    "owner", "owner_id", "user", "user_id", "userId", "username", "user_email", "email", "on_behalf_of", "behalf-of",
    "account", "account_id", "sub", "subject", "act_as", "run_as", "sudo", "impersonate",
)  # fmt: skip
SPELLINGS = (
    "Owner",
    "OWNER",
    "own_er",
    " owner",
    "owner[]",
    "o-w-n-e-r",
    "%6Fwner",
    "ｏｗｎｅｒ",
    "on behalf of",
)
OK = {"description": "for somebody else"}
CREATE = "token.create"
# (name, method, path, headers, body, act). VICTIM stands for the id of another user, THEIRS for one of their tokens.
WAYS = [
    *((f"body: {name}", "POST", API, {}, OK | {name: "VICTIM"}, CREATE) for name in (*NAMES, *SPELLINGS)),
    *((f"body, nothing in it: {value}", "POST", API, {}, OK | {"owner": value}, CREATE)
      for value in (None, "", {}, [], 0)),
    *((f"body, deep: {deep}", "POST", API, {}, OK | deep, CREATE) for deep in (
        {"a": {"owner": "VICTIM"}}, {"a": [{"b": {"userId": "VICTIM"}}]}, {"accounts": [{"account": "VICTIM"}]},
        {"scopes": {"on_behalf_of": "VICTIM"}}, {"description": {"email": "VICTIM"}},
    )),
    ("body: besides what is wrong with it", "POST", API, {}, {"owner": "VICTIM", "zzz": 1, "scopes": 5}, CREATE),
    *((f"query: {name}", "POST", f"{API}?{name}=VICTIM", {}, OK, CREATE) for name in NAMES),
    ("query: brackets", "POST", f"{API}?token[owner]=VICTIM", {}, OK, CREATE),
    ("query: encoded", "POST", f"{API}?%6fwner=VICTIM", {}, OK, CREATE),
    ("query: nothing in it", "POST", f"{API}?owner", {}, OK, CREATE),
    *((f"path: {part}", "POST", f"/admin/api/{part}/VICTIM/tokens", {}, OK, CREATE)
      for part in ("users", "owners", "accounts")),
    *((f"header: {name}", "POST", API, {name: "VICTIM"}, OK, CREATE) for name in (
        "On-Behalf-Of", "X-On-Behalf-Of", "Owner", "X-Owner", "X-Owner-Id", "X-User", "X-User-Id", "x-email",
        "X-Account-Id", "Act-As", "X-Act-As", "X-Acting-User", "Sudo", "X-Sudo", "Impersonate-User",
        "X-Impersonate-User", "Gateway-Owner", "X-Gateway-User",
    )),
    ("administrator: rotates a user's token", "POST", f"{API}/THEIRS/rotate", {}, {}, "token.rotate"),
    ("administrator: rotates it and says for whom", "POST", f"{API}/THEIRS/rotate", {}, {"owner": "VICTIM"},
     "token.rotate"),
    ("administrator: rotates it with a header", "POST", f"{API}/THEIRS/rotate", {"X-Owner": "VICTIM"}, {},
     "token.rotate"),
    ("administrator: rotates it by a query", "POST", f"{API}/THEIRS/rotate?owner=VICTIM", {}, {}, "token.rotate"),
]  # fmt: skip


def filled(value, victim, theirs):
    if isinstance(value, str):
        return value.replace("VICTIM", victim).replace("THEIRS", theirs)
    if isinstance(value, dict):
        return {name: filled(each, victim, theirs) for name, each in value.items()}
    return [filled(each, victim, theirs) for each in value] if isinstance(value, list) else value


@pytest.fixture
async def people(gateway):
    """An administrator of the network (the demo's), and a user of it who has a token that makes tokens."""
    await add_person(gateway, "plain", Account("network", "33", "33"), scopes=MANAGE)
    return gateway


@pytest.fixture(params=["token", "session"])
async def asks(people, request):
    """The administrator asks, by either."""
    if request.param == "token":

        async def ask(method, path, headers, body):
            return await people.request(method, path, "network_admin", json=body, headers=headers)

        return ask
    await with_password(people, "network_admin")
    head = await sign_in(people)

    async def ask_signed_in(method, path, headers, body):
        return await head.ask(method, path, headers=headers, json=body)

    return ask_signed_in


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "act"), [way[1:] for way in WAYS], ids=[way[0] for way in WAYS]
)
async def test_nobody_makes_a_token_for_somebody_else(people, asks, method, path, headers, body, act):
    victim = people.owners["plain"]
    theirs = (await people.get("/gateway/token", "plain")).json["id"]
    before = (await people.get(API, "network_admin")).json["tokens"]
    answer = await asks(
        method, filled(path, victim, theirs), filled(headers, victim, theirs), filled(body, victim, theirs)
    )
    assert (answer.status, answer.problem) == (403, "on-behalf-of"), answer.body
    assert answer.json["source"].startswith("P5")
    record = people.records()[-1]
    assert (record["problem"], record["act"], record["owner"]) == (
        "on-behalf-of",
        act,
        people.owners["network_admin"],
    )
    after = (await people.get(API, "network_admin")).json["tokens"]
    for row in (*before, *after):
        for name in [name for name in row if "use" in name or name.startswith("last")]:
            del row[name]
    assert after == before
    assert (await people.get("/gateway/token", "plain")).status == 200


@pytest.mark.parametrize(
    ("own", "cookie", "csrf", "verdict"),
    [
        ("token", "theirs", "theirs", (400, "two-credentials")),
        ("token", "theirs", None, (400, "two-credentials")),
        (None, "theirs", "own", (403, "invalid-csrf-token")),
        (None, "theirs", None, (403, "invalid-csrf-token")),
        (None, "both", "own", (401, "invalid-session")),
        (None, "both", "theirs", (401, "invalid-session")),
        (None, "own", "theirs", (403, "invalid-csrf-token")),
    ],
    ids=str,
)
async def test_nobody_makes_a_token_by_the_session_of_another(people, own, cookie, csrf, verdict):
    """With a session and its CSRF token one is that user; with less than both, or with more, nobody."""
    browsers = {}
    for whose, name in (("own", "network_admin"), ("theirs", "plain")):
        await with_password(people, name)
        browsers[whose] = await sign_in(people, name)
    before = len((await people.get(API, "network_admin")).json["tokens"])
    cookies = {whose: browser.cookie for whose, browser in browsers.items()}
    cookies["both"] = "; ".join(cookies.values())
    headers = {"Cookie": cookies[cookie], "Origin": people.url}
    headers |= {} if csrf is None else {"Gateway-Csrf": browsers[csrf].csrf}
    who = None if own is None else "network_admin"
    answer = await people.request("POST", API, who, json=OK, headers=headers)
    assert (answer.status, answer.problem) == verdict
    assert (people.records()[-1]["act"], people.records()[-1]["problem"]) == (CREATE, verdict[1])
    assert len((await people.get(API, "network_admin")).json["tokens"]) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-User": "somebody"},
        {"X-Remote-User": "somebody"},
        {"User-Agent": "owner"},
        {"From": "a@example.com"},
    ],
    ids=str,
)
async def test_what_proxies_say_of_a_connection_names_no_owner(people, headers):
    answer = await people.request("POST", API, "network_admin", json=OK, headers=headers)
    assert (answer.status, answer.json["owner"]) == (201, people.owners["network_admin"])


async def test_making_a_token_for_somebody_else_needs_a_credential_first(people):
    for path in (API, "/admin/api/users/usr_x/tokens"):
        assert (await people.request("POST", path, json={"owner": "x"})).problem == "no-credential"
        assert (
            await people.request("POST", path, "network", json={"owner": "x"})
        ).problem == "insufficient-scope"


@pytest.mark.parametrize("name", ["owner", "account", "made_by"])
async def test_an_administrator_names_others_only_to_stop_their_tokens(people, name):
    """The one place where an owner is named in a body: it gives nobody a secret."""
    value = {"owner": people.owners["plain"], "account": "network:33", "made_by": "tok_x"}[name]
    answer = await people.request("POST", f"{API}/pause", "network_admin", json={name: value})
    assert answer.status == 200
    assert b"eyJ" not in answer.body
