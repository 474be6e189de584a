"""Laws of judging: no spelling opens what another spelling closes, and nothing but a Problem ever comes out."""

from __future__ import annotations

import json
import re
from urllib.parse import quote, unquote, unquote_to_bytes

import pytest
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st

from gateway import body, headers
from gateway.config import Config
from gateway.model import ROLES, SCOPES, Account, Owner, Principal
from gateway.operation import Catalogue, CatalogueFile
from gateway.policy import ANY_MOMENT, PolicySet, packaged, relation
from gateway.problem import Problem
from gateway.target import judge
from gateway.tokens import PREFIX
from gateway.tomlfile import ConfigError, read
from tests.facts import CURRENT, OPERATIONS, filled

CATALOGUE = Catalogue.load((packaged() / "operations.toml").read_text("utf-8"), "operations.toml")
POLICIES = PolicySet.load(operations=CATALOGUE.variants())
HOST = "gateway.example.com"
OWNERS = {kind: Account(kind, number, "33") for kind, number in (("advertiser", "706"), ("affiliate", "808"))}
REPLACING = {"users", "sites"}


def samples(strategy, count):
    """So many values of a strategy, the same in every run: for laws that need a socket for each."""
    found = []

    @settings(
        max_examples=count, database=None, derandomize=True, phases=[Phase.generate], deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(value):
        found.append(value)

    collect()
    return found


def attempt(function, *given, fault=Problem):
    """What a function gives, or the fault it raises; anything else that it raises is a bug."""
    try:
        return function(*given), None
    except fault as raised:
        return None, raised


# --- Spellings of a path -----------------------------------------------------------------------------------------

SEEDS = sorted(
    {
        filled(fact[form], suffix, CURRENT[fact["api"]])
        for fact in OPERATIONS
        for form in ("path", "short_path")
        if form in fact
        for suffix in fact["formats"]
    }
)
NI_SEEDS = [path for path in SEEDS if "/transactions/" not in path]
LOGIN_SEEDS = [path for path in SEEDS if "create_access_token" in path]
METHODS = ("GET", "GET", "POST", "PUT", "DELETE")
PIECES = [
    "/", "//", "/.", "/..", "/../", "/./", "..", ".", ";", ";x=1", ";.json", "?", "#", "\\", "%2f", "%2F", "%5C", "%5c",
    "%2e", "%2E%2E", "%252e", "%252F", "%00", "%0A", "%23", "%3F", "%3B", "%20", " ", "\t", "\x00", ".json", ".csv",
    ".xml", ".JSON", "%2Ejson", "\u2215", "\uff0f", "\u2024", "\uff0e", "\u200b", "\xad", "%C2%AD", "%c0%af", "%u002e",
    "/create_access_token", "/Create%5Faccess_token.json", "/create_access_token.json", "/transactions/", "/33/", "33",
    "transactions", "advertisers/transactions/706", "/networks/", "..%2f", "%2e%2e%2f", "&", "@", ":", "+", "*", "~",
    "706",
]  # fmt: skip
SEGMENTS = [
    "api", "2020-10-01", "2022-08-01", "latest", "33", "706", "808", "33.json", "706.json", "808.csv", "advertisers",
    "affiliates", "networks", "network", "transactions", "transactions.json", "advertisers.json", "users.json", "i",
    "js_tags.json", "706.json;", "create_access_token.json", "", ".", "..", "706%2Ejson", "706.json%20",
]  # fmt: skip
EXCHANGES = [
    ("/33", "/34"), ("706", "707"), ("808", "809"), ("706", "33"), ("advertisers", "affiliates"), ("/33/", "/706/"),
    ("affiliates", "advertisers"), ("networks", "advertisers"), ("networks", "affiliates"), (".json", ".csv"),
    (".xml", ".json"), ("2020-10-01", "2022-08-01"), ("2022-08-01", "2020-10-01"), ("2022-08-01", "2016-12-01"),
    ("a.b~", "%C3%A9%40"), ("a.b~", "create_access_token"), ("a.b~", "transactions"), ("/33/", "/"), ("pat", "users"),
]  # fmt: skip
WIDE = {chr(c): chr(c + 0xFEE0) for c in range(0x21, 0x7F)}


@st.composite
def spellings(draw, seeds=SEEDS):
    """A documented path, spelled differently up to four times over."""
    path = draw(st.sampled_from(seeds))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 2, 3, 4]))):
        how = draw(st.integers(0, 11))
        at = draw(st.integers(0, max(0, len(path) - 1)))
        char = path[at : at + 1]
        if how == 0:  # percent-encode, in either case of the hex digits, once to three times
            code = "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
            code = draw(
                st.sampled_from([code, code.lower(), code.replace("%", "%25"), code.replace("%", "%2525")])
            )
            path = path[:at] + code + path[at + 1 :]
        elif how in (1, 2):
            path = path[:at] + draw(st.sampled_from(PIECES)) + path[at:]
        elif how == 3:
            path = path[:at] + path[at + 1 :]
        elif how == 4:
            path = (
                path[:at]
                + draw(st.sampled_from([char.swapcase(), WIDE.get(char, char), char + char]))
                + path[at + 1 :]
            )
        elif how == 5:
            parts = path.split("/")
            where = draw(st.integers(0, len(parts) - 1))
            parts[where : where + draw(st.integers(0, 1))] = [draw(st.sampled_from(SEGMENTS))]
            path = "/".join(parts)
        elif how == 6:
            path = (
                draw(st.sampled_from(seeds)) + draw(st.sampled_from(["/..", "", "?", ";", "#", "%3F"])) + path
            )
        elif how == 7:
            path = path + draw(st.sampled_from(PIECES))
        elif how >= 9:
            path = path.replace(*draw(st.sampled_from(EXCHANGES)), 1)
        else:
            parts = path.split("/")
            other = draw(st.sampled_from(SEEDS)).split("/")
            where = draw(st.integers(0, min(len(parts), len(other)) - 1))
            path = "/".join(parts[:where] + other[where:])
    return path


