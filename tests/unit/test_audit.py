"""The decision record: what a line holds, and what happens when it cannot be written."""

from __future__ import annotations

import errno
import json
import os
import resource
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network

import pytest

from gateway.audit import Recorder
from gateway.model import Account, AuditEvent, Call, Decision, Operation, Owner, PolicyRef, Principal
from gateway.problem import Problem

NOW = 1_800_000_000.0
PRINCIPAL = Principal(
    "tok_1",
    Owner("usr_1", Account("network", "33", "33"), "super", True),
    frozenset({"network:write"}),
    2_000_000_000,
    frozenset({"network:33"}),
    (ip_network("203.0.113.0/24"),),
)
OPERATION = Operation(
    "advertiser_update", "network_integration", "write", "network:write", "current", ("PUT",), "/x", ("json",)
)
POLICY = PolicyRef("network-integration-write", "permit", "reason", "P9", "access.cedar", 3)
DECISION = Decision(True, (POLICY,))
ALWAYS = {"v", "time", "event", "request_id", "surface", "client", "method", "policy_digest"}
WHO = {"token_id", "owner", "account", "network", "role", "administrator", "scopes"}
WHAT = {
    "act",
    "subject",
    "operation",
    "effect",
    "version",
    "path_account",
    "relation",
    "decision",
    "policies",
}
END = {"status", "problem", "upstream_status", "outcome", "bytes_in", "bytes_out", "duration_ms"}


def an_event(**changes):
    event = AuditEvent("r1", NOW - 0.25, method="PUT", client="::1")
    for name, value in changes.items():
        setattr(event, name, value)
    return event


def a_full_event():
    return an_event(
        principal=PRINCIPAL, call=Call(OPERATION, "2022-08-01", "33", "json"), decision=Decision(True, (POLICY,)),
        relation="own", act="token.exposed", subject="tok_2", status=200, problem="denied", upstream_status=200,
        bytes_in=7, bytes_out=9, outcome="cut",
    )  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "records.jsonl"


@pytest.fixture
def recorder(path):
    made = Recorder(str(path), lambda: "digest", lambda: NOW)
    yield made
    made.close()


def lines(path):
    return [json.loads(line) for line in path.read_text().split("\n") if line]


