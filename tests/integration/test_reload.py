"""Another set of policies while the program serves: real processes, real files, real signals."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.processes import (
    NI,
    Program,
    Programs,
    RecordingUpstream,
    Site,
    alive,
    ask,
    create,
    eventually,
    recording_upstream,
)

TX = "/api/2020-10-01/networks/transactions/33.json"
CHANGE = "/api/2022-08-01/33/advertisers/x-1.json"
API_OF = {NI: "network_integration", CHANGE: "network_integration", TX: "transactions"}
CLOSED_BY = {"a": "network_integration", "b": "transactions"}
"""The two sets: each closes one of the two APIs, so that every answer shows by which it was decided."""
TIMES = {1: 30, 2: 70}
"""How often the set is changed under load, by the number of workers."""
CLIENTS = 3
PIPE = "waits.cedar"


def closing_policy(name: str) -> str:
    return (
        f'@id("closed-by-{name}")\n@source("a test")\n@reason("Closed by {name}")\n'
        f'forbid (principal, action == Action::"call", resource) when {{ resource.api == "{CLOSED_BY[name]}" }};\n'
    )


@dataclass
class Reloading:
    """A program that serves with a local folder, and what tests do with both."""

    site: Site
    program: Program
    local: Path
    token: str
    workers: list[int]

    @property
    def url(self) -> str:
        return self.site.url

    def write(self, text: str, name: str = "rules.cedar") -> None:
        """Replace a file as careful programs do: written beside it, then renamed."""
        beside = self.local / f"{name}.new"
        beside.write_text(text)
        os.replace(beside, self.local / name)

    def hang_up(self) -> None:
        self.program.send(signal.SIGHUP)

    def ready(self) -> Any:
        """What readiness says of the policies."""
        answer = ask(self.url, "/readyz")
        assert answer.status == 200
        return answer.json["policies"]

    def generation(self) -> int:
        return int(self.ready()["generation"])

    def await_generation(self, wanted: int) -> None:
        eventually(
            lambda: self.generation() >= wanted, f"generation {wanted} is in force: {self.program.stderr}"
        )

    def await_outcome(self, wanted: str) -> Any:
        """Every worker says so; what one of them says."""
        eventually(
            lambda: {self.ready().get("newer", {}).get("outcome") for _ in range(8)} == {wanted},
            f"readiness tells of a reload that was {wanted}: {self.program.stderr}",
        )
        return self.ready()["newer"]

    def decided_by(self, path: str = NI) -> str:
        answer = ask(self.url, path, self.token)
        return explained(path, answer.status, answer.body)

    def compiling(self) -> int:
        """The compiling process, once there is one."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            found = [pid for pid in self.program.children() if pid not in self.workers]
            if found:
                return found[0]
        raise AssertionError(f"nothing compiles: {self.program.stderr}")

    def hold(self) -> int:
        """Ask for a reload that comes no further than a file which is a pipe; the compiling process."""
        os.mkfifo(self.local / PIPE)
        self.hang_up()
        return self.compiling()

    def reached(self) -> int:
        """Our end of the pipe, once the compiling process reads the other."""
        ends: list[int] = []

        def opened() -> bool:
            with suppress(OSError):  # nobody reads yet
                ends.append(os.open(self.local / PIPE, os.O_WRONLY | os.O_NONBLOCK))
            return bool(ends)

        eventually(opened, f"somebody reads the pipe: {self.program.stderr}")
        return ends[0]

    def let_go(self) -> None:
        """Let the compiling process read to the end of the pipe: it is empty. It holds up the next one as well."""
        os.close(self.reached())


def explained(path: str, status: int, body: bytes) -> str:
    """By which of the two sets a path was answered so. Fails for an answer that neither gives."""
    closers = [name for name, api in CLOSED_BY.items() if api == API_OF[path]]
    if status == 200:
        (other,) = set(CLOSED_BY) - set(closers)
        return other
    document = json.loads(body)
    assert (status, [p["id"] for p in document["policies"]]) == (403, [f"closed-by-{closers[0]}"]), body
    return closers[0]


