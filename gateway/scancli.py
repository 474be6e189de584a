"""`scan`: tokens of ours in files, archives, logs and git history. Says where and which; never prints a token."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.command import DONE, FAULTS, read, wrong
from gateway.config import Config
from gateway.scan import Finding, NoRepository, Scanner, keys_from
from gateway.tokens import scrub

if TYPE_CHECKING:  # a hook that runs at every commit does without them
    from gateway.store import Store, TokenRow

LIVE = ("active", "paused", "exposed")


def add(commands: Any) -> None:
    it = commands.add_parser("scan", help="find tokens of ours in files, archives, logs and git history")
    it.add_argument("paths", nargs="*", metavar="PATH", help="a file or a folder; - is standard input")
    it.add_argument(
        "--config", metavar="FILE", help="verify with its keys, and say what the store knows of each"
    )
    it.add_argument(
        "--jwks", metavar="WHERE", help="verify with the keys at this address (https) or in this file"
    )
    it.add_argument(
        "--history", action="store_true", help="everything in the git repositories of these folders too"
    )
    it.add_argument(
        "--staged", action="store_true", help="only what the next git commit would add: for a hook"
    )
    it.add_argument(
        "--mark", action="store_true", help="mark what is found as exposed, so that it has to be rotated"
    )
    it.add_argument("--json", action="store_true")
    it.set_defaults(command=_scan)


def _scan(options: argparse.Namespace) -> int:
    if not options.paths and not options.staged:
        return wrong("scan what? Name a file, a folder, - or --staged")
    if options.staged and (options.history or "-" in options.paths):
        return wrong("--staged looks at the next commit alone")
    if (options.config is None) == (options.jwks is None):
        return wrong("--config FILE or --jwks WHERE has to say which keys tokens are verified with")
    if options.mark and options.config is None:
        return wrong("--mark needs --config: it marks tokens in the store")
    missing = [] if options.staged else [it for it in options.paths if it != "-" and not Path(it).exists()]
    if missing:
        return wrong(f"there is no {scrub(missing[0])}")
    settings = None if options.config is None else read(options.config)
    if settings is not None:
        from gateway.store.keys import load_keys

        scanner = Scanner(load_keys(settings.store.keys))
    else:
        try:
            scanner = Scanner(keys_from(options.jwks))
        except ValueError as error:
            return wrong(f"--jwks {scrub(options.jwks)} {error}")
    try:
        return asyncio.run(_report(scanner, options, settings))
    except NoRepository as error:
        return wrong(str(error))


def _findings(scanner: Scanner, options: argparse.Namespace) -> Iterator[Finding]:
    if options.staged:
        yield from scanner.staged(".", tuple(options.paths))
        return
    for path in options.paths:
        if path == "-":
            yield from scanner.stream(sys.stdin.buffer, "-")
            continue
        yield from scanner.path(path)
        if options.history:
            yield from scanner.history(path if Path(path).is_dir() else str(Path(path).parent))


async def _report(scanner: Scanner, options: argparse.Namespace, settings: Config | None) -> int:
    """Print each finding as it is found, or with --json all in one document."""
    store = None
    if settings is not None and os.path.exists(settings.store.path):  # noqa: ASYNC240
        from gateway.store import open_store

        store = await open_store(settings.store, time.time)
    said = []
    try:
        for finding in _findings(scanner, options):
            facts = await _facts(
                finding, store, settings.tokens.exposed_hours if options.mark and settings else 0
            )
            if options.json:
                said.append(facts)
            else:
                print(_line(facts), flush=True)
                said.append({})
    finally:
        if store is not None:
            await store.close()
    if options.json:
        print(json.dumps({"findings": said, "unread": scanner.unread, "notes": scanner.notes}))
    for text in [*scanner.unread, *scanner.notes]:
        print(text, file=sys.stderr)
    if not options.json:
        print(f"{len(said)} found" if said else "nothing found", file=sys.stderr)
    return FAULTS if said or scanner.unread else DONE


async def _facts(finding: Finding, store: Store | None, exposed_hours: int) -> dict[str, object]:
    """What is told of a finding. With `exposed_hours` a live one is marked exposed first."""
    now = time.time()
    found = None if store is None else await store.find(finding.digest)
    row: TokenRow | None = None if found is None else found[0]
    marked = False
    if store is not None and row is not None and exposed_hours and row.state(now) in ("active", "paused"):
        row = await store.mark_exposed(finding.digest, at=int(now), rotate_by=int(now) + exposed_hours * 3600)
        marked = row is not None
    state = "expired" if now >= finding.expires_at else "unknown"
    return {
        "file": _printable(finding.name),
        "line": finding.line,
        "commit": finding.commit,
        "token": finding.token_id,
        "state": state if row is None else row.state(now),
        "expires_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(finding.expires_at)),
        "marked": marked,
    }


def _line(facts: dict[str, object]) -> str:
    state = str(facts["state"])
    text = f"{facts['file']}:{facts['line']}: {facts['token']} {'live, ' if state in LIVE else ''}{state}"
    if facts["marked"]:
        text += ", marked exposed"
    return text if facts["commit"] is None else f"{text} (commit {facts['commit']})"


def _printable(name: str) -> str:
    """A file's name on one line, and nothing secret in it: files have been named by a token."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in scrub(name))
