"""`demo` as scripts use it: the one line of `--json`, an upstream of one's own, workers, stopping; and the tour."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.processes import (
    NI,
    TX,
    UPSTREAM_TOKEN,
    Program,
    Programs,
    RecordingUpstream,
    ask,
    create,
    delete,
    eventually,
    free_port,
    recording_upstream,
)

NAMES = {"network_admin", "network", "advertiser", "affiliate"}
NETWORK_SCOPES = ["transactions:read", "network:read", "network:write", "network:destroy", "network:publish"]


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    with Programs(tmp_path) as made:
        yield made


@dataclass
class Demo:
    """A demo that serves in front of an upstream of the test's, with its data kept in `folder`."""

    program: Program
    upstream: RecordingUpstream
    folder: Path
    said: Any

    @property
    def url(self) -> str:
        url: str = self.said["gateway"]
        return url

    def token(self, name: str) -> str:
        text: str = self.said["tokens"][name]
        return text


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    with recording_upstream() as upstream, Programs(folder) as programs:
        program = programs.start(
            "demo", "--json", "--upstream", upstream.url, "--upstream-token", UPSTREAM_TOKEN,
            "--workers", str(request.param), "--data", str(folder / "data"),
        )  # fmt: skip
        yield Demo(program, upstream, folder, json.loads(program.line()))
        assert program.stop() == 0
        assert len(program.stdout.splitlines()) == 1


def scopes_of(demo: Demo, name: str) -> list[str]:
    scopes: list[str] = ask(demo.url, "/gateway/token", demo.token(name)).json["scopes"]
    return scopes


# --- the line


def test_the_line_has_exactly_the_keys_of_the_contract(demo):
    assert set(demo.said) == {"gateway", "admin", "upstream", "upstream_token", "tokens", "users"}
    assert set(demo.said["tokens"]) == set(demo.said["users"]) == NAMES
    assert all(set(user) == {"email", "password"} for user in demo.said["users"].values())
    assert all(demo.said["tokens"].values())
    assert all(user["email"] and user["password"] for user in demo.said["users"].values())


@pytest.mark.parametrize("name", sorted(NAMES))
def test_everybody_of_the_line_signs_in_with_their_password(demo, name):
    user = demo.said["users"][name]
    answer = ask(demo.url, "/admin/api/session", method="POST", body=user)
    assert answer.status == 201
    assert answer.json["user"]["email"] == user["email"]
    assert ask(demo.url, "/admin/api/session", method="POST", body=user | {"password": "x"}).status == 401


def test_the_line_says_where_everything_is(demo):
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", demo.url)
    assert demo.said["admin"] == demo.url + "/admin/"
    assert demo.said["upstream"] == demo.upstream.url
    assert demo.said["upstream_token"] == UPSTREAM_TOKEN


@pytest.mark.parametrize(
    ("name", "scopes"),
    [
        ("network_admin", [*NETWORK_SCOPES, "tokens:manage"]),
        ("network", NETWORK_SCOPES),
        ("advertiser", ["transactions:read"]),
        ("affiliate", ["transactions:read"]),
    ],
)
def test_each_token_holds_the_scopes_of_the_contract(demo, name, scopes):
    assert sorted(scopes_of(demo, name)) == sorted(scopes)


# --- requests


def test_a_network_token_arrives_as_exactly_the_upstream_credential(demo):
    answer = ask(demo.url, NI, demo.token("network"))
    assert (answer.status, answer.body) == (200, b"[]")
    assert demo.upstream.heads[-1].startswith(f"GET {NI} HTTP/1.1\r\n".encode())
    assert demo.upstream.fields(b"authorization") == [UPSTREAM_TOKEN.encode()]
    assert demo.token("network").encode() not in demo.upstream.heads[-1]


def test_an_advertisers_own_transactions_are_forwarded(demo):
    assert ask(demo.url, TX, demo.token("advertiser")).status == 200
    assert demo.upstream.heads[-1].startswith(f"GET {TX}?include_columns=".encode())
    assert demo.upstream.fields(b"authorization") == [UPSTREAM_TOKEN.encode()]


@pytest.mark.parametrize(
    ("name", "path", "verdict"),
    [
        ("advertiser", NI, (403, "denied")),
        ("affiliate", NI, (403, "denied")),
        ("advertiser", TX.replace("706", "707"), (403, "denied")),
        ("affiliate", TX, (403, "denied")),
        ("", NI, (401, "no-credential")),
        ("", TX, (401, "no-credential")),
    ],
)
def test_what_is_refused_sends_nothing_upstream(demo, name, path, verdict):
    before = len(demo.upstream.heads)
    answer = ask(demo.url, path, demo.token(name) if name else "")
    assert answer.verdict == verdict
    assert answer.headers["Gateway-Answer"] == verdict[1]
    assert len(demo.upstream.heads) == before