@pytest.fixture(scope="module")
def upstream() -> Iterator[RecordingUpstream]:
    with recording_upstream() as made:
        yield made


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    return make_people(tmp_path_factory.mktemp("people"))


def make_people(folder: Path) -> tuple[Path, int, str]:
    """A store and keys to begin with: their folder, the port they are for, an administrator's bootstrap token."""
    with Programs(folder) as programs:
        site = Site(folder, "http://127.0.0.1:9")
        return folder, site.port, site.add_administrator(programs)


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    with Programs(tmp_path) as made:
        yield made


Start = Callable[..., Reloading]


@pytest.fixture
def start(
    tmp_path: Path, programs: Programs, upstream: RecordingUpstream, people: tuple[Path, int, str]
) -> Start:
    """Serve with set `a` in the local folder."""

    def up(workers: int = 1, policies: str = "") -> Reloading:
        return serve(tmp_path, programs, upstream, people, workers, policies)

    return up


def serve(
    folder: Path,
    programs: Programs,
    upstream: RecordingUpstream,
    people: tuple[Path, int, str],
    workers: int,
    policies: str = "",
) -> Reloading:
    made_in, port, bootstrap = people
    shutil.copytree(made_in / "keys", folder / "keys")
    for file in made_in.glob("gateway.sqlite3*"):
        shutil.copy(file, folder)
    local = folder / "local"
    local.mkdir()
    (local / "rules.cedar").write_text(closing_policy("a"))
    tables = {"listen": f"workers = {workers}", "policies": f'local = "local"\n{policies}'}
    site = Site(folder, upstream.url, port=port, **tables)
    program = site.serve(programs)
    token = create(site.url, bootstrap, scopes=["network:read", "network:write", "transactions:read"])[
        "token"
    ]
    made = Reloading(site, program, local, token, program.children())
    assert made.decided_by() == "a"
    return made


# --- never a mixture


@dataclass
class Seen:
    """One answer under load. `at_least` was the generation acknowledged before it was asked, `at_most` the one asked
    for before it was there."""

    path: str
    status: int
    body: bytes
    request_id: str
    at_least: int
    at_most: int


@dataclass
class Load:
    """Clients that do not stop asking, each on a connection of its own that is kept."""

    running: Reloading
    acknowledged: int = 0
    asked: int = 0
    over: bool = False
    seen: list[Seen] = field(default_factory=list)

    def client(self) -> None:
        with closing(self.connection()) as kept:
            while not self.over:
                for path in (NI, TX, CHANGE):
                    self.ask(kept, path)
                    time.sleep(0.015)

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.running.site.port, timeout=30)

    def ask(self, connection: http.client.HTTPConnection, path: str) -> None:
        fields = {"Authorization": f"Bearer {self.running.token}", "Content-Type": "application/json"}
        at_least = self.acknowledged
        if path == CHANGE:
            connection.request("PUT", path, b'{"name": "x"}', fields)
        else:
            connection.request("GET", path, headers=fields)
        answer = connection.getresponse()
        body = answer.read()
        request_id = answer.getheader("Gateway-Request-Id", "")
        self.seen.append(Seen(path, answer.status, body, request_id, at_least, self.asked))


