"""Decision records asked again: what flips, what cannot be used, and how little of a file is held."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from dataclasses import replace

import pytest

from gateway import replay
from gateway.audit import Recorder
from gateway.compile import compile
from gateway.load import load_catalogue
from gateway.model import Account, AuditEvent, Call, Decision, Moment, Operation, Owner, Principal
from gateway.policy import PolicySet, relation
from gateway.replay import MAX_LINE, Replay, Unusable, lines, parse, replay_as_dict, replay_text

NOW = 1_800_000_000.0
CATALOGUE = load_catalogue()
OPERATIONS = {(operation.id, operation.effect): operation for operation in CATALOGUE.variants()}
MEMBER = Owner("usr_1", Account("network", "33", "33"), "member", False)
PRINCIPAL = Principal("tok_1", MEMBER, frozenset({"network:read", "network:destroy"}), 2_000_000_000)
LOOKS = """@id("members-delete") @source("ours") @reason("Members may delete users of advertisers")
permit (principal, action == Action::"call", resource)
when {{ principal.role == "member" && resource.id == "advertiser_user_update" && resource.effect == "write" &&
        context.relation == "own" {0} }};"""


def table(folder=None, text=""):
    if folder is not None:
        (folder / "own.cedar").write_text(text)
    return compile(PolicySet.load(local=folder, operations=CATALOGUE.variants()), CATALOGUE.variants())


@pytest.fixture(scope="module")
def shipped():
    return table()


def recorded(folder, judge, calls, principal=PRINCIPAL, began=NOW, account_network=None):
    """The records that a gateway with these policies writes about calls."""
    path = folder / "records.jsonl"
    recorder = Recorder(str(path), lambda: judge.digest, lambda: began + 0.25)
    for number, call in enumerate(calls):
        event = AuditEvent(f"r-{number}", began, method="GET", client="192.0.2.1")
        event.principal, event.call = principal, call
        event.relation = relation(principal.owner, call.operation, call.account_id, account_network)
        event.decision = judge.decide(principal, call.operation, event.relation, Moment(began, "192.0.2.1"))
        if call.operation.effect != "read":
            recorder.begun(event)
        recorder.record(event)
    recorder.close()
    return path


def call(operation_id, effect=None, account="33"):
    operation = next(o for (name, e), o in OPERATIONS.items() if name == operation_id and effect in (None, e))
    return Call(operation, "2022-08-01", account, "json")


CALLS = [
    call("advertisers_list"),
    call("advertiser_user_update"),
    call("advertiser_delete"),
    call("advertisers_list", account="44"),
    call("advertisers_list", account=None),
    call("advertiser_update", "destroy"),
]


def again(path, judge):
    done = Replay()
    with path.open("rb") as file:
        done.read(file, path.name, judge, OPERATIONS)
    return done


def test_with_the_same_set_nothing_flips(shipped, tmp_path):
    done = again(recorded(tmp_path, shipped, CALLS), shipped)
    assert (done.judged, done.flipped, len(done.changes)) == (len(CALLS), 0, 0)
    assert done.undecided == 3  # the "begun" lines of changes: each of those has its exchange too
    assert replay_text(done).endswith("6 decisions judged again, 0 flip, 0 stay for another reason; "
        "3 records without a decision, 0 lines not usable")  # fmt: skip


@pytest.mark.parametrize("kind", ["network", "advertiser", "affiliate"])
def test_every_kind_of_owner_relation_and_scope_comes_back_as_it_was(shipped, tmp_path, kind):
    owner = Owner("usr_2", Account(kind, "706" if kind != "network" else "33", "33"), "super", True)
    calls = [
        call(name, account=account)
        for name in (
            "network_transactions_list",
            "advertiser_transactions_list",
            "affiliate_transactions_list",
        )
        for account in ("33", "706", "99")
    ]
    principal = Principal("tok_2", owner, frozenset({"transactions:read"}), 0)
    path = recorded(tmp_path, shipped, calls, principal, account_network="33")
    done = again(path, shipped)
    assert (done.judged, done.changes) == (len(calls), {})
    assert {json.loads(line)["relation"] for line in path.read_text().splitlines()} >= {"own", "other"}


def test_a_planted_change_flips_exactly_its_records(shipped, tmp_path):
    path = recorded(tmp_path, shipped, CALLS * 3)
    own = tmp_path / "own"
    own.mkdir()
    forbids = LOOKS.format("").replace("permit", "forbid").replace("members-delete", "members-do-not")
    done = again(
        path,
        table(own, forbids.replace("advertiser_user_update", "advertisers_list").replace("write", "read")),
    )
    (change,) = [change for change in done.changes if change.flipped]
    assert (change.operation, change.was_allowed, change.was_by, change.allowed, change.by) == (
        "advertisers_list", True, ("network-integration-read",), False, ("members-do-not",),
    )  # fmt: skip
    assert (done.flipped, done.changes[change]) == (3, 3)
    assert done.examples[change] == replay.Example("records.jsonl", 1, "r-0")
    assert replay_text(done).splitlines()[:3] == [
        "3  advertisers_list: allow -> deny",
        "    was by network-integration-read; now by members-do-not",
        "    first at records.jsonl:1, request r-0",
    ]


def test_a_scope_that_is_missing_keeps_a_decision_from_flipping(shipped, tmp_path):
    path = recorded(tmp_path, shipped, [call("advertiser_user_update")])
    assert json.loads(path.read_text().splitlines()[-1])["decision"] == "deny"  # network:write is not held
    own = tmp_path / "own"
    own.mkdir()
    done = again(path, table(own, LOOKS.format("")))
    assert done.flipped == 0
    (change,) = done.changes
    assert change.by == ("network-integration-write", "members-delete")


def test_what_reads_the_clock_is_asked_for_the_moment_the_request_began(shipped, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    principal = replace(PRINCIPAL, scopes=frozenset({"network:write"}))
    ends = 'context.now < datetime("2027-01-15")'
    forbid = LOOKS.format("&& " + ends).replace("permit", "forbid")
    judge = table(own, forbid)
    begins = 1_799_971_200.0  # 2027-01-15T00:00:00Z
    before = again(
        recorded(tmp_path, shipped, [call("advertiser_user_update")], principal, begins - 0.1), judge
    )
    (tmp_path / "records.jsonl").unlink()
    after = again(recorded(tmp_path, shipped, [call("advertiser_user_update")], principal, begins), judge)
    # Both lines were written after midnight: what counts is when the exchange began.
    assert (before.flipped, after.flipped) == (1, 0)


GOOD = {
    "v": 1, "time": "2027-01-15T08:00:00.250+00:00", "event": "exchange", "request_id": "r-1", "surface": "proxy",
    "client": "192.0.2.1", "method": "GET", "token_id": "tok_1", "owner": "usr_1", "account": "network:33",
    "network": "33", "role": "member", "administrator": False, "scopes": "network:read",
    "operation": "advertisers_list", "effect": "read", "version": "2022-08-01", "path_account": "33",
    "relation": "own", "decision": "allow", "policies": ["network-integration-read"], "policy_digest": "x",
    "status": 200, "outcome": "complete", "bytes_in": 0, "bytes_out": 2, "duration_ms": 250.0,
}  # fmt: skip


def line(**changes):
    fields = {name: value for name, value in (GOOD | changes).items() if value is not None}
    return json.dumps(fields).encode() + b"\n"


def test_a_whole_record_is_what_it_was_made_from():
    past = parse(line(), OPERATIONS)
    assert past is not None
    assert past.principal == Principal("tok_1", MEMBER, frozenset({"network:read"}), 0)
    assert past.moment == Moment(NOW, "192.0.2.1")
    assert (past.operation.id, past.relation, past.allowed) == ("advertisers_list", "own", True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"v":1,"time":"2027', "is not a whole line of JSON"),
        (b"\xff\xfe\n", "is not a whole line of JSON"),
        (b"[" * 100_000 + b"\n", "is not a whole line of JSON"),
        (b"\n", "is not a whole line of JSON"),
        (b'{"level": "info"}\n', "is not a decision record"),
        (b"17\n", "is not a decision record"),
        (line(v=2), "is not a decision record"),
        (line(event=7), "is not a decision record"),
        (line(operation="gone"), "names an operation that the catalogue does not have"),
        (line(effect="destroy"), "names an operation that the catalogue does not have"),
        (line(administrator=None), "lacks administrator"),
        (line(administrator="yes"), "has another value for administrator than true or false"),
        (line(relation=None), "lacks relation"),
        (line(relation="mine"), "has for relation a word there is not"),
        (line(network=None), "lacks network"),
        (line(scopes=None), "lacks scopes"),
        (line(role="king"), "has for role a word there is not"),
        (line(account="33"), "has for account a word there is not"),
        (line(decision="maybe"), "has for decision a word there is not"),
        (line(policies="x"), "has no list of policies"),
        (line(policies=["\x1b[2J"]), "has no list of policies"),
        (line(request_id="\x1b]0;x"), "has no request_id"),
        (line(time="yesterday"), "has a time that is none"),
        (line(time="2027-01-15T08:00:00"), "has a time that is none"),
        (line(duration_ms=1e30), "has a time that is none"),
        (line(duration_ms=True), "has a duration_ms that is no number"),
        (line(client="\x1b[2J"), "has a client that is no address"),
    ],
)
def test_a_line_that_is_no_whole_record_is_named_and_not_guessed_at(shipped, text, says):
    with pytest.raises(Unusable) as caught:
        parse(text, OPERATIONS)
    assert str(caught.value) == says
    done = Replay()
    done.read(io.BytesIO(line() + text.rstrip(b"\n") + b"\n" + line()), "f", shipped, OPERATIONS)
    assert (done.judged, done.unusable_lines, done.unusable) == (2, 1, [("f", 2, says)])
    assert f"f:2: {says}" in replay_text(done)


@pytest.mark.parametrize("change", [{"surface": "admin"}, {"event": "begun"}, {"decision": None}])
def test_what_decided_nothing_is_not_asked_again(change):
    assert parse(line(**change), OPERATIONS) is None


def test_twenty_lines_are_named_and_all_are_counted(shipped):
    done = Replay()
    done.read(io.BytesIO(b"torn\n" * 50), "f", shipped, OPERATIONS)
    assert (len(done.unusable), done.unusable_lines) == (20, 50)
    assert "and 30 more lines that cannot be used" in replay_text(done)


def test_a_file_may_be_packed_and_then_be_broken_off(shipped):
    packed = gzip.compress(line() * 1000)
    whole, cut, hurt = Replay(), Replay(), Replay()
    whole.read(io.BytesIO(packed + packed), "a.gz", shipped, OPERATIONS)
    cut.read(io.BytesIO(packed[:-12]), "b.gz", shipped, OPERATIONS)
    hurt.read(io.BytesIO(packed[:30] + b"\xff" * 20 + packed[50:]), "c.gz", shipped, OPERATIONS)
    assert (whole.judged, whole.faults) == (2000, [])
    assert cut.faults == [("b.gz", "is packed, and damaged or broken off")]
    assert hurt.faults == [("c.gz", "is packed, and damaged or broken off")]
    assert replay_as_dict(hurt)["faults"] == [
        {"file": "c.gz", "text": "is packed, and damaged or broken off"}
    ]


def test_a_line_without_end_is_one_line_that_cannot_be_used(shipped):
    done = Replay()
    done.read(io.BytesIO(line() + b"x" * (3 * MAX_LINE) + b"\n" + line()), "f", shipped, OPERATIONS)
    assert (done.judged, done.unusable) == (2, [("f", 2, "is not a whole line of JSON")])


class Endless(io.RawIOBase):
    """So many lines, made as they are read: a file that no memory holds."""

    def __init__(self, made, times):
        self._made, self._times, self._rest = made, times, b""

    def readable(self):
        return True

    def readinto(self, buffer):
        if not self._rest and self._times:
            self._rest, self._times = self._made(self._times), self._times - 1
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def held(shipped, made, times):
    done = Replay()
    tracemalloc.start()
    try:
        done.read(io.BufferedReader(Endless(made, times)), "f", shipped, OPERATIONS)
        return done, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_records(shipped, monkeypatch):
    monkeypatch.setattr(replay, "MAX_GROUPS", 100)
    few, less = held(shipped, lambda n: line(policies=[f"p{n}"]), 500)
    many, more = held(shipped, lambda n: line(policies=[f"p{n}"]), 5_000)
    assert (few.judged, many.judged) == (500, 5_000)
    assert (len(many.changes), many.beyond) == (100, 4_900)
    assert "4900 more records change, in more ways than are listed" in replay_text(many)
    assert more < less + 200_000


def test_lines_come_whole_whatever_their_ends():
    assert list(lines(io.BytesIO(b"a\nb\r\n\nc"))) == [b"a\n", b"b\r\n", b"\n", b"c"]


def test_a_decision_that_failed_is_recorded_as_a_denial_by_nothing(shipped):
    operation = Operation("x", "transactions", "read", None, "current", (), "", ())
    done = Replay()
    done.read(io.BytesIO(line(operation="x")), "f", shipped, {("x", "read"): operation})
    assert (done.judged, done.unusable_lines) == (0, 1)
    assert done.unusable[0][2].startswith("cannot be judged: ")
    assert Decision(False).policies == ()