def test_the_administrators_token_makes_tokens_that_work(demo):
    made = create(demo.url, demo.token("network_admin"), scopes=["network:read"])
    assert ask(demo.url, NI, made["token"]).status == 200


# --- deleting: 40 new connections reach every worker


def test_a_token_deleted_by_the_api_is_refused_on_the_next_request(demo):
    made = create(demo.url, demo.token("network_admin"), scopes=["network:read"])
    assert {ask(demo.url, NI, made["token"]).status for _ in range(20)} == {200}
    assert delete(demo.url, demo.token("network_admin"), made["id"]).status == 204
    assert {ask(demo.url, NI, made["token"]).verdict for _ in range(40)} == {(401, "invalid-token")}


def test_a_token_deleted_by_another_process_is_refused_on_the_next_request(demo):
    config = demo.folder / "config.toml"
    config.write_text(
        f'public_url = "{demo.url}"\n[upstream]\nurl = "{demo.upstream.url}"\n'
        '[store]\npath = "data/gateway.sqlite3"\nkeys = "data/keys"\n'
    )
    made = create(demo.url, demo.token("network_admin"), scopes=["network:read"])
    assert {ask(demo.url, NI, made["token"]).status for _ in range(20)} == {200}
    (demo.folder / "command").mkdir()
    with Programs(demo.folder / "command") as programs:
        code, out, err = programs.run("token", "delete", made["id"], "--config", str(config))
    assert {ask(demo.url, NI, made["token"]).verdict for _ in range(40)} == {(401, "invalid-token")}
    assert (code, err) == (0, "")
    assert out.startswith(f"deleted: {made['id']} ")


# --- an upstream that is not up yet


def test_an_upstream_may_come_up_after_the_demo(programs):
    port = free_port()
    program = programs.start("demo", "--json", "--upstream", f"http://127.0.0.1:{port}")
    said = json.loads(program.line())
    early = ask(said["gateway"], NI, said["tokens"]["network"])
    assert early.verdict == (502, "upstream-unreachable")
    with recording_upstream(port) as upstream:
        assert ask(said["gateway"], NI, said["tokens"]["network"]).status == 200
        assert upstream.fields(b"authorization") == [said["upstream_token"].encode()]


# --- stopping


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_stop_is_quick_and_leaves_neither_process_nor_folder(programs, tmp_path, workers, stop):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = {"TMPDIR": str(temporary)}
    program = programs.start("demo", "--json", "--workers", workers, env=env)
    said = json.loads(program.line())
    assert ask(said["gateway"], NI, said["tokens"]["network"]).status == 200
    assert list(temporary.iterdir())
    assert program.stop(stop, within_s=5.0) == 0
    assert not list(temporary.iterdir())
    assert (len(program.stdout.splitlines()), program.stderr) == (1, "")


def test_an_interrupt_from_the_terminal_ends_a_demo_with_workers_as_well(programs):
    program = programs.start("demo", "--json", "--workers", "2")
    program.line()
    os.killpg(program.pid, signal.SIGINT)
    assert program.wait(5.0) == 0
    assert "Traceback" not in program.stderr


def test_a_killed_worker_of_a_demo_is_replaced_like_one_of_serve(programs):
    program = programs.start("demo", "--json", "--workers", "2")
    said = json.loads(program.line())
    first, second = program.children()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: len({*program.children()} - {first}) == 2, "another worker is there", 10.0)
    os.kill(second, signal.SIGKILL)
    eventually(lambda: answers(said["gateway"], said["tokens"]["network"]), "the new worker serves", 10.0)
    assert program.stderr.count("worker-died: exit code -9; another is started") >= 1
    assert program.stop() == 0


def answers(url: str, token: str) -> bool:
    try:
        return ask(url, NI, token).status == 200
    except (OSError, http.client.HTTPException):
        return False


def test_workers_of_a_demo_do_not_outlive_it(programs, tmp_path):
    program = programs.start("demo", "--json", "--workers", "2", "--data", str(tmp_path / "data"))
    program.line()
    program.send(signal.SIGKILL)
    assert program.wait(5.0) == -signal.SIGKILL


