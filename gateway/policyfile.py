"""Policy files into checked policies: what is read here can be evaluated, or is refused with file and line.

Cedar's bindings name no file and no line, accept duplicate ids, misspelt words and templates, and end the process
on deeply nested text (measured with cedarpy 4.12). So files are cut at policy boundaries by a tokenizer of our own,
bounded before the engine sees them, type-checked one by one, and read once more for words that could never match.

Sources: section 6 of the design; Cedar's grammar and JSON policy format (docs.cedarpolicy.com).
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gateway import tomlfile, words
from gateway.cedar import cedarpy
from gateway.columns import classes
from gateway.columns.classes import Classes
from gateway.model import COLUMN_CLASSES, Operation, PolicyRef
from gateway.shipped import packaged
from gateway.tomlfile import ConfigError, Fault
from gateway.words import Reads, Vocabulary

MAX_TOKENS = 4_000
MAX_DEPTH = 32
POLICY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
NAMED = ("id", "source", "reason")


@dataclass(frozen=True, slots=True)
class File:
    """One file's text. `path` is as the operator wrote it, for faults; `name` is what others may see."""

    path: str
    name: str
    text: str

    def fault(self, line: int, key: str, text: str) -> Fault:
        return Fault(self.path, line, key, text)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a policy: as its author wrote it, as a policy that permits when it holds, what it reads."""

    shown: str
    probe: str
    reads: Reads


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy that passed every check. `path` is its file as the operator wrote it; `text` ends with its `;`.

    It applies to `actions` alone, and matches when all its conditions hold.
    """

    ref: PolicyRef
    path: str
    text: str
    conditions: tuple[Condition, ...]
    actions: frozenset[str]
    reads: Reads


@dataclass(frozen=True, slots=True)
class Invariant:
    """What may never be: that an operation is allowed, or that a column class is seen.

    `when` narrows by dimension; a dimension left out means all of it.
    """

    id: str
    never: Literal["allow", "see"]
    when: Mapping[str, tuple[str | bool, ...]]
    reason: str
    source: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A whole set without faults. `digest` is the SHA-256, in hex, of its texts in sorted order."""

    policies: tuple[Policy, ...]
    schema: cedarpy.Schema
    schema_file: File
    invariants: tuple[Invariant, ...]
    classes: Classes
    digest: str


def read(
    folder: Path, local: Path | None, operations: Iterable[Operation], shadow: Path | None = None
) -> Loaded:
    """The set in `folder` with the files of `local` laid over it, and the shipped invariants in any case.

    Those of `shadow` come on top, for a set that is only tried.

    A whole set to try may bring a copy of the schema and of the classes of columns; it falls back to the shipped
    ones. Raises: ConfigError with every fault found.
    """
    faults: list[Fault] = []
    shipped = packaged()
    own_schema = (folder / "schema.cedarschema").is_file()
    schema_file = _read((folder if own_schema else shipped) / "schema.cedarschema", faults)
    schema = None if schema_file is None else _schema(schema_file, faults)
    policy_files = [_read(path, faults) for path in _listed(folder, "*.cedar", faults)]
    if not policy_files and not faults:
        faults.append(Fault(str(folder), 0, "", "has no policies (files named *.cedar)"))
    # A set that repeats the shipped invariants says nothing new; one that has none is bound by them all the same.
    invariant_paths = [shipped / "invariants.toml", *_listed(folder, "invariants.toml", [])]
    for added in filter(None, (local, shadow)):
        policy_files += [_read(path, faults) for path in _listed(added, "*.cedar", faults)]
        invariant_paths += _listed(added, "invariants.toml", [])
        faults += (
            Fault(str(path), 0, "", "the schema is not the operator's to change")
            for path in _listed(added, "*.cedarschema", [])
        )
    invariant_files = [_read(path, faults) for path in invariant_paths]
    own_columns = (folder / classes.FILE).is_file()
    column_paths = [(folder if own_columns else shipped) / classes.FILE]
    column_paths += [] if local is None else _listed(local, classes.FILE, [])
    column_files = [_read(path, faults) for path in column_paths]
    faults += (
        Fault(str(path), 0, "", "classes of columns are not tried: what answers lack is what is enforced")
        for path in ([] if shadow is None else _listed(shadow, classes.FILE, []))
    )

    known = words.vocabulary(operations)
    policies: list[Policy] = []
    for file in filter(None, policy_files):
        policies += _policies(file, schema, known, faults)
    _unique_policies(policies, faults)
    invariants = _invariants(filter(None, invariant_files), known, faults)
    columns = _classes(column_files, faults)
    if faults or schema_file is None or schema is None:
        raise ConfigError(sorted(set(faults), key=lambda fault: (fault.file, fault.line, fault.text)))
    files = (schema_file, *policy_files, *invariant_files, *column_files)
    texts = sorted(file.text for file in files if file is not None)
    digest = hashlib.sha256("".join(f"{len(text)}:{text}" for text in texts).encode()).hexdigest()
    return Loaded(tuple(policies), schema, schema_file, invariants, columns, digest)


def _classes(files: Iterable[File | None], faults: list[Fault]) -> Classes:
    """The classes of columns: the shipped list, and the operator's on top."""
    read = [(file.text, file.path) for file in files if file is not None]
    try:
        return classes.read(*read) if read else Classes()
    except ConfigError as error:
        faults += error.faults
        return Classes()


