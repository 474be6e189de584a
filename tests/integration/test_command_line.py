"""The command line as a process: what it prints, where, and its exit code (0 done, 1 faults found, 2 asked wrongly)."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.policy import packaged
from tests.processes import NI, ROOT, TX, Programs, Site, ask, create, free_port

EXAMPLE = ROOT / "config.example.toml"
ON_NI = f"GET {NI}"
PEOPLE = ("--account", "network:33", "--role", "manager")


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    with Programs(tmp_path) as made:
        yield made


# --- asked wrongly


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["serve"],
        ["check", "config.toml"],
        ["user"],
        ["user", "add", "a@example.com", "--account", "network:33"],
        ["user", "list"],
        ["user", "disable", "--config", "config.toml"],
        ["token", "delete", "--config", "config.toml"],
        ["policy", "explain", ON_NI],
        ["sandbox", "--host", "0.0.0.0"],  # every address
        ["sandbox", "--port", "65536"],
    ],
    ids=lambda words: " ".join(words) or "nothing",
)
def test_what_is_asked_wrongly_is_exit_2_without_a_trace(programs, words):
    code, _, err = programs.run(*words)
    assert code == 2
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "more",
    [
        ["--account", "33"],
        ["--account", "planet:33"],
        ["--account", "network:"],
        ["--account", "advertiser:706"],
        ["--account", "network:33", "--network", "34"],
    ],
    ids=" ".join,
)
def test_an_account_that_cannot_be_is_exit_2_and_says_what_one_is(programs, tmp_path, more):
    site = Site(tmp_path, "http://127.0.0.1:9")
    code, out, err = programs.run(*site.command("user", "add", "a@example.com"), *more)
    assert (code, out) == (2, "")
    assert re.match(r"invoca-gateway: --(account|network) has to ", err)


# --- check


def test_check_finds_no_fault_in_the_example(programs):
    code, out, err = programs.run("check", "--config", str(EXAMPLE), env={"INVOCA_TOKEN_33": "a-credential"})
    assert (code, out, err) == (0, f"{EXAMPLE}: no faults\n", "")


def test_check_says_every_fault_of_the_text_with_its_line_and_key(programs, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(
        'public_url = "http://127.0.0.1:8080"\n\n[listen]\nport = "eighty"\nwokers = 2\n\n'
        '[upstream]\nconnect_timeout_s = "long"\n'
    )
    code, out, err = programs.run("check", "--config", str(config))
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        f"{config}:4: listen.port: expected int, got 'eighty'",
        f"{config}:5: listen.wokers: is not a setting (did you mean workers?)",
        f"{config}:7: upstream.url: is required",
        f"{config}:8: upstream.connect_timeout_s: expected float, got 'long'",
    ]


def test_check_says_what_the_text_names_and_is_not_there_with_its_line_and_key(programs, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(
        'public_url = "https://gateway.example.com"\n\n[listen]\ntls_certificate = "cert.pem"\n'
        'tls_key = "key.pem"\n\n[upstream]\nurl = "https://acme.invoca.net"\nca_file = "ca.pem"\n\n'
        '[upstream.credentials]\n"network:33" = { env = "NOT_SET_ANYWHERE" }\n'
        '"advertiser:706" = { file = "nowhere" }\n\n[policies]\nlocal = "no-folder"\n'
    )
    code, out, err = programs.run("check", "--config", str(config))
    assert (code, out) == (1, "")
    places = [line.split(": ")[:2] for line in err.splitlines()]
    assert places[:5] == [
        [f"{config}:4", "listen.tls_certificate"],
        [f"{config}:5", "listen.tls_key"],
        [f"{config}:9", "upstream.ca_file"],
        [f"{config}:12", "upstream.credentials.network:33"],
        [f"{config}:13", "upstream.credentials.advertiser:706"],
    ]
    assert places[5][0] == str(tmp_path / "no-folder")


def test_check_finds_a_certificate_that_is_none(programs, tmp_path):
    config = tmp_path / "config.toml"
    (tmp_path / "cert.pem").write_text("not a certificate")
    config.write_text(
        'public_url = "https://gateway.example.com"\n[listen]\ntls_certificate = "cert.pem"\n'
        'tls_key = "cert.pem"\n[upstream]\nurl = "https://acme.invoca.net"\n'
    )
    code, _, err = programs.run("check", "--config", str(config))
    assert (code, err) == (
        1,
        f"{config}:3: listen.tls_certificate: certificate and key cannot be used: SSLError\n",
    )


def test_check_makes_nothing(programs, tmp_path):
    site = Site(tmp_path, "http://127.0.0.1:9")
    code, _, err = programs.run(*site.command("check"), env=site.env)
    assert code == 0, err
    assert {path.name for path in tmp_path.iterdir()} == {"config.toml", "program-0"}


@pytest.mark.parametrize(
    "words", [["check"], ["serve"], ["token", "list"], ["user", "add", "a@example.com", *PEOPLE]]
)
def test_a_configuration_that_is_not_there_is_exit_1_and_named(programs, tmp_path, words):
    code, out, err = programs.run(*words, "--config", str(tmp_path / "no.toml"))
    assert (code, out) == (1, "")
    assert err == f"{tmp_path / 'no.toml'}: cannot be read: FileNotFoundError\n"


# --- people and tokens


@dataclass
class Made:
    """A store with one administrator, a token of theirs, and the command line over it."""

    site: Site
    programs: Programs
    token_id: str
    secret: str

    def run(self, *words: str) -> tuple[int, str, str]:
        return self.programs.run(*self.site.command(*words[:2]), *words[2:], env=self.site.env)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("people")
    with Programs(folder) as programs:
        site = Site(folder, "http://127.0.0.1:9")
        bootstrap = site.add_administrator(programs)
        program = site.serve(programs)
        own = create(site.url, bootstrap, description="Looker nightly export")
        assert program.stop() == 0
        yield Made(site, programs, own["id"], own["token"])


def test_token_list_shows_every_token_newest_first_and_no_secret(made):
    code, out, err = made.run("token", "list")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first.startswith(f"{made.token_id}  ")
    assert first.endswith("  transactions:read  never used  Looker nightly export")
    assert "bootstrap token made by the operator" in second
    assert "eyJ" not in out


def test_token_list_as_json_is_one_object_in_a_line(made):
    code, out, _ = made.run("token", "list", "--json", "--owner", "admin@example.com")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert rows[0]["id"] == made.token_id
    members = {"id", "state", "owner", "expires_at", "scopes", "last_used", "description"}
    members.add("personal_records_per_day")
    assert all(set(row) == members for row in rows)
    assert [row["scopes"] for row in rows] == ["transactions:read", "tokens:manage"]


def test_token_list_of_somebody_unknown_is_exit_1(made):
    assert made.run("token", "list", "--owner", "x@example.com") == (
        1,
        "",
        "there is no user x@example.com\n",
    )


def records(made: Made) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (made.site.folder / "records.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("act", ["pause", "resume", "delete"])
def test_an_act_on_an_unknown_token_is_exit_1(made, act):
    assert made.run("token", act, "tok_unknown") == (1, "", "not-found: there is no token tok_unknown\n")
    last = records(made)[-1]
    assert (last["act"], last["problem"], last["outcome"]) == (f"token.{act}", "not-found", "refused")
    assert last.get("subject") is None


def test_token_pause_and_resume_stop_a_token_for_a_while(made):
    for act in ("pause", "resume"):
        for _ in range(2):
            assert made.run("token", act, made.token_id) == (
                0,
                f"{act}d: {made.token_id} Looker nightly export\n",
                "",
            )
        code, out, _ = made.run("token", "list", "--json", "--state", "paused")
        assert (code, len(out.splitlines())) == (0, 1 if act == "pause" else 0)


def test_no_command_rotates_a_token(made):
    code, out, err = made.run("token", "rotate", made.token_id)
    assert (code, out) == (2, "")
    assert "invalid choice: 'rotate'" in err


def test_token_delete_ends_a_token_once_and_says_so_again(made):
    said = (0, f"deleted: {made.token_id} Looker nightly export\n", "")
    assert made.run("token", "delete", made.token_id, "--reason", "no longer used") == said
    assert made.run("token", "delete", made.token_id) == said
    code, out, _ = made.run("token", "list", "--json")
    states = {row["id"]: row["state"] for row in map(json.loads, out.splitlines())}
    assert (code, states[made.token_id]) == (0, "deleted")
    for act in ("pause", "resume"):
        code, out, err = made.run("token", act, made.token_id)
        assert (code, out, err) == (1, "", "token-ended: The token has expired or was deleted.\n")
    mine = [record for record in records(made) if record.get("subject") == made.token_id]
    assert [(record["act"], record["outcome"]) for record in mine][-4:] == [
        ("token.delete", "complete"), ("token.delete", "complete"), ("token.pause", "refused"),
        ("token.resume", "refused"),
    ]  # fmt: skip


def test_a_user_is_added_once(made):
    code, out, err = made.run("user", "add", "twice@example.com", *PEOPLE)
    assert code == 0
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}\n", out)
    said = r"user: usr_[\w-]+ twice@example\.com network:33 manager\nactivation code, shown this once .*:\n"
    assert re.fullmatch(said, err)
    code, out, err = made.run("user", "add", " TWICE@Example.com", *PEOPLE, "--bootstrap-token")
    assert (code, out, err) == (1, "", "invalid-input: Another user has this e-mail address\n")


def test_an_account_stays_in_its_network(made):
    there = ("--account", "advertiser:706", "--network")
    assert made.run("user", "add", "one@example.com", *there, "33")[0] == 0
    code, _, err = made.run("user", "add", "two@example.com", *there, "34")
    assert (code, "already kept as belonging to another network" in err) == (1, True)


def test_a_user_is_not_added_when_their_bootstrap_token_could_not_be_made(programs, tmp_path):
    site = Site(tmp_path, "http://127.0.0.1:9")
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o755)
    run = (*site.command("user", "add", "a@example.com"), *PEOPLE, "--bootstrap-token")
    code, out, err = programs.run(*run)
    assert (code, out) == (1, "")
    assert "chmod 0700" in err
    keys.chmod(0o700)
    assert programs.run(*run)[0] == 0


def users(made: Made) -> dict[str, dict[str, Any]]:
    code, out, _ = made.run("user", "list", "--json")
    assert code == 0
    return {row["email"]: row for row in map(json.loads, out.splitlines())}


def by_code(url: str, code: str, password: str) -> int:
    return ask(url, "/admin/api/password", method="POST", body={"code": code, "password": password}).status


def signs_in(url: str, email: str, password: str) -> int:
    body = {"email": email, "password": password}
    return ask(url, "/admin/api/session", method="POST", body=body).status


def test_what_the_operator_does_to_people_is_felt_by_the_gateway_that_runs(made):
    """add → activate → disable → enable → reset, while it serves; each secret once, to standard output alone."""
    program = made.site.serve(made.programs)
    try:
        url, first, second = made.site.url, "a brand new passphrase", "another new passphrase"
        code, activation, err = made.run("user", "add", "live@example.com", *PEOPLE)
        assert (code, activation.strip() in err) == (0, False)
        assert by_code(url, activation.strip(), first) == 204
        assert by_code(url, activation.strip(), first) == 403
        assert signs_in(url, "live@example.com", first) == 201
        assert made.run("user", "disable", "LIVE@example.com")[0] == 0
        assert users(made)["live@example.com"]["state"] == "disabled"
        assert signs_in(url, "live@example.com", first) == 401
        assert made.run("user", "reset", "live@example.com")[0] == 1
        assert made.run("user", "enable", "live@example.com")[0] == 0
        assert signs_in(url, "live@example.com", first) == 201
        code, reset, err = made.run("user", "reset", "live@example.com")
        assert (code, reset.strip() in err) == (0, False)
        assert signs_in(url, "live@example.com", first) == 201
        assert by_code(url, reset.strip(), second) == 204
        assert signs_in(url, "live@example.com", first) == 401
        assert signs_in(url, "live@example.com", second) == 201
    finally:
        assert program.stop() == 0
    mine = [
        record for record in records(made) if record["surface"] == "command" and record["act"] != "user.list"
    ]
    mine = [record for record in mine if record.get("subject") == users(made)["live@example.com"]["id"]]
    assert [(record["act"], record["outcome"]) for record in mine] == [
        ("user.add", "complete"), ("user.disable", "complete"), ("user.reset", "refused"),
        ("user.enable", "complete"), ("user.reset", "complete"),
    ]  # fmt: skip
    everything = b"".join(file.read_bytes() for file in made.site.folder.glob("gateway.sqlite3*"))
    everything += (made.site.folder / "records.jsonl").read_bytes() + program.stderr.encode()
    for secret in (activation.strip(), reset.strip(), first, second):
        assert secret.encode() not in everything


def test_user_list_shows_who_and_nothing_secret(made):
    found = users(made)["admin@example.com"]
    assert found.keys() == {"id", "email", "account", "network", "role", "administrator", "state"}
    assert (found["account"], found["administrator"], found["state"]) == ("network:33", True, "active")
    code, out, err = made.run("user", "list", "--network", "33")
    assert (code, err) == (0, "")
    assert re.search(
        r"^usr_[\w-]+  active  network:33  33  super  administrator  admin@example\.com$", out, re.M
    )
    assert made.run("user", "list", "--network", "34") == (0, "", "")


@pytest.mark.parametrize("word", ["disable", "enable", "reset"])
def test_nobody_unknown_is_managed_and_the_attempt_is_recorded(made, word):
    assert made.run("user", word, "x@example.com") == (1, "", "not-found: there is no user x@example.com\n")
    last = records(made)[-1]
    assert (last["act"], last["problem"], last["outcome"]) == (f"user.{word}", "not-found", "refused")


def test_the_operator_disables_whoever_it_is_also_the_last_administrator(programs, tmp_path):
    site = Site(tmp_path, "http://127.0.0.1:9")
    bootstrap = site.add_administrator(programs)
    assert programs.run(*site.command("user", "disable", "admin@example.com"))[0] == 0
    program = site.serve(programs)
    assert ask(site.url, "/gateway/token", bootstrap).status == 401
    assert program.stop() == 0


def test_nothing_is_done_that_cannot_be_recorded(programs, tmp_path):
    site = Site(tmp_path, "http://127.0.0.1:9")
    (tmp_path / "records.jsonl").mkdir()
    code, out, err = programs.run(*site.command("user", "add", "a@example.com"), *PEOPLE)
    assert (code, out) == (1, "")
    assert err.startswith("IsADirectoryError")
    (tmp_path / "records.jsonl").rmdir()
    assert programs.run(*site.command("user", "list")) == (0, "", "")


# --- policies


@pytest.fixture
def own_set(tmp_path: Path) -> Path:
    """A copy of the shipped policies, to be changed."""
    return Path(shutil.copytree(packaged(), tmp_path / "own"))


def test_policy_test_passes_for_a_copy_of_the_shipped_set(programs, own_set):
    code, out, err = programs.run("policy", "test", str(own_set))
    assert (code, err) == (0, "")
    assert re.fullmatch(r"\d+ passed, 0 failed\n", out)


def test_policy_test_names_file_and_line_of_a_policy_that_does_not_load(programs, own_set):
    (own_set / "broken.cedar").write_text(
        '\n@id("x") @source("s") @reason("r") permit (principal, action);\n'
    )
    code, out, err = programs.run("policy", "test", str(own_set))
    assert (code, out) == (1, "")
    assert re.match(r"\S*broken\.cedar:2: ", err)
    assert "Traceback" not in err


PERMIT_ALL = '\n@id("all") @source("a test") @reason("r")\npermit (principal, action, resource);\n'
COUNTEREXAMPLE = (
    r"^\S+invariants\.toml:\d+: \S+: broken by all: (GET|POST|PUT|DELETE) /api/\S+ would be allowed to "
)


def test_policy_test_shows_a_request_that_breaks_an_invariant(programs, own_set):
    with (own_set / "access.cedar").open("a") as access:
        access.write(PERMIT_ALL)
    code, out, _ = programs.run("policy", "test", str(own_set))
    assert code == 1
    assert re.search(COUNTEREXAMPLE, out, re.MULTILINE)


@pytest.mark.parametrize("command", ["check", "serve"])
def test_policies_of_ones_own_that_break_an_invariant_are_refused(programs, tmp_path, command):
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "own.cedar").write_text(PERMIT_ALL)
    site = Site(tmp_path, "http://127.0.0.1:9", policies='local = "local"')
    code, out, err = programs.run(*site.command(command), env=site.env)
    assert (code, out) == (1, "")
    assert re.match(COUNTEREXAMPLE, err)


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_class_that_an_operator_may_not_give_a_column_is_a_fault(programs, tmp_path, command):
    (tmp_path / "local").mkdir()
    columns = tmp_path / "local" / "columns.toml"
    columns.write_text('[public]\n"Visit Booked" = ["network"]\nEmail_Address = ["network"]\n')
    site = Site(tmp_path, "http://127.0.0.1:9", policies='local = "local"')
    code, out, err = programs.run(*site.command(command), env=site.env)
    assert (code, out) == (1, "")
    assert f"{columns}:3: public.Email_Address: is spelled like email_address, which is pii" in err


def test_check_looks_at_the_shadow_policies_and_lets_them_break_invariants(programs, tmp_path):
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "own.cedar").write_text(PERMIT_ALL)
    site = Site(tmp_path, "http://127.0.0.1:9", policies='shadow = "shadow"')
    assert programs.run(*site.command("check"), env=site.env)[0] == 0
    (tmp_path / "shadow" / "own.cedar").write_text(PERMIT_ALL.replace(";", ""))
    code, out, err = programs.run(*site.command("check"), env=site.env)
    assert (code, out) == (1, "")
    assert re.match(r"\S*/shadow/own\.cedar:2: a policy ends with ;", err)


def test_policy_test_names_file_and_line_of_a_case_that_fails(programs, own_set):
    access = own_set / "cases" / "access.toml"
    access.write_text(re.sub(r'expect = "allow"', 'expect = "deny"', access.read_text(), count=1))
    code, out, _ = programs.run("policy", "test", str(own_set))
    assert code == 1
    assert re.match(r"\S*access\.toml:\d+: ", out)
    assert re.search(r"^\d+ passed, 1 failed$", out, re.MULTILINE)


def test_policy_test_as_json_counts_and_names(programs, own_set):
    access = own_set / "cases" / "access.toml"
    access.write_text(re.sub(r'expect = "allow"', 'expect = "deny"', access.read_text(), count=1))
    code, out, _ = programs.run("policy", "test", "--json", "--policies", str(own_set))
    document = json.loads(out)
    assert code == 1
    assert set(document) == {"passed", "failed", "moved", "untested"}
    assert set(document["failed"][0]) == {"name", "file", "line", "text"}


def test_policy_test_of_no_folder_is_exit_1(programs, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    assert programs.run("policy", "test", nowhere) == (1, "", f"{nowhere}: is not a folder\n")


EXPLAIN = ("policy", "explain", "--kind", "advertiser", "--account", "706", "--role", "member",
           "--scope", "transactions:read")  # fmt: skip


def test_policy_explain_says_who_decides_and_by_which_sentence(programs):
    code, out, err = programs.run(*EXPLAIN, ON_NI)
    assert (code, err) == (0, "")
    assert out.startswith("deny")
    assert "network-integration-for-network-users" in out
    assert "Only a network user's token may call the Network Integration API" in out
    assert "P3" in out


def test_policy_explain_as_json_is_the_contracts_document(programs):
    code, out, _ = programs.run(*EXPLAIN, "--json", ON_NI)
    document = json.loads(out)
    assert (code, document["decision"], document["problem"]) == (0, "deny", "denied")
    assert document["operation"] == "advertisers_list"
    policy = document["policies"][0]
    assert set(policy) == {"id", "effect", "reason", "source", "file", "line"}
    assert (policy["id"], policy["effect"]) == ("network-integration-for-network-users", "forbid")


def test_policy_explain_tells_what_is_refused_before_any_policy(programs):
    code, out, _ = programs.run(*EXPLAIN, "--json", "GET /api/2022-08-01/33/../33/advertisers.json")
    document = json.loads(out)
    assert (code, document["decision"], document["problem"]) == (0, "deny", "bad-target")
    assert document["policies"] == []


@pytest.mark.parametrize("request_line", ["", "GET", "/api", "GET  "], ids=repr)
def test_policy_explain_of_no_request_is_a_plain_denial_or_asked_wrongly(programs, request_line):
    code, _, err = programs.run(*EXPLAIN, request_line)
    assert code in (0, 2)
    assert "Traceback" not in err


# --- sandbox


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_the_sandbox_serves_both_apis_and_shows_what_arrived_until_it_is_stopped(programs, stop):
    port = free_port()
    program = programs.start("sandbox", "--port", str(port), "--credential", "the-only-one")
    assert program.line().startswith(f"sandbox: http://127.0.0.1:{port}/ ")
    url = f"http://127.0.0.1:{port}"
    assert ask(url, NI + "?oauth_token=the-only-one").status == 200
    assert ask(url, TX + "?oauth_token=the-only-one").status == 200
    assert ask(url, NI + "?oauth_token=another").status == 401
    assert len(ask(url, "/sandbox/journal").json) >= 2
    assert program.stop(stop, within_s=5.0) == 0
    assert program.stderr == ""