def test_a_demo_can_be_started_again_on_the_same_data_and_port(programs, tmp_path):
    port = free_port()
    run = ("demo", "--json", "--port", str(port), "--data", str(tmp_path / "data"))
    first = programs.start(*run)
    old = json.loads(first.line())
    assert first.stop() == 0
    new = json.loads(programs.start(*run).line())
    assert new["gateway"] == old["gateway"] == f"http://127.0.0.1:{port}"
    for said in (old, new):
        assert ask(new["gateway"], NI, said["tokens"]["network"]).status == 200


# --- the tour


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Program:
    with Programs(tmp_path_factory.mktemp("tour")) as programs:
        program = programs.start("demo", "--once")
        assert program.wait() == 0
        return program


def steps(program: Program) -> list[str]:
    """The numbered entries of the tour, each from its number to the next empty line."""
    return re.findall(r"^ ?\d+  .*?(?=\n\n)", program.stdout, re.MULTILINE | re.DOTALL)


def test_the_tour_numbers_its_steps_and_says_of_each_what_the_upstream_saw(tour):
    found = steps(tour)
    assert [int(step.split()[0]) for step in found] == list(range(1, 21))
    assert all(step.count("upstream saw: ") == 1 for step in found)
    assert all(re.search(r"^    → \d{3} ", step, re.MULTILINE) for step in found)


@pytest.mark.parametrize(
    ("number", "verdict", "saw"),
    [
        (1, "200 allowed by network-integration-read, and forwarded", "the gateway's credential"),
        (2, "403 denied by network-integration-for-network-users", "nothing"),
        (3, "200 allowed by own-transactions-read, and forwarded", "the gateway's credential"),
        (4, "403 denied by own-account-only", "nothing"),
        (9, "403 denied by no-login-for-somebody-else", "nothing"),
        (10, "401 no-credential", "nothing"),
        (13, "400 credential-in-body", "nothing"),
        (16, "403 on-behalf-of", "nothing"),
        (18, "200 allowed by own-transactions-read, and forwarded", "the gateway's credential"),
        (20, "401 invalid-token", "nothing"),
    ],
)
def test_a_step_names_the_policies_that_decided_it(tour, number, verdict, saw):
    step = steps(tour)[number - 1]
    assert f"    → {verdict}\n" in step
    assert f"    upstream saw: {saw}" in step


def test_the_tour_shows_what_is_withheld(tour):
    assert "    withheld: pii;columns=1, financial;columns=1\n" in steps(tour)[5]
    assert "withheld:" not in steps(tour)[1]


def test_the_tour_ends_with_commands_that_can_be_copied(tour):
    assert (
        len(re.findall(r"^  curl -H 'Authorization: Bearer \S+' 'http://\S+'$", tour.stdout, re.MULTILINE))
        == 2
    )


def test_the_tour_writes_no_token_to_standard_error(tour):
    assert "eyJ" not in tour.stderr
    assert tour.stderr == ""


def test_the_tour_with_an_upstream_of_ones_own_does_not_look_into_it(programs):
    with recording_upstream() as upstream:
        program = programs.start("demo", "--once", "--upstream", upstream.url, "--workers", "2")
        assert program.wait() == 0
        assert "upstream saw: (not ours to look into)" in program.stdout
        assert all(b"/api/" in head.split(b"\r\n")[0] for head in upstream.heads)


# --- asked wrongly


@pytest.mark.parametrize(
    "options",
    [
        ["--json", "--once"],
        ["--port", "70000"],
        ["--port", "-1"],
        ["--port", "eighty"],
        ["--workers", "0"],
        ["--workers", "65"],
        ["--upstream", "ftp://127.0.0.1"],
        ["--upstream", "http://upstream.example.com"],
        ["--upstream", "http://127.0.0.1:1/path"],
        ["--upstream", "http://user:pass@127.0.0.1:1"],
        ["--upstream-token", ""],
        ["--upstream-token", "two words"],
        ["--upstream-token", "line\r\nbreak"],
        ["--nonsense"],
        ["surplus"],
    ],
    ids=" ".join,
)
def test_wrong_options_are_exit_2_and_say_why(programs, options):
    code, out, err = programs.run("demo", *options)
    assert (code, out) == (2, "")
    assert re.match(r"(usage: )?invoca-gateway", err)


def test_a_port_that_is_taken_is_exit_1_and_says_so(programs):
    with recording_upstream() as taken:
        code, out, err = programs.run("demo", "--json", "--port", str(taken.port))
    assert (code, out) == (1, "")
    assert "in use" in err
    assert "Traceback" not in err