@pytest.mark.parametrize("workers", TIMES)
def test_a_hundred_reloads_under_load_fail_no_request_and_mix_no_sets(start, workers, tmp_path):
    running = start(workers)
    digests = {"a": running.ready()["digest"]}
    load = Load(running)
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(load.client) for _ in range(CLIENTS)]
        try:
            for number in range(1, TIMES[workers] + 1):
                running.write(closing_policy("ab"[number % 2]))
                load.asked = number
                running.hang_up()
                eventually(
                    lambda n=number: f"generation {n}\n" in running.program.stderr, f"generation {number}"
                )
                load.acknowledged = number
                for path in (NI, TX):
                    with closing(load.connection()) as fresh:
                        load.ask(fresh, path)
                assert not any(client.done() for client in clients)
        finally:
            load.over = True
    for client in clients:
        client.result()
    assert running.program.stop() == 0
    digests["b"] = next(iter({d for d in in_force(running.program.stderr) if d != digests["a"]}))

    records = {
        r["request_id"]: r for r in map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines())
    }
    for one in load.seen:
        name = explained(one.path, one.status, one.body)
        possible = {"ab"[generation % 2] for generation in range(one.at_least, one.at_most + 1)}
        assert name in possible, f"{one} began after that set was no longer in force"
        record = records[one.request_id]
        assert record["policy_digest"] == digests[name]
        assert record["decision"] == ("allow" if one.status == 200 else "deny")
    assert len(load.seen) > TIMES[workers] * CLIENTS
    assert len({one.request_id[:16] for one in load.seen}) == workers
    assert len([one for one in load.seen if one.at_least == one.at_most]) >= TIMES[workers] * 2


def in_force(log: str) -> list[str]:
    """The digests that came into force, in order."""
    return [
        line.split("policies-loaded: ")[1].split(" ")[0]
        for line in log.splitlines()
        if "policies-loaded" in line
    ]


def test_a_request_keeps_the_set_it_began_with_while_its_body_comes(start, tmp_path):
    running = start(2)
    running.write(closing_policy("b"))
    running.hang_up()
    running.await_generation(1)
    began_with = running.ready()["digest"]
    head = (
        f"PUT {CHANGE} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {running.token}\r\n"
        'Content-Type: application/json\r\nContent-Length: 13\r\n\r\n{"name"'
    )
    with socket.create_connection(("127.0.0.1", running.site.port), 30) as slow:
        slow.sendall(head.encode())
        time.sleep(0.2)
        running.write(closing_policy("a"))
        running.hang_up()
        running.await_generation(2)
        slow.sendall(b': "x"}')
        assert slow.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert {running.decided_by() for _ in range(6)} == {"a"}
    assert running.program.stop() == 0
    lines = map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines())
    slow_ones = [line for line in lines if line.get("effect") == "write"]
    assert [line["event"] for line in slow_ones] == ["begun", "exchange"]
    assert {line["policy_digest"] for line in slow_ones} == {began_with}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_only_tried_is_replaced_together_with_what_is_in_force(start, workers, tmp_path):
    tried = tmp_path / "tried"
    tried.mkdir()
    running = start(workers, 'shadow = "tried"')
    assert ask(running.url, TX, running.token).status == 200
    (tried / "own.cedar").write_text(closing_policy("b"))
    running.hang_up()
    running.await_generation(1)
    assert {ask(running.url, TX, running.token).status for _ in range(8)} == {200}
    assert running.program.stop() == 0
    lines = map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines())
    said = [line.get("shadow", {}).get("policies") for line in lines if line.get("effect") == "read"]
    assert said == [None, None] + [["closed-by-b"]] * 8  # the first two were asked before


@pytest.mark.parametrize("workers", [1, 2])
def test_classes_of_columns_come_into_force_as_policies_do(start, upstream, workers):
    running, asked = start(workers), TX + "?include_columns=Visit%20Booked,transaction_id"

    def columns() -> set[bytes]:
        heads = len(upstream.heads)
        assert {ask(running.url, asked, running.token).status for _ in range(8)} == {200}
        return {head.split(b" ")[1].partition(b"?")[2] for head in upstream.heads[heads:]}

    assert columns() == {b"include_columns=transaction_id"}
    digest = running.ready()["digest"]
    running.write('[public]\n"Visit Booked" = ["network"]\n', "columns.toml")
    running.await_generation(1)  # noticed, without a signal
    assert columns() == {b"include_columns=Visit%20Booked%2Ctransaction_id"}
    assert running.ready()["digest"] != digest
    running.write('[public]\n"Visit Booked" = ["network"]\n[financial]\nrevenue = 1\n', "columns.toml")
    running.hang_up()
    assert running.await_outcome("refused")["faults"][0].startswith("local/columns.toml:4: ")
    assert columns() == {b"include_columns=Visit%20Booked%2Ctransaction_id"}