def identified(method, raw):
    return attempt(lambda: CATALOGUE.identify(method, judge(raw, HOST)))[0]


def readings(call):
    return {call.operation, CATALOGUE.with_keys(call, REPLACING).operation}


@settings(max_examples=1500, deadline=None)
@given(
    st.sampled_from(METHODS),
    spellings(),
    st.sampled_from(sorted(OWNERS)),
    st.sampled_from(ROLES),
    st.booleans(),
)
@example("GET", "/api/2020-10-01/advertisers/transactions/706.json", "advertiser", "observer", False)
@example("GET", "/api/2022-08-01/33/advertisers.json", "advertiser", "super", True)
def test_no_spelling_gives_a_non_network_user_more_than_their_own_transactions(
    method, raw, kind, role, administrator
):
    call = identified(method, raw)
    if call is None:
        return
    owner = Owner("usr_1", OWNERS[kind], role, administrator)
    principal = Principal("tok_1", owner, frozenset(SCOPES), 2**40)
    for operation in readings(call):
        for stored in (None, "33"):
            found = relation(owner, operation, call.account_id, stored)
            if POLICIES.decide(principal, operation, found, ANY_MOMENT).allowed:
                own = rf"/api/[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}/{kind}s/transactions/{owner.account.id}\.(json|csv|xml)"
                assert method == "GET"
                assert operation.api == "transactions"
                assert re.fullmatch(own, raw.partition("?")[0])


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(METHODS), spellings(LOGIN_SEEDS), st.sampled_from(ROLES), st.sampled_from(["33", None])
)
def test_no_spelling_of_a_login_token_path_is_allowed_to_anybody(method, raw, role, stored):
    call = identified(method, raw)
    if call is None:
        return
    owner = Owner("usr_1", Account("network", "33", "33"), role, True)
    principal = Principal("tok_1", owner, frozenset(SCOPES), 2**40)
    last = unquote(raw.partition("?")[0]).rsplit("/", 1)[-1]
    if last.casefold().startswith("create_access_token"):
        assert call.operation.effect == "impersonate"
        found = relation(owner, call.operation, call.account_id, stored)
        assert not POLICIES.decide(principal, call.operation, found, ANY_MOMENT).allowed


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(METHODS), spellings(), st.sampled_from(["34", "330", "3"]))
def test_no_spelling_lets_a_network_user_into_another_network(method, raw, own):
    call = identified(method, raw)
    if call is None or call.account_id is None:
        return
    owner = Owner("usr_1", Account("network", own, own), "super", True)
    found = relation(owner, call.operation, call.account_id, "33")
    principal = Principal("t", owner, frozenset(SCOPES), 2**40)
    if POLICIES.decide(principal, call.operation, found, ANY_MOMENT).allowed:
        assert f"/{own}/" in raw or f"/{own}." in raw


