"""The commands about policies: which set is meant, one function asked, its answer printed.

Every command takes `--policies DIR` (a whole set instead of the packaged one) and `--local DIR` or `--config FILE`
(the operator's own folder, laid over it). What is asked is computed by `cases`, `contract`, `mutation`, `matrix`,
`difference` and `replay`; here is only what touches files and the terminal.

Exit codes: 0 answered, 1 faults found, 2 asked wrongly. Source: section 7 of the design.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway import __version__
from gateway.command import DONE, FAULTS, read
from gateway.command import wrong as _wrong
from gateway.model import (
    ACCOUNT_KINDS,
    APIS,
    EFFECTS,
    RELATIONS,
    ROLES,
    SCOPES,
    Account,
    Decision,
    Moment,
    Operation,
    Owner,
    Principal,
)
from gateway.problem import Problem
from gateway.tomlfile import ConfigError, Fault

if TYPE_CHECKING:
    from gateway.cases import CaseResult
    from gateway.mutation import Mutant
    from gateway.operation import Catalogue
    from gateway.policy import PolicySet
    from gateway.policyfile import Loaded
    from gateway.table import Table

PACKAGED = "-"
"""How the packaged set is written where a folder is asked for."""


def add(commands: Any) -> None:
    """Add `policy` and its commands."""
    group = commands.add_parser("policy", help="the policies").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument("--policies", metavar="DIR", help="a whole set to try instead of the packaged one")
    which.add_argument("--local", metavar="DIR", help="an own folder to lay over it")
    which.add_argument("--config", metavar="FILE", help="take the own folder and the versions from here")
    which.add_argument("--json", action="store_true")
    _add_test(group, which)
    _add_explain(group, which)
    _add_matrix(group, which)
    _add_diff(group, which)
    _add_mutate(group, which)
    _add_contract(group, which)
    _add_replay(group, which)


# --- Which set


@dataclass(frozen=True, slots=True)
class Sets:
    """The folders of a set: a whole one, None for the packaged one; and an own one laid over it, if any."""

    folder: Path | None
    local: Path | None

    def __str__(self) -> str:
        whole = "the packaged set" if self.folder is None else str(self.folder)
        return whole if self.local is None else f"{whole} with {self.local}"


def _chosen(options: argparse.Namespace) -> tuple[Catalogue, Sets]:
    """The catalogue and the folders that are meant. Raises: ConfigError."""
    from gateway import load

    settings = None if options.config is None else read(options.config)
    local = options.local
    if local is None and settings is not None:
        local = settings.policies.local
    sets = Sets(_folder(options.policies), _folder(local))
    return load.load_catalogue(settings), sets


def _folder(path: str | None) -> Path | None:
    if path is None:
        return None
    if not Path(path).is_dir():
        raise ConfigError([Fault(path, 0, "", "is not a folder")])
    return Path(path)


def _loaded(options: argparse.Namespace) -> tuple[Catalogue, Sets, PolicySet, Table]:
    """A set that would load. Raises: ConfigError with every reason why it would not."""
    from gateway import load
    from gateway.policy import PolicySet

    catalogue, sets = _chosen(options)
    policies = PolicySet.load(sets.folder, sets.local, operations=catalogue.variants())
    table, faults = load.check_policies(policies, catalogue)
    if faults:
        raise ConfigError(faults)
    return catalogue, sets, policies, table


def _print(document: object) -> None:
    print(json.dumps(document))


def _fault_as_dict(fault: Fault) -> dict[str, object]:
    return {"file": fault.file, "line": fault.line, "key": fault.key, "text": fault.text}


# --- test


def _add_test(group: Any, which: argparse.ArgumentParser) -> None:
    it = group.add_parser("test", parents=[which], help="run the policies' cases and try their invariants")
    it.add_argument("directory", nargs="?", help="short for --policies")
    it.set_defaults(command=_test)


def _test(options: argparse.Namespace) -> int:
    from gateway import cases
    from gateway.compile import compile
    from gateway.policy import PolicySet

    if options.directory and options.policies:
        return _wrong("give the directory once")
    options.policies = options.directory or options.policies
    catalogue, sets = _chosen(options)
    policies = PolicySet.load(sets.folder, sets.local, operations=catalogue.variants())
    results = _results(policies, catalogue, sets)
    results += cases.check_invariants(compile(policies, catalogue.variants()), policies.invariants)
    failed = [result for result in results if not result.passed]
    moved = [result for result in results if result.moved]
    silent = cases.untested(policies, results)
    if options.json:
        _print(
            {
                "passed": len(results) - len(failed),
                "failed": [{"name": r.name, "file": r.file, "line": r.line, "text": r.text} for r in failed],
                "moved": [{"name": r.name, "file": r.file, "line": r.line, "text": r.moved} for r in moved],
                "untested": [policy.id for policy in silent],
            }
        )
    else:
        if moved:
            print(
                f"{sets.local} changes what these shipped cases show (they hold without it, and count as passed):"
            )
        for result in moved:
            print(f"  {result}")
        for result in failed:
            print(result)
        for policy in silent:
            print(f"{policy.file}:{policy.line}: {policy.id}: no case names this policy")
        print(f"{len(results) - len(failed)} passed, {len(failed) + len(silent)} failed")
    return FAULTS if failed or silent else DONE


def _results(policies: PolicySet, catalogue: Catalogue, sets: Sets) -> list[CaseResult]:
    """How the cases go: those of an own folder on the whole, the shipped ones on what they were written for."""
    from gateway import cases
    from gateway.policy import PolicySet

    results = cases.run_cases(policies, catalogue, sets.folder, sets.local)
    if sets.local is None or all(result.passed for result in results):
        return results
    alone = PolicySet.load(sets.folder, operations=catalogue.variants())
    return cases.apart(results, cases.run_cases(alone, catalogue, sets.folder))


# --- explain


def _add_explain(group: Any, which: argparse.ArgumentParser) -> None:
    it = group.add_parser("explain", parents=[which], help="what would be decided about a request, and why")
    it.add_argument("request", help="such as 'GET /api/2022-08-01/33/advertisers.json'")
    it.add_argument("--kind", choices=ACCOUNT_KINDS, required=True)
    it.add_argument("--account", required=True, metavar="ID")
    it.add_argument("--network", metavar="ID", help="the network the owner's account belongs to")
    it.add_argument("--role", choices=ROLES, default="member")
    it.add_argument("--administrator", action="store_true")
    it.add_argument("--scope", action="append", choices=SCOPES, default=[], metavar="SCOPE")
    it.add_argument("--account-network", metavar="ID", help="the network the path's account is stored under")
    it.add_argument(
        "--body-key", action="append", default=[], metavar="NAME", help="a key of the request's body"
    )
    it.add_argument("--user", default="explained", metavar="ID", help="the owner, for policies that name one")
    it.add_argument(
        "--token-id", default="explained", metavar="ID", help="the token, for policies that name one"
    )
    it.add_argument("--at", type=_moment, metavar="TIME", help="such as 2027-01-15T08:00:00Z; now by default")
    it.add_argument("--from", dest="client", type=_address, default="127.0.0.1", metavar="ADDRESS")
    it.set_defaults(command=_explain)


def _explain(options: argparse.Namespace) -> int:
    from gateway import target
    from gateway.columns.guard import protect
    from gateway.matrix import returns_columns
    from gateway.policy import (
        decision_as_dict,
        explanation_as_dict,
        explanation_text,
        refused_before_as_dict,
        relation,
    )

    method, _, path = options.request.strip().partition(" ")
    network = options.account if options.kind == "network" else options.network or ""
    account = Account(options.kind, options.account, network)
    owner = Owner(options.user, account, options.role, options.administrator)
    principal = Principal(options.token_id, owner, frozenset(options.scope), 0)
    moment = Moment(time.time() if options.at is None else options.at, options.client)
    catalogue, _, policies, table = _loaded(options)
    try:
        wanted = target.judge(path.strip(), "")
        call = catalogue.identify(method.upper(), wanted)
    except Problem as problem:  # refused before any policy is asked
        if options.json:
            _print(refused_before_as_dict(problem))
        else:
            print(f"deny ({problem.kind}): {problem.detail}\n  refused before any policy is asked")
        return DONE
    call = catalogue.with_keys(call, {*options.body_key, *wanted.query_names})
    related = relation(owner, call.operation, call.account_id, options.account_network)
    explanation = policies.explain(principal, call.operation, related, moment)
    withheld: dict[str, int] = {}
    if explanation.decision.allowed and returns_columns(call.operation):
        reveal = table.classes.reveal(table.visible(principal, related, moment))
        try:
            withheld = protect(call, wanted.raw.partition("?")[2], reveal).asked.withheld
        except Problem as problem:  # policies let it pass, and what it asks for is none
            if options.json:
                _print(decision_as_dict(Decision(False, (), problem.kind), call.operation))
            else:
                print(f"deny ({problem.kind}): {problem.detail}\n  the policies allow {call.operation.id}")
            return DONE
    if options.json:
        _print(explanation_as_dict(explanation, withheld))
    else:
        print(explanation_text(explanation, withheld))
    return DONE


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise argparse.ArgumentTypeError(f"{text} has no offset: write 2027-01-15T08:00:00Z")
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text} is not a time such as 2027-01-15T08:00:00Z") from None


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not an IP address") from None


# --- matrix


def _add_matrix(group: Any, which: argparse.ArgumentParser) -> None:
    it = group.add_parser("matrix", parents=[which], help="who may do what")
    it.add_argument("--kind", action="append", choices=ACCOUNT_KINDS, default=[])
    it.add_argument("--role", action="append", choices=ROLES, default=[])
    it.add_argument("--administrator", choices=("yes", "no"))
    it.add_argument("--relation", action="append", choices=RELATIONS, default=[])
    it.add_argument("--api", action="append", choices=APIS, default=[])
    it.add_argument("--effect", action="append", choices=EFFECTS, default=[])
    it.add_argument("--operation", action="append", default=[], metavar="ID")
    it.add_argument("--decision", choices=("allow", "deny"), help="only these, with --json or --csv")
    it.add_argument("--full", action="store_true", help="one row for each operation")
    how = it.add_mutually_exclusive_group()
    how.add_argument("--csv", action="store_true", help="every cell on a line of its own")
    how.add_argument("--html", action="store_true", help="one page for an auditor, to be kept or printed")
    it.set_defaults(command=_matrix)


def _matrix(options: argparse.Namespace) -> int:
    from gateway import contract, matrix, matrixpage

    listed = options.json or options.csv
    if options.json and (options.csv or options.html):
        return _wrong("--json, --csv and --html do not go together")
    if options.decision and not listed:
        return _wrong("--decision goes with --json or --csv")
    catalogue, sets, policies, table = _loaded(options)
    known = {operation.id for operation in catalogue.operations}
    if unknown := [name for name in options.operation if name not in known]:
        return _wrong(f"there is no operation {unknown[0]}")
    choice = matrix.Choice(
        tuple(options.kind), tuple(options.role),
        None if options.administrator is None else options.administrator == "yes",
        tuple(options.relation), tuple(options.api), tuple(options.effect), tuple(options.operation),
        options.decision,
    )  # fmt: skip
    cells = [cell for cell in table.cells() if cell in choice]
    sights = [sight for sight in matrix.sights(table) if sight in choice]
    if options.json:
        _print([matrix.as_dict(cell) for cell in matrix.ordered(cells)])
    elif options.csv:
        print(matrix.as_csv(matrix.ordered(cells)), end="")
    elif options.html:
        facts = matrixpage.Facts(
            datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%d %H:%M UTC"),
            __version__,
            str(sets),
            policies.digest,
            policies.policies,
            policies.invariants,
            contract.trace(policies.policies, _results(policies, catalogue, sets)),
        )
        print(matrixpage.page([*cells, *sights], facts), end="")
    else:
        by_operation = options.full or options.operation
        made = matrix.by_operation(cells) if by_operation else matrix.grid([*cells, *sights])
        print(matrix.grid_text(matrix.narrowed(made)))
        print()
        for term, meaning in matrix.LEGEND:
            print(f"  {term:14}  {meaning}")
        print(f"\n{matrix.CUT_DOWN}\nset {policies.digest[:16]}: {sets}")
    return DONE


# --- diff


def _add_diff(group: Any, which: argparse.ArgumentParser) -> None:
    it = group.add_parser(
        "diff",
        parents=[which],
        help="which decisions a change flips",
        description="Two sets, decision by decision. A folder that holds a policy of the vendor's page is a whole "
        f'set; any other is an own one and is laid over the packaged set (or --policies). "{PACKAGED}" is the '
        "packaged set itself. Without folders: what --local (or the own folder of --config) changes.",
    )
    it.add_argument("old", nargs="?", metavar="OLD")
    it.add_argument("new", nargs="?", metavar="NEW")
    it.add_argument("--full", action="store_true", help="every operation by name; other reasons as well")
    it.add_argument(
        "--exit-code", action="store_true", help="exit 1 also when a decision flips or a class changes"
    )
    it.set_defaults(command=_diff)


@dataclass(frozen=True, slots=True)
class Side:
    """One set of a comparison: its folders, what it comes to, and why it would not be loaded."""

    sets: Sets
    policies: PolicySet
    table: Table
    faults: tuple[Fault, ...]

    def as_dict(self) -> dict[str, object]:
        return {
            "sets": str(self.sets),
            "digest": self.policies.digest,
            "loads": not self.faults,
            "faults": [_fault_as_dict(fault) for fault in self.faults],
        }


def _diff(options: argparse.Namespace) -> int:
    from gateway import difference

    if (options.old is None) != (options.new is None):
        return _wrong("diff takes two folders, or none and --local")
    catalogue, sets = _chosen(options)
    if options.old is None:
        if sets.local is None:
            return _wrong("diff takes two folders, or --local DIR, or --config FILE with an own folder")
        old, new = replace(sets, local=None), sets
    else:
        old, new = _meant(options.old, sets), _meant(options.new, sets)
    before, after = _side(old, catalogue), _side(new, catalogue)
    texts = [
        {policy.ref.id: policy.text.strip() for policy in side.policies.parts} for side in (before, after)
    ]
    changed = {name for name in texts[0].keys() | texts[1].keys() if texts[0].get(name) != texts[1].get(name)}
    flips = difference.differences(before.table, after.table, changed)
    groups = difference.grouped(flips)
    columns = after.table.classes.other_than(before.table.classes)
    if options.json:
        _print(
            {
                "old": before.as_dict(),
                "new": after.as_dict(),
                "counts": difference.counts(flips),
                "groups": [difference.group_as_dict(group) for group in groups],
                "flips": [difference.flip_as_dict(f) for f in flips if f.kind in difference.FLIPS],
                "others": [difference.flip_as_dict(f) for f in flips if f.kind not in difference.FLIPS],
                "columns": [{"name": name, "old": old, "new": new} for name, (old, new) in columns.items()],
            }
        )
    else:
        print(f"old: {before.sets}, {before.policies.digest[:16]}")
        print(f"new: {after.sets}, {after.policies.digest[:16]}\n")
        shown = [group for group in groups if options.full or group.kind != "reason"]
        if shown:
            print(difference.groups_text(shown, catalogue.variants(), options.full) + "\n")
        print(difference.counts_text(flips))
        for name, (was, now) in columns.items():
            print(f"column {name}: was {was}, is {now}")
        for name, side in (("old", before), ("new", after)):
            if side.faults:
                print(f"\nthe {name} set does not load:", *side.faults, sep="\n  ")
    flipped = options.exit_code and (columns or any(flip.kind in difference.FLIPS for flip in flips))
    return FAULTS if after.faults or flipped else DONE


def _meant(text: str, given: Sets) -> Sets:
    """The set that a folder is, or that it makes when laid over the one that is given."""
    from gateway import contract
    from gateway.policyfile import tokens

    if text == PACKAGED:
        return replace(given, folder=None)
    folder = _folder(text)
    carriers = {f'"{name}"' for sentence in contract.load().sentences for name in sentence.policies}
    if any(token.text in carriers for path in _cedar(folder) for token in tokens(_text(path))):
        return replace(given, folder=folder)
    if given.local is not None:
        raise ConfigError([Fault(text, 0, "", f"is an own folder, and so is {given.local}")])
    return replace(given, local=folder)


def _cedar(folder: Path | None) -> list[Path]:
    return [] if folder is None else sorted(folder.glob("*.cedar"))


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def _side(sets: Sets, catalogue: Catalogue) -> Side:
    """A set as it would decide, loaded though it may not be. Raises: ConfigError for what cannot decide at all.

    Policies without an @id, a @source or a @reason do not load either, and what they would open is shown here.
    """
    from gateway import load
    from gateway.policy import PolicySet

    with tempfile.TemporaryDirectory(prefix="invoca-gateway-") as place, _as_read(sets, Path(place)) as found:
        named, faults = found
        policies = PolicySet.load(named.folder, named.local, operations=catalogue.variants())
        table, broken = load.check_policies(policies, catalogue)
    return Side(sets, policies, table, (*faults, *broken))


@contextmanager
def _as_read(sets: Sets, place: Path) -> Iterator[tuple[Sets, list[Fault]]]:
    """The same set with every policy named; faults speak of the folders as the operator knows them."""
    faults: list[Fault] = []
    copies: dict[str, str] = {}

    def named(folder: Path | None, number: str) -> Path | None:
        missing = [] if folder is None else [*_unnamed(folder)]
        if folder is None or not missing:
            return folder
        faults.extend(missing)
        copy = place / number / folder.resolve().name
        shutil.copytree(folder, copy)
        for path in _cedar(copy):
            path.write_bytes(_with_names(_text(path), path.stem).encode())
        copies[str(copy)] = str(folder)
        return copy

    try:
        yield Sets(named(sets.folder, "0"), named(sets.local, "1")), faults
    except ConfigError as error:
        back = [_renamed(fault, copies) for fault in error.faults]
        raise ConfigError([*faults, *back]) from None


def _renamed(fault: Fault, copies: dict[str, str]) -> Fault:
    for copy, folder in copies.items():
        if fault.file.startswith(copy):
            return replace(fault, file=folder + fault.file[len(copy) :])
    return fault


def _unnamed(folder: Path) -> Iterator[Fault]:
    from gateway.policyfile import NAMED, split

    for path in _cedar(folder):
        for piece in split(_text(path)):
            names = _annotations(piece.tokens)
            yield from (
                Fault(str(path), piece.line, "", f'needs @{name}("...")')
                for name in NAMED
                if name not in names
            )


def _annotations(tokens: Sequence[Any]) -> set[str]:
    return {after.text for token, after in pairwise(tokens) if token.text == "@"}


def _with_names(text: str, stem: str) -> str:
    """The text with what policies lack written before them, on the line they begin on."""
    from gateway.policyfile import NAMED, split

    made, end = [], 0
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in stem) or "file"
    for piece in split(text):
        lacking = [name for name in NAMED if name not in _annotations(piece.tokens)]
        values = {"id": f"unnamed-{safe}-{piece.line}"[:100]}
        said = "".join(f'@{name}("{values.get(name, "not given")}") ' for name in lacking)
        begin = piece.tokens[0].start
        made += [text[end:begin], said]
        end = begin
    return "".join((*made, text[end:]))


# --- mutate


def _add_mutate(group: Any, which: argparse.ArgumentParser) -> None:
    it = group.add_parser(
        "mutate", parents=[which], help="change each policy in turn: a case or an invariant has to notice"
    )
    it.add_argument("--only", action="append", default=[], metavar="ID", help="change these policies alone")
    it.add_argument("--full", action="store_true", help="every mutant, and what noticed it")
    it.set_defaults(command=_mutate)


def _mutate(options: argparse.Namespace) -> int:
    from gateway import cases, mutation, policyfile
    from gateway.compile import compile
    from gateway.difference import can_be_told, differences
    from gateway.policy import PolicySet
    from gateway.shipped import packaged

    catalogue, sets, policies, table = _loaded(options)
    operations = catalogue.variants()
    loaded: Loaded = policyfile.read(sets.folder or packaged(), sets.local, operations)
    # A case that fails already would notice everything.
    every = [
        found
        for found in cases.read_cases(sets.folder, sets.local)
        if cases.run_case(policies, catalogue, *found).passed
    ]

    @lru_cache(1)  # both questions are asked of one mutant after the other
    def table_of(mutant: Mutant) -> Table:
        return compile(PolicySet(replace(loaded, policies=mutant.policies or ())), operations)

    def noticed(mutant: Mutant) -> str | None:
        made = PolicySet(replace(loaded, policies=mutant.policies or ()))
        # Those about the policy come first, so that most mutants cost one case.
        ranked = sorted(every, key=lambda found: mutant.policy.id not in (found[0].policies or ()))
        for found in ranked:
            if not cases.run_case(made, catalogue, *found).passed:
                return found[0].name
        proofs = cases.check_invariants(table_of(mutant), loaded.invariants)
        return next((result.name for result in proofs if not result.passed), None)

    def differs(mutant: Mutant) -> bool:
        live = {policy.ref.id for policy in loaded.policies if policy.reads.live}
        return any(map(can_be_told, differences(table, table_of(mutant), live)))

    if unknown := set(options.only) - {policy.ref.id for policy in loaded.policies}:
        return _wrong(f"there is no policy {min(unknown)}")
    found = mutation.mutants(
        loaded.policies, lambda policy, text: policyfile.reread(policy, text, loaded.schema, operations)
    )
    chosen = (mutant for mutant in found if not options.only or mutant.policy.id in options.only)
    verdicts = list(mutation.judge(chosen, noticed, differs))
    if options.json:
        _print(mutation.verdicts_as_dict(verdicts))
    else:
        print(mutation.verdicts_text(verdicts, options.full))
    return FAULTS if any(verdict.fate == "survived" for verdict in verdicts) else DONE


# --- contract


def _add_contract(group: Any, which: argparse.ArgumentParser) -> None:
    it = group.add_parser(
        "contract", parents=[which], help="the page's sentences, their policies, and the cases of each"
    )
    it.set_defaults(command=_contract)


def _contract(options: argparse.Namespace) -> int:
    from gateway import contract
    from gateway.policy import PolicySet

    catalogue, sets = _chosen(options)
    policies = PolicySet.load(sets.folder, sets.local, operations=catalogue.variants())
    results = _results(policies, catalogue, sets)
    traced = contract.trace(policies.policies, results, checkout=contract.checkout())
    if options.json:
        _print(contract.trace_as_dict(traced))
    else:
        print(contract.trace_text(traced))
    return FAULTS if traced.faults else DONE


# --- replay


def _add_replay(group: Any, which: argparse.ArgumentParser) -> None:
    it = group.add_parser(
        "replay",
        parents=[which],
        help="which recorded decisions this set would flip",
        description='Decision records, also rotated and packed ones (gzip); "-" is standard input.',
    )
    it.add_argument("records", nargs="+", metavar="RECORDS")
    it.add_argument("--full", action="store_true", help="also decisions that stay, for another reason")
    it.add_argument("--exit-code", action="store_true", help="exit 1 also when a decision flips")
    it.set_defaults(command=_replay)


def _replay(options: argparse.Namespace) -> int:
    from gateway import replay

    catalogue, _, _, table = _loaded(options)
    operations: dict[tuple[str, str], Operation] = {
        (operation.id, operation.effect): operation for operation in catalogue.variants()
    }
    done = replay.Replay()
    for name in options.records:
        if name == "-":
            done.read(sys.stdin.buffer, "-", table, operations)
            continue
        try:
            with Path(name).open("rb") as file:
                done.read(file, name, table, operations)
        except OSError as error:
            done.faults.append((name, f"cannot be read: {type(error).__name__}"))
    if options.json:
        _print(replay.replay_as_dict(done))
    else:
        print(replay.replay_text(done, options.full))
    return FAULTS if done.faults or (options.exit_code and done.flipped) else DONE
