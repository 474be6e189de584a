"""The admin JSON API over real sockets, and what its restrictions do on the data path."""

from __future__ import annotations

import pytest

from gateway.admin.request import OTHERS_NAMES
from gateway.config import Listen, Tokens
from gateway.model import Account
from tests.conftest import add_person

API = "/admin/api/tokens"
NI = "/api/2022-08-01/33/advertisers.json"
TX = "/api/2020-10-01/{}/transactions/{}.json"
MANAGE = ("transactions:read", "tokens:manage")
SHOWN = {
    "id", "description", "scopes", "state", "owner", "created_at", "expires_at", "exposed_at", "rotate_by",
    "deleted_at", "deleted_by", "delete_reason", "made_by", "outlives_maker", "bootstrap",
    "allowed_networks", "accounts", "personal_records_per_day",
    "not_before", "rotated_at", "overlap_until", "paused_at", "paused_by",
    "last_used_at", "last_used_from", "last_used_for", "old_secret_used_at", "uses_24h", "uses_30d",
}  # fmt: skip


async def ask(gateway, by="network_admin", path=API, **body):
    return await gateway.request("POST", path, by, json={"description": "asked by a test"} | body)


def assert_problem(answer, status, kind):
    assert (answer.status, answer.problem) == (status, kind), answer.body
    assert answer.headers["Gateway-Answer"] == kind


async def ids(gateway, query="", by="network_admin"):
    answer = await gateway.get(API + query, by)
    assert answer.status == 200, answer.body
    return [row["id"] for row in answer.json["tokens"]]


@pytest.fixture
async def people(gateway):
    """Beside the demo's four: a plain manager of tokens, and administrators of what is not this network.

    The namesake's advertiser has the network's number: an id says nothing without its kind.
    """
    await add_person(gateway, "plain", Account("network", "33", "33"), scopes=MANAGE)
    await add_person(gateway, "stranger", Account("network", "34", "34"), administrator=True, scopes=MANAGE)
    await add_person(
        gateway, "namesake", Account("advertiser", "33", "33"), administrator=True, scopes=MANAGE
    )
    await add_person(
        gateway, "merchant", Account("advertiser", "706", "33"), administrator=True, scopes=MANAGE
    )
    return gateway


# --- create


async def test_a_token_is_made_for_its_caller_and_its_text_is_in_that_answer_alone(gateway):
    answer = await ask(gateway, scopes=["network:read"], expires_in=3600)
    assert (answer.status, answer.headers["Gateway-Answer"]) == (201, "ok")
    made = answer.json
    assert made.keys() == SHOWN | {"token"}
    assert (made["state"], made["scopes"], made["owner"]) == (
        "active",
        ["network:read"],
        gateway.owners["network_admin"],
    )
    assert answer.headers["Location"] == f"{API}/{made['id']}"
    assert (await gateway.get(NI, made["token"])).status == 200
    for path in (API, f"{API}/{made['id']}", "/gateway/token"):
        assert made["token"].encode() not in (await gateway.get(path, "network_admin")).body
    shown = (await gateway.get(f"{API}/{made['id']}", "network_admin")).json
    assert shown == {name: value for name, value in made.items() if name != "token"}


@pytest.mark.parametrize("name", OTHERS_NAMES)
async def test_naming_an_owner_is_refused_before_anything_else_in_the_body(gateway, name):
    for body in (
        {name: "usr_x"},
        {name: None, "description": 5, "zzz": 1},
        {name: {}, "scopes": "x", "expires_in": -1},
    ):
        assert_problem(await gateway.request("POST", API, "network_admin", json=body), 403, "on-behalf-of")
    assert_problem(await ask(gateway, path=f"{API}?{name}=usr_x"), 403, "on-behalf-of")
    assert_problem(await ask(gateway, **{name: gateway.owners["network_admin"]}), 403, "on-behalf-of")
    assert len(await ids(gateway)) == 4


async def test_an_unknown_member_is_refused_by_its_name(gateway):
    answer = await ask(gateway, scope="network:read")
    assert_problem(answer, 422, "invalid-input")
    assert answer.json["member"] == "scope"


async def test_a_member_that_is_no_word_is_refused_without_repeating_it(gateway):
    answer = await ask(gateway, **{"s3cret-" * 9: 1})
    assert_problem(answer, 422, "invalid-input")
    assert b"s3cret" not in answer.body


