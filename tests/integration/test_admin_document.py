"""The OpenAPI document against the gateway that serves it: every path walked, and fuzzed from the document itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable

from gateway.admin.routes import ROUTES, Route
from gateway.config import SignIn
from gateway.problem import KINDS
from gateway.tokens import PREFIX
from tests.conftest import Running
from tests.people import GOOD, PASSWORD, SESSION, TOKENS, USERS, Browser, email, sign_in, with_password

with warnings.catch_warnings():  # of its own imports
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis.checks import negative_data_rejection
    from schemathesis.core.failures import FailureGroup
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

DOCUMENT = "/admin/api/openapi.json"
ROUTE = {route.act: route for route in ROUTES}


@pytest.fixture
async def gateway(start, upstream):
    free = SignIn(attempts_per_minute=0, attempts_per_minute_of_network=0)
    running = await start(upstream.port, sign_in=free)
    await with_password(running, "network_admin")
    return running


@pytest.fixture
async def document(gateway):
    answer = await gateway.get(DOCUMENT)
    assert answer.status == 200
    return answer.json


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }


# --- what it says of itself


async def test_what_is_served_is_what_is_documented(gateway, document):
    (admin,) = [
        resource for resource in gateway.gateway.public.router.resources() if "admin" in repr(resource)
    ]
    served = {
        (route.method, route.resource.canonical)
        for route in admin
        if not route.resource.canonical.endswith("/{id}/tokens")  # where nobody makes a token for another
    }
    assert served == set(operations(document)) == {(route.method, route.path) for route in ROUTES}
    assert len(ROUTE) == len(ROUTES)


async def test_it_is_a_document_of_openapi_3_1_with_nothing_left_open(document):
    assert document["openapi"] == "3.1.0"
    text = json.dumps(document)
    named = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert named <= document["components"]["schemas"].keys()
    for operation in operations(document).values():
        statuses = operation["responses"].keys()
        assert "default" not in statuses
        assert not {"500", "502", "504"} & statuses
    for kind in re.findall(r"`([a-z-]+)`: ", text):
        assert kind in KINDS


async def test_it_says_how_one_proves_who_asks(gateway, document):
    schemes = document["components"]["securitySchemes"]
    assert schemes["session"]["name"] == "invoca-gateway"
    for (method, _), operation in operations(document).items():
        for way in operation["security"]:
            assert ("csrf" in way) == ("session" in way and method != "GET")


# --- every path, walked

Ask = Callable[..., Any]


async def walked(gateway: Running, head: Browser) -> dict[str, Any]:
    """A good request for every route: the answer by act, in an order in which each finds what it needs."""
    answers: dict[str, Any] = {}

    async def take(act: str, path: str, by: Any = None, **body: Any) -> Any:
        route = ROUTE[act]
        ask = gateway.request if by is None else by.ask
        more = {"json": body} if body else {}
        answers[act] = await ask(route.method, path, **more)
        return answers[act].json if answers[act].body else None

    opened = await gateway.request("POST", SESSION, json={"email": email("network_admin"), "password": GOOD})
    answers["session.open"] = opened
    await take("document.show", DOCUMENT)
    await take("session.show", SESSION, head)
    user = await take("user.add", USERS, head, email="walker@example.com", account="advertiser:706")
    await take("password.set", PASSWORD, None, code=user["code"], password="a brand new passphrase")
    one = f"{USERS}/{user['id']}"
    await take("user.list", USERS + "?limit=2", head)
    await take("user.show", one, head)
    await take("user.change", one, head, role="observer", administrator=True, account="affiliate:808")
    await take("user.disable", one + "/disable", head)
    await take("user.enable", one + "/enable", head)
    await take("user.reset", one + "/reset", head)
    await take("user.sign-out", one + "/sessions", head)
    token = await take(
        "token.create", TOKENS, head,
        description="walked", scopes=["network:read"], allowed_networks=["203.0.113.0/24"],
        accounts=["advertiser:706"], expires_in=3600, outlives_maker=False,
    )  # fmt: skip
    one = f"{TOKENS}/{token['id']}"
    await take("token.list", TOKENS + "?limit=200&state=active", head)
    await take("token.show", one, head)
    await take("token.pause", one + "/pause", head)
    await take("token.resume", one + "/resume", head)
    await take("token.rotate", one + "/rotate", head, overlap=3600)
    await take("token.pause-many", TOKENS + "/pause", head, ids=[token["id"]])
    await take("token.delete-many", TOKENS + "/delete", head, ids=[token["id"]], reason="walked")
    await take("token.delete", one, head, reason="walked")
    await take("session.close", SESSION, head)
    return answers


async def test_every_documented_path_answers_as_it_is_documented(gateway, document):
    head = await sign_in(gateway)
    answers = await walked(gateway, head)
    assert answers.keys() == ROUTE.keys()
    for act, answer in answers.items():
        route = ROUTE[act]
        assert answer.status == (204 if act == "password.set" else route.status), (act, answer.body)
        assert answer.headers["Gateway-Answer"] == "ok"
        assert (answer.body == b"") == (answer.status == 204)
        if answer.body and route.answer is not None:
            assert route.answer.fault(answer.json) is None, (act, route.answer.fault(answer.json))
        assert ("Set-Cookie" in answer.headers) == (
            (route.sets_cookie and answer.status != 204) or act == "session.close"
        )
    acts = [record["act"] for record in gateway.records()]
    assert set(acts) >= ROUTE.keys()


async def test_a_secret_is_in_no_answer_but_the_one_that_gives_it(gateway):
    head = await sign_in(gateway)
    secret = head.cookie.partition("=")[2]
    answers = await walked(gateway, head)
    codes = [answers[act].json["code"] for act in ("user.add", "user.reset")]
    for act, answer in answers.items():
        text = answer.body.decode()
        assert secret not in text
        assert GOOD not in text
        assert PREFIX not in text or act in ("token.create", "token.rotate")
        assert not [code for code in codes if code in text] or act in ("user.add", "user.reset")
        assert "argon2" not in text or act == "document.show"


async def test_who_nobody_knows_gets_a_documented_refusal_everywhere(gateway):
    for route in ROUTES:
        path = route.path.replace("{id}", "usr_" + "x" * 16)
        answers = [await gateway.request(route.method, path)]
        answers.append(await gateway.request(route.method, path, "not-a-token"))
        answers.append(
            await gateway.request(route.method, path, headers={"Cookie": "invoca-gateway=" + "A" * 43})
        )
        answers.append(await gateway.request(route.method, path, "network"))
        for answer in answers:
            if route.who == "anybody":
                assert answer.status in (200, 422)
                continue
            assert answer.status in (401, 403)
            assert answer.problem in route.kinds(), route.act


# --- fuzzed


CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# Which would end what the fuzzing goes by.
NOT_FUZZED = {"session.close"}
OF_A_CASE = ("Idempotency-Key", "Content-Type")
GIVES = {"session.open", "session.show", "user.add", "user.reset", "token.create", "token.rotate"}


class Fuzz:
    """Requests made from the document, good ones and bad; what was wrong with the answers."""

    def __init__(self, url: str, headers: dict[str, str], secrets: list[str]) -> None:
        self.url = url
        self.headers = headers
        self.secrets = secrets
        self.wrong: set[str] = set()
        self.answered: Counter[tuple[str, int]] = Counter()
        self._session = requests.Session()

    def run(self, document: dict[str, Any], examples: int) -> None:
        for operation in operations(document).values():
            del operation["security"]  # who asks is ours to say, and not made up
        for result in schemathesis.openapi.from_dict(document).get_all_operations():
            operation = result.ok()
            route = ROUTE[operation.definition.raw["operationId"]]
            for mode in GenerationMode if route.act not in NOT_FUZZED else ():
                with contextlib.suppress(Unsatisfiable):  # nothing bad can be made of what takes nothing
                    self._operation(route, operation, mode, examples)

    def _operation(self, route: Route, operation: Any, mode: GenerationMode, examples: int) -> None:
        checks = [*CHECKS, *([negative_data_rejection] if mode is GenerationMode.NEGATIVE else [])]

        def one(case: Any) -> None:
            self._one(route, case, checks)

        given(case=operation.as_strategy(generation_mode=mode))(
            seed(1)(
                settings(
                    max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )(one)
            )
        )()  # fmt: skip

    def _one(self, route: Route, case: Any, checks: list[Any]) -> None:
        kept = {name: value for name, value in (case.headers or {}).items() if name in OF_A_CASE}
        case.headers = kept
        try:
            answer = case.call(base_url=self.url, session=self._session, headers=self.headers)
        except (requests.RequestException, ValueError):
            return  # what this client cannot put on the wire
        self.answered[route.act, answer.status_code] += 1
        text = answer.content.decode()
        if answer.status_code >= 500:
            self.wrong.add(f"{route.act}: {answer.status_code} {text}")
        if answer.status_code >= 400:
            kind = json.loads(text)["type"].rpartition(":")[2]
            if kind not in route.kinds():
                self.wrong.add(f"{route.act}: {kind} is not documented")
        self.wrong.update(f"{route.act}: a secret in {text}" for secret in self.secrets if secret in text)
        if route.act not in GIVES and PREFIX in text:
            self.wrong.add(f"{route.act}: a token in {text}")
        try:
            case.validate_response(answer, checks=checks)
        except FailureGroup as group:
            self.wrong.update(f"{route.act}: {failure}" for failure in group.exceptions)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["token", "session"])
async def test_what_is_made_from_the_document_gets_documented_answers(gateway, document, caplog, way):
    caplog.set_level(logging.ERROR)
    headers = {"Authorization": f"Bearer {gateway.tokens['network_admin']}"}
    secrets = [GOOD, *gateway.tokens.values()]
    if way == "session":
        somebody = await sign_in(gateway)
        headers = {"Cookie": somebody.cookie, "Gateway-Csrf": somebody.csrf, "Origin": gateway.url}
        secrets.append(somebody.cookie.partition("=")[2])
    made = Fuzz(gateway.url, headers, secrets)
    await asyncio.to_thread(made.run, document, 20)
    assert not made.wrong, "\n".join(sorted(made.wrong)[:20])
    assert {act for act, _ in made.answered} == ROUTE.keys() - NOT_FUZZED
    assert {200, 201, 403, 404, 422} <= {status for _, status in made.answered}
    assert "internal-error" not in caplog.text
    assert not [record for record in gateway.records() if record.get("problem") == "internal-error"]
