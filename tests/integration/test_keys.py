"""Signing keys while a gateway runs: rotated without a restart, retired only when nothing needs them, or by force."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import cli, keyscli, tokens
from gateway.config import Store
from gateway.model import Account
from gateway.store import open_store
from gateway.store.keys import LiveKeys, load_keys, load_or_create_keys, rotate_keys
from tests.processes import Programs, Site, ask, create, delete

NEW_CONNECTIONS = 40
SELF = "/gateway/token"


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    with Programs(tmp_path) as made:
        yield made


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, "http://127.0.0.1:9", listen="workers = 2")


def kid_of(token: str) -> str:
    return load_kid(token.partition(".")[0])


def keys(site: Site, *words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["keys", *words, "--config", str(site.config)])
    return code, out.getvalue(), err.getvalue()


def load_kid(segment: str) -> str:
    return json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))["kid"]


def verdicts(site: Site, token: str, number: int = NEW_CONNECTIONS) -> set[tuple[int, str]]:
    """What came of a token on many new connections, which the kernel spreads over the workers."""
    return {ask(site.url, SELF, token).verdict for _ in range(number)}


def published(site: Site) -> list[str]:
    return [key["kid"] for key in ask(site.url, "/.well-known/jwks.json").json["keys"]]


def settled(folder: Path) -> None:
    """As if the rotation had been a while ago."""
    for file in folder.glob("*.pub.pem"):
        os.utime(file, (time.time() - 60, time.time() - 60))


def test_a_rotation_reaches_every_worker_at_once_and_ends_no_token(programs, site):
    manager = site.add_administrator(programs)
    gateway = site.serve(programs)
    before = create(site.url, manager, scopes=["tokens:manage"])["token"]
    assert verdicts(site, before) == {(200, "")}
    code, out, _ = keys(site, "rotate")
    after = create(site.url, manager, scopes=["tokens:manage"])["token"]
    assert (code, out) == (0, f"signs now: {kid_of(after)}\nstill accepted: {kid_of(before)}\n")
    assert kid_of(after) != kid_of(before)
    assert verdicts(site, after) == {(200, "")}  # also where no watch has looked yet
    assert verdicts(site, before) == {(200, "")}
    assert published(site) == [kid_of(after), kid_of(before)]
    revoked = ask(site.url, "/oauth/introspect", after, method="POST")
    assert revoked.status == 400  # accepted as a bearer there too: only the form is missing
    assert gateway.stop() == 0


def test_a_key_with_live_tokens_is_kept_and_force_ends_them_everywhere_at_once(programs, site):
    manager = site.add_administrator(programs)
    gateway = site.serve(programs)
    made = create(site.url, manager, scopes=["tokens:manage"])
    old = kid_of(made["token"])
    keys(site, "rotate")
    settled(site.folder / "keys")
    after = create(site.url, manager, scopes=["transactions:read"])["token"]
    assert verdicts(site, made["token"]) == verdicts(site, manager) == {(200, "")}  # and so remembered
    code, out, err = keys(site, "retire", old)
    assert (code, out) == (1, "")
    assert err.startswith(f"kept: {old}  2 live tokens, the last until ")
    assert made["id"] in err
    assert err.endswith("\n--force ends them\n")
    assert published(site) == [kid_of(after), old]
    code, out, _ = keys(site, "retire", old, "--force")
    assert (code, out.splitlines()[0]) == (0, f"retired: {old}")
    assert out.splitlines()[1].startswith("ended: 2 live tokens, the last until ")
    assert verdicts(site, made["token"]) == verdicts(site, manager) == {(401, "invalid-token")}
    assert verdicts(site, after) == {(200, "")}
    assert published(site) == [kid_of(after)]
    assert gateway.stop() == 0


def test_retire_alone_takes_the_keys_that_nothing_needs(programs, site):
    manager = site.add_administrator(programs)
    gateway = site.serve(programs)
    first = create(site.url, manager)
    keys(site, "rotate")
    second = create(site.url, manager)
    keys(site, "rotate")
    for made in (first, second):
        assert delete(site.url, manager, made["id"]).status == 204
    settled(site.folder / "keys")
    code, out, err = keys(site, "retire")
    assert (code, out) == (0, f"retired: {kid_of(second['token'])}\n")
    assert err.startswith(f"kept: {kid_of(manager)}  1 live token until ")
    assert verdicts(site, manager) == {(200, "")}
    code, out, _ = keys(site, "list")
    current, other = out.splitlines()
    assert (code, current) == (0, f"{published(site)[0]}  signs     no live tokens")
    assert other.startswith(f"{kid_of(manager)}  accepted  1 live token until ")
    facts = json.loads(keys(site, "list", "--json")[1].splitlines()[1])
    assert (facts["id"], facts["state"], facts["live_tokens"]) == (kid_of(manager), "accepted", 1)
    assert gateway.stop() == 0


def test_a_key_that_signed_a_moment_ago_is_kept(site):
    old = load_or_create_keys(str(site.folder / "keys")).current.kid
    keys(site, "rotate")
    code, out, err = keys(site, "retire", old)
    assert (code, out) == (1, "")
    assert err.startswith(f"kept: {old}  signed until now: try again in 5 s\n")
    settled(site.folder / "keys")
    assert keys(site, "retire", old) == (0, f"retired: {old}\n", "")


def test_what_cannot_be_retired_is_said(site):
    now = load_or_create_keys(str(site.folder / "keys")).current.kid
    assert keys(site, "retire", now) == (1, "", f"{now} signs now: rotate first\n")
    assert keys(site, "retire", "ivg-x") == (1, "", "there is no key ivg-x\n")
    assert keys(site, "retire", "--force")[0] == 2


@pytest.mark.parametrize("command", ["list", "rotate", "retire"])
@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_that_others_can_read_is_refused(site, command, mode):
    kid = load_or_create_keys(str(site.folder / "keys")).current.kid
    file = site.folder / "keys" / f"{kid}.pem"
    file.chmod(mode)
    code, out, err = keys(site, command)
    assert (code, out) == (1, "")
    assert err.startswith(f"{file}: is a private key that group or others can read: chmod 0600")


# --- in one process


async def test_keys_that_cannot_be_used_leave_those_from_before_in_use_and_alarm_once(tmp_path, caplog):
    path = str(tmp_path / "keys")
    live = LiveKeys(path)
    before = live.ring
    new = rotate_keys(path).current.kid
    (tmp_path / "keys" / f"{new}.pem").chmod(0o644)
    for _ in range(3):
        await live.refresh()
        await live.refresh(again=True)
    assert (live.ring, live.alarms) == (before, 1)
    assert caplog.text.count("keys-unusable") == 1
    (tmp_path / "keys" / f"{new}.pem").chmod(0o600)
    await live.refresh(again=True)
    assert live.ring.current.kid == new


async def test_a_folder_that_is_gone_is_an_alarm_and_not_an_end(tmp_path):
    live = LiveKeys(str(tmp_path / "keys"))
    kid = live.ring.current.kid
    (tmp_path / "keys").rename(tmp_path / "elsewhere")
    await live.refresh()
    assert (live.ring.current.kid, live.alarms) == (kid, 1)
    (tmp_path / "elsewhere").rename(tmp_path / "keys")
    await live.refresh()
    assert (live.ring.current.kid, live.alarms) == (kid, 1)


async def test_nothing_remembered_outlives_its_key(gateway):
    """Neither a verdict nor a signature that was checked before."""
    token, path = gateway.tokens["network_admin"], gateway.gateway.config.store.keys
    assert (await gateway.get(SELF, token)).status == 200
    old = load_keys(path).current.kid
    rotate_keys(path)
    assert (await gateway.get(SELF, token)).status == 200
    (Path(path) / f"{old}.pub.pem").unlink()
    await gateway.gateway.store.end_verdicts()
    assert (await gateway.get(SELF, token)).problem == "invalid-token"
    assert (await gateway.get("/.well-known/jwks.json")).json["keys"][0]["kid"] != old


async def test_the_first_token_after_a_rotation_is_signed_with_the_new_key(gateway):
    new = rotate_keys(gateway.gateway.config.store.keys).current.kid
    row, text = await gateway.gateway.issuer.create(
        owner_id=gateway.owners["network"], description="the first one after it", scopes=("transactions:read",),
        expires_at=int(gateway.clock()) + 900,
    )  # fmt: skip
    assert kid_of(text) == new
    assert (await gateway.gateway.store.signed_with(new, now=gateway.clock())).ids == (row.id,)


async def test_a_token_of_a_new_key_can_be_revoked_and_marked_wherever_it_arrives_first(gateway):
    """A worker that has not looked yet must not take it for anybody's: its answer would be 200 and mean nothing."""
    path, store = gateway.gateway.config.store.keys, gateway.gateway.store
    elsewhere = type(gateway.gateway.issuer)(store, LiveKeys(path), gateway.url)
    rotate_keys(path)
    for what in ("revoked", "exposed"):
        row, text = await elsewhere.create(
            owner_id=gateway.owners["network"], description=f"made by another worker, {what}",
            scopes=("transactions:read",), expires_at=int(gateway.clock()) + 900,
        )  # fmt: skip
        if what == "revoked":
            await gateway.request("POST", "/oauth/revoke", data={"token": text})
            assert (await store.token(row.id)).state(gateway.clock()) == "deleted"
            rotate_keys(path)
        else:
            await gateway.get(f"/healthz?{text}")
            assert (await store.token(row.id)).state(gateway.clock()) == "exposed"


