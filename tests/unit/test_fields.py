"""Which names are withheld, and where addresses lead."""

from __future__ import annotations

import pytest

from gateway.fields import WINDOW, Hosts, Look, field_class, holds_users, of_a_user
from gateway.filter import Unfilterable

HOSTS = Hosts("https://cedar.invoca.net", "https://gateway.example.com")


@pytest.mark.parametrize(
    "name", ["api_key", "API-KEY", "apiKey", "_api__key", "oauth_refresh_token", "token", "Password"]
)
def test_credentials_are_secret_in_every_spelling(name):
    assert field_class(name) == "secret"


@pytest.mark.parametrize(
    "name", ["first_name", "lastName", "email_settings", "email_address", "Contact-Phone-Number", "author"]
)
def test_what_tells_who_a_user_is_is_pii(name):
    assert field_class(name) == "pii"


@pytest.mark.parametrize(
    "name",
    ["id_from_network", "role", "name", "destination_phone_number", "promo_number", "record_calls", "keypress_1",
     "authorization", "user", "url", "a_p_i_key", "can_login_via_platform", "channel"],
)  # fmt: skip
def test_everything_else_passes(name):
    assert field_class(name) is None


def test_of_a_user_more_is_withheld():
    assert all(map(of_a_user, ("name", "user_name", "FullName", "phone", "mobile-phone")))
    assert not any(map(of_a_user, ("id_from_network", "role", "rename")))
    assert holds_users("users")
    assert holds_users("User")
    assert not holds_users("user_id")


@pytest.mark.parametrize(
    ("text", "led"),
    [
        (
            "https://cedar.invoca.net/api/2022-08-01/33.json?a=b",
            "https://gateway.example.com/api/2022-08-01/33.json?a=b",
        ),
        (" HTTPS://CEDAR.INVOCA.NET:443/api/x", "https://gateway.example.com/api/x"),
        ("//www.invoca.net/api/x", "https://gateway.example.com/api/x"),
        ("https://cedar.invoca.net/api/x?oauth_token=y", None),
        ("https://cedar.invoca.net/api/../x", None),
        ("https://cedar.invoca.net/api/x#y", None),
        ("https://cedar.invoca.net/recordings/1.wav", None),
        ("https://cedar.invoca.net", None),
        ("https://cedar.invoca.net./", None),
        ("https://a.b.ringrevenue.com\\x", None),
        ("https://me@cedar.invoca.net/x", None),
        ("https://cedar.invoca.net.example.com/x", "https://cedar.invoca.net.example.com/x"),
        ("https://notinvoca.net/x", "https://notinvoca.net/x"),
        ("https://gateway.example.com/api/x", "https://gateway.example.com/api/x"),
        ("see https://cedar.invoca.net/x", "see https://cedar.invoca.net/x"),
        ("cedar.invoca.net", "cedar.invoca.net"),
        ("", ""),
    ],
)
def test_an_address_of_the_vendors_leads_through_the_gateway_or_nowhere(text, led):
    assert HOSTS.led(text) == led


def test_a_configured_host_is_the_vendors_too_and_the_gateway_is_not():
    local = Hosts("http://127.0.0.1:9", "http://127.0.0.1:8080")
    assert local.led("http://127.0.0.1:9/api/x") == "http://127.0.0.1:8080/api/x"
    assert local.led("http://127.0.0.1/page") is None
    assert local.led("http://127.0.0.1:8080/page") == "http://127.0.0.1:8080/page"


def test_the_look_goes_over_its_own_edges():
    look = Look(HOSTS.names, personal=True)
    for at in (0, WINDOW - 3, WINDOW, 2 * WINDOW - 5, 3 * WINDOW):
        body = bytearray(b"x" * 4 * WINDOW)
        body[at : at + 7] = b"API_Key"
        assert look.first(bytes(body)) == at


@pytest.mark.parametrize("users", [False, True])
@pytest.mark.parametrize("mark", ["", "_", "-", "__", "-_", "_--"])
def test_the_look_finds_joined_words_in_every_spelling(mark, users):
    pairs = ("api key", "first name", "last name", "contact phone", "object url", "prompt url")
    for personal in (False, True):
        look = Look(HOSTS.names, personal, users)
        for pair in pairs if personal else (pairs[0], *pairs[4:]):
            for name in (
                pair.replace(" ", mark),
                pair.title().replace(" ", mark),
                pair.upper().replace(" ", mark),
            ):
                assert not look.clean(f'{{"a": 1, "{name}": "x"}}'.encode()), name


@pytest.mark.parametrize("bad", [b"\0", b"\xc0", b"\xc1"])
def test_what_no_json_in_utf_8_has_is_never_clean(bad):
    look = Look(HOSTS.names, personal=True)
    for at in (0, 100, WINDOW - 1, WINDOW, WINDOW + 99):
        body = bytearray(b"x" * (WINDOW + 100))
        body[at : at + 1] = bad
        assert not look.clean(bytes(body))
        with pytest.raises(Unfilterable):
            look.first(bytes(body))


@pytest.mark.parametrize("text", ["a & b", "<b>", "caf\u00e9"])
def test_what_rails_escapes_is_not_suspicious(text):
    escaped = "".join(f"\\u{ord(c):04x}" if c in "&\u00e9" else c for c in text)
    assert Look(HOSTS.names, personal=True).first(escaped.encode()) < 0
