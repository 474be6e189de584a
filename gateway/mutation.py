"""Whether the cases and invariants would notice if a policy said something else.

Each policy in turn is deleted and inverted (permit for forbid), and each part of its `when` and `unless` is dropped
and negated. A case or an invariant has to fail for each: a mutant that nothing notices survives, and is a rule that
nobody tests. A dropped or negated part that changes no decision anywhere, nor any reason for one, is equivalent:
no case could tell it apart, because other policies say the same.

Source: section 6 of the design; field notes B11.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gateway.model import PolicyRef
from gateway.policyfile import Anatomy, Clause, Policy, anatomy, split

Fate = Literal["noticed", "equivalent", "survived"]
INVERTED: dict[str, Literal["permit", "forbid"]] = {"permit": "forbid", "forbid": "permit"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A set in which one policy says something else. `change` is in words; `whole`: it is the policy as such."""

    policy: PolicyRef
    change: str
    whole: bool
    policies: tuple[Policy, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant, and by what it was noticed: the name of a case, or the id of an invariant."""

    policy: PolicyRef
    change: str
    fate: Fate
    by: str = ""


def mutants(policies: Sequence[Policy]) -> Iterator[Mutant]:
    """Every mutant of a set, policy by policy: deleted, inverted, then part by part without it and against it."""
    for number, policy in enumerate(policies):
        before, after = tuple(policies[:number]), tuple(policies[number + 1 :])
        yield Mutant(policy.ref, "deleted", True, before + after)
        for change, whole, changed in _changed(policy):
            yield Mutant(policy.ref, change, whole, (*before, changed, *after))


def judge(
    found: Sequence[Mutant],
    noticed: Callable[[Mutant], str | None],
    differs: Callable[[Mutant], bool],
) -> Iterator[Verdict]:
    """What becomes of each mutant. `noticed` names the case or invariant that fails, None when none does.

    `differs` tells whether any decision, or reason for one, is another than in the set itself.
    """
    for mutant in found:
        by = noticed(mutant)
        if by is not None:
            yield Verdict(mutant.policy, mutant.change, "noticed", by)
        elif not mutant.whole and not differs(mutant):
            yield Verdict(mutant.policy, mutant.change, "equivalent")
        else:
            yield Verdict(mutant.policy, mutant.change, "survived")


def _changed(policy: Policy) -> Iterator[tuple[str, bool, Policy]]:
    """The policy with one change: in words, whether it is to the policy as such, and what comes of it."""
    (piece,) = split(policy.text)
    parts = anatomy(piece)
    effect = INVERTED[parts.effect]
    ref = replace(policy.ref, effect=effect)
    text = replace(parts, effect=effect).text()
    yield f"inverted to {effect}", True, replace(policy, ref=ref, text=text)
    for number, clause in enumerate(parts.clauses):
        for place, part in enumerate(clause.parts):
            rest = clause.parts[:place] + clause.parts[place + 1 :]
            negated = (*clause.parts[:place], f"!({part})", *clause.parts[place + 1 :])
            shown = part if clause.word == "when" else f"unless {part}"
            yield f"without: {shown}", False, _with(policy, parts, number, rest)
            yield f"negated: {shown}", False, _with(policy, parts, number, negated)


def _with(policy: Policy, parts: Anatomy, number: int, now: tuple[str, ...]) -> Policy:
    kept = (Clause(parts.clauses[number].word, now),) if now else ()
    clauses = (*parts.clauses[:number], *kept, *parts.clauses[number + 1 :])
    return replace(policy, text=replace(parts, clauses=clauses).text())


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
            lines.append(f"{where}: survives {verdict.change}")
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