# --- One path, one spelling --------------------------------------------------------------------------------------


@settings(max_examples=600, deadline=None)
@given(spellings() | st.text("/.%2eEfF5cC40aA~ \u00e9é", max_size=24).map("/".__add__))
@example("/api/2022-08-01/33/advertisers/a%40b%20%E2%82%AC.json")
def test_a_path_that_passes_has_no_other_spelling_that_passes(raw):
    """So no two spellings are one path to an upstream that percent-decodes once."""
    try:
        path = judge(raw, HOST).path
    except Problem:
        return
    assert quote(unquote_to_bytes(path), safe="/-._~") == path
    assert unquote(path).count("/") == path.count("/")


def form_of(template, formats):
    """A path template as an expression that lets a placeholder be anything but a slash."""
    parts = ("[^/]+" if part.startswith("{") else re.escape(part) for part in template.split("/"))
    return re.compile("/".join(parts) + r"\.(?:" + "|".join(formats) + ")")


TEMPLATES = [
    (method, form_of(fact[name].removesuffix(".{format}"), fact["formats"]), fact["id"])
    for fact in OPERATIONS
    for method in fact["methods"]
    for name in ("path", "short_path")
    if name in fact
]


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(METHODS), spellings())
def test_what_is_identified_is_one_of_the_readings_a_decoding_upstream_could_have(method, raw):
    call = identified(method, raw)
    if call is None:
        return
    decoded = unquote(raw.partition("?")[0])
    possible = {name for verb, form, name in TEMPLATES if verb == method and form.fullmatch(decoded)}
    assert call.operation.id in possible
    apis = {CATALOGUE[name].api for name in possible}
    assert call.operation.effect == "impersonate" or len(apis) == 1 or "/advertisers/transactions" in decoded


@settings(max_examples=400, deadline=None)
@given(spellings() | st.text(max_size=40), st.booleans())
def test_what_passes_is_forwarded_to_the_byte(raw, absolute):
    try:
        assert judge(f"http://{HOST}{raw}" if absolute else raw, HOST).raw == (
            raw if raw or not absolute else "/"
        )
    except Problem:
        pass


SOUP = st.text("/.%&=?;#[]\\:@+ aoZ09_-\t\x00é\udcff", max_size=60)
raw_targets = st.one_of(
    st.text(),
    SOUP,
    SOUP.map("/".__add__),
    SOUP.map("http://gateway.example.com".__add__),
    st.binary().map(lambda raw: "/?" + raw.decode("utf-8", "surrogateescape")),
    spellings(),
)


@settings(max_examples=800, deadline=None)
@given(raw_targets, st.sampled_from([HOST, "", "a:1", "[::1]"]))
def test_judging_a_target_never_raises_anything_but_a_problem(raw, host):
    target, problem = attempt(judge, raw, host, 4096)
    if problem is not None:
        assert problem.to_problem_json()[0] in (400, 414)
        return
    for method in METHODS:
        problem = attempt(CATALOGUE.identify, method, target)[1]
        assert problem is None or problem.to_problem_json()[0] in (403, 404, 405)


# --- Credentials that hide ---------------------------------------------------------------------------------------

CREDENTIALS = ("oauth_token", "access_token", "refresh_token")


@st.composite
def disguises(draw):
    """A credential's name in another case, width, separator, nesting or bracket form."""
    name = draw(st.sampled_from(CREDENTIALS)).replace(
        "_", draw(st.sampled_from(["_", "-", ".", " ", "", "__", "_[", "\u200b"]))
    )
    widths = draw(st.lists(st.sampled_from("asuw"), min_size=len(name), max_size=len(name)))
    name = "".join(
        WIDE.get(c, c) if how == "w" else c.upper() if how == "u" else "ſ" if (c, how) == ("s", "s") else c
        for c, how in zip(name, widths, strict=True)
    )
    before = draw(st.sampled_from(["", "user[", "a[b][", "[", "x_", " ", "a[0]["]))
    after = draw(st.sampled_from(["", "]", "[]", "][]", "[0]", "_2", " "]))
    return before + name + after


def percent(draw, text, levels):
    for _ in range(levels):
        text = quote(text, safe="") if draw(st.booleans()) else "".join(f"%{b:02x}" for b in text.encode())
    return text