async def test_tokens_of_whom_it_is_not_known_which_key_signed_them_count_for_every_key(tmp_path):
    now = time.time()
    store = await open_store(Store(path=str(tmp_path / "db"), keys=str(tmp_path / "keys")), lambda: now)
    try:
        user = await store.add_user("a@example.com", Account("network", "33", "33"), "super")
        ids = {}
        for key, life in (("ivg-a", 100), ("ivg-b", 200), (None, 300)):
            row = await store.create_token(
                jti_digest=tokens.jti_digest(tokens.new_jti()), owner_id=user.id, description=f"of {key}",
                scopes=["transactions:read"], expires_at=int(now) + life, key_id=key,
            )  # fmt: skip
            ids[key] = row.id
        use = await store.signed_with("ivg-a", now=now)
        assert (use.live, use.until, set(use.ids)) == (2, int(now) + 300, {ids["ivg-a"], ids[None]})
        assert (await store.signed_with("ivg-a", now=now + 100)).ids == (ids[None],)
        await store.delete_token(ids[None], by="test", at=int(now))
        assert (await store.signed_with("ivg-b", now=now)).ids == (ids["ivg-b"],)
        assert await store.signed_with("ivg-c", now=now) == await store.signed_with("ivg-a", now=now + 100)
        assert keyscli._in_words(await store.signed_with("ivg-c", now=now)) == "no live tokens"
    finally:
        await store.close()
