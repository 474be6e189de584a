"""`keys`: who signs our tokens. `credential`: what the vendor is asked with. Neither ever prints a secret."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import sys
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from gateway.command import DONE, FAULTS, read, wrong
from gateway.config import Config, is_credential
from gateway.model import ACCOUNT_KINDS
from gateway.tokens import PREFIX

if TYPE_CHECKING:
    from gateway.store import KeyUse, Store

SETTLED_S = 5.0
"""How long after a rotation a worker may still be signing what it had begun with the key before."""


def add(commands: Any) -> None:
    group = commands.add_parser("keys", help="the keys that tokens are signed with").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    it = _command(group, "list", _keys_list, "every key, and what is signed with it")
    it.add_argument("--json", action="store_true")
    _command(
        group, "rotate", _keys_rotate, "sign with a new key; tokens of the one before are still accepted"
    )
    it = _command(
        group, "retire", _keys_retire, "accept a key no more, or all keys whose last token has ended"
    )
    it.add_argument(
        "key", nargs="?", metavar="KEY", help="its id; without, every key that nothing needs any more"
    )
    it.add_argument("--force", action="store_true", help="although tokens are signed with it: they end")

    group = commands.add_parser(
        "credential", help="upstream credentials, sealed in the store"
    ).add_subparsers(title="commands", metavar="COMMAND", required=True)
    it = _command(group, "set", _credential_set, "keep an account's credential, read from standard input")
    it.add_argument("account", metavar="KIND:ID", help="such as network:33")
    it.add_argument("extra", nargs="*", help=argparse.SUPPRESS)  # so that argparse does not print it
    it = _command(group, "list", _credential_list, "whose credential comes from where; never a credential")
    it.add_argument("--json", action="store_true")
    it = _command(group, "delete", _credential_delete, "keep an account's credential no longer")
    it.add_argument("account", metavar="KIND:ID")


def _command(group: Any, name: str, act: Callable[[argparse.Namespace], int], what: str) -> Any:
    it = group.add_parser(name, help=what)
    it.add_argument("--config", required=True, metavar="FILE")
    it.set_defaults(command=act)
    return it


def _with_store(settings: Config, act: Callable[[Store], Coroutine[Any, Any, int]]) -> int:
    from gateway.store import open_store

    async def run() -> int:
        store = await open_store(settings.store, time.time)
        try:
            return await act(store)
        finally:
            await store.close()

    return asyncio.run(run())


# --- keys


def _keys_list(options: argparse.Namespace) -> int:
    from gateway.store.keys import load_keys, retired_at

    settings = read(options.config)
    ring = load_keys(settings.store.keys)

    async def show(store: Store) -> int:
        for key in ring.public_keys:
            use = await store.signed_with(key.kid, now=time.time())
            since = None if key == ring.public_keys[0] else retired_at(settings.store.keys, key.kid)
            facts = {
                "id": key.kid,
                "state": "signs" if since is None else "accepted",
                "signs_no_more_since": None if since is None else _rfc3339(since),
                "live_tokens": use.live,
                "last_expiry": None if use.until is None else _rfc3339(use.until),
            }
            print(json.dumps(facts) if options.json else f"{key.kid}  {facts['state']:8}  {_in_words(use)}")
        return DONE

    return _with_store(settings, show)


def _keys_rotate(options: argparse.Namespace) -> int:
    from gateway.store.keys import rotate_keys

    ring = rotate_keys(read(options.config).store.keys)
    print(f"signs now: {ring.current.kid}")
    for key in ring.retired:
        print(f"still accepted: {key.kid}")
    return DONE


def _keys_retire(options: argparse.Namespace) -> int:
    from gateway.store.keys import drop_key, load_keys, retired_at

    if options.force and options.key is None:
        return wrong("--force needs the id of the one key that is meant")
    settings = read(options.config)
    path = settings.store.keys
    ring = load_keys(path)
    retired = [key.kid for key in ring.retired]
    if options.key == ring.current.kid:
        return _no(f"{options.key} signs now: rotate first")
    if options.key is not None and options.key not in retired:
        return _no(f"there is no key {options.key}")

    async def retire(store: Store) -> int:
        code = DONE
        for kid in retired if options.key is None else [options.key]:
            use = await store.signed_with(kid, now=time.time())
            fresh = time.time() < retired_at(path, kid) + SETTLED_S
            if (use.live or fresh) and not options.force:
                why = _in_words(use) if use.live else f"signed until now: try again in {SETTLED_S:g} s"
                print(f"kept: {kid}  {why}", file=sys.stderr)
                if options.key is not None:
                    print("--force ends them", file=sys.stderr)
                    code = FAULTS
                continue
            drop_key(path, kid)
            await store.end_verdicts()  # what processes remember was proven with it
            print(f"retired: {kid}")
            if use.live:
                print(f"ended: {_in_words(use)}")
        return code

    return _with_store(settings, retire)


def _in_words(use: KeyUse) -> str:
    if not use.live or use.until is None:
        return "no live tokens"
    more = f" and {use.live - len(use.ids)} more" if use.live > len(use.ids) else ""
    number = "1 live token" if use.live == 1 else f"{use.live} live tokens, the last"
    return f"{number} until {_rfc3339(use.until)}: {' '.join(use.ids)}{more}"


def _rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


# --- credentials


def _credential_set(options: argparse.Namespace) -> int:
    if options.extra:
        return wrong(
            "a credential is read from standard input, never from the command line, where others see it"
        )
    if (fault := _not_an_account(options.account)) is not None:
        return wrong(fault)
    settings = read(options.config)
    named = settings.upstream.credentials.get(options.account)
    if named is not None:
        place = f"file {named.file}" if named.env is None else f"environment variable {named.env}"
        return _no(
            f"the configuration names {place} for {options.account}, which comes first: remove it there"
        )
    if settings.store.credential_key is None:
        return _no("store.credential_key has to be set: what a credential is sealed with")
    from gateway.store.sealing import read_key

    try:
        key = read_key(settings.store.credential_key)
    except LookupError as error:
        return _no(f"store.credential_key: {error.args[0]}")
    text = _asked(options.account)
    if not is_credential(text) or PREFIX in text:
        return _no(
            "that is no upstream credential: printable ASCII, at most 4096 characters, and no token of ours"
        )

    async def keep(store: Store) -> int:
        await store.set_credential(options.account, key.seal(options.account, text), at=int(time.time()))
        print(f"set: {options.account}")
        return DONE

    return _with_store(settings, keep)


def _asked(account: str) -> str:
    if sys.stdin.isatty():
        try:
            return getpass.getpass(f"Credential of {account}: ").strip()
        except EOFError:
            return ""
    return sys.stdin.buffer.read(8_192).decode("ascii", "replace").strip()


def _credential_list(options: argparse.Namespace) -> int:
    from gateway.credentials import configured, opened

    settings = read(options.config)
    named = configured(settings.upstream.credentials)

    async def show(store: Store) -> int:
        rows = await store.credentials()
        kept = opened(rows, settings.store.credential_key)
        lines: list[tuple[str, str, str | None, str | None]] = [
            (account, f"environment variable {it.env}" if it.env is not None else f"file {it.file}", None,
             named.faults.get(account))
            for account, it in settings.upstream.credentials.items()
        ]  # fmt: skip
        for row in rows:
            fault = kept.faults.get(row.account)
            if row.account in settings.upstream.credentials:
                fault = "not used: the configuration names another, which comes first"
            lines.append((row.account, "store", _rfc3339(row.set_at), fault))
        for account, source, set_at, fault in sorted(lines, key=lambda line: line[0]):
            if options.json:
                print(json.dumps({"account": account, "source": source, "set_at": set_at, "fault": fault}))
            else:
                print("  ".join(filter(None, (account, source, set_at, fault or "usable"))))
        return DONE

    return _with_store(settings, show)


def _credential_delete(options: argparse.Namespace) -> int:
    settings = read(options.config)

    async def delete(store: Store) -> int:
        if not await store.delete_credential(options.account):
            return _no(f"the store keeps no credential for {options.account}")
        print(f"deleted: {options.account}")
        return DONE

    return _with_store(settings, delete)


def _not_an_account(text: str) -> str | None:
    kind, _, number = text.partition(":")
    if kind in ACCOUNT_KINDS and number and number.isprintable() and len(text) <= 160:
        return None
    return "an account has to be such as network:33, advertiser:706 or affiliate:808"


def _no(text: str) -> int:
    print(text, file=sys.stderr)
    return FAULTS