@settings(max_examples=500, deadline=None)
@given(st.data(), disguises())
def test_no_disguise_hides_a_credential_in_a_query(data, name):
    levels = data.draw(st.integers(1, 4))
    spelled = percent(data.draw, name, levels if len(name) < 20 else 1)
    pairs = [("limit", "5"), (spelled, data.draw(st.sampled_from(["", "x"])))]
    query = "&".join(f"{k}={v}" for k, v in data.draw(st.permutations(pairs)))
    with pytest.raises(Problem) as caught:
        judge("/api/2022-08-01/33/advertisers.json?" + query, HOST)
    assert caught.value.kind == ("credential-in-query" if len(unquote(spelled)) <= 256 else "bad-target")


def json_string(draw, text):
    escaped = draw(st.sampled_from(["none", "some", "all"]))
    if escaped == "none":
        return json.dumps(text, ensure_ascii=False)
    step = 1 if escaped == "all" else 3
    units = [text[i].encode("utf-16-be", "surrogatepass") for i in range(len(text))]
    spelled = [
        "".join(f"\\u{unit[j]:02x}{unit[j + 1]:02X}" for j in range(0, len(unit), 2)) if i % step == 0
        else json.dumps(text[i], ensure_ascii=False)[1:-1]
        for i, unit in enumerate(units)
    ]  # fmt: skip
    return '"' + "".join(spelled) + '"'


@settings(max_examples=500, deadline=None)
@given(st.data(), disguises())
def test_no_disguise_hides_a_credential_in_a_body_at_any_depth(data, name):
    name = percent(data.draw, name, data.draw(st.integers(0, 2)))
    value = data.draw(st.sampled_from(['"x"', "null", "[]", "{}"]))
    text = "{" + json_string(data.draw, name) + ": " + value + "}"
    for _ in range(data.draw(st.integers(0, 30))):
        text = data.draw(
            st.sampled_from(['{"a": 1, "b": %s}', '{"a": [%s]}', '{"a": [[1, {"x": %s}], 2]}'])
        ).replace("%s", text)
        assume(text.count("[") + text.count("{") < 60)
    with pytest.raises(Problem) as caught:
        body.judge(text.encode())
    assert caught.value.kind == ("credential-in-body" if len(name) <= 256 else "bad-body")


# --- Bodies beside an oracle -------------------------------------------------------------------------------------

FORBIDDEN = ("oauth_token", "OAuthToken", "refresh-token", "user[access_token]", "_method", "_format")
ALLOWED = (
    "a",
    "b",
    "A",
    "name",
    "users",
    "token",
    "oauth",
    "method",
    "é",
    "",
    " ",
    "𝄞",
    "a\u0301",
    '"',
    "\\",
    "\x00",
    "\x7f",
)
scalars = st.sampled_from(["0", "-1", "1.5e3", "true", "false", "null", "12345678901234567890", "1e999"])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(ALLOWED)
trees = st.recursive(
    st.tuples(st.just("scalar"), scalars)
    | st.tuples(st.just("text"), texts | st.just("\ud800") | st.just(PREFIX)),
    lambda inner: (
        st.tuples(st.just("list"), st.lists(inner, max_size=3))
        | st.tuples(
            st.just("object"), st.lists(st.tuples(st.sampled_from(ALLOWED + FORBIDDEN), inner), max_size=3)
        )
    ),
    max_leaves=8,
)


def written(draw, tree):
    kind, value = tree
    space = draw(st.sampled_from(["", " ", "\n\t"]))
    if kind == "scalar":
        return value
    if kind == "text":
        return json_string(draw, value) if "\ud800" not in value else '"\\ud800"'
    if kind == "list":
        return "[" + space + f",{space}".join(written(draw, item) for item in value) + space + "]"
    pairs = (json_string(draw, key) + space + ":" + space + written(draw, item) for key, item in value)
    return "{" + space + f"{space},".join(pairs) + space + "}"


def fine(tree, depth=1):
    """Whether a tree is what a body may be: written by hand, apart from the code under test."""
    kind, value = tree
    if kind == "scalar":
        return True
    if kind == "text":
        return value != "\ud800"
    if depth > 64:
        return False
    if kind == "list":
        return all(fine(item, depth + 1) for item in value)
    keys = [key for key, _ in value]
    return (
        len(set(keys)) == len(keys)
        and not set(keys) & set(FORBIDDEN)
        and all(fine(item, depth + 1) for _, item in value)
    )