@pytest.mark.parametrize("description", [None, "", "ab", "x" * 121, "a\nb c"])
async def test_a_description_is_required_and_of_some_length(gateway, description):
    answer = await ask(gateway, description=description)
    assert_problem(answer, 422, "invalid-input")
    assert answer.json["member"] == "description"


async def test_a_description_is_unique_among_its_owners_live_tokens(people):
    made = (await ask(people, description="Monthly Résumé")).json
    for same in ("Monthly Résumé", " monthly re\u0301sume\u0301 ", "MONTHLY RÉSUMÉ"):
        assert_problem(await ask(people, description=same), 409, "description-taken")
    assert (await ask(people, "plain", description="monthly résumé")).status == 201
    await people.request("DELETE", f"{API}/{made['id']}", "network_admin")
    assert (await ask(people, description="monthly résumé")).status == 201


async def test_the_description_of_an_expired_token_is_free_again(gateway, clock):
    await ask(gateway, description="for an hour", expires_in=3600)
    clock.advance(3599)
    assert_problem(await ask(gateway, description="for an hour"), 409, "description-taken")
    clock.advance(1)
    assert (await ask(gateway, description="for an hour")).status == 201


async def test_without_the_scope_no_token_is_managed(gateway):
    for method, path in (("POST", API), ("GET", API), ("GET", API + "/x"), ("DELETE", API + "/x")):
        answer = await gateway.request(
            method, path, "network", **({"json": {"owner": "x"}} if method == "POST" else {})
        )
        assert_problem(answer, 403, "insufficient-scope")
        assert 'scope="tokens:manage"' in answer.headers["WWW-Authenticate"]
        assert_problem(await gateway.request(method, path), 401, "no-credential")


async def test_a_token_made_by_a_token_manages_none(gateway):
    assert_problem(await ask(gateway, scopes=["tokens:manage"]), 403, "beyond-maker")
    made = await gateway.create(scopes=["network:read"])
    assert_problem(await ask(gateway, made["token"]), 403, "insufficient-scope")


@pytest.mark.parametrize(
    ("asked", "member"),
    [({"scopes": ["reveal:pii"]}, "scopes"), ({"expires_in": 100 * 86_400}, "expires_in")],
)
async def test_nothing_of_a_token_exceeds_the_one_that_made_it(gateway, asked, member):
    answer = await ask(gateway, **asked)
    assert_problem(answer, 403, "beyond-maker")
    assert answer.json["member"] == member


async def test_an_expiry_beyond_what_is_configured_is_refused(start, upstream):
    running = await start(upstream.port, tokens=Tokens(default_days=1, max_days=2))
    assert (await ask(running)).json["expires_at"] == (
        await ask(running, description="abc", expires_in=86_400)
    ).json["expires_at"]
    assert_problem(await ask(running, description="abcd", expires_in=2 * 86_400 + 1), 422, "invalid-input")


@pytest.mark.parametrize(
    ("body", "headers", "status", "kind"),
    [
        (b"[]", {}, 400, "bad-body"),
        (b'{"description": "a", "description": "b"}', {}, 400, "bad-body"),
        (b'{"description": "abc", "access_token": "x"}', {}, 400, "credential-in-body"),
        (b'{"description": "abc", "_method": "GET"}', {}, 400, "forbidden-parameter"),
        (b'{"description": "abc"}', {"Content-Type": "text/plain"}, 415, "unsupported-media-type"),
        (b'{"description": "abc"}', {"Content-Encoding": "gzip"}, 415, "unsupported-media-type"),
        (b"", {}, 422, "invalid-input"),
    ],
)
async def test_a_body_is_judged_as_strictly_as_on_the_data_path(gateway, body, headers, status, kind):
    fields = {"Content-Type": "application/json"} | headers
    answer = await gateway.request("POST", API, "network_admin", data=body, headers=fields)
    assert_problem(answer, status, kind)


async def test_the_maker_takes_what_it_made_with_it_unless_asked_otherwise(people):
    dies = await people.create("plain")
    lives = await people.create("plain", outlives_maker=True)
    maker = (await people.get("/gateway/token", "plain")).json["id"]
    assert (await people.request("DELETE", f"{API}/{maker}", "network_admin")).status == 204
    assert (await people.get("/gateway/token", dies["token"])).problem == "invalid-token"
    assert (await people.get("/gateway/token", lives["token"])).status == 200