def _listed(folder: Path, pattern: str, faults: list[Fault]) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.match(pattern))
    except (OSError, ValueError) as error:
        faults.append(Fault(str(folder), 0, "", f"cannot be read: {type(error).__name__}"))
        return []


def _read(path: Path, faults: list[Fault]) -> File | None:
    """A file's text, if a person and a parser are sure to see the same in it."""
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        faults.append(Fault(str(path), 0, "", f"cannot be read: {type(error).__name__}"))
        return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        faults.append(Fault(str(path), raw.count(b"\n", 0, error.start) + 1, "", "is not UTF-8"))
        return None
    file = File(str(path), f"{path.parent.name}/{path.name}", text.replace("\r\n", "\n"))
    unseen = _unseen(file)
    if unseen is not None:
        faults.append(unseen)
        return None
    return file


def _unseen(file: File) -> Fault | None:
    """The first character that an editor may hide or read differently from Cedar: a lone CR ends a comment
    there, a bidirectional override changes the order of what is shown."""
    for number, line in enumerate(file.text.split("\n"), 1):
        for character in line:
            if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp") and character != "\t":
                return file.fault(
                    number, "", f"has the character U+{ord(character):04X}, which reviewers cannot see"
                )
    return None


def _schema(file: File, faults: list[Fault]) -> cedarpy.Schema | None:
    fault = _too_much(file, tokens(file.text))
    if fault is not None:
        faults.append(fault)
        return None
    try:
        return cedarpy.Schema.from_str(file.text)
    except ValueError as error:
        faults.append(file.fault(0, "", f"is not a Cedar schema: {error}"))
        return None


def _policies(
    file: File,
    schema: cedarpy.Schema | None,
    known: Vocabulary,
    faults: list[Fault],
) -> Iterator[Policy]:
    """The policies of a file that have no fault; the faults of the others are added."""
    for piece in split(file.text):
        found, policy = _policy(file, piece, schema, known)
        faults += found
        if policy is not None and not found:
            yield policy


