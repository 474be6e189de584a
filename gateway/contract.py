"""The vendor's page as a contract: each of its sentences, the policies that carry it, and the cases that show those.

`check` is asked at load: a set that lost a policy which carries a sentence does not serve. `trace` is the whole
table, for `policy contract`, with everything that hangs in the air: a sentence that nothing holds, a vendor's
policy that no sentence asks for, a policy that no case is about, a test that does not exist.

The contract is always the packaged one: no folder of an operator's can reword what the vendor's page says.

Source: sections 1 and 6 of the design.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway import tomlfile
from gateway.cases import CaseResult
from gateway.model import PolicyRef
from gateway.shipped import packaged
from gateway.tomlfile import ConfigError, Fault

SENTENCES = tuple(f"P{number}" for number in range(1, 10))
"""The page has nine sentences that can be enforced (section 1 of the design)."""
VENDOR = "vendor.cedar"
_CITED = re.compile(r"\bP[0-9]+\b", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sentence:
    """One `[[sentence]]`. `policies` carry it; `elsewhere` says what does beside them or instead.

    `tests` are files, or functions of files (`tests/unit/test_x.py::test_y`), of a source checkout.
    """

    id: str
    text: str
    policies: tuple[str, ...] = ()
    elsewhere: str = ""
    tests: tuple[str, ...] = ()

    def check(self) -> Iterator[tuple[str, str]]:
        if self.id not in SENTENCES:
            yield "id", f"is none of the page's sentences ({SENTENCES[0]} to {SENTENCES[-1]})"
        if not self.text.strip():
            yield "text", "is empty"


@dataclass(frozen=True, slots=True)
class ContractFile:
    sentence: tuple[Sentence, ...]

    def check(self) -> Iterator[tuple[str, str]]:
        seen: set[str] = set()
        for number, sentence in enumerate(self.sentence):
            if sentence.id in seen:
                yield f"sentence.{number}.id", f"{sentence.id} is there twice"
            seen.add(sentence.id)


@dataclass(frozen=True, slots=True)
class Contract:
    """Every sentence, where the file is and at which line each begins."""

    file: str
    sentences: tuple[Sentence, ...]
    lines: tuple[int, ...]

    def faults(self, sentence: Sentence, *texts: str) -> list[Fault]:
        line = self.lines[self.sentences.index(sentence)]
        return [Fault(self.file, line, "contract", text) for text in texts]


@dataclass(frozen=True, slots=True)
class Carrier:
    """A policy beside a sentence. `required`: the sentence does not hold without it; else it only cites it.

    `cases` are the names of the cases that passed and name this policy as being behind their decision.
    """

    policy: PolicyRef
    required: bool
    cases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One sentence and what holds it."""

    sentence: Sentence
    carriers: tuple[Carrier, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """The whole table, and what is orphaned in it."""

    rows: tuple[Row, ...]
    faults: tuple[Fault, ...]


def read(text: str, name: str) -> Contract:
    """The contract in a TOML text. Raises: ConfigError with every fault."""
    sentences = tomlfile.read(ContractFile, text, name).sentence
    lines = tomlfile.Lines(text)
    return Contract(
        name, sentences, tuple(lines.of(("sentence", str(number))) for number in range(len(sentences)))
    )


def load() -> Contract:
    """The packaged contract. Raises: ConfigError when it cannot be read."""
    path = packaged() / "contract.toml"
    try:
        return read(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Fault(str(path), 0, "", f"cannot be read: {type(error).__name__}")]) from None


def check(policies: Sequence[PolicyRef], contract: Contract | None = None) -> list[Fault]:
    """The sentences that lost a policy: one that a set lacks, or that does not forbid there.

    Every carrier forbids, so that nothing an operator permits undoes a sentence. Raises: ConfigError when the
    packaged contract, the default, cannot be read.
    """
    contract = contract or load()
    forbidding = {policy.id for policy in policies if policy.effect == "forbid"}
    return [
        fault
        for sentence in contract.sentences
        for lost in sentence.policies
        if lost not in forbidding
        for fault in contract.faults(sentence, f"{sentence.id} ({sentence.text}) lost its policy {lost}")
    ]


def trace(
    policies: Sequence[PolicyRef],
    cases: Sequence[CaseResult],
    contract: Contract | None = None,
    checkout: Path | None = None,
) -> Trace:
    """Sentences, policies and cases beside each other. `checkout` is where the named tests are looked for."""
    contract = contract or load()
    shown: dict[str, list[str]] = {}
    for case in cases:
        if case.passed:
            for policy_id in case.policies:
                shown.setdefault(policy_id, []).append(case.name)

    def carriers(sentence: Sentence) -> Iterator[Carrier]:
        for policy in policies:
            required = policy.id in sentence.policies
            if required or sentence.id in _CITED.findall(policy.source):
                yield Carrier(policy, required, tuple(shown.get(policy.id, ())))

    rows = tuple(Row(sentence, tuple(carriers(sentence))) for sentence in contract.sentences)
    faults = check(policies, contract)
    faults += _unheld(contract)
    faults += _unasked(contract, policies)
    faults += (
        Fault(policy.file, policy.line, policy.id, "no case is about this policy")
        for policy in policies
        if policy.id not in shown
    )
    if checkout is not None:
        faults += _untested(contract, checkout)
    return Trace(rows, tuple(faults))