# --- list and show


async def test_an_administrator_sees_the_whole_network_and_a_plain_owner_their_own(people):
    everybody = await ids(people)
    assert len(everybody) == 4 + 3
    assert len(await ids(people, by="plain")) == 1
    assert set(await ids(people, by="plain")) < set(everybody)
    assert len(await ids(people, by="stranger")) == 1
    assert len(await ids(people, by="merchant")) == len(await ids(people, by="namesake")) == 1
    assert not set(await ids(people, by="stranger")) & set(everybody)


async def test_a_list_comes_in_pages_newest_first(gateway):
    made = [(await gateway.create())["id"] for _ in range(5)]
    first = (await gateway.get(f"{API}?limit=3", "network_admin")).json
    assert [row["id"] for row in first["tokens"]] == made[:1:-1]
    second = (await gateway.get(f"{API}?limit=3&after={first['next']}", "network_admin")).json
    assert [row["id"] for row in second["tokens"]][:2] == made[1::-1]
    rest = (await gateway.get(f"{API}?limit=200&after={second['next']}", "network_admin")).json
    assert len(first["tokens"]) + len(second["tokens"]) + len(rest["tokens"]) == 9
    assert rest["next"] is None


async def test_a_list_is_filtered_by_state(gateway, clock):
    gone, late, seen = [await gateway.create(expires_in=seconds) for seconds in (7200, 60, 7200)]
    await gateway.request("DELETE", f"{API}/{gone['id']}", "network_admin")
    await gateway.get(f"/gateway/token?x={seen['token']}")
    clock.advance(60)
    for state, expected in (("deleted", gone), ("expired", late), ("exposed", seen)):
        assert await ids(gateway, f"?state={state}") == [expected["id"]]
        assert (await gateway.get(f"{API}/{expected['id']}", "network_admin")).json["state"] == state
    assert len(await ids(gateway, "?state=active")) == 4
    assert await ids(gateway, "?state=paused") == []


async def test_an_administrator_filters_by_owner_and_others_may_name_themselves_alone(people):
    assert len(await ids(people, "?owner=" + people.owners["advertiser"])) == 1
    assert len(await ids(people, "?owner=me")) == 1
    assert await ids(people, "?owner=" + people.owners["stranger"]) == []
    assert len(await ids(people, "?owner=" + people.owners["plain"], by="plain")) == 1
    for owner in (people.owners["network_admin"], "usr_nobody"):
        assert_problem(await people.get(f"{API}?owner={owner}", "plain"), 404, "not-found")


@pytest.mark.parametrize(
    ("query", "member"),
    [
        ("limit=0", "limit"), ("limit=201", "limit"), ("limit=x", "limit"), ("limit=-1", "limit"), ("limit=", "limit"),
        ("limit=1e1", "limit"), ("limit=000002000", "limit"), ("limit=%EF%BC%91", "limit"), ("state=live", "state"),
        ("states=active", "states"),
    ],
)  # fmt: skip
async def test_a_list_asked_for_wrongly_names_its_parameter(gateway, query, member):
    answer = await gateway.get(f"{API}?{query}", "network_admin")
    assert_problem(answer, 422, "invalid-input")
    assert answer.json["member"] == member


async def test_a_page_after_somebody_elses_token_is_no_page(people):
    foreign = (await ids(people, by="stranger"))[0]
    answers = [await people.get(f"{API}?after={after}", "plain") for after in (foreign, "tok_nothing")]
    assert [(a.status, a.problem, a.json["detail"]) for a in answers] == [
        (422, "invalid-input", answers[0].json["detail"])
    ] * 2


async def test_unknown_and_foreign_tokens_get_the_same_answer(people):
    foreign = (await ids(people, by="stranger"))[0]
    network = (await ids(people, by="merchant"))[0]
    for by, known in (
        ("network_admin", foreign),
        ("plain", network),
        ("stranger", network),
        ("namesake", network),
    ):
        for method in ("GET", "DELETE"):
            answers = [
                await people.request(method, f"{API}/{name}", by) for name in (known, "tok_nothing", "%20")
            ]
            for answer in answers:
                assert_problem(answer, 404, "not-found")
            documents = [answer.json | {"instance": ""} for answer in answers]
            assert documents[0] == documents[1] == documents[2]


