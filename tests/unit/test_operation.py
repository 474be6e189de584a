"""Every documented operation by its id, every other surface by its name, and nothing by guessing."""

from __future__ import annotations

import pytest

from gateway.config import Versions
from gateway.operation import Catalogue
from gateway.policy import packaged
from gateway.problem import Problem
from gateway.target import judge
from gateway.tomlfile import ConfigError
from tests.facts import (
    CURRENT,
    OPERATIONS,
    OTHERS,
    SAMPLES,
    VECTORS,
    VERSIONS,
    account,
    effect,
    filled,
    scope,
)

CATALOGUE = Catalogue.load((packaged() / "operations.toml").read_text("utf-8"), "operations.toml")
HOST = "gateway.example.com"

REQUESTS = [
    pytest.param(fact, method, suffix, short, id=f"{fact['id']}-{method}-{suffix}{'-short' if short else ''}")
    for fact in OPERATIONS
    for method in fact["methods"]
    for suffix in fact["formats"]
    for short in ((False, True) if "short_path" in fact else (False,))
]


def identify(method, path):
    return CATALOGUE.identify(method, judge(path, HOST))


def refused(method, path):
    """The problem of a request that no operation may answer to."""
    with pytest.raises(Problem) as caught:
        identify(method, path)
    return caught.value


@pytest.mark.parametrize(("fact", "method", "suffix", "short"), REQUESTS)
def test_each_documented_request_is_the_operation_the_vendor_documents(fact, method, suffix, short):
    template = fact["short_path"] if short else fact["path"]
    call = identify(method, filled(template, suffix, CURRENT[fact["api"]]))
    operation = call.operation
    assert (operation.id, operation.api, operation.status) == (fact["id"], fact["api"], fact["status"])
    assert (operation.effect, operation.scope) == (effect(fact), scope(fact))
    kind, name = account(fact["path"])
    assert (operation.account_kind, operation.account) == (kind, name)
    assert call.account_id == (None if short else SAMPLES[name])
    assert (call.version, call.format) == (CURRENT[fact["api"]], suffix)


def test_the_packaged_catalogue_holds_the_documented_operations_and_no_other():
    ours = {
        o.id: (o.api, set(o.methods), o.path, set(o.formats), o.status, o.effect, o.scope)
        for o in CATALOGUE.operations
    }
    theirs = {
        f["id"]: (f["api"], set(f["methods"]), f["path"], set(f["formats"]), f["status"], effect(f), scope(f))
        for f in OPERATIONS
    }
    assert ours == theirs
    assert len(CATALOGUE.operations) == len(OPERATIONS) == 101


def test_the_packaged_catalogue_names_every_other_surface_with_a_path_of_its_own():
    ours = {other.id: set(other.methods) for other in CATALOGUE.others}
    theirs = {f["id"]: set(f["methods"]) for f in OTHERS if f["id"] != "platform_ui_sso_landing"}
    assert ours == theirs


def test_the_arrays_that_replace_a_stored_set_are_marked_where_the_vendor_says_so():
    ours = {operation.id for operation in CATALOGUE.operations if operation.replaces}
    assert ours == {fact["id"] for fact in OPERATIONS if "replaces_whole_set" in fact["tags"]}


@pytest.mark.parametrize("api", VERSIONS)
def test_every_printed_version_is_accepted_for_its_own_api(api):
    fact = next(fact for fact in OPERATIONS if fact["api"] == api)
    for version in VERSIONS[api]:
        assert identify("GET", filled(fact["path"], "json", version)).version == version


@pytest.mark.parametrize("api", VERSIONS)
def test_a_version_that_only_the_other_api_prints_is_unknown(api):
    (other,) = set(VERSIONS) - {api}
    fact = next(fact for fact in OPERATIONS if fact["api"] == api)
    for version in set(VERSIONS[other]) - set(VERSIONS[api]):
        assert refused("GET", filled(fact["path"], "json", version)).kind == "unknown-version"


def test_configuration_can_add_a_version_for_one_api_alone():
    text = (packaged() / "operations.toml").read_text("utf-8")
    wider = Catalogue.load(text, "operations.toml", Versions(transactions=("2023-10-09",)))
    ok = judge("/api/2023-10-09/networks/transactions/33.csv", HOST)
    assert wider.identify("GET", ok).operation.id == "network_transactions_list"
    with pytest.raises(Problem) as caught:
        wider.identify("GET", judge("/api/2023-10-09/33/advertisers.json", HOST))
    assert caught.value.kind == "unknown-version"