def _policy(
    file: File,
    piece: Piece,
    schema: cedarpy.Schema | None,
    known: Vocabulary,
) -> tuple[list[Fault], Policy | None]:
    if (fault := _too_much(file, piece.tokens)) is not None:
        return [fault], None
    if piece.tokens[-1].text != ";":
        return [file.fault(piece.line, "", "a policy ends with ;")], None
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(piece.text))
    except ValueError as error:
        return [file.fault(piece.line, "", f"is not a Cedar policy: {error}")], None
    except RecursionError:
        return [file.fault(piece.line, "", "is nested too deeply to be checked")], None
    static = list(parsed["staticPolicies"].values())
    if parsed["templates"]:
        return [
            file.fault(piece.line, "", "is a template: one with ?principal or ?resource never applies")
        ], None
    if len(static) != 1:
        return [file.fault(piece.line, "", "is not one policy")], None

    tree = static[0]
    annotations = {key: (value or "").strip() for key, value in tree.get("annotations", {}).items()}
    policy_id = annotations.get("id", "")
    found = [
        file.fault(piece.line, policy_id, f'needs @{name}("...")')
        for name in NAMED
        if not annotations.get(name)
    ]
    if policy_id and POLICY_ID.fullmatch(policy_id) is None:
        found.append(file.fault(piece.line, policy_id, "an @id has letters, digits, '-', '.' and '_' alone"))
    if tree["effect"] == "permit" and Path(file.path).name == "vendor.cedar":
        found.append(file.fault(piece.line, policy_id, "permits, and vendor.cedar only forbids"))
    reads, misread = words.read(tree, known)
    found += (file.fault(piece.line_of(word), policy_id, text) for word, text in misread)
    if schema is not None:
        for mistake in cedarpy.validate_policies(piece.text, schema).errors:
            text = re.sub(r"^for policy `policy\d+`, ", "", mistake.error)
            if any(text.startswith(f"attribute `{word}` ") for word, _ in misread):
                continue  # said already, with the name that may have been meant
            found.append(file.fault(piece.line, policy_id, text))
    if found:
        return found, None
    ref = PolicyRef(
        policy_id, tree["effect"], annotations["reason"], annotations["source"], file.name, piece.line
    )
    conditions = tuple(_conditions(piece))
    return [], Policy(ref, file.path, piece.text, conditions, words.actions(tree), reads)


def reread(
    policy: Policy, text: str, schema: cedarpy.Schema, operations: Iterable[Operation]
) -> Policy | None:
    """The policy as it would be with another text; None when that does not pass every check.

    That it stands in vendor.cedar is no such check: whether a permit there would be noticed is for cases to say.
    """
    file = File(str(Path(policy.path).with_name("changed.cedar")), policy.ref.file, text)
    pieces = split(text)
    found, made = _policy(file, pieces[0], schema, words.vocabulary(operations))
    if found or made is None or len(pieces) != 1:
        return None
    return replace(made, path=policy.path, ref=replace(policy.ref, effect=made.ref.effect))


def _unique_policies(policies: Iterable[Policy], faults: list[Fault]) -> None:
    first: dict[str, PolicyRef] = {}
    for policy in policies:
        ref = policy.ref
        known = first.setdefault(ref.id, ref)
        if known is not ref:
            text = f"this @id is taken at {known.file}:{known.line}"
            faults.append(Fault(policy.path, ref.line, ref.id, text))


def _too_much(file: File, of: Sequence[Token]) -> Fault | None:
    """A text that could end the process: Cedar's parser has no bound of its own (measured: 3,000 parentheses)."""
    if len(of) > MAX_TOKENS:
        return file.fault(of[0].line, "", f"is longer than {MAX_TOKENS} words and signs")
    depth = 0
    for token in of:
        # An `if` has no bracket of its own, so it is taken never to end; nor has the `Set<` of a schema.
        depth += token.text in ("(", "[", "{", "if", "Set")
        depth = max(0, depth - (token.text in (")", "]", "}")))
        if depth > MAX_DEPTH:
            return file.fault(token.line, "", f"is nested more than {MAX_DEPTH} deep")
    return None


# --- Cedar text ----------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<gap>\s+|//[^\n\r]*)|"(?:[^"\\]|\\.)*"|[^\W\d]\w*|\d+|&&|\|\||==|!=|<=|>=|::|.""", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Token:
    """One word, string or sign of a Cedar text: where it begins, and whether white space stood before it."""

    text: str
    start: int
    line: int
    spaced: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """The text of one policy with the comments before it, its tokens (at least one), and its first line."""

    text: str
    tokens: tuple[Token, ...]

    @property
    def line(self) -> int:
        return self.tokens[0].line

    def line_of(self, word: str) -> int:
        """The line of a string in the policy, else its first line."""
        return next((token.line for token in self.tokens if token.text == f'"{word}"'), self.line)