# --- delete


async def test_a_deleted_token_stays_deleted_however_often_it_is_asked_for(gateway):
    made = await gateway.create()
    path = f"{API}/{made['id']}"
    answer = await gateway.request("DELETE", path, "network_admin", json={"reason": "left the company"})
    assert (answer.status, answer.body, answer.headers["Gateway-Answer"]) == (204, b"", "ok")
    assert (await gateway.request("DELETE", path, "network_admin", json={"reason": "again"})).status == 204
    shown = (await gateway.get(path, "network_admin")).json
    assert (shown["state"], shown["delete_reason"]) == ("deleted", "left the company")
    assert shown["deleted_by"] == gateway.owners["network_admin"]
    assert_problem(await gateway.get("/gateway/token", made["token"]), 401, "invalid-token")


async def test_an_administrator_deletes_a_token_of_anybody_in_the_network(people):
    (advertisers,) = await ids(people, "?owner=" + people.owners["advertiser"])
    assert (await people.request("DELETE", f"{API}/{advertisers}", "network_admin")).status == 204
    assert_problem(await people.get(TX.format("advertisers", 706), "advertiser"), 401, "invalid-token")


@pytest.mark.parametrize(
    ("body", "member"),
    [
        ({"reason": 5}, "reason"),
        ({"reason": "x" * 501}, "reason"),
        ({"reason": "a\nb"}, "reason"),
        ({"why": "x"}, "why"),
    ],
)
async def test_a_reason_that_is_none_deletes_nothing(gateway, body, member):
    made = await gateway.create()
    answer = await gateway.request("DELETE", f"{API}/{made['id']}", "network_admin", json=body)
    assert_problem(answer, 422, "invalid-input")
    assert answer.json["member"] == member
    assert (await gateway.get("/gateway/token", made["token"])).status == 200


async def test_a_token_that_deletes_itself_is_gone(people):
    own = (await people.get("/gateway/token", "plain")).json["id"]
    assert (await people.request("DELETE", f"{API}/{own}", "plain")).status == 204
    assert_problem(await people.request("DELETE", f"{API}/{own}", "plain"), 401, "invalid-token")


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", API), ("PATCH", API), ("POST", API + "/tok_x"), ("HEAD", API)]
)
async def test_other_methods_are_not_allowed(gateway, method, path):
    answer = await gateway.request(method, path, "network_admin")
    assert answer.status == 405
    assert set(answer.headers["Allow"].replace(" ", "").split(",")) <= {"GET", "POST", "DELETE"}


async def test_each_act_is_recorded_with_who_did_it_to_what(gateway):
    made = await gateway.create()
    await gateway.request("DELETE", f"{API}/{made['id']}", "network_admin")
    create, delete = gateway.records()[-2:]
    assert [(r["surface"], r["act"], r["subject"], r["status"]) for r in (create, delete)] == [
        ("admin", "token.create", made["id"], 201),
        ("admin", "token.delete", made["id"], 204),
    ]
    assert create["owner"] == delete["owner"] == gateway.owners["network_admin"]


# --- a token that was seen where none belongs

EXPOSING = [
    ("GET", NI + "?oauth_token={}", None),
    ("GET", NI + "?limit={}", None),
    ("GET", NI + "?{}", None),
    ("GET", "/api/2022-08-01/33/advertisers/{}.json", None),
    ("GET", "/gateway/token?x={}", None),
    ("GET", "/admin/api/tokens?after={}", None),
    ("GET", "/admin/api/tokens/{}", None),
    ("GET", "/oauth/token?token={}", None),
    ("GET", "/nowhere/{}", None),
    ("GET", "/healthz?{}", None),
    ("POST", NI, {"name": "{}"}),
    ("POST", NI, {"a": [{"b": "see {}"}]}),
    ("POST", NI, {"{}": 1}),
    ("POST", API, {"description": "{}"}),
    ("POST", API, {"description": "abc", "{}": 1}),
]