def test_a_fault_of_what_is_only_tried_changes_nothing_and_is_named(start, tmp_path):
    (tmp_path / "tried").mkdir()
    running = start(policies='shadow = "tried"')
    (tmp_path / "tried" / "own.cedar").write_text("forbid")
    running.write(closing_policy("b"))
    running.hang_up()
    assert running.await_outcome("refused")["faults"][0].startswith("tried/own.cedar:1: ")
    assert running.decided_by() == "a"


# --- sets that do not load

ANNOTATED = '@id("x") @source("s") @reason("r")\n'
SPOILT = {
    "a misspelt attribute": (
        "spoilt.cedar",
        "\n" + ANNOTATED + 'forbid (principal, action, resource) when { principal.rule == "super" };\n',
        "local/spoilt.cedar:2: ",
    ),
    "an operation that is none": (
        "spoilt.cedar",
        ANNOTATED
        + 'forbid (principal, action == Action::"call", resource == Operation::"advertizer_list");\n',
        "local/spoilt.cedar:2: ",
    ),
    "an id that is taken": ("spoilt.cedar", "\n\n" + closing_policy("a"), "local/spoilt.cedar:3: "),
    "a file that cannot be read": ("spoilt.cedar", None, "local/spoilt.cedar: cannot be read"),
    "an invariant that does not hold": (
        "invariants.toml",
        '\n[[invariant]]\nid = "x"\nnever = "allow"\nwhen = { effect = "read" }\nreason = "r"\nsource = "s"\n',
        "local/invariants.toml:2: x: broken by ",
    ),
}


@pytest.fixture(scope="module", params=[1, 2])
def standing(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    upstream: RecordingUpstream,
) -> Iterator[Reloading]:
    """One that every spoilt set is tried on, one after the other."""
    folder, people = tmp_path_factory.mktemp("standing"), make_people(tmp_path_factory.mktemp("people"))
    with Programs(folder) as programs:
        yield serve(folder, programs, upstream, people, request.param)


@pytest.mark.parametrize(("name", "text", "told"), SPOILT.values(), ids=SPOILT)
def test_a_set_that_does_not_load_leaves_the_old_one_and_is_named(standing, name, text, told):
    before = standing.ready()
    assert "newer" not in before
    if text is None:  # whoever runs this may read every file, but nobody reads a directory
        (standing.local / name).mkdir()
    else:
        standing.write(text, name)
    standing.hang_up()
    newer = standing.await_outcome("refused")
    assert any(fault.startswith(told) for fault in newer["faults"]), newer
    assert not any(fault.startswith("/") for fault in newer["faults"]), "a path of ours is told to everybody"
    after = standing.ready()
    del after["newer"]
    assert after == before
    assert [standing.decided_by(path) for path in (NI, TX)] == ["a", "a"]
    log = [line for line in standing.program.stderr.splitlines() if " ERROR " in line]
    assert any(f"policies-not-loaded: {standing.site.folder}/{told}" in line for line in log), log
    (standing.local / name).rmdir() if text is None else (standing.local / name).unlink()
    standing.hang_up()
    eventually(lambda: all("newer" not in standing.ready() for _ in range(6)), "nothing is behind any more")
    assert standing.generation() > before["generation"]