def tokens(text: str) -> list[Token]:
    """The tokens of a Cedar text, comments and white space left out. A sign that is none is its own token."""
    found, line, spaced = [], 1, True
    for match in _TOKEN.finditer(text):
        if match["gap"] is None:
            found.append(Token(match[0], match.start(), line, spaced))
        spaced = match["gap"] is not None
        line += match[0].count("\n")
    return found


def split(text: str) -> list[Piece]:
    """One piece for each policy: every policy ends with `;`, and no string or comment does.

    What follows the last `;` is a piece of its own, unless it is only comments.
    """
    pieces: list[Piece] = []
    begin, held = 0, list[Token]()
    for token in tokens(text):
        held.append(token)
        if token.text == ";":
            pieces.append(Piece(text[begin : token.start + 1], tuple(held)))
            begin, held = token.start + 1, []
    if held:
        pieces.append(Piece(text[begin:], tuple(held)))
    return pieces


def _conditions(piece: Piece) -> Iterator[Condition]:
    """The scope of a policy, and the conditions of its `when` and `unless`, each of which it needs."""
    made = anatomy(piece)
    scope = f"permit ({made.scope});"
    yield Condition(f"({made.scope})", scope, _reads(scope))
    for clause in made.clauses:
        for shown in clause.parts:
            probe = f"permit (principal, action, resource) {clause.word} {{ {shown} }};"
            yield Condition(shown if clause.word == "when" else f"unless {shown}", probe, _reads(probe))


@functools.lru_cache(4_096)  # the same conditions stand in many policies
def _reads(probe: str) -> Reads:
    [tree] = json.loads(cedarpy.policies_to_json_str(probe))["staticPolicies"].values()
    return words.read(tree, words.vocabulary(()))[0]  # its words were checked with the policy's


@dataclass(frozen=True, slots=True)
class Clause:
    """One `when` or `unless`: the parts of it that each have to hold, or of which none may."""

    word: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A policy taken apart. `head` is the text before its effect: comments and annotations."""

    head: str
    effect: str
    scope: str
    clauses: tuple[Clause, ...]

    def text(self) -> str:
        """The policy put together again; it means what it meant."""
        joined = {"when": " && ", "unless": " || "}
        clauses = "".join(
            f"\n{clause.word} {{ {joined[clause.word].join(clause.parts)} }}" for clause in self.clauses
        )
        return f"{self.head}{self.effect} ({self.scope}){clauses};"


def anatomy(piece: Piece) -> Anatomy:
    """The parts of a policy that Cedar has parsed."""
    rest = list(piece.tokens)
    while rest[0].text == "@":  # @name or @name("text")
        del rest[: 5 if rest[2].text == "(" else 2]
    effect = rest[0]
    # The tokens' places are those in the file: the last one, `;`, is where the piece ends.
    head = piece.text[: effect.start - piece.tokens[-1].start - 1]
    scope, rest = _enclosed(rest[1:])
    clauses: list[Clause] = []
    while rest[0].text != ";":
        word = rest[0].text
        body, rest = _enclosed(rest[1:])
        parts = _apart(body, "&&" if word == "when" else "||")
        clauses.append(Clause(word, tuple(_shown(part) for part in parts)))
    return Anatomy(head, effect.text, _shown(scope), tuple(clauses))


def _enclosed(of: list[Token]) -> tuple[list[Token], list[Token]]:
    """What stands between the first token, an opening one, and the one that closes it; and what follows."""
    depth = 0
    for number, token in enumerate(of):
        depth += (token.text in "([{") - (token.text in ")]}")
        if depth == 0:
            return of[1:number], of[number + 1 :]
    raise AssertionError("Cedar parsed this policy, so its brackets match")


def _apart(body: list[Token], operator: str) -> list[list[Token]]:
    """A body cut at an operator outside all brackets; whole when another one binds more loosely there."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in body:
        depth += (token.text in "([{") - (token.text in ")]}")
        if depth == 0 and (token.text == "if" or (token.text == "||" and operator == "&&")):
            return [body]
        if depth == 0 and token.text == operator:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _shown(of: Sequence[Token]) -> str:
    """Tokens on one line, as written but for comments and line breaks."""
    return "".join((" " if token.spaced else "") + token.text for token in of).strip()


