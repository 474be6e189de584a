"""Headers: which request heads have one reading, and which headers travel, in which direction."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from gateway.headers import bearer, client_address, is_json, judge, nominated, to_client, to_upstream, within
from gateway.problem import Problem
from gateway.tokens import PREFIX

HOST = (b"Host", b"gateway.example.com")


def head(*pairs, method="GET", version=(1, 1)):
    return judge(method, version, [HOST, *pairs])


def refused(*pairs, method="GET", version=(1, 1), host=True):
    with pytest.raises(Problem) as caught:
        judge(method, version, [*([HOST] if host else []), *pairs])
    return caught.value.kind


def test_a_plain_head_is_read():
    read = head(
        (b"authorization", b"Bearer x"), (b"CONTENT-TYPE", b"application/json"), (b"Content-Length", b"12"),
        (b"Expect", b"100-Continue"), method="PUT",
    )  # fmt: skip
    assert (read.host, read.authorization, read.content_type) == (
        "gateway.example.com",
        "Bearer x",
        "application/json",
    )
    assert (read.length, read.expects_continue) == (12, True)


@pytest.mark.parametrize(
    "name", [b"X_Y", b"X Y", b"", b"X\x00", "Xé".encode(), b"X:", b"X.Y", b"(x)", b"X\t"]
)
def test_a_header_name_is_of_letters_digits_and_hyphens(name):
    assert refused((name, b"1")) == "bad-header"


@pytest.mark.parametrize(
    "name", ["Host", "Content-Length", "Content-Type", "Transfer-Encoding", "Content-Encoding", "Expect"]
)
def test_a_header_with_one_meaning_occurs_once(name):
    value = {"Host": b"a", "Content-Length": b"1", "Transfer-Encoding": b"chunked", "Expect": b"100-continue"}
    pair = (name.encode(), value.get(name, b"identity"))
    again = (name.lower().encode(), pair[1])
    assert refused(pair, again) == "bad-header"


def test_two_credentials_are_refused_as_such():
    assert refused((b"Authorization", b"Bearer a"), (b"authorization", b"Bearer a")) == "two-credentials"


@pytest.mark.parametrize(
    ("pairs", "kind"),
    [
        ([(b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")], "bad-header"),
        ([(b"Transfer-Encoding", b"gzip, chunked")], "not-implemented"),
        ([(b"Transfer-Encoding", b"chunked, chunked")], "not-implemented"),
        ([(b"Transfer-Encoding", b"")], "not-implemented"),
        ([(b"Transfer-Encoding", b"\x0bchunked")], "not-implemented"),
        ([(b"Content-Length", b"+1")], "bad-header"),
        ([(b"Content-Length", b"-1")], "bad-header"),
        ([(b"Content-Length", b"1_0")], "bad-header"),
        ([(b"Content-Length", b"")], "bad-header"),
        ([(b"Content-Length", b"1, 1")], "bad-header"),
        ([(b"Content-Length", b"0x1")], "bad-header"),
        ([(b"Content-Length", b"9" * 16)], "bad-header"),
        ([(b"Content-Length", "１".encode())], "bad-header"),
        ([(b"Content-Encoding", b"gzip")], "unsupported-media-type"),
        ([(b"Expect", b"200-ok")], "expectation-failed"),
        ([(b"Upgrade", b"h2c")], "not-implemented"),
        ([(b"X-HTTP-Method-Override", b"DELETE")], "forbidden-parameter"),
        ([(b"x-http-method", b"DELETE")], "forbidden-parameter"),
        ([(b"X-Method-Override", b"DELETE")], "forbidden-parameter"),
        ([(b"Connection", b"close, Authorization")], "bad-header"),
        ([(b"Connection", b"HOST")], "bad-header"),
        ([(b"Connection", b"close"), (b"Connection", b" content-length ")], "bad-header"),
        ([(b"Connection", b"x_y")], "bad-header"),
    ],
)
def test_a_head_with_two_readings_is_refused(pairs, kind):
    assert refused(*pairs, method="POST") == kind


@pytest.mark.parametrize(
    "host",
    [b"", b"a b", b"a,b", b"user@a", b"a/b", b"a:port", b"a:123456", b"[::1", b"a?x", "é".encode(), b"a\\b"],
)
def test_a_host_that_is_none_is_refused(host):
    assert refused((b"Host", host), host=False) == "bad-header"


@pytest.mark.parametrize("host", [b"a", b"a.example:8080", b"127.0.0.1", b"[::1]:80"])
def test_a_host_in_its_documented_forms_passes(host):
    assert judge("GET", (1, 1), [(b"host", host)]).host == host.decode()


def test_only_http_1_0_may_leave_the_host_out():
    assert refused(host=False) == "bad-header"
    assert judge("GET", (1, 0), []).host == ""


@pytest.mark.parametrize("version", [(2, 0), (0, 9), (1, 2), (3, 0)])
def test_other_versions_are_not_spoken(version):
    assert refused(version=version) == "version-not-supported"


def test_http_1_0_carries_no_transfer_coding_and_expects_nothing():
    assert refused((b"Transfer-Encoding", b"chunked"), version=(1, 0)) == "bad-header"
    assert not head((b"Expect", b"100-continue"), version=(1, 0)).expects_continue


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("TRACE", "method-not-allowed"),
        ("CONNECT", "method-not-allowed"),
        ("BREW", "not-implemented"),
        ("get", "not-implemented"),
    ],
)
def test_methods_that_are_not_ours_are_refused(method, kind):
    assert refused(method=method) == kind


def test_the_length_of_a_chunked_body_is_unknown_and_of_none_is_zero():
    assert head((b"Transfer-Encoding", b"Chunked")).length is None
    assert head().length == 0


@pytest.mark.parametrize("text", ["Bearer abc", "bearer abc", "BEARER  abc"])
def test_a_bearer_token_is_read(text):
    assert bearer(text) == "abc"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (None, "no-credential"), ("", "no-credential"), ("Basic YTpi", "no-credential"), ("abc", "no-credential"),
        ("Bearer", "invalid-token"), ("Bearer ", "invalid-token"), ("Bearer a b", "invalid-token"),
        ("Bearera", "invalid-token"), ("Bearer\tabc", "invalid-token"), ("Bearer a,Bearer b c", "invalid-token"),
    ],
)  # fmt: skip
def test_anything_else_is_no_credential_or_a_bad_one(text, kind):
    with pytest.raises(Problem) as caught:
        bearer(text)
    assert caught.value.kind == kind


SENT = [
    HOST,
    (b"User-Agent", b"app/1.0"),
    (b"Accept-Language", b"de, en;q=0.5"),
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"gzip, br"),
    (b"Authorization", b"Bearer x"),
    (b"Cookie", b"session=1"),
    (b"Proxy-Authorization", b"Basic x"),
    (b"X-Forwarded-For", b"10.0.0.1"),
    (b"Forwarded", b"for=10.0.0.1"),
    (b"X-Original-URL", b"/admin"),
    (b"Range", b"bytes=0-1"),
    (b"If-None-Match", b"*"),
    (b"TE", b"trailers"),
    (b"Proxy", b"http://evil.example"),
    (b"Via", b"1.0 other"),
    (b"Content-Length", b"2"),
    (b"Referer", b"https://a.example/?token=x"),
]


def test_upstream_gets_the_allow_list_and_our_own_headers_with_the_credential_last():
    assert to_upstream(SENT, credential="real", form="csv", has_body=True) == (
        (b"user-agent", b"app/1.0"),
        (b"accept-language", b"de, en;q=0.5"),
        (b"accept", b"text/csv"),
        (b"accept-encoding", b"identity"),
        (b"via", b"1.1 invoca-gateway"),
        (b"content-type", b"application/json"),
        (b"authorization", b"real"),
    )


@pytest.mark.parametrize("connection", [b"user-agent", b"close, User-Agent", b" USER-AGENT\t,x"])
def test_a_nominated_header_stays_and_the_credential_never_does(connection):
    sent = to_upstream([*SENT, (b"connection", connection)], credential="real", form="json", has_body=False)
    assert b"user-agent" not in dict(sent)
    assert sent[-1] == (b"authorization", b"real")
    assert b"content-type" not in dict(sent)


@pytest.mark.parametrize(
    "value", [b"a\x00", b"a\r\nX: y", "é".encode(), b"", b"a" * 257, b"see " + PREFIX.encode()]
)
def test_a_value_that_is_not_short_printable_ascii_or_holds_a_token_stays(value):
    sent = to_upstream([(b"User-Agent", value)], credential="real", form="xml", has_body=False)
    assert b"user-agent" not in dict(sent)


def test_the_client_gets_the_allow_list_alone():
    reply = [
        (b"content-type", b"text/csv"), (b"content-language", b"en"), (b"content-disposition", b"attachment"),
        (b"set-cookie", b"a=b"), (b"www-authenticate", b"Basic"), (b"etag", b'"x"'), (b"server", b"nginx"),
        (b"location", b"/"), (b"content-length", b"5"), (b"cache-control", b"public"), (b"x-runtime", b"1"),
    ]  # fmt: skip
    assert to_client(reply) == [
        (b"Content-Type", b"text/csv"),
        (b"Content-Language", b"en"),
        (b"Content-Disposition", b"attachment"),
    ]


def test_connection_names_what_it_nominates_in_lower_case():
    assert nominated("close, X-A,\tx-b ,keep-alive,,") == {"x-a", "x-b"}


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        ("application/json", True), ("Application/JSON; charset=UTF-8", True),
        ('application/json;charset="utf-8"', True),
        ("application/json; charset=utf-16", False), ("text/json", False), ("application/json; a=b", False),
        ("application/x-www-form-urlencoded", False), ("", False), ("application/jsonx", False),
        ("application/json\n", False),
    ],
)  # fmt: skip
def test_only_json_in_utf_8_is_json(text, ok):
    assert is_json(text) is ok


PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", ["1.1.1.1"], "203.0.113.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1", "203.0.113.9, 10.0.0.7"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.8, 10.0.0.7"], "10.0.0.8"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("10.0.0.1", ["spoofed, 203.0.113.9"], "203.0.113.9"),
    ],
)
def test_the_client_is_the_first_hop_from_the_right_that_is_not_trusted(peer, forwarded, client):
    assert client_address(peer, forwarded, PROXIES) == client


@pytest.mark.parametrize("hop", ["unknown", "", "10.0.0.7:80", "_hidden", "203.0.113.9; x"])
def test_nonsense_from_a_trusted_proxy_is_a_bad_header(hop):
    with pytest.raises(Problem) as caught:
        client_address("10.0.0.1", [hop], PROXIES)
    assert caught.value.kind == "bad-header"


@pytest.mark.parametrize(
    ("address", "inside"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("11.0.0.1", False), ("", False), ("x", False)],
)
def test_an_address_lies_within_a_network_or_does_not(address, inside):
    assert within(address, PROXIES) is inside
