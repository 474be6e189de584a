"""Kill -9 of a serving gateway, again and again, over one data folder: what was acknowledged stays, the rest is whole.

Odd rounds kill right after an acknowledgement; even ones at a random moment, most often with a request under way.
"""

from __future__ import annotations

import http.client
import json
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.processes import NI, Program, Programs, Site, ask, create, delete, recording_upstream

ROUNDS = 50
GONE = (OSError, http.client.HTTPException)


@dataclass
class Ledger:
    """What clients were told, by token id; what a request died for, by description or id; and what came of that.

    `unheard` are the deletions that happened and whose acknowledgement never arrived.
    """

    created: dict[str, str] = field(default_factory=dict)
    deleted: dict[str, str] = field(default_factory=dict)
    maybe_created: set[str] = field(default_factory=set)
    maybe_deleted: dict[str, str] = field(default_factory=dict)
    unheard: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    restarts_s: list[float] = field(default_factory=list)
    settled: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("happened", "did not"), 0))
    records: list[str] = field(default_factory=list)


class Story:
    """One data folder, and a gateway on it that is killed and started again."""

    def __init__(self, site: Site, programs: Programs, manager: str) -> None:
        self._site, self._programs, self._manager = site, programs, manager
        self._chance = random.Random("crash")
        self.ledger = Ledger()

    def tell(self) -> Ledger:
        for number in range(ROUNDS):
            began = time.monotonic()
            program = self._site.serve(self._programs)
            self.ledger.restarts_s.append(time.monotonic() - began)
            self._compare()
            if number % 2:
                self._kill_after_an_acknowledgement(program)
            else:
                self._kill_at_any_moment(program)
        program = self._site.serve(self._programs)
        self._compare()
        self._use_all()
        assert program.stop() == 0
        self.ledger.records = (self._site.folder / "records.jsonl").read_text().splitlines()
        return self.ledger

    def _kill_after_an_acknowledgement(self, program: Program) -> None:
        for _ in range(self._chance.randint(1, 3)):
            self._act()
        program.kill()

    def _kill_at_any_moment(self, program: Program) -> None:
        killer = threading.Timer(self._chance.uniform(0.001, 0.06), program.send, (signal.SIGKILL,))
        killer.start()
        try:
            while True:
                self._act()
        except GONE:
            pass
        finally:
            killer.join()
        program.kill()

    def _act(self) -> None:
        """Create or delete a token. Raises: when the gateway dies under it, having written that down."""
        ledger = self.ledger
        live = sorted(ledger.created.keys() - ledger.deleted.keys() - ledger.maybe_deleted.keys())
        if live and self._chance.random() < 0.45:
            victim = self._chance.choice(live)
            ledger.maybe_deleted[victim] = ledger.created[victim]
            assert delete(self._site.url, self._manager, victim).status == 204
            ledger.deleted[victim] = ledger.maybe_deleted.pop(victim)
        else:
            name = f"crash {len(ledger.created)} {self._chance.getrandbits(64):x}"
            ledger.maybe_created.add(name)
            made = create(self._site.url, self._manager, description=name, scopes=["network:read"])
            ledger.created[made["id"]] = made["token"]
            ledger.maybe_created.discard(name)

    def _compare(self) -> None:
        """Hold what the gateway lists against what was said; what was in doubt is settled by it."""
        ledger, listed = self.ledger, {row["id"]: row for row in self._listed()}
        for token_id in ledger.created.keys() - ledger.maybe_deleted.keys():
            wanted = "deleted" if token_id in ledger.deleted else "active"
            state = listed.get(token_id, {}).get("state", "missing")
            if state != wanted:
                ledger.faults.append(f"{token_id} was acknowledged as {wanted} and is {state}")
        for name in sorted(ledger.maybe_created):
            rows = [row for row in listed.values() if row["description"] == name]
            if [(row["state"], row["scopes"]) for row in rows] not in ([], [("active", ["network:read"])]):
                ledger.faults.append(f"{name} happened by halves: {rows}")
            ledger.settled["happened" if rows else "did not"] += 1
        for token_id, text in ledger.maybe_deleted.items():
            state, status = listed[token_id]["state"], ask(self._site.url, NI, text).status
            if (state, status) not in (("active", 200), ("deleted", 401)):
                ledger.faults.append(f"{token_id} is {state} and its request {status}")
            if state == "deleted":
                ledger.deleted[token_id] = text
                ledger.unheard.add(token_id)
            ledger.settled["happened" if state == "deleted" else "did not"] += 1
        ledger.maybe_created.clear()
        ledger.maybe_deleted.clear()

    def _listed(self) -> Iterator[Any]:
        after = ""
        while True:
            page = ask(self._site.url, f"/admin/api/tokens?limit=200{after}", self._manager)
            assert page.status == 200, page.body
            yield from page.json["tokens"]
            if page.json["next"] is None:
                return
            after = f"&after={page.json['next']}"

    def _use_all(self) -> None:
        for token_id, text in self.ledger.created.items():
            status = ask(self._site.url, NI, text).status
            if status != (401 if token_id in self.ledger.deleted else 200):
                self.ledger.faults.append(f"{token_id} was answered with {status}")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    folder: Path = tmp_path_factory.mktemp("crash")
    with recording_upstream() as upstream, Programs(folder) as programs:
        site = Site(folder, upstream.url)
        yield Story(site, programs, site.add_administrator(programs)).tell()


def test_every_start_after_a_crash_succeeds_and_is_quick(ledger):
    assert len(ledger.restarts_s) == ROUNDS
    assert sorted(ledger.restarts_s)[ROUNDS // 2] < 5.0


def test_what_was_acknowledged_holds_after_every_crash(ledger):
    assert not ledger.faults


def test_the_rounds_tried_what_they_are_for(ledger):
    assert len(ledger.created) > ROUNDS
    assert len(ledger.deleted) > ROUNDS // 5
    assert sum(ledger.settled.values()) > ROUNDS // 10


def test_every_record_written_before_a_crash_is_whole(ledger):
    assert all(json.loads(line)["v"] == 1 for line in ledger.records)


@pytest.mark.parametrize(("act", "book"), [("token.create", "created"), ("token.delete", "deleted")])
def test_every_acknowledged_change_has_its_record(ledger, act, book):
    records = map(json.loads, ledger.records)
    recorded = {record["subject"] for record in records if record.get("act") == act}
    assert getattr(ledger, book).keys() - ledger.unheard <= recorded