# --- Invariants ----------------------------------------------------------------------------------------------

OF_OWNERS = {"kind": words.KIND, "role": words.ROLE, "relation": words.RELATION}
OF_OPERATIONS = {
    "api": "resource.api",
    "effect": "resource.effect",
    "status": "resource.status",
    "operation": "resource.id",
}
"""What an invariant may narrow, beside `administrator`, and where policies find the same; `see` has `class`."""


def _invariants(files: Iterable[File], known: Vocabulary, faults: list[Fault]) -> tuple[Invariant, ...]:
    """Every invariant once. A whole set may repeat the shipped ones; nothing may say something else by their id."""
    found: dict[str, Invariant] = {}
    for file in files:
        here: set[str] = set()
        for invariant in _invariants_of(file, known, faults):
            first = found.setdefault(invariant.id, invariant)
            same = (first.never, first.when) == (invariant.never, invariant.when)
            if invariant.id in here or not same:
                text = f"this id is taken at {first.file}:{first.line}, and an invariant is never replaced"
                faults.append(file.fault(invariant.line, invariant.id, text))
            here.add(invariant.id)
    return tuple(found.values())


def _invariants_of(file: File, known: Vocabulary, faults: list[Fault]) -> Iterator[Invariant]:
    try:
        document = tomlfile.parse(file.text, file.path)
    except ConfigError as error:
        faults += error.faults
        return
    except RecursionError:
        faults.append(file.fault(0, "", "is nested too deeply"))
        return
    lines = tomlfile.Lines(file.text)
    entries = document.get("invariant", [])
    for key in document.keys() - {"invariant"}:
        faults.append(file.fault(lines.of((key, "0")), key, "is not a setting (only [[invariant]] is)"))
    if not isinstance(entries, list):
        faults.append(file.fault(lines.of(("invariant",)), "invariant", "is written [[invariant]]"))
        return
    for number, entry in enumerate(entries):
        at = ("invariant", str(number))
        wrong = (
            list(_invariant_faults(entry, known)) if isinstance(entry, dict) else [((), "expected a table")]
        )
        if wrong:
            faults += (file.fault(lines.of(at + key), ".".join(at + key), text) for key, text in wrong)
            continue
        when = {
            key: tuple(value) if isinstance(value, list) else (value,) for key, value in entry["when"].items()
        }
        yield Invariant(
            entry["id"], entry["never"], when, entry["reason"], entry["source"], file.path, lines.of(at)
        )


def _invariant_faults(entry: Mapping[str, Any], known: Vocabulary) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with one `[[invariant]]`: the key below it, and in words."""
    wanted = ("id", "never", "when", "reason", "source")
    for key in entry.keys() - set(wanted):
        yield (key,), f"is not a setting (an invariant has {', '.join(wanted)})"
    for key in wanted:
        if key != "when" and not (isinstance(entry.get(key), str) and entry[key].strip()):
            yield (key,), "is required, as text"
    never = entry.get("never", "allow")
    if never not in ("allow", "see"):
        yield ("never",), 'is "allow" or "see": an invariant says what is never allowed, or never seen'
        return
    dimensions: dict[str, frozenset[str]] = {
        name: known[path] or frozenset()
        for name, path in (OF_OWNERS | (OF_OPERATIONS if never == "allow" else {})).items()
    }
    if never == "see":
        dimensions["class"] = frozenset(COLUMN_CLASSES)
    when = entry.get("when")
    if not isinstance(when, dict) or not when:
        yield ("when",), "is required: a table of what it is about"
        return
    for key, value in when.items():
        values = value if isinstance(value, list) else [value]
        if key == "administrator":
            if not values or not all(isinstance(v, bool) for v in values):
                yield ("when", key), "expected true or false"
        elif key not in dimensions:
            yield ("when", key), f"is not one of {', '.join((*dimensions, 'administrator'))}"
        elif not values:
            yield ("when", key), "is empty, so the invariant would be about nothing"
        else:
            for v in values:
                if not isinstance(v, str) or v not in dimensions[key]:
                    yield ("when", key), words.unknown(key, str(v), dimensions[key])