def test_metrics_tell_of_reloads_and_of_a_set_that_is_behind(start):
    running = start()

    def told() -> list[str]:
        lines = ask(running.url, "/metrics").body.decode().splitlines()
        return sorted(line.removeprefix("invoca_gateway_") for line in lines if line.startswith(NAMES))

    assert told() == ["policies_behind 0", "policy_generation 0"]
    running.write("forbid", "spoilt.cedar")
    running.hang_up()
    running.await_outcome("refused")
    refused = 'policy_reloads_total{outcome="refused"} 1'
    alarm = 'alarms_total{event="policies-not-loaded"} 1'
    assert told() == [alarm, "policies_behind 1", "policy_generation 0", refused]
    (running.local / "spoilt.cedar").unlink()
    running.hang_up()
    running.await_generation(1)
    loaded = 'policy_reloads_total{outcome="loaded"} 1'
    eventually(
        lambda: told() == [alarm, "policies_behind 0", "policy_generation 1", loaded, refused], "it is mended"
    )


NAMES = tuple(
    f"invoca_gateway_{name}"
    for name in ("policies_behind", "policy_generation", "policy_reloads_total", "alarms_total")
)


# --- changes that are noticed


def written(running: Reloading) -> None:
    (running.local / "rules.cedar").write_text(closing_policy("b"))


def written_and_dated_back(running: Reloading) -> None:
    path = running.local / "rules.cedar"
    stood = path.stat()
    path.write_text(
        closing_policy("a").replace('"network_integration"', '"transactions"       ').replace("-a", "-b")
    )
    os.utime(path, ns=(stood.st_atime_ns, stood.st_mtime_ns))


def renamed(running: Reloading) -> None:
    running.write(closing_policy("b"))


@pytest.mark.parametrize("change", [written, written_and_dated_back, renamed])
def test_a_changed_folder_is_noticed_without_a_signal(start, change):
    running = start()
    change(running)
    running.await_generation(1)
    assert running.decided_by() == "b"


def test_a_link_that_is_turned_is_noticed_without_a_signal(start):
    """How Kubernetes mounts a ConfigMap: files are links through one link, which alone is replaced."""
    running = start(2)
    for name in "ab":
        (running.local / f"..{name}").mkdir()
        (running.local / f"..{name}" / "rules.cedar").write_text(closing_policy(name))
    (running.local / "..data").symlink_to("..a")
    (running.local / "linked").symlink_to("..data/rules.cedar")
    os.replace(running.local / "linked", running.local / "rules.cedar")
    running.await_generation(1)
    (running.local / "..data_tmp").symlink_to("..b")
    os.replace(running.local / "..data_tmp", running.local / "..data")
    running.await_generation(2)
    assert {running.decided_by() for _ in range(8)} == {"b"}


def test_a_folder_that_stays_as_it_is_is_not_read_again(start):
    running = start()
    running.hang_up()
    running.await_generation(1)
    (running.local / ".rules.cedar.swp").write_text("an editor's")
    time.sleep(3.5)
    assert running.generation() == 1


def test_what_is_changed_while_it_is_read_never_comes_into_force_by_halves(start):
    running = start()
    running.write(closing_policy("b"))
    running.hold()
    running.write(closing_policy("a"))
    running.let_go()
    (running.local / PIPE).unlink()
    eventually(lambda: "policies-moved" in running.program.stderr, "it was noticed")
    running.await_generation(1)
    time.sleep(2.5)
    assert len(in_force(running.program.stderr)) == 1
    assert running.decided_by() == "a"


def test_a_signal_during_a_reload_is_not_lost(start):
    running = start()
    running.hold()
    running.hang_up()
    running.hang_up()
    running.let_go()
    running.await_generation(1)
    running.let_go()
    running.await_generation(2)


# --- what may go wrong meanwhile


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_are_answered_at_once_while_a_set_is_compiled(start, workers):
    running = start(workers)
    running.write(closing_policy("b"))
    running.hold()
    began = time.monotonic()
    assert {running.decided_by() for _ in range(5)} == {"a"}
    assert time.monotonic() - began < 2.0
    running.let_go()
    running.await_generation(1)
    assert running.decided_by() == "b"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_compiling_process_that_is_killed_leaves_the_old_set(start, workers):
    running = start(workers)
    running.write(closing_policy("b"))
    os.kill(running.hold(), signal.SIGKILL)
    assert "exit code -9" in running.await_outcome("failed")["faults"][0]
    assert running.decided_by() == "a"
    running.hang_up()
    running.let_go()
    running.await_generation(1)
    assert running.decided_by() == "b"


