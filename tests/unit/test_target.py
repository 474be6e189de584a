"""Request targets: what one parser reads like every other passes as it is, all else is refused by its kind."""

from __future__ import annotations

import pytest

from gateway.problem import Problem
from gateway.target import judge, squashed

HOST = "gateway.example.com"
PATH = "/api/2022-08-01/33/advertisers.json"


def refused(raw, host=HOST, **limits):
    with pytest.raises(Problem) as caught:
        judge(raw, host, **limits)
    return caught.value


@pytest.mark.parametrize(
    "raw",
    [
        PATH,
        "/",
        "/api/2022-08-01/33/advertisers/a%40b.example.json",
        "/api/2022-08-01/33/advertisers/%E2%82%AC%20.json",
        "/api/2022-08-01/33/advertisers/a~b_c-d..json",
        PATH + "?",
        PATH + "?limit=5&start=2",
        PATH + "?transaction_type[]=Call&transaction_type[]=Signal",
        PATH + "?transaction_type%5b%5D=Call",
        PATH + "?q=a%2fb%25",
        PATH + "?formatting=1&include_columns=$invoca_default_columns,call_source.name",
        PATH + "?next=/a/../b",
    ],
)
def test_a_target_with_one_reading_passes_to_the_byte(raw):
    target = judge(raw, HOST)
    assert target.raw == raw
    assert "/" + "/".join(target.segments) == target.path == raw.partition("?")[0]


@pytest.mark.parametrize(
    "path",
    [
        "/api/../33.json", "/api/./33.json", "/api/..", "/..", "/.", "/api/%2E%2E/33.json", "/api/%2e/33.json",
        "/api/.%2E/33.json", "/api//33.json", "//api/33.json", "/api/33.json/", "/api/33.json;x=1", "/api/;/33.json",
        "/api\\33.json", "/api/33.json#x", "#", "/api/33.json%23x", "/api/33%2Fx.json", "/api/33%2fx.json",
        "/api/33%5Cx.json", "/api/33%5cx.json", "/api/33%25x.json", "/api/33%3Bx.json", "/api/33%3Fx.json",
        "/api/33%00.json", "/api/33%0A.json", "/api/33%7F.json", "/api/33%41.json", "/api/33%4a.json",
        "/api/a%c3%a9.json", "/api/a%FF.json", "/api/a%C0%AF.json", "/api/a%ED%A0%80.json", "/api/a%", "/api/a%4",
        "/api/a%zz", "/api/a%u002e", "/api/a@b.json", "/api/a+b.json", "/api/a b.json", "/api/a\tb", "/api/a\x7f",
        "/api/a\x00", "/api/a\n", "/api/é", "/api/３３.json", "/api/a\udcff", "/api/a‮b", "/api/[a]", "/api/a'b",
        "api/33.json", "", "*", "gateway.example.com:443", "?x=1", "http:/api", "ftp://gateway.example.com/api",
    ],
)  # fmt: skip
def test_a_path_with_two_readings_is_a_bad_target(path):
    assert refused(path).kind == "bad-target"


@pytest.mark.parametrize(
    "query",
    [
        "a;b=1", "a=é", "a=%", "a=%f", "a=%zz", "a=1#x", "a= 1", "a=\x00", "a=%00", "%00=1", "a=%FF", "%C0%AF=1",
        'a="', "a=<b>", "a=\\", "a=^", "a=`", "a={b}", "a=b|c\x7f", "limit=1&limit=2", "limit=1&%6cimit=2",
        "a=1&&b=2&", "transaction_type=a&transaction_type=b", "a b=1",
    ],
)  # fmt: skip
def test_a_query_with_two_readings_is_a_bad_target(query):
    assert refused(f"{PATH}?{query}").kind == "bad-target"


@pytest.mark.parametrize(
    "name",
    [
        "oauth_token", "access_token", "refresh_token", "OAuth_Token", "oauthtoken", "oauth-token", "oauth.token",
        "oauth%5Ftoken", "oauth%255Ftoken", "%6F%61uth_token", "oauth_token[]", "oauth_token[0]", "[oauth_token]",
        "user[oauth_token]", "user[oauth_token][]", "user%5Boauth_token%5D", "a[b][c][access_token]", "oauth+token",
        "x_oauth_token", "oauth_token_2", "oauth_refresh_token", "%EF%BD%8Fauth_token", "acce%C5%BFs_token",
        "%E2%93%9Eauth_token", "oauth_%E2%80%8Btoken", "oauth%20token", "oauth_token%20",
    ],
)  # fmt: skip
def test_no_spelling_of_a_credential_parameter_passes(name):
    for query in (f"{name}=x", f"limit=5&{name}=x", name, f"{name}="):
        assert refused(f"{PATH}?{query}").kind == "credential-in-query"


@pytest.mark.parametrize(
    "name", ["_method", "format", "_METHOD", "method", "%5Fmethod", "format[]", "FORMAT", "_format"]
)
def test_a_parameter_that_overrides_the_request_is_forbidden(name):
    assert refused(f"{PATH}?{name}=x").kind == "forbidden-parameter"


@pytest.mark.parametrize(
    "name", ["token", "formats", "access", "oauth", "transaction_id", "tokenaccess", "payment_method"]
)
def test_a_parameter_that_only_resembles_one_passes(name):
    assert judge(f"{PATH}?{name}=x", HOST).raw.endswith("=x")


@pytest.mark.parametrize(
    "form", ["http://{}{}", "https://{}{}", "HTTP://{}{}", "http://GATEWAY.example.com{1}"]
)
def test_absolute_form_for_our_host_is_the_origin_form(form):
    assert judge(form.format(HOST, PATH + "?limit=5"), HOST).raw == PATH + "?limit=5"


def test_absolute_form_without_a_path_is_the_root():
    assert judge(f"http://{HOST}", HOST).segments == ("",)


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("evil.example.com", HOST), ("gateway.example.com.", HOST), ("user@gateway.example.com", HOST), ("", ""),
        ("gateway.example.com:80", HOST), ("", HOST), (HOST, ""), ("gateway.example.com\\@evil", HOST),
    ],
)  # fmt: skip
def test_absolute_form_for_another_host_is_a_bad_target(authority, host):
    assert refused(f"http://{authority}{PATH}", host).kind == "bad-target"


def test_absolute_form_is_judged_like_any_other():
    assert refused(f"http://{HOST}/api/../33.json").kind == "bad-target"
    assert refused(f"http://{HOST}{PATH}?oauth_token=x").kind == "credential-in-query"
    assert refused(f"http://{HOST}?oauth_token=x").kind == "bad-target"


def test_a_target_at_the_limit_passes_and_one_byte_more_does_not():
    assert judge("/" + "a" * 99, HOST, 100).path == "/" + "a" * 99
    assert refused("/" + "a" * 100, max_bytes=100).kind == "target-too-long"


def test_a_refusal_does_not_say_what_was_sent():
    for raw in (f"{PATH}?oauth_token=s3cret-value", "/api/s3cret-value/../x", f"{PATH}?s3cret-value=a;b"):
        assert "s3cret" not in refused(raw).detail


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("user[OAuth%5Ftoken][]", "useroauthtoken"),
        ("oauth-token", "oauthtoken"),
        ("ＯＡＵＴＨ＿ＴＯＫＥＮ", "oauthtoken"),
        ("limit", "limit"),
        ("", ""),
    ],
)
def test_a_squashed_name_keeps_nothing_that_spelling_can_vary(name, plain):
    assert squashed(name) == plain
