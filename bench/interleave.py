"""Random interleavings of all that happens to tokens, over a real gateway that is killed meanwhile, against a model.

Each interleaving is one user and their tokens. The owner and an administrator act through the API and an operator on
the command line, all at once; two apps use every secret there ever was, old ones too, on connections new and kept; and
now and then a worker or the whole gateway is killed (-9), or restarted. Nothing waits for anything, so acts and uses
overlap; `life.py` says whether what was seen can be explained by any order of what overlapped. Afterwards every
secret is used and every token looked up once more: what was acknowledged has to be there.

What is drawn by lot follows from the seed; when it happens is the machine's. Exit 1 on anything unexplained.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.crashing import WORKERS, Site
from bench.hands import KINDS, STALE_S, Interleaving
from bench.life import ADMINISTRATOR, DONE, OPERATOR, OWNER, REFUSED, told
from bench.processes import Children, allow_files, ending_on_signals, write_json
from bench.report import note, say, table
from bench.scripted import Scripted
from bench.serving import CREDENTIAL, serve
from gateway import command
from gateway.issue import Issuer
from gateway.model import Account
from gateway.store import open_store
from gateway.store.keys import LiveKeys

NETWORK = Account("network", "33", "33")
TOGETHER = 16
"""How many interleavings share the gateway, and its crashes, at a time."""


@dataclass
class Totals:
    """What was done and seen in all."""

    acts: Counter[tuple[str, str]] = field(default_factory=Counter)
    uses: Counter[str] = field(default_factory=Counter)
    overlapping: int = 0
    lost: int = 0
    unjudged: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, one: Interleaving) -> None:
        changing = [op for op in one.ops if op.changes]
        for op in one.ops:
            if op.what == "use":
                self.uses[op.answer or ""] += 1
                self.overlapping += any(act.start <= op.end and op.start <= act.end for act in changing)
            elif op.what != "show":
                self.acts[op.what, op.by] += 1
                self.lost += op.answer is None
        self.unjudged += one.unjudged
        if one.faults:
            trace = [told(op) for op in sorted(one.ops, key=lambda op: op.start) if op.what != "use"]
            self.faults.append("\n".join([f"interleaving {one.seed}:", *one.faults, "its acts:", *trace]))


async def batch(
    site: Site, seed: int, numbers: Sequence[int], options: argparse.Namespace
) -> list[Interleaving]:
    """Some interleavings at once, each with a user of its own, and the crashes that befall them."""
    settings = command.read(str(site.serving.config))
    store = await open_store(settings.store, time.time)
    try:
        issuer = Issuer(store, LiveKeys(settings.store.keys), settings.public_url)
        made = []
        for number in numbers:
            email = f"{seed}-{number}@example.com"
            user, _, bearer = await issuer.first(email, NETWORK, "super", administrator=False)
            made.append(Interleaving(site, f"{seed}/{number}", user.id, email, bearer, options))
    finally:
        await store.close()
    chance = random.Random(f"{seed}/fate/{numbers[0]}")  # noqa: S311
    async with asyncio.TaskGroup() as all_of_it:
        all_of_it.create_task(site.fate(chance, options.blows))
        for one in made:
            all_of_it.create_task(one.run())
    return made


async def interleave(options: argparse.Namespace, children: Children, folder: Path) -> tuple[Totals, Site]:
    totals, upstream = Totals(), Scripted(CREDENTIAL)
    async with upstream.serving() as url:
        serving = await asyncio.to_thread(serve, children, folder, url, tokens=0, workers=WORKERS)
        site = Site(children, serving)
        await site.listening(lambda count: count == WORKERS)
        site.up.set()
        numbers = [*range(options.first, options.first + options.count)]
        for at in range(0, len(numbers), TOGETHER):
            for one in await batch(site, options.seed, numbers[at : at + TOGETHER], options):
                totals.add(one)
            note(f"{min(at + TOGETHER, len(numbers))} of {len(numbers)}, {len(totals.faults)} unexplained")
        await asyncio.to_thread(children.stop, site.serving.child)
        site.said.append(site.serving.child.errors.read_text(errors="replace"))
    totals.faults += [f"the gateway said: {text[-2000:]}" for text in site.said if "Traceback" in text]
    return totals, site


def report(options: argparse.Namespace, totals: Totals, site: Site) -> int:
    by = (OWNER, ADMINISTRATOR, OPERATOR)
    say(f"{options.count:,} interleavings, {WORKERS} workers, seed {options.seed}\n")
    rows = [[what, *(f"{totals.acts[what, hand]:,}" for hand in by)] for what in KINDS]
    say(table(["act", "the owner", "an administrator", "the command line"], rows))
    say(f"\n{sum(totals.acts.values()):,} acts, of which {totals.lost:,} were cut off by a crash; "
        f"{', '.join(f'{times} × {how}' for how, times in sorted(site.blows.items()))}.")  # fmt: skip
    say(f"{sum(totals.uses.values()):,} uses: {totals.uses[DONE]:,} accepted, {totals.uses[REFUSED]:,} refused; "
        f"{totals.overlapping:,} of them while something was done to the user or a token of theirs.")  # fmt: skip
    say(f"{totals.unjudged:,} were not judged: within {STALE_S:g} s of an act that was cut off, "
        "of which no worker but the dead one may have known.")  # fmt: skip
    for fault in totals.faults:
        say(f"\nFAULT: {fault}")
    again = (
        f"python -m bench.interleave --seed {options.seed} --first {options.first} --count {options.count}"
    )
    say(
        f"\n{len(totals.faults)} unexplained; again: {again}"
        if totals.faults
        else "\nEvery answer is the model's."
    )
    if options.json:
        acts = {f"{what} by {hand}": times for (what, hand), times in sorted(totals.acts.items())}
        write_json(options.json, {"seed": options.seed, "count": options.count, "acts": acts, "uses": totals.uses,
                                  "lost": totals.lost, "unjudged": totals.unjudged, "overlapping": totals.overlapping,
                                  "blows": site.blows, "faults": totals.faults})  # fmt: skip
    return 1 if totals.faults else 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.interleave", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--count", type=int, default=1000, help="how many interleavings")
    parser.add_argument(
        "--seed", type=int, help="of what is drawn by lot; another one each time, and printed"
    )
    parser.add_argument("--first", type=int, default=0, metavar="N", help="begin with the Nth of the seed")
    parser.add_argument("--acts", type=int, default=12, help="in each interleaving")
    parser.add_argument(
        "--by-command", type=float, default=0.06, metavar="SHARE", help="of acts on the command line"
    )
    parser.add_argument(
        "--blows", type=int, default=2, help=f"crashes and restarts for each {TOGETHER} at once"
    )
    parser.add_argument("--data", metavar="DIR", help="keep store, keys and records here")
    parser.add_argument("--json", metavar="FILE", help="write the numbers here")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    allow_files(4096)
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending_on_signals())
        folder = Path(options.data or stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        folder.mkdir(exist_ok=True)
        children = stack.enter_context(Children(folder))
        return report(options, *asyncio.run(interleave(options, children, folder)))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