@pytest.mark.parametrize(
    ("fact", "method"), [pytest.param(f, m, id=f"{f['id']}-{m}") for f in OTHERS for m in f["methods"]]
)
def test_each_other_surface_is_refused_by_its_name(fact, method):
    problem = refused(method, fact["path"])
    if fact["id"] == "platform_ui_sso_landing":  # refused for what it carries, before anybody asks where
        assert problem.kind == "credential-in-query"
    else:
        assert problem.kind == ("other-surface" if fact["path"].startswith("/api/") else "not-found")
        assert problem.members["surface"] == fact["id"]


@pytest.mark.parametrize("vector", [pytest.param(v, id=f"{v['method']} {v['path']}") for v in VECTORS])
def test_each_classification_vector_comes_out_as_documented(vector):
    others = {fact["id"] for fact in OTHERS}
    if vector["id"] == "refuse":
        refused(vector["method"], vector["path"])
    elif vector["id"] in others:
        assert refused(vector["method"], vector["path"]).members["surface"] == vector["id"]
    elif vector["path"].startswith("/api/2014-01-01/"):  # documented for login tokens alone
        assert identify(vector["method"], vector["path"]).operation.id == vector["id"]
    else:
        call = identify(vector["method"], vector["path"])
        assert call.operation.id == vector["id"]
        assert (call.account_id is None) == vector.get("network_id_omitted", False)


NI, TX = "/api/2022-08-01", "/api/2020-10-01"


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", f"{NI}/advertisers/transactions/users.json", "unknown-operation"),
        ("GET", f"{NI}/advertisers/transactions.json", "unknown-operation"),
        ("GET", f"{NI}/networks/transactions/js_tags.json", "unknown-operation"),
        ("GET", f"{TX}/transactions/33.json", "unknown-operation"),
        ("GET", f"{TX}/transcations/33.json", "unknown-operation"),
        ("GET", f"{TX}/networks/transactions/033.json", "unknown-operation"),
        ("GET", f"{TX}/networks/transactions/+33.json", "bad-target"),
        ("GET", f"{TX}/networks/transactions/33.JSON", "unknown-operation"),
        ("GET", f"{TX}/networks/transactions/33.json.json", "unknown-operation"),
        ("GET", f"{TX}/networks/transactions/.json", "unknown-operation"),
        ("GET", f"{TX}/Networks/transactions/33.json", "unknown-operation"),
        ("GET", f"{TX}/networks/transactions/33.jsonp", "unknown-operation"),
        ("GET", f"{TX}/networks/transactions/33.xml.", "unknown-operation"),
        ("GET", "/api/2020-10-1/networks/transactions/33.json", "unknown-operation"),
        ("GET", "/API/2020-10-01/networks/transactions/33.json", "not-found"),
        ("GET", "/api/api/2022-08-01/33/advertisers.json", "unknown-operation"),
        ("GET", "/api/2022-08-01", "not-found"),
        ("GET", "/api", "not-found"),
        ("GET", "/", "not-found"),
        ("GET", f"{NI}/33/33/advertisers.json", "unknown-operation"),
        ("GET", f"{NI}/0.json", "unknown-operation"),
        ("GET", f"{NI}/33/advertisers", "unknown-operation"),
        ("GET", f"{NI}/33/networks/33/js_tags.json", "unknown-operation"),
        ("GET", f"{NI}/33/advertisers/354/transactions/33.json", "unknown-operation"),
        ("GET", f"{NI}/networks/33/js_tags/0054811245/revisions/drafts.json", "unknown-operation"),
        ("PUT", f"{NI}/networks/33/js_tags/0054811245/revisions/1.json", "method-not-allowed"),
        ("GET", f"{NI}/33/customer_phone_numbers/a.json", "unknown-operation"),
        ("POST", f"{NI}/33/network/pat%40example.com/create_access_tokens.json", "denied"),
        ("POST", f"{NI}/33/network/pat%40example.com/Create_Access_Token.json", "denied"),
        ("POST", f"{NI}/33/network/pat%40example.com/create_access_token", "denied"),
        ("POST", f"{NI}/33/network/pat%40example.com/create_access_token.xml", "denied"),
        ("POST", f"{NI}/33/create_access_token.json", "denied"),
        ("POST", "/create_access_token", "denied"),
        ("GET", f"{NI}/33/advertisers/354/users/create_access_token.json", "denied"),
        ("DELETE", f"{NI}/33/advertisers/create_access_token.json", "denied"),
    ],
)
def test_what_only_looks_like_an_operation_is_refused(method, path, kind):
    assert refused(method, path).kind == kind


