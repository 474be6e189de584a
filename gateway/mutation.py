"""Whether the cases and invariants would notice if a policy said something else.

Each policy in turn is deleted and inverted (permit for forbid), and each part of its `when` and `unless` is dropped
and negated. A case or an invariant has to fail for each: a mutant that nothing notices survives, and is a rule that
nobody tests. A dropped or negated part that changes no decision anywhere, nor any reason for one, is equivalent:
no case could tell it apart, because other policies say the same.

Source: section 6 of the design; field notes B11.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gateway.model import PolicyRef
from gateway.policyfile import Anatomy, Clause, Policy, anatomy, split

Fate = Literal["noticed", "equivalent", "survived"]
INVERTED = {"permit": "forbid", "forbid": "permit"}


@dataclass(frozen=True, slots=True, eq=False)
class Mutant:
    """A set in which one policy says something else. `change` is in words; `whole`: it is the policy as such.

    `policies` is None where the change does not pass the checks of `policyfile`: such a set never loads.
    """

    policy: PolicyRef
    change: str
    whole: bool
    policies: tuple[Policy, ...] | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant, and by what it was noticed: the name of a case, or the id of an invariant."""

    policy: PolicyRef
    change: str
    fate: Fate
    by: str = ""


Reread = Callable[[Policy, str], Policy | None]
"""A policy with another text; None when that text does not pass the checks. (`policyfile.reread`)"""


def mutants(policies: Sequence[Policy], reread: Reread) -> Iterator[Mutant]:
    """Every mutant of a set, policy by policy: deleted, inverted, then part by part without it and against it."""
    for number, policy in enumerate(policies):
        before, after = tuple(policies[:number]), tuple(policies[number + 1 :])
        yield Mutant(policy.ref, "deleted", True, before + after)
        for change, whole, text in _changes(policy):
            changed = reread(policy, text)
            yield Mutant(policy.ref, change, whole, None if changed is None else (*before, changed, *after))


def judge(
    found: Iterable[Mutant],
    noticed: Callable[[Mutant], str | None],
    differs: Callable[[Mutant], bool],
) -> Iterator[Verdict]:
    """What becomes of each mutant. `noticed` names the case or invariant that fails, None when none does; it is
    asked first.

    `differs` tells whether any decision, or reason for one, is another than in the set itself.
    """
    for mutant in found:
        by = "the checks at load" if mutant.policies is None else noticed(mutant)
        if by is not None:
            yield Verdict(mutant.policy, mutant.change, "noticed", by)
        elif not mutant.whole and not differs(mutant):
            yield Verdict(mutant.policy, mutant.change, "equivalent")
        else:
            yield Verdict(mutant.policy, mutant.change, "survived")


def _changes(policy: Policy) -> Iterator[tuple[str, bool, str]]:
    """Each change to a policy: in words, whether it is to the policy as such, and the text that comes of it."""
    (piece,) = split(policy.text)
    parts = anatomy(piece)
    effect = INVERTED[parts.effect]
    yield f"inverted to {effect}", True, replace(parts, effect=effect).text()
    for number, clause in enumerate(parts.clauses):
        for place, part in enumerate(clause.parts):
            rest = clause.parts[:place] + clause.parts[place + 1 :]
            negated = (*clause.parts[:place], f"!({part})", *clause.parts[place + 1 :])
            shown = part if clause.word == "when" else f"unless {part}"
            yield f"without: {shown}", False, _with(parts, number, rest)
            yield f"negated: {shown}", False, _with(parts, number, negated)


def _with(parts: Anatomy, number: int, now: tuple[str, ...]) -> str:
    kept = (Clause(parts.clauses[number].word, now),) if now else ()
    return replace(parts, clauses=(*parts.clauses[:number], *kept, *parts.clauses[number + 1 :])).text()


# --- What is printed -----------------------------------------------------------------------------------------


def verdicts_as_dict(verdicts: Sequence[Verdict]) -> dict[str, object]:
    """What `policy mutate --json` prints. `survivors` are those of `mutants` that nothing noticed."""
    listed = [
        {
            "policy": verdict.policy.id,
            "file": verdict.policy.file,
            "line": verdict.policy.line,
            "change": verdict.change,
            "fate": verdict.fate,
            "by": verdict.by or None,
        }
        for verdict in verdicts
    ]
    return {"mutants": listed, "survivors": [entry for entry in listed if entry["fate"] == "survived"]}


def verdicts_text(verdicts: Sequence[Verdict], full: bool = False) -> str:
    """What `policy mutate` prints: the survivors, or every mutant; and how many there were of each."""
    lines = []
    for verdict in verdicts:
        if verdict.fate == "survived":
            where = f"{verdict.policy.file}:{verdict.policy.line}: {verdict.policy.id}"
            lines.append(f"{where}: no case and no invariant notices: {verdict.change}")
        elif full:
            how = f"by {verdict.by}" if verdict.by else "it changes no decision and no reason for one"
            lines.append(f"{verdict.policy.id}: {verdict.change}: {verdict.fate}, {how}")
    counts = {
        fate: sum(verdict.fate == fate for verdict in verdicts)
        for fate in ("noticed", "equivalent", "survived")
    }
    lines.append(
        f"{len(verdicts)} mutants: {counts['noticed']} noticed, {counts['equivalent']} equivalent, "
        f"{counts['survived']} survived"
    )
    return "\n".join(lines)