@contextmanager
def full_after(more_bytes, path):
    """The disk full after so many bytes more, as far as this process can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_file_is_made_for_its_owner_alone(recorder, path):
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_line_holds_a_closed_set_of_fields(recorder, path):
    recorder.record(a_full_event())
    (line,) = lines(path)
    assert line.keys() == ALWAYS | WHO | WHAT | END
    assert line["time"] == "2027-01-15T08:00:00.000+00:00"
    assert (line["duration_ms"], line["policies"], line["decision"]) == (
        250.0,
        ["network-integration-write"],
        "allow",
    )
    assert (line["account"], line["role"], line["path_account"]) == ("network:33", "super", "33")
    assert (line["network"], line["administrator"], line["scopes"]) == ("33", True, "network:write")


def test_what_is_kept_of_one_relation_is_not_taken_for_another(recorder, path):
    call = Call(OPERATION, "2022-08-01", "706", "json")
    for relation in ("other", "network"):
        recorder.record(an_event(principal=PRINCIPAL, call=call, decision=DECISION, relation=relation))
    assert [line["relation"] for line in lines(path)] == ["other", "network"]


def test_what_is_not_known_is_left_out(recorder, path):
    recorder.record(an_event())
    (line,) = lines(path)
    assert line.keys() == ALWAYS | {"status", "outcome", "bytes_in", "bytes_out", "duration_ms"}


def test_what_the_shadow_would_have_decided_is_said_where_it_differs_and_only_there(recorder, path):
    event = an_event(principal=PRINCIPAL, call=a_full_event().call, decision=Decision(True, (POLICY,)))
    for shadow in (None, Decision(False, (POLICY,), "denied"), Decision(True), None):
        event.shadow = shadow
        recorder.record(event)
    recorder.flush()
    policies = ["network-integration-write"]
    assert [line.get("shadow") for line in lines(path)] == [
        None,
        {"decision": "deny", "policies": policies},
        None,
        None,
    ]


def test_a_begun_line_says_what_will_be_tried_and_not_how_it_ended(recorder, path):
    recorder.begun(a_full_event())
    (line,) = lines(path)
    assert line["event"] == "begun"
    assert line.keys() == ALWAYS | WHO | WHAT


def test_text_with_line_ends_stays_on_one_line(recorder, path):
    recorder.record(an_event(client="a\nb\u2028c", method="\x00\udcff"))
    assert path.read_bytes().count(b"\n") == 1
    assert lines(path)[0]["client"] == "a\nb\u2028c"


def test_a_full_device_is_an_alarm_unhealthy_and_refuses_changes(caplog):
    recorder = Recorder("/dev/full", lambda: "digest", lambda: NOW)
    recorder.record(an_event())
    assert (recorder.healthy, recorder.alarms) == (False, 1)
    with pytest.raises(Problem) as caught:
        recorder.begun(an_event())
    assert caught.value.kind == "record-unavailable"
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == ["record-unavailable"] * 2
    assert all(r.levelname == "ERROR" for r in caplog.records)
    recorder.close()


def test_a_line_that_fits_only_in_part_is_a_failure(recorder, path, caplog):
    recorder.record(an_event(request_id="whole"))
    with full_after(20, path), pytest.raises(Problem):
        recorder.begun(an_event(request_id="torn"))
    assert not recorder.healthy
    assert "short write" in caplog.text


def test_half_a_line_never_swallows_the_next(recorder, path):
    recorder.record(an_event(request_id="whole"))
    with full_after(20, path):
        recorder.record(an_event(request_id="torn"))
        recorder.record(an_event(request_id="lost"))
    recorder.record(an_event(request_id="after"))
    first, torn, last = [line for line in path.read_text().split("\n") if line]
    assert (json.loads(first)["request_id"], json.loads(last)["request_id"]) == ("whole", "after")
    assert len(torn) == 20


def test_a_torn_line_end_is_mended_too(recorder, path):
    with full_after(20, path):
        recorder.record(an_event(request_id="torn"))
    with full_after(1, path):
        recorder.record(an_event(request_id="only its line end fits"))
    recorder.record(an_event(request_id="after"))
    assert lines_that_parse(path) == ["after"]


def lines_that_parse(path):
    found = []
    for line in path.read_text().split("\n"):
        try:
            found.append(json.loads(line)["request_id"])
        except ValueError:
            pass
    return found


def test_the_first_write_that_succeeds_makes_it_healthy_again(recorder, path):
    with full_after(0, path):
        recorder.record(an_event())
    assert (recorder.healthy, recorder.alarms) == (False, 1)
    recorder.begun(an_event())
    assert (recorder.healthy, recorder.alarms) == (True, 1)


@pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EIO, errno.EBADF, errno.EAGAIN, errno.EDQUOT, errno.EPIPE]
)
def test_every_error_of_the_system_is_a_failure_and_none_escapes(recorder, monkeypatch, code):
    def write(*_):
        raise OSError(code, "no")

    monkeypatch.setattr(os, "write", write)
    recorder.record(an_event())
    assert not recorder.healthy


def test_lines_of_two_recorders_on_one_file_do_not_mix(recorder, path):
    other = Recorder(str(path), lambda: "digest", lambda: NOW)
    for number in range(50):
        (recorder if number % 2 else other).record(an_event(request_id=str(number)))
    other.close()
    assert [line["request_id"] for line in lines(path)] == [str(number) for number in range(50)]


def test_a_dash_is_standard_output_and_stays_open(capfd):
    recorder = Recorder("-", lambda: "digest", lambda: NOW)
    recorder.record(an_event(request_id="out"))
    recorder.close()
    recorder.record(an_event(request_id="still open"))
    assert [json.loads(line)["request_id"] for line in capfd.readouterr().out.splitlines()] == [
        "out",
        "still open",
    ]


def test_allowed_reads_are_written_together_and_never_out_of_order(path):
    later = []
    made = Recorder(str(path), lambda: "digest", lambda: NOW, lambda _, act: later.append(act))
    read = Call(replace(OPERATION, effect="read"), "2022-08-01", "33", "json")
    made.record(an_event(call=read, request_id="r1"))
    made.record(an_event(call=read, request_id="r2"))
    assert lines(path) == []
    made.record(an_event(problem="denied", request_id="r3"))
    assert [line["request_id"] for line in lines(path)] == ["r1", "r2", "r3"]
    made.record(an_event(call=read, request_id="r4"))
    later[-1]()
    assert [line["request_id"] for line in lines(path)] == ["r1", "r2", "r3", "r4"]
    made.record(an_event(call=read, request_id="r5"))
    made.close()
    assert lines(path)[-1]["request_id"] == "r5"


def test_no_more_than_sixty_four_lines_wait(path):
    made = Recorder(str(path), lambda: "digest", lambda: NOW, lambda _, act: None)
    read = Call(replace(OPERATION, effect="read"), "2022-08-01", "33", "json")
    for _ in range(64):
        made.record(an_event(call=read))
    assert len(lines(path)) == 64
    made.close()