@settings(max_examples=400, deadline=None)
@given(st.data(), trees, st.sampled_from([0, 0, 0, 1, 2, 60, 61, 62, 63, 64, 65]))
def test_a_body_passes_exactly_when_the_oracle_says_so(data, tree, levels):
    for _ in range(levels):
        tree = ("list", [tree]) if data.draw(st.booleans()) else ("object", [("a", tree)])
    raw = written(data.draw, tree).encode()
    judged, problem = attempt(body.judge, raw)
    assert (problem is None) == (tree[0] == "object" and fine(tree))
    if problem is not None:
        assert problem.kind in ("bad-body", "credential-in-body", "forbidden-parameter")
    else:
        assert judged.raw == raw
        assert judged.document == json.loads(raw)


@settings(max_examples=800, deadline=None)
@given(st.binary() | st.text('{}[]",:\\u0d8 \n1eE.+-ntf', max_size=40).map(str.encode) | st.integers(1, 100_000).map(
    lambda n: b'{"a":' + b"[" * n))  # fmt: skip
@example(b"{" + b'"a":{' * 100_000)
@example(b'{"a": ' + b"9" * 10_000 + b"}")
def test_judging_a_body_never_raises_anything_but_a_problem(raw):
    judged, problem = attempt(body.judge, raw)
    assert problem.to_problem_json()[0] == 400 if judged is None else judged.raw == raw


# --- Headers -----------------------------------------------------------------------------------------------------

NAMES = [
    b"Host", b"Authorization", b"Connection", b"Content-Length", b"Transfer-Encoding", b"Content-Type", b"Expect",
    b"User-Agent", b"Accept-Language", b"Accept", b"Cookie", b"Upgrade", b"X-HTTP-Method-Override", b"Content-Encoding",
    b"X_Y", b"X-Forwarded-For", b"Via",
]  # fmt: skip
VALUES = [
    b"gateway.example.com", b"a, b", b"close", b"user-agent, accept-language", b"Authorization", b"5", b"chunked",
    b"Bearer x", b"application/json", b"100-continue", b"identity", b"gzip", b"", b"\xff", b"a\r\nb: c", b"app/1.0",
]  # fmt: skip
UPSTREAM_NAMES = {
    b"user-agent",
    b"accept-language",
    b"accept",
    b"accept-encoding",
    b"via",
    b"content-type",
    b"authorization",
}
cased = st.sampled_from(NAMES).flatmap(lambda name: st.sampled_from([name, name.lower(), name.upper()]))
pairs = st.lists(
    st.tuples(cased | st.binary(max_size=8), st.sampled_from(VALUES) | st.binary(max_size=12)), max_size=7
)
travelling = st.tuples(cased.filter(lambda name: name.lower() in UPSTREAM_NAMES), st.just(b"app/1.0"))
nominating = st.tuples(st.sampled_from([b"Connection", b"connection"]), st.sampled_from(VALUES[2:5]))
mixed = st.tuples(pairs, st.lists(travelling | nominating, max_size=5)).map(lambda found: found[0] + found[1])
heads = pairs.map(lambda found: [(b"Host", b"a"), *found]) | pairs


@settings(max_examples=800, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "PUT", "HEAD", "TRACE", "BREW", ""]) | st.text(max_size=5),
    st.sampled_from([(1, 1), (1, 0), (2, 0)]),
    heads,
)
def test_judging_a_head_never_raises_anything_but_a_problem(method, version, raw):
    head, problem = attempt(headers.judge, method, version, raw)
    if problem is not None:
        assert 400 <= problem.to_problem_json()[0] < 600
        return
    assert len([1 for name, _ in raw if name.lower() == b"authorization"]) == (head.authorization is not None)
    assert (head.length is None) <= (not any(name.lower() == b"content-length" for name, _ in raw))
    token, problem = attempt(headers.bearer, head.authorization)
    assert problem.kind in ("no-credential", "invalid-token") if token is None else " " not in token


