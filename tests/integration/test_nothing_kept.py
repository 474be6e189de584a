"""After a run of everything people do, nothing that opens anything is on the disk, in a record or in the log."""

from __future__ import annotations

import json
import logging
import sqlite3
from pathlib import Path

from gateway.config import SignIn
from gateway.tokens import PREFIX
from tests.people import GOOD, PASSWORD, TOKENS, USERS, sign_in, try_password, with_password

NEW, WRONG = "a brand new passphrase", "a passphrase that is wrong"


async def test_no_password_session_code_or_token_is_left_anywhere(start, upstream, caplog):
    caplog.set_level(logging.DEBUG)
    for name in ("gateway", "aiohttp", "asyncio", "aiosqlite"):
        caplog.set_level(logging.DEBUG, name)
    running = await start(
        upstream.port, sign_in=SignIn(attempts_per_minute=0, attempts_per_minute_of_network=0)
    )
    await with_password(running, "network_admin")
    secrets = [GOOD, NEW, WRONG, *running.tokens.values()]

    head = await sign_in(running)
    added = (await head.post(USERS, email="new@example.com", account="network:33")).json
    reset = (await head.post(f"{USERS}/{added['id']}/reset")).json
    assert (
        await running.request("POST", PASSWORD, json={"code": reset["code"], "password": NEW})
    ).status == 204
    made = (await head.post(TOKENS, description="left nowhere")).json
    rotated = (await head.post(f"{TOKENS}/{made['id']}/rotate", overlap=3600)).json
    secrets += [
        head.cookie.partition("=")[2],
        head.csrf,
        added["code"],
        reset["code"],
        made["token"],
        rotated["token"],
    ]
    # And wherever somebody might put one by mistake.
    for secret in secrets:
        for address, password in ((secret, WRONG), ("new@example.com", secret)):
            await try_password(running, address, password)
        await running.request("POST", PASSWORD, json={"code": secret, "password": WRONG})
        await running.request("POST", PASSWORD, json={"code": "x", "password": secret})
        await running.get(f"{USERS}/x?{secret.replace(' ', '+')}", headers={"Cookie": head.cookie})
        await running.get(f"{USERS}/{secret.replace(' ', '-')}", headers={"Cookie": f"x={secret}"})
        await head.post(USERS, email=secret, account=secret, role=secret)
        await head.post(f"{USERS}/{added['id']}", **{secret.replace(" ", "_")[:250]: 1})
        await head.ask("POST", TOKENS, headers={"Gateway-Csrf": secret, "Origin": secret})
    changed = await head.post(PASSWORD, old_password=GOOD, password=NEW)
    assert changed.status == 200
    secrets.append(changed.headers["Set-Cookie"].partition(";")[0].partition("=")[2])

    folder = Path(running.gateway.config.store.path).parent
    running.gateway.recorder.flush()
    backup = sqlite3.connect(folder / "backup.sqlite3")
    with sqlite3.connect(running.gateway.config.store.path) as db:
        db.backup(backup)
    dumped = "\n".join(backup.iterdump())
    backup.close()
    db.close()
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    assert {"gateway.sqlite3", "gateway.sqlite3-wal", "records.jsonl", "backup.sqlite3"} <= files.keys()
    assert "argon2id" in dumped
    everything = {**files, "dump": dumped.encode(), "log": caplog.text.encode()}
    for name, content in everything.items():
        for secret in secrets:
            forms = {secret, *(secret.replace(" ", mark) for mark in "+-_")}
            if len(secret) == 43:  # of what is random a piece is too much
                forms |= {secret[:20], secret[-20:]}
            assert not [form for form in forms if form.encode() in content], name
        if name != "log":
            assert PREFIX.encode() not in content, name
    for line in files["records.jsonl"].splitlines():
        assert json.loads(line)["surface"] in ("admin", "gateway", "oauth", "proxy")