def test_a_compiling_process_that_hangs_is_given_up_and_ended(start):
    running = start(policies="reload_timeout_s = 2.0")
    running.write(closing_policy("b"))
    child = running.hold()
    assert "took longer than 2 s" in running.await_outcome("failed")["faults"][0]
    eventually(lambda: not alive(child), "the compiling process is ended")
    assert running.decided_by() == "a"
    assert ask(running.url, "/readyz").status == 200


def test_a_compiling_process_does_not_outlive_a_gateway_that_is_killed(start):
    running = start(policies="reload_timeout_s = 2.0")
    running.hold()
    os.kill(running.program.pid, signal.SIGKILL)
    running.program.wait(10.0)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_does_not_wait_for_a_reload(start, workers):
    running = start(workers)
    running.hold()
    assert running.program.stop(within_s=5.0) == 0
    assert "Traceback" not in running.program.stderr


def test_a_worker_killed_during_a_reload_comes_back_with_the_set_that_came_into_force(start):
    running = start(2)
    running.write(closing_policy("b"))
    running.hold()
    os.kill(running.workers[0], signal.SIGKILL)
    eventually(lambda: not alive(running.workers[0]), "the worker is gone")
    running.let_go()
    running.await_generation(1)
    eventually(lambda: len(running.program.children()) == 2, "two workers serve")
    assert both_say(running, lambda: running.decided_by()) == {"b"}
    assert both_say(running, running.generation) == {1}


def test_a_worker_that_died_comes_back_with_the_set_in_force_whatever_the_folder_holds(start):
    running = start(2)
    running.write(closing_policy("b"))
    running.hang_up()
    running.await_generation(1)
    running.write("forbid", "spoilt.cedar")
    running.hang_up()
    running.await_outcome("refused")
    os.kill(running.workers[0], signal.SIGKILL)
    eventually(
        lambda: len(running.program.children()) == 2 and not alive(running.workers[0]), "another is there"
    )
    assert both_say(running, lambda: running.decided_by()) == {"b"}
    assert both_say(running, lambda: running.ready()["newer"]["outcome"]) == {"refused"}


def test_a_worker_that_is_stuck_is_ended_and_holds_up_no_reload(start):
    running = start(2, "reload_timeout_s = 3.0")
    running.write(closing_policy("b"))
    os.kill(running.workers[0], signal.SIGSTOP)
    running.hang_up()
    eventually(lambda: "generation 1\n" in running.program.stderr, "the set is in force")
    assert not alive(running.workers[0])
    assert "worker-stuck" in running.program.stderr
    assert both_say(running, lambda: running.decided_by()) == {"b"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_hang_up_of_the_whole_group_ends_nobody_and_is_a_reload(start, workers):
    running = start(workers)
    running.write(closing_policy("b"))
    child = running.hold()
    end = running.reached()
    os.killpg(running.program.pid, signal.SIGHUP)
    time.sleep(0.2)
    assert set(running.program.children()) == {*running.workers, child}
    os.close(end)
    running.await_generation(1)
    running.let_go()
    running.await_generation(2)
    assert running.decided_by() == "b"


def both_say(running: Reloading, ask_one: Callable[[], Any]) -> set[Any]:
    """What is answered on many new connections, so that each of two workers is asked, once both are there."""
    said = set()
    answered: set[str] = set()
    deadline = time.monotonic() + 20
    while len(answered) < 2:
        assert time.monotonic() < deadline, "one worker alone answers"
        answered.add(ask(running.url, "/readyz").headers["Gateway-Request-Id"][:16])
    for _ in range(20):
        said.add(ask_one())
    return said
