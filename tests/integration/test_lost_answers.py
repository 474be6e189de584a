"""Kill -9 and ordinary stops of a serving gateway: answers that were lost are given once more by the next one, and last
uses are kept up to the last turn.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.processes import NI, Program, Programs, Site, ask, create, recording_upstream

API = "/admin/api/tokens"
SELF = "/gateway/token"
GONE = (OSError, http.client.HTTPException)


@dataclass
class Story:
    site: Site
    programs: Programs
    manager: str

    def serve(self) -> Program:
        return self.site.serve(self.programs)

    def post(self, path: str, key: str, **body: Any) -> Any:
        headers = {"Idempotency-Key": key}
        return ask(self.site.url, API + path, self.manager, method="POST", body=body, headers=headers)

    def last_used(self, token_id: str) -> str:
        """What the operator reads of a token, while nothing serves."""
        code, out, err = self.programs.run(*self.site.command("token", "list"), "--json")
        assert code == 0, err
        (row,) = [row for row in map(json.loads, out.splitlines()) if row["id"] == token_id]
        return str(row["last_used"])


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    with recording_upstream() as upstream, Programs(tmp_path) as programs:
        site = Site(tmp_path, upstream.url, listen="workers = 2")
        yield Story(site, programs, site.add_administrator(programs))


def test_an_answer_that_died_with_the_process_is_given_once_more_by_the_next(story: Story) -> None:
    keys = [str(uuid4()) for _ in range(2)]
    program = story.serve()
    body = {"description": "made before the crash", "scopes": ["network:read"]}
    made = story.post("", keys[0], **body)
    rotated = story.post(f"/{made.json['id']}/rotate", keys[1], overlap=3600)
    program.kill()
    program = story.serve()
    again = [story.post("", keys[0], **body), story.post(f"/{made.json['id']}/rotate", keys[1], overlap=3600)]
    assert [answer.status for answer in again] == [201, 201]
    assert [answer.json["token"] for answer in again] == [made.json["token"], rotated.json["token"]]
    for text in (made.json["token"], rotated.json["token"]):
        assert ask(story.site.url, NI, text).status == 200
    program.kill()
    story.serve()
    assert story.post("", keys[0], **body).verdict == (410, "answer-gone")
    assert story.post(f"/{made.json['id']}/rotate", keys[1], overlap=3600).verdict == (410, "answer-gone")


def test_a_request_that_died_is_asked_again_and_makes_one_token(story: Story) -> None:
    for number in range(3):
        key, body = str(uuid4()), {"description": f"round {number}"}
        program, first = story.serve(), None
        killer = threading.Timer(0.001 + 0.006 * number, program.kill)
        killer.start()
        try:
            first = story.post("", key, **body)
        except GONE:
            pass
        killer.join()
        program = story.serve()
        again = story.post("", key, **body)
        assert again.status == 201
        assert first is None or first.json["token"] == again.json["token"]
        rows = ask(story.site.url, API, story.manager).json["tokens"]
        assert [row["id"] for row in rows if row["description"] == body["description"]] == [again.json["id"]]
        program.kill()


def test_a_stop_tells_the_last_uses_and_a_crash_takes_only_those_since_the_last_turn(story: Story) -> None:
    program = story.serve()
    made = create(story.site.url, story.manager, scopes=["network:read"])
    for _ in range(20):
        assert ask(story.site.url, NI, made["token"]).status == 200
    assert program.stop() == 0
    assert story.last_used(made["id"]).endswith(" 127.0.0.0/24 advertisers_list 20/24h 20/30d")
    program = story.serve()
    for _ in range(5):
        ask(story.site.url, SELF, made["token"])
    program.kill()
    kept = int(story.last_used(made["id"]).split(" ")[-1].partition("/")[0])
    assert 20 <= kept <= 25
