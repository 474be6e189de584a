"""Somebody with a browser: a session in a cookie, its CSRF token, and what a browser says of where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.conftest import Answer, Running

SESSION = "/admin/api/session"
PASSWORD = "/admin/api/password"
USERS = "/admin/api/users"
TOKENS = "/admin/api/tokens"
COOKIE = "invoca-gateway"
GOOD = "a long enough passphrase"


async def with_password(running: Running, name: str, text: str = GOOD) -> None:
    """Set the password of one of the people."""
    kept = await running.gateway.passwords.hash(text)
    assert await running.gateway.store.set_password(running.owners[name], kept)


def email(name: str) -> str:
    return f"{name.replace('_', '-')}@example.com"


def cookie_of(answer: Answer) -> str:
    """What a browser would send back: name and value of the cookie that was set."""
    return answer.headers["Set-Cookie"].partition(";")[0]


async def try_password(running: Running, address: str, password: str, **more: Any) -> Answer:
    return await running.request("POST", SESSION, json={"email": address, "password": password}, **more)


@dataclass
class Browser:
    """One session. `ask` sends cookie and CSRF token, as our own page would."""

    running: Running
    document: dict[str, Any]
    cookie: str
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def csrf(self) -> str:
        return str(self.document["csrf_token"])

    @property
    def user_id(self) -> str:
        return str(self.document["user"]["id"])

    async def ask(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> Answer:
        fields = {"Cookie": self.cookie, "Origin": self.running.url, "Sec-Fetch-Site": "same-origin"}
        if method != "GET":
            fields["Gateway-Csrf"] = self.csrf
        return await self.running.request(
            method, path, headers=fields | self.fields | (headers or {}), **more
        )

    async def get(self, path: str) -> Answer:
        return await self.ask("GET", path)

    async def post(self, path: str, **body: Any) -> Answer:
        return await self.ask("POST", path, json=body)


async def sign_in(
    running: Running, name: str = "network_admin", password: str = GOOD, **more: Any
) -> Browser:
    """Somebody whose password is set, signed in."""
    answer = await try_password(running, email(name), password, **more)
    assert answer.status == 201, answer.body
    return Browser(running, answer.json, cookie_of(answer))