@pytest.mark.parametrize(("method", "path", "body"), EXPOSING, ids=lambda value: str(value)[:50])
async def test_a_token_in_a_url_or_a_body_is_refused_and_marked_exposed(
    gateway, upstream, method, path, body
):
    made = await gateway.create(scopes=["network:read"])
    text = made["token"]
    more = {} if body is None else {"data": repr(body).replace("'", '"').replace("{}", text)}
    fields = {"Content-Type": "application/json"} if body else {}
    answer = await gateway.request(method, path.replace("{}", text), "network_admin", headers=fields, **more)
    assert answer.status == 400
    assert answer.problem in ("credential-in-query", "credential-in-body")
    assert not upstream.journal
    shown = (await gateway.get(f"{API}/{made['id']}", "network_admin")).json
    assert shown["state"] == "exposed"
    assert (gateway.records()[-2]["act"], gateway.records()[-2]["subject"]) == ("token.exposed", made["id"])


async def test_an_exposed_token_works_until_its_date_and_not_after(gateway, clock):
    made = await gateway.create(scopes=["network:read"])
    await gateway.get(f"{NI}?oauth_token={made['token']}")
    answer = await gateway.get(NI, made["token"])
    assert answer.status == 200
    shown = (await gateway.get(f"{API}/{made['id']}", "network_admin")).json
    assert answer.headers["Token-Expires"] == shown["rotate_by"]
    clock.advance(24 * 3600 - 1)
    assert (await gateway.get(NI, made["token"])).status == 200
    clock.advance(1)
    assert_problem(await gateway.get(NI, made["token"]), 401, "invalid-token")


async def test_a_second_exposure_gives_no_more_time(gateway, clock):
    made = await gateway.create(scopes=["network:read"])
    for _ in range(2):
        await gateway.get(f"{NI}?oauth_token={made['token']}")
        clock.advance(12 * 3600)
    assert_problem(await gateway.get(NI, made["token"]), 401, "invalid-token")


async def test_nobody_exposes_a_token_by_a_forged_one(gateway):
    made = await gateway.create()
    await gateway.get(f"{NI}?x={made['token'][:-6]}AAAAAA", "network")
    assert (await gateway.get(f"{API}/{made['id']}", "network_admin")).json["state"] == "active"


# --- restrictions, on the data path


async def test_a_token_for_some_accounts_reaches_no_others(gateway, upstream):
    made = await gateway.create(scopes=["transactions:read", "network:read"], accounts=["advertiser:706"])
    assert (await gateway.get(TX.format("advertisers", 706), made["token"])).status == 200
    for path in (TX.format("advertisers", 707), TX.format("networks", 33), NI):
        assert_problem(await gateway.get(path, made["token"]), 403, "account-not-allowed")
    assert len(upstream.journal) == 1


@pytest.mark.parametrize("account", ["advertiser:999", "network:34", "affiliate:706"])
async def test_a_token_is_not_made_for_accounts_its_owner_does_not_reach(gateway, account):
    answer = await ask(gateway, accounts=["advertiser:706", account])
    assert_problem(answer, 422, "invalid-input")
    assert answer.json["member"] == "accounts"


async def test_an_advertiser_makes_tokens_for_their_own_account_alone(people):
    assert (await ask(people, "merchant", accounts=["advertiser:706"])).status == 201
    for foreign in ("advertiser:707", "network:33"):
        assert_problem(
            await ask(people, "merchant", description="abc", accounts=[foreign]), 422, "invalid-input"
        )


async def test_a_token_for_some_networks_is_refused_from_all_others(start, upstream):
    running = await start(upstream.port, listen=Listen(trusted_proxies=("127.0.0.1/32",)))
    made = await running.create(scopes=["network:read"], allowed_networks=["203.0.113.0/24", "2001:db8::/32"])
    for client, status in (("203.0.113.9", 200), ("2001:db8::1", 200), ("203.0.114.1", 403), ("::1", 403)):
        answer = await running.get(NI, made["token"], headers={"X-Forwarded-For": f"203.0.113.1, {client}"})
        assert answer.status == status
        assert answer.problem == ("" if status == 200 else "network-not-allowed")
    assert len(upstream.journal) == 2


async def test_nobody_says_of_themselves_where_they_are(gateway):
    made = await gateway.create(scopes=["network:read"], allowed_networks=["203.0.113.0/24"])
    for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Client-IP"):
        answer = await gateway.get(NI, made["token"], headers={name: "203.0.113.9"})
        assert_problem(answer, 403, "network-not-allowed")
    assert_problem(await gateway.get("/gateway/token", made["token"]), 403, "network-not-allowed")