def checkout() -> Path | None:
    """The source checkout that the packaged policies lie in; None for an installed package, which has no tests."""
    root = packaged().parent
    return root if (root / "tests").is_dir() and (root / "pyproject.toml").is_file() else None


def _unheld(contract: Contract) -> Iterator[Fault]:
    """The sentences that nothing holds, or that say so and show no test of it."""
    known = {sentence.id for sentence in contract.sentences}
    for missing in SENTENCES:
        if missing not in known:
            yield Fault(contract.file, 0, "contract", f"{missing} is not there")
    for sentence in contract.sentences:
        if not sentence.policies and not sentence.elsewhere.strip():
            yield from contract.faults(sentence, f"{sentence.id} ({sentence.text}) is held by nothing")
        if sentence.elsewhere.strip() and not sentence.tests:
            text = f"{sentence.id} is enforced elsewhere, and no test is named that shows it"
            yield from contract.faults(sentence, text)


def _unasked(contract: Contract, policies: Sequence[PolicyRef]) -> Iterator[Fault]:
    """The vendor's policies that no sentence asks for, and sources that cite a sentence there is not."""
    asked = {policy_id: sentence.id for sentence in contract.sentences for policy_id in sentence.policies}
    for policy in policies:
        cited = _CITED.findall(policy.source)
        for word in cited:
            if word not in SENTENCES:
                yield Fault(
                    policy.file, policy.line, policy.id, f"cites {word}, which the page does not have"
                )
        if Path(policy.file).name == VENDOR and policy.id not in asked:
            yield Fault(
                policy.file, policy.line, policy.id, "no sentence of the contract asks for this policy"
            )
        elif policy.id in asked and asked[policy.id] not in cited:
            text = f"carries {asked[policy.id]}, and its @source does not cite it"
            yield Fault(policy.file, policy.line, policy.id, text)


def _untested(contract: Contract, root: Path) -> Iterator[Fault]:
    for sentence in contract.sentences:
        for named in sentence.tests:
            file, _, function = named.partition("::")
            try:
                text = (root / file).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError, ValueError):
                yield from contract.faults(sentence, f"{sentence.id}: there is no test {file}")
                continue
            if function and re.search(rf"^(?:async )?def {re.escape(function)}\(", text, re.M) is None:
                yield from contract.faults(sentence, f"{sentence.id}: {file} has no test {function}")


# --- What is printed -----------------------------------------------------------------------------------------


def trace_as_dict(traced: Trace) -> dict[str, object]:
    """What `policy contract --json` prints."""
    return {
        "sentences": [
            {
                "id": row.sentence.id,
                "text": row.sentence.text,
                "policies": [
                    {
                        "id": carrier.policy.id,
                        "effect": carrier.policy.effect,
                        "required": carrier.required,
                        "file": carrier.policy.file,
                        "line": carrier.policy.line,
                        "cases": list(carrier.cases),
                    }
                    for carrier in row.carriers
                ],
                "elsewhere": row.sentence.elsewhere or None,
                "tests": list(row.sentence.tests),
            }
            for row in traced.rows
        ],
        "orphans": [
            {"file": fault.file, "line": fault.line, "key": fault.key, "text": fault.text}
            for fault in traced.faults
        ],
    }


def trace_text(traced: Trace) -> str:
    """What `policy contract` prints: each sentence, what holds it and how that is shown; then the orphans."""
    lines: list[str] = []
    for row in traced.rows:
        lines += ["", f"{row.sentence.id}  {row.sentence.text}"]
        for carrier in row.carriers:
            cases = f"{len(carrier.cases)} case{'' if len(carrier.cases) == 1 else 's'}"
            example = f', such as "{carrier.cases[0]}"' if carrier.cases else ""
            cites = "" if carrier.required else "  (cites it)"
            lines.append(f"    {carrier.policy.effect} {carrier.policy.id}{cites}: {cases}{example}")
        if row.sentence.elsewhere:
            lines.append(f"    elsewhere: {row.sentence.elsewhere}")
        lines += (f"    shown by {test}" for test in row.sentence.tests)
    lines += ["", *map(str, traced.faults)] if traced.faults else [""]
    held = {carrier.policy.id for row in traced.rows for carrier in row.carriers}
    orphans = f"{len(traced.faults)} orphan{'' if len(traced.faults) == 1 else 's'}"
    lines.append(f"{len(traced.rows)} sentences, {len(held)} policies that speak of them, {orphans}")
    return "\n".join(lines[1:])