@settings(max_examples=500, deadline=None)
@given(heads | mixed, st.booleans(), st.sampled_from(["json", "csv", "xml"]))
def test_upstream_gets_only_allowed_names_never_nominated_ones_and_twice_is_once(raw, has_body, form):
    def sent(pairs):
        return headers.to_upstream(pairs, credential="real", form=form, has_body=has_body)

    found = sent(raw)
    names = [name for name, _ in found]
    assert set(names) <= UPSTREAM_NAMES
    assert (b"content-type" in names) == has_body
    assert (
        [pair for pair in found if pair[0] == b"authorization"]
        == [(b"authorization", b"real")]
        == [found[-1]]
    )
    nominated = {
        n.strip().lower() for name, value in raw if name.lower() == b"connection" for n in value.split(b",")
    }
    assert not nominated & {b"user-agent", b"accept-language"} & set(names)
    assert all(b" " <= bytes([c]) <= b"~" for _, value in found for c in value)
    assert sent(found) == found


@given(
    st.lists(
        st.tuples(
            st.sampled_from([n.lower() for n in NAMES] + [b"content-language", b"set-cookie", b"etag"]),
            st.binary(),
        )
    )
)
def test_the_client_gets_only_allowed_names_and_twice_is_once(reply):
    found = headers.to_client(reply)
    assert {name for name, _ in found} <= set(headers.TO_CLIENT.values())
    again = headers.to_client([(name.lower(), value) for name, value in found])
    assert again == found


# --- Settings ----------------------------------------------------------------------------------------------------

TOML_KEYS = [
    "public_url", "upstream.url", "listen.host", "listen.port", "upstream", "[upstream]", "[[operation]]", "[versions]",
    "id", "path", "methods", "account", "limits.head_timeout_s", "versions.transactions", "operation", '"a b"', "a.'b'",
    "upstream.credentials", "[listen", "record.path", "tokens.max_days",
]  # fmt: skip
TOML_VALUES = [
    "1", "-1", "0.0", "nan", "inf", "true", '"x"', '"https://a"', '"https://[::1"', '"http://[x]"', '"\\u0000"', "[]",
    "[[1]]", '["2022-08-01"]', "{a = 1}", '{"network:33" = {env = "X"}}', "2027-01-01", "9" * 30, "'''", "", "{}",
    "0x" + "f" * 4000,
    '"https://a:99999"', '"/api/{version}/{network_id}.{format}"', '"read"', '"０"',
]  # fmt: skip
soup = st.lists(
    st.tuples(st.sampled_from(TOML_KEYS), st.sampled_from(TOML_VALUES)).map(
        lambda pair: pair[0] if pair[0].startswith("[") else " = ".join(pair)
    ),
    max_size=7,
).map("\n".join)


@settings(max_examples=800, deadline=None)
@given(st.sampled_from([Config, CatalogueFile]), soup | st.text(max_size=60))
@example(Config, "a = " + "[" * 100_000)
def test_reading_a_file_never_raises_anything_but_a_config_error(cls, text):
    faults = attempt(read, cls, text, "config.toml", fault=ConfigError)[1]
    assert faults is None or all(fault.file == "config.toml" and fault.text for fault in faults.faults)


# --- The same over sockets ---------------------------------------------------------------------------------------


async def test_over_a_socket_no_spelling_gets_through_for_who_may_not(gateway, upstream):
    for number, (method, path) in enumerate(
        samples(st.tuples(st.sampled_from(METHODS), spellings(NI_SEEDS)), 150)
    ):
        line = f"{method} {path} HTTP/1.1".encode("utf-8", "surrogateescape")
        who = gateway.tokens[("advertiser", "affiliate")[number % 2]].encode()
        head = b"\r\nHost: gateway\r\nConnection: close\r\nAuthorization: Bearer " + who
        answer = await gateway.raw(line + head + b"\r\n\r\n", 1.0)
        assert not answer.startswith(b"HTTP/1.1 2"), path
        assert not upstream.journal, path


async def test_over_a_socket_what_arrives_upstream_is_what_was_sent(gateway, upstream):
    for path in samples(spellings(SEEDS), 100):
        head = f"\r\nHost: gateway\r\nConnection: close\r\nAuthorization: Bearer {gateway.tokens['network']}\r\n\r\n"
        await gateway.raw(f"GET {path} HTTP/1.1{head}".encode("utf-8", "surrogateescape"), 1.0)
        if upstream.journal:
            arrived = upstream.journal.pop().target
            if "/transactions/" in path:  # whose query is written anew
                arrived, path = arrived.partition("?")[0], path.partition("?")[0]
            assert arrived == path
        assert not upstream.journal
