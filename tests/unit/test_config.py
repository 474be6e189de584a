"""Settings: every default is the closed one, and every opening without its reason is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from gateway.config import Config, Secret, is_loopback, read
from gateway.tomlfile import ConfigError

BASE = {"public_url": '"https://gateway.example.com"', "upstream.url": '"https://acme.invoca.net"'}


def text(**changes):
    """A file with these dotted keys; None leaves one out."""
    lines = BASE | {key.replace("__", "."): value for key, value in changes.items()}
    return "\n".join(f"{key} = {value}" for key, value in lines.items() if value is not None)


def config(**changes):
    return read(text(**changes), "config.toml")


def faults(**changes):
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    return [(fault.key, fault.text) for fault in caught.value.faults]


def test_every_default_is_the_closed_one():
    made = config()
    assert (made.listen.host, made.listen.trusted_proxies, made.listen.tls_terminated_by) == (
        "127.0.0.1",
        (),
        None,
    )
    assert (made.upstream.lend_network_credential, made.upstream.credentials) == (False, {})
    assert (made.admin.port, made.operations.port, made.policies.local) == (None, None, None)
    assert (made.tokens.default_days, made.limits.max_body_bytes) == (90, 1_048_576)
    assert made.limits.requests_per_minute > 0
    assert made.limits.failed_authentications_per_minute > 0


def test_the_example_file_reads_without_a_fault():
    path = Path(__file__).parents[2] / "config.example.toml"
    example = path.read_text(encoding="utf-8")
    assert tomllib.loads(example)
    assert isinstance(read(example, path.name), Config)


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"public_url": None}, "public_url", "is required"),
        ({"upstream__url": None}, "upstream.url", "is required"),
        ({"listen__host": '"0.0.0.0"'}, "listen.host", "is not loopback"),
        ({"listen__host": '""'}, "listen.host", "is not loopback"),
        ({"tokens__max_days_of": "{ agency = 5 }"}, "tokens.max_days_of.agency", "expected one of network"),
        ({"tokens__max_days_of": "{ network = 0 }"}, "tokens.max_days_of.network", "at least 1"),
        ({"tokens__max_days_of": '{ network = "5" }'}, "tokens.max_days_of.network", "expected int"),
        ({"listen__host": '"::"'}, "listen.host", "is not loopback"),
        ({"listen__host": '"gateway.example.com"'}, "listen.host", "is not loopback"),
        ({"listen__host": '"0.0.0.0"', "listen__tls_terminated_by": '""'}, "listen.host", "is not loopback"),
        ({"listen__tls_key": '"k.pem"'}, "listen.tls_certificate", "go together"),
        ({"listen__tls_certificate": '"c.pem"'}, "listen.tls_certificate", "go together"),
        ({"listen__port": "65536"}, "listen.port", "is not a port"),
        ({"listen__port": "-1"}, "listen.port", "is not a port"),
        ({"listen__workers": "0"}, "listen.workers", "between 1 and 256"),
        ({"listen__trusted_proxies": '["10.0.0.1/8"]'}, "listen.trusted_proxies", "is not a network"),
        ({"listen__trusted_proxies": '["proxy"]'}, "listen.trusted_proxies", "is not a network"),
        ({"admin__host": '"0.0.0.0"'}, "admin.host", "stays on loopback"),
        ({"operations__host": '"10.0.0.1"'}, "operations.host", "stays on loopback"),
        ({"admin__port": "70000"}, "admin.port", "is not a port"),
        ({"upstream__max_connections": "0"}, "upstream.max_connections", "at least 1"),
        ({"upstream__connect_timeout_s": "0"}, "upstream.connect_timeout_s", "above 0"),
        ({"upstream__gap_timeout_s": "nan"}, "upstream.gap_timeout_s", "above 0"),
        ({"limits__head_timeout_s": "inf"}, "limits.head_timeout_s", "finite"),
        ({"limits__max_body_bytes": "-1"}, "limits.max_body_bytes", "above 0"),
        ({"limits__requests_per_minute": "-1"}, "limits.requests_per_minute", "must not be negative"),
        ({"store__busy_timeout_s": "0.0"}, "store.busy_timeout_s", "above 0"),
        ({"tokens__default_days": "400"}, "tokens.default_days", "is beyond max_days (365)"),
        ({"tokens__exposed_hours": "0"}, "tokens.exposed_hours", "above 0"),
        ({"versions__transactions": '["latest"]'}, "versions.transactions", "is not a date"),
        ({"versions__network_integration": '["2022-8-01"]'}, "versions.network_integration", "is not a date"),
        ({"upstream__credentials": '{"33" = {env = "X"}}'}, "upstream.credentials.33", "expected an account"),
        ({"upstream__credentials": '{"network:" = {env = "X"}}'}, "upstream.credentials.network:", "an account"),
        ({"upstream__credentials": '{"network:33" = {}}'}, "upstream.credentials.network:33.env", "exactly one"),
        (
            {"upstream__credentials": '{"network:33" = {env = "X", file = "y"}}'},
            "upstream.credentials.network:33.env",
            "exactly one",
        ),
        (
            {"upstream__credentials": '{"network:33" = "a-real-token"}'},
            "upstream.credentials.network:33",
            "expected a table",
        ),
        ({"listen__tls_terminated": '"x"'}, "listen.tls_terminated", "did you mean tls_terminated_by?"),
    ],
)  # fmt: skip
def test_each_documented_refusal_names_its_key(changes, key, says):
    ((found, said),) = faults(**changes)
    assert found == key
    assert says in said


@pytest.mark.parametrize(
    "url",
    [
        "http://acme.invoca.net", "https://", "ftp://acme.invoca.net", "acme.invoca.net", "https://acme.invoca.net/api",
        "https://user:pw@acme.invoca.net", "https://acme.invoca.net?x=1", "https://acme.invoca.net#x",
        "https://acme.invoca.net:99999", "https://acme.invoca.net:0", "https://[::1", "https://acme.invoca.net:x", "",
    ],
)  # fmt: skip
def test_an_upstream_that_is_not_a_safe_origin_is_refused(url):
    ((key, _),) = faults(upstream__url=f'"{url}"')
    assert key == "upstream.url"


@pytest.mark.parametrize(
    "url",
    [
        "http://gateway.example.com", "https://gateway.example.com/", "https://gateway.example.com/x", "https://",
        "https://gateway.example.com?x", "https://gateway.example.com#x", "https://user@gateway.example.com",
        "https://[::1", "https://gateway.example.com:99999", "https://gateway.example.com:x", "HTTPS://GATEWAY.example.com",
        "https://gäteway.example.com", "https://gateway.example.com\\n", "https://a b", "", "gateway.example.com",
        "https://[:::]",
    ],
)  # fmt: skip
def test_a_public_url_that_is_not_one_plain_origin_is_refused(url):
    ((key, _),) = faults(public_url=f'"{url}"')
    assert key == "public_url"


@pytest.mark.parametrize(
    "url", ["https://gateway.example.com", "https://a:8443", "http://127.0.0.1:8080", "http://[::1]:1"]
)
def test_a_plain_origin_is_a_public_url(url):
    assert config(public_url=f'"{url}"').public_url == url


def test_an_opening_that_somebody_wrote_is_accepted():
    made = config(listen__host='"0.0.0.0"', listen__tls_terminated_by='"nginx on this host"')
    assert made.listen.host == "0.0.0.0"
    both = {"listen__tls_certificate": '"c.pem"', "listen__tls_key": '"k.pem"'}
    assert config(listen__host='"::"', **both).listen.tls_key == "k.pem"
    assert config(upstream__url='"http://127.0.0.1:9"').upstream.url.endswith(":9")
    assert config(versions__transactions='["2023-10-09"]').versions.transactions == ("2023-10-09",)


def test_relative_paths_are_meant_from_the_files_own_folder():
    changes = {"upstream__credentials": '{"network:33" = {file = "t"}, "network:34" = {env = "T"}}'}
    made = read(
        text(listen__tls_certificate='"c"', listen__tls_key='"/k"', **changes), "config.toml", Path("/etc/g")
    )
    assert (made.listen.tls_certificate, made.listen.tls_key) == ("/etc/g/c", "/k")
    assert (made.store.path, made.store.keys, made.record.path) == (
        "/etc/g/gateway.sqlite3",
        "/etc/g/keys",
        "/etc/g/records.jsonl",
    )
    assert made.upstream.credentials == {"network:33": Secret(file="/etc/g/t"), "network:34": Secret(env="T")}
    assert read(text(record__path='"-"'), "c", Path("/etc/g")).record.path == "-"


def test_a_secret_is_read_from_its_place_and_never_prints(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("  real-token\n")
    monkeypatch.setenv("REAL_TOKEN", "real-token")
    for secret in (Secret(file=str(tmp_path / "token")), Secret(env="REAL_TOKEN")):
        assert secret.value() == "real-token"
        for shown in (repr(secret), str(secret), f"{secret}", repr({"a": secret})):
            assert "real-token" not in shown


@pytest.mark.parametrize("content", [b"", b" \n", "tökén".encode(), b"a\nb", b"a\x00b"])
def test_a_secret_that_no_header_can_carry_is_refused_without_being_shown(tmp_path, content):
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(LookupError) as caught:
        Secret(file=str(tmp_path / "token")).value()
    assert str(tmp_path / "token") in str(caught.value)
    assert content.decode().strip() == "" or content.decode() not in str(caught.value)


def test_a_secret_that_is_not_there_names_its_place(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
    for secret, place in (
        (Secret(env="NO_SUCH_TOKEN"), "NO_SUCH_TOKEN"),
        (Secret(file=str(tmp_path / "x")), "/x"),
    ):
        with pytest.raises(LookupError, match=place):
            secret.value()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::", False), ("", False),
     ("0.0.0.0", False), ("localhost.example.com", False), ("127.0.0.1.example.com", False), ("2130706433", False)],
)  # fmt: skip
def test_what_stays_on_this_machine_is_known_for_certain(host, loopback):
    assert is_loopback(host) is loopback


def test_a_fault_in_one_section_hides_none_in_another():
    text = 'public_url = "ftp://x"\n[listen]\nport = "a"\nworkers = 0\n[upstream]\nurl = "https://a.b/c"\nx = 1\n'
    with pytest.raises(ConfigError) as raised:
        read(text, "config.toml")
    found = [(fault.line, fault.key) for fault in raised.value.faults]
    assert found == [
        (1, "public_url"), (3, "listen.port"), (4, "listen.workers"), (6, "upstream.url"), (7, "upstream.x")
    ]  # fmt: skip