@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [
        ("GET", f"{NI}/33/advertisers/transactions.json", "advertiser_read"),
        ("GET", f"{NI}/33/advertisers/acme.json.json", "advertiser_read"),
        ("GET", f"{NI}/33/advertisers/users/users.json", "advertiser_users_list"),
        ("GET", f"{NI}/33/affiliates/go_live.json", "affiliate_read"),
        ("GET", f"{NI}/33/advertisers/a%2Bb%40c.json", "advertiser_read"),
        ("GET", f"{NI}/networks/33/js_tags/1/revisions/draft.json", "js_tag_revision_read"),
    ],
)
def test_an_id_may_look_like_a_word_of_another_path(method, path, operation):
    assert identify(method, path).operation.id == operation


def test_a_wrong_method_is_told_which_ones_are_documented():
    problem = refused("DELETE", f"{NI}/33/advertisers.json")
    assert (problem.kind, dict(problem.headers)) == ("method-not-allowed", {"Allow": "GET, POST"})


def test_the_login_session_operations_are_found_and_have_no_scope():
    call = identify("POST", "/api/2099-01-01/33/affiliates/9/pat%40example.com/create_access_token.json")
    assert (call.operation.id, call.operation.scope) == ("sso_affiliate_access_token_create", None)


@pytest.mark.parametrize(
    "fact", [f for f in OPERATIONS if "replaces_whole_set" in f["tags"]], ids=lambda f: f["id"]
)
def test_a_body_with_an_array_that_replaces_a_set_makes_the_call_a_destroying_one(fact):
    call = identify(fact["methods"][0], filled(fact["path"], "json", CURRENT["network_integration"]))
    assert CATALOGUE.with_keys(call, {"name"}) is call
    for array in call.operation.replaces:
        whole = CATALOGUE.with_keys(call, {"name", array})
        assert (whole.operation.effect, whole.operation.scope) == ("destroy", "network:destroy")
        assert (whole.operation.id, whole.account_id) == (fact["id"], call.account_id)


def test_variants_hold_every_operation_and_each_destroying_reading_once():
    variants = CATALOGUE.variants()
    assert len(set(variants)) == len(variants) == 101 + 7  # the eighth destroys whatever its body holds


HEAD = '[versions]\ntransactions = ["2020-10-01"]\nnetwork_integration = ["2022-08-01"]\n'


def entry(**changes):
    fields = {
        "id": "one",
        "api": "network_integration",
        "methods": ["GET"],
        "path": "/api/{version}/{network_id}/things.{format}",
        "effect": "read",
        "account": "network_id",
    } | changes
    return "[[operation]]\n" + "".join(f"{k} = {v!r}\n" for k, v in fields.items() if v is not None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + entry() + entry(id="two"), "one already"),
        (
            HEAD
            + entry(path="/api/{version}/networks/{network_id}/a.{format}")
            + entry(id="two", path="/api/{version}/networks/{js_tag_id}/b.{format}", account=None),
            "{js_tag_id} stands where another path has {network_id}",
        ),
        (
            HEAD
            + entry(path="/api/{version}/x/{network_id}/a.{format}")
            + entry(id="two", path="/api/{version}/x/{advertiser_id}/b.{format}", account="advertiser_id"),
            "{advertiser_id} stands where another path has {network_id}",
        ),
        (HEAD + entry(account="advertiser_id_from_network"), "operation.0.account: is not an account"),
        (HEAD + entry(account="advertiser_id"), "account: is not in the path"),
        (HEAD + entry() + entry(path="/api/{version}/{network_id}/others.{format}"), "one is there twice"),
        (HEAD + entry(path="/v2/{network_id}/things.{format}"), "path: has to begin with /api/{version}/"),
        (HEAD + entry(path="/api/{version}/{network_id}/things.json"), "path: has to end with .{format}"),
        (HEAD + entry(methods=[]), "methods: must not be empty"),
        (HEAD + entry(effect="look"), "effect: expected one of"),
        (HEAD + entry(api="transactoins"), "api: expected one of"),
        (HEAD + entry(colour="red"), "colour: is not a setting"),
        (
            '[versions]\ntransactions = ["2020-10-01"]\n' + entry(),
            "versions: names none for network_integration",
        ),
        ('[versions]\ntransactions = ["latest"]\n', "versions.transactions: 'latest' is not a date"),
        (entry(), "operation"),
        ("[versions\n", "operations.toml:1: not TOML"),
    ],
    ids=lambda value: value if len(value) < 80 else None,
)
def test_a_catalogue_with_a_fault_is_refused_in_words(text, says):
    with pytest.raises(ConfigError) as caught:
        Catalogue.load(text, "operations.toml")
    assert says in str(caught.value)
