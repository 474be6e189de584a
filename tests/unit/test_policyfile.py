"""Loading: what Cedar's bindings let pass is refused, each with its file and line, all at once."""

import re
import shutil

import pytest

from gateway.operation import Catalogue
from gateway.policy import PolicySet, packaged
from gateway.policyfile import MAX_DEPTH, MAX_TOKENS, split, tokens
from gateway.tomlfile import ConfigError

CATALOGUE = Catalogue.load((packaged() / "operations.toml").read_text("utf-8"), "operations.toml")
HEAD = '@id("{id}") @source("a test") @reason("because")\n'
ALL = "permit (principal, action, resource);"


def a_policy(text=ALL, id="one"):
    return HEAD.format(id=id) + text


def load(folder, local=None):
    return PolicySet.load(folder, local, operations=CATALOGUE.variants())


def faults(folder, local=None):
    with pytest.raises(ConfigError) as caught:
        load(folder, local)
    return [str(fault) for fault in caught.value.faults]


def write(folder, text, name="own.cedar"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, "utf-8", newline="")
    return folder


def test_the_shipped_set_loads_with_its_invariants():
    policies = load(packaged())
    assert [invariant.source for invariant in policies.invariants] == ["P3", "P4", "P4", "P9", "P5", "P7"]
    assert {p.effect for p in policies.policies if p.file == "policies/vendor.cedar"} == {"forbid"}
    assert {p.effect for p in policies.policies if p.file == "policies/access.cedar"} == {"permit"}


def test_a_policy_knows_the_line_of_its_first_annotation(tmp_path):
    text = "// why; and how\n\n" + a_policy() + "\n\n// another\n" + a_policy(id="two")
    assert [(p.id, p.line) for p in load(write(tmp_path, text)).policies] == [("one", 3), ("two", 7)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (a_policy() + "\n" + a_policy(), "3: one: this @id is taken at"),
        ('@source("s") @reason("r") ' + ALL, '1: needs @id("...")'),
        ('@id("x") @reason("r") ' + ALL, '1: x: needs @source("...")'),
        ('@id("x") @source("s") @reason(" ") ' + ALL, '1: x: needs @reason("...")'),
        ('@id @source("s") @reason("r") ' + ALL, '1: needs @id("...")'),
        (a_policy(id="no spaces"), "1: no spaces: an @id has letters"),
        (a_policy("permit (principal, action, resource)"), "1: a policy ends with ;"),
        ("\n" + a_policy("permit (principal, action);"), "2: is not a Cedar policy: "),
        (a_policy("permit (principal, action, resource) when { // ; }\n"), "1: a policy ends with ;"),
        (a_policy('permit (principal, action, resource) when { "; };'), "1: is not a Cedar policy: "),
        (a_policy("permit (principal == ?principal, action, resource);"), "1: is a template"),
        (";", "1: is not"),
        (
            a_policy("permit (principal, action, resource) when { principal.age == 1 };"),
            "1: one: there is no principal.age",
        ),
        (a_policy('permit (principal, action == Action::"cal", resource);'), "1: one: "),
        (a_policy("permit (principal, action, resource) when { principal.role == 1 };"), "1: one: "),
        (a_policy("permit (principal is Usr, action, resource);"), "1: one: "),
    ],
)
def test_what_is_no_policy_is_refused_with_file_and_line(tmp_path, text, expected):
    found = faults(write(tmp_path, text))
    assert any(fault.startswith(f"{tmp_path / 'own.cedar'}:{expected}") for fault in found), found


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (
            'principal.account.kind == "netwrok"',
            'there is no principal.account.kind "netwrok" (did you mean "network"?)',
        ),
        ('"netwrok" != principal.account.kind', 'no principal.account.kind "netwrok"'),
        ('principal["account"]["kind"] == "netwrok"', 'no principal.account.kind "netwrok"'),
        ('["super", "boss"].contains(principal.role)', 'no principal.role "boss"'),
        ('[principal.role].contains("boss")', 'no principal.role "boss"'),
        ('[principal.role].containsAny(["super", "boss"])', 'no principal.role "boss"'),
        (
            'principal.role == (if principal.administrator then "super" else "boss")',
            'no principal.role "boss"',
        ),
        ('!(resource.api == "transaction")', 'no resource.api "transaction" (did you mean "transactions"?)'),
        ('resource.effect == "delete"', 'no resource.effect "delete"'),
        ('resource.status == "old"', 'no resource.status "old"'),
        ('resource.account_kind == "publisher"', 'no resource.account_kind "publisher"'),
        ('context.relation == "mine"', 'no context.relation "mine"'),
        ('resource.id == "network_raed"', 'no resource.id "network_raed" (did you mean "network_read"?)'),
        (
            'resource == Operation::"network_raed"',
            'no operation "network_raed" (did you mean "network_read"?)',
        ),
        ('resource in [Operation::"network_read", Operation::"x"]', 'no operation "x"'),
        ('resource.id like "netwrok_*"', 'like "netwrok_*"` matches no resource.id'),
        ('principal.account.id like "7*"', "ids are compared for equality only"),
        ('principal.account == {kind: "network", id: "1", network: "1"}', "one attribute at a time"),
        ('User::"7".role == "super"', "only principal, resource and context have attributes"),
        ('(if true then principal else principal).role == "boss"', "not compared with an attribute"),
        (
            '["monday", "sonday"].contains(context.weekday)',
            'no context.weekday "sonday" (did you mean "sunday"?)',
        ),
        ('resource == ColumnClass::"pi"', 'no column class "pi" (did you mean "pii"?)'),
    ],
)
def test_a_word_that_could_never_match_is_refused_where_it_stands(tmp_path, condition, expected):
    text = a_policy(f"permit (principal, action, resource)\nwhen {{\n  {condition}\n}};")
    found = faults(write(tmp_path, text))
    assert any(expected in fault for fault in found), found
    assert all(re.match(re.escape(str(tmp_path)) + r"/own\.cedar:[124]: one: ", fault) for fault in found)


def test_a_misspelt_word_is_found_on_its_line(tmp_path):
    text = a_policy('permit (principal, action, resource)\nwhen {\n  principal.role == "boss"\n};')
    assert faults(write(tmp_path, text)) == [
        f'{tmp_path}/own.cedar:4: one: there is no principal.role "boss"'
    ]


@pytest.mark.parametrize(
    "condition",
    [
        "principal.id == principal.account.id",
        "[principal.id].contains(context.token)",
        "principal.account.id == principal.role",
        'principal.account.network == (if principal.administrator then principal.id else "7")',
        "[principal.account.id].isEmpty()",
        '(if principal.administrator then principal.id else "7") == context.token',
    ],
)
def test_an_id_is_compared_with_nothing_but_literals(tmp_path, condition):
    text = a_policy(f"permit (principal, action, resource)\nwhen {{ {condition} }};")
    found = faults(write(tmp_path, text))
    assert f"{tmp_path}/own.cedar:1: one: " in found[0]
    assert "is an id, which is compared with literals for equality only" in "\n".join(found)


def test_a_misspelt_attribute_is_one_fault_with_what_may_have_been_meant(tmp_path):
    text = 'permit (principal, action, resource) when { principal.rle == "member" && context.zzz == "own" };'
    found = faults(write(tmp_path, a_policy(text)))
    assert [fault.partition("one: ")[2] for fault in found] == [
        "there is no context.zzz",
        "there is no principal.rle (did you mean principal.role?)",
    ]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (
            "principal.account == principal.account",
            "principal.account is nothing a policy may read as a whole",
        ),
        ("principal == principal", "is an id"),
        ("[context] == [context]", "context is nothing a policy may read as a whole"),
        ('principal has account && {a: principal.role} == {a: "super"}', "not a record"),
        ("principal.account.id < principal.role", "is an id"),
    ],
)
def test_what_is_no_dimension_is_not_read(tmp_path, condition, expected):
    text = a_policy(f"permit (principal, action, resource)\nwhen {{ {condition} }};")
    assert any(expected in fault for fault in faults(write(tmp_path, text)))


def test_what_a_policy_reads_is_known_with_the_ids_it_names(tmp_path):
    text = a_policy(
        'permit (principal == User::"7", action == Action::"call", resource)\n'
        'when { ["1", "2"].contains(principal.account.id) && context.now < datetime("2027-01-01") }\n'
        'unless { context.token == "tok_x" || resource.effect != "read" || principal has role };'
    )
    [policy] = load(write(tmp_path, text)).parts
    assert policy.actions == {"call"}
    assert policy.reads.named == {
        "principal.id": {"7"}, "principal.account.id": {"1", "2"}, "context.token": {"tok_x"},
    }  # fmt: skip
    assert policy.reads.paths == {
        "principal.id", "principal.account.id", "context.token", "context.now", "resource.effect",
    }  # fmt: skip
    assert [condition.reads.live for condition in policy.conditions] == [
        False,
        False,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "condition",
    [
        'principal.id == "anybody" && principal.account.id == "1" && principal.account.network == "2"',
        'principal == User::"anybody"',
        'resource == Operation::"network_read" || resource.id == "network_read"',
        'resource.id like "js_tag*" && resource.account_kind == "none"',
        'resource has api && ["own", "network"].contains(context.relation)',
        "resource.account_kind == principal.account.kind",
        '["saturday", "sunday"].contains(context.weekday) || context.now >= datetime("2027-01-01")',
        'context.client.isInRange(ip("10.0.0.0/8")) && context.now.toTime() < duration("18h")',
        'context.token == "tok_x" || [User::"7", User::"8"].contains(principal)',
    ],
)
def test_a_word_there_is_loads(tmp_path, condition):
    text = a_policy(f'forbid (principal, action == Action::"call", resource) when {{ {condition} }};')
    assert load(write(tmp_path, text)).policies


def test_an_operation_in_the_scope_has_to_exist(tmp_path):
    text = a_policy('forbid (principal, action, resource == Operation::"x");')
    assert faults(write(tmp_path, text)) == [f'{tmp_path}/own.cedar:2: one: there is no operation "x"']


def test_vendor_policies_only_forbid(tmp_path):
    [fault] = faults(write(tmp_path, "\n" + a_policy(), "vendor.cedar"))
    assert fault == f"{tmp_path}/vendor.cedar:2: one: permits, and vendor.cedar only forbids"


def test_every_fault_is_told_at_once(tmp_path):
    write(tmp_path, a_policy("permit (principal, action);") + "\n" + ALL, "a.cedar")
    write(tmp_path, a_policy('forbid (principal, action, resource == Operation::"x");'), "b.cedar")
    (tmp_path / "c.cedar").write_bytes(b"// fine\n// \xff\n")
    found = "\n".join(faults(tmp_path))
    for expected in ("a.cedar:1: ", "a.cedar:3: needs", "b.cedar:2: one: ", "c.cedar:2: is not UTF-8"):
        assert expected in found


@pytest.mark.parametrize("character", ["\r", "\x00", "\u202e", "\u200b", "\u2028", "\ufeff", "\x1b"])
def test_characters_that_reviewers_cannot_see_are_refused(tmp_path, character):
    [fault] = faults(write(tmp_path, f"// one\n// two{character} three\n" + a_policy()))
    assert f"own.cedar:2: has the character U+{ord(character):04X}" in fault


def test_windows_line_ends_are_the_same_policies(tmp_path):
    text = "// one\n" + a_policy()
    unix, windows = tmp_path / "unix", tmp_path / "windows"
    write(unix, text)
    write(windows, text.replace("\n", "\r\n"))
    assert load(unix).digest == load(windows).digest


@pytest.mark.parametrize(
    "body",
    ["(" * 3000 + "true" + ")" * 3000, "[" * 3000 + "]" * 3000 + " == []", "if true then " * 900 + "true",
     " && ".join(["true"] * 30_000), "principal" + ".a" * 30_000],
)  # fmt: skip
def test_a_text_that_would_end_the_process_is_refused(tmp_path, body):
    [fault] = faults(write(tmp_path, a_policy(f"permit (principal, action, resource) when {{ {body} }};")))
    assert f"more than {MAX_DEPTH} deep" in fault or f"longer than {MAX_TOKENS}" in fault


def test_a_chain_of_conditions_too_long_to_be_checked_is_refused(tmp_path):
    body = " && ".join(["principal.administrator"] * 900)
    [fault] = faults(write(tmp_path, a_policy(f"permit (principal, action, resource) when {{ {body} }};")))
    assert fault == f"{tmp_path}/own.cedar:1: is nested too deeply to be checked"


def test_a_long_list_of_ids_is_accepted(tmp_path):
    ids = ", ".join(f'"{number}"' for number in range(1_500))
    text = f"permit (principal, action, resource) when {{ [{ids}].contains(principal.account.id) }};"
    assert load(write(tmp_path, a_policy(text))).policies


def test_a_folder_that_cannot_be_read_is_refused(tmp_path):
    assert "cannot be read: FileNotFoundError" in faults(tmp_path / "nowhere")[0]
    assert "cannot be read: FileNotFoundError" in faults(packaged(), tmp_path / "nowhere")[0]
    assert "cannot be read: ValueError" in faults(tmp_path / "a\0b")[0]
    assert "has no policies" in faults(tmp_path)[0]
    (tmp_path / "x.cedar").mkdir()
    assert "x.cedar: cannot be read: IsADirectoryError" in faults(tmp_path)[0]


# --- the operator's own folder


def test_local_policies_add_to_the_shipped_ones(tmp_path):
    shipped, both = load(packaged()), load(packaged(), write(tmp_path, a_policy()))
    assert [p.id for p in both.policies] == [*(p.id for p in shipped.policies), "one"]
    assert both.policies[-1].file == f"{tmp_path.name}/own.cedar"
    assert both.digest != shipped.digest


def test_a_local_policy_does_not_take_a_shipped_id(tmp_path):
    write(tmp_path, a_policy(id="own-network-only"))
    [fault] = faults(packaged(), tmp_path)
    assert fault.startswith(
        f"{tmp_path}/own.cedar:1: own-network-only: this @id is taken at policies/vendor.cedar:"
    )


def test_the_schema_is_not_the_operators(tmp_path):
    write(tmp_path, "entity User;", "schema.cedarschema")
    assert faults(packaged(), tmp_path) == [
        f"{tmp_path}/schema.cedarschema: the schema is not the operator's to change"
    ]


def test_a_schema_the_gateway_does_not_speak_is_refused(tmp_path):
    text = (packaged() / "schema.cedarschema").read_text("utf-8")
    write(tmp_path, a_policy())
    write(tmp_path, text.replace("role: String,", "role: String, title: String,"), "schema.cedarschema")
    assert "schema.cedarschema: is not what the gateway speaks" in faults(tmp_path)[0]
    write(tmp_path, "entity User = {", "schema.cedarschema")
    assert "schema.cedarschema: is not a Cedar schema" in faults(tmp_path)[0]


# --- invariants

INVARIANT = """
[[invariant]]
id = "nobody-publishes"
never = "allow"
when = { effect = "publish" }
reason = "Nothing goes live by a token"
source = "house"
"""


def test_local_invariants_add_to_the_shipped_ones(tmp_path):
    write(tmp_path, INVARIANT, "invariants.toml")
    policies = load(packaged(), tmp_path)
    assert len(policies.invariants) == 7
    assert policies.invariants[-1].when == {"effect": ("publish",)}
    assert policies.invariants[-1].line == 2


def test_a_whole_set_to_try_keeps_the_shipped_invariants(tmp_path):
    assert load(write(tmp_path, a_policy())).invariants == load(packaged()).invariants
    copied = tmp_path / "copy"
    shutil.copytree(packaged(), copied)
    assert len(load(copied).invariants) == 6
    assert load(copied).digest == load(packaged()).digest
    text = (copied / "invariants.toml").read_text("utf-8")
    write(copied, text.replace('["advertiser", "affiliate"]', '"affiliate"'), "invariants.toml")
    [fault] = faults(copied)
    assert "network-integration-network-only: this id is taken at" in fault


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ('"publish"', '"publsh"'),
            '5: invariant.0.when.effect: there is no effect "publsh" (did you mean "publish"?)',
        ),
        (("effect =", "efect ="), "5: invariant.0.when.efect: is not one of kind, role"),
        (("{ effect = ", "{ administrator = "), "5: invariant.0.when.administrator: expected true or false"),
        (('"publish"', "[]"), "5: invariant.0.when.effect: is empty"),
        (('{ effect = "publish" }', "{}"), "5: invariant.0.when: is required"),
        (('"allow"', '"deny"'), '4: invariant.0.never: is "allow" or "see"'),
        (('"allow"', '"see"'), "5: invariant.0.when.effect: is not one of kind, role, relation, class"),
        (('source = "house"', ""), "2: invariant.0.source: is required"),
        (("source", "sauce"), "7: invariant.0.sauce: is not a setting"),
        (("[[invariant]]", "[[invariants]]"), "2: invariants: is not a setting"),
        (("[[invariant]]", "[invariant]"), "2: invariant: is written [[invariant]]"),
        (("never", "never ="), "4: not TOML"),
        (("\n[[", INVARIANT + "\n[["), "9: nobody-publishes: this id is taken at"),
    ],
)
def test_an_invariant_that_cannot_be_read_is_refused_with_its_line(tmp_path, change, expected):
    write(tmp_path, INVARIANT.replace(*change, 1), "invariants.toml")
    found = faults(packaged(), tmp_path)
    assert any(expected in fault for fault in found), found


# --- cutting a text into policies


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("// only; a comment\n", []),
        ("a;b;", [1, 1]),
        ("// x;\n\na // ;\n;\n\nb;", [3, 6]),
        ('a";\\";"b;\nc;', [1, 2]),
        ('a "// no comment" ;\nb', [1, 2]),
        ('"two\nlines";\nc;', [1, 3]),
        ("//x\r\na;", [2]),
    ],
)
def test_a_text_is_cut_after_each_policy(text, lines):
    pieces = split(text)
    assert [piece.line for piece in pieces] == lines
    assert [token.text for piece in pieces for token in piece.tokens] == [
        token.text for token in tokens(text)
    ]


# -- classes of columns

OPENED = '[public]\n"Visit Booked" = ["network"]\n'


def test_an_operators_classes_of_columns_come_with_the_set_and_are_part_of_its_digest(tmp_path):
    alone, with_own = load(packaged(), tmp_path), load(packaged(), write(tmp_path, OPENED, "columns.toml"))
    assert (alone.classes.of("Visit Booked"), with_own.classes.of("Visit Booked")) == ("pii", "public")
    assert alone.digest != with_own.digest
    assert with_own.classes.of("duration") == "public"


def test_a_whole_set_to_try_may_bring_its_own_list_of_columns(tmp_path):
    write(tmp_path, a_policy())
    assert load(tmp_path).classes.of("duration") == "public"
    assert load(write(tmp_path, OPENED, "columns.toml")).classes.of("duration") == "pii"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[public]\ncity = ["network"]\n', "2: public.city: is pii in the shipped list"),
        ('[public]\nx = ["planet"]\n', "2: public.x.0: expected one of network"),
        ("[public\n", "1: "),
        ('[public]\n"a\u202eb" = ["network"]\n', "2: has the character U+202E"),
        ("x = " + "[" * 5_000, "nested too deep"),
    ],
)
def test_what_is_wrong_with_classes_is_told_beside_the_policies_faults(tmp_path, text, expected):
    write(tmp_path, a_policy("permit (principal, action, resource)"))
    found = faults(packaged(), write(tmp_path, text, "columns.toml"))
    assert any(expected in fault and str(tmp_path / "columns.toml") in fault for fault in found), found
    assert any("own.cedar:1: a policy ends with ;" in fault for fault in found)


def test_classes_are_not_tried(tmp_path):
    write(tmp_path, OPENED, "columns.toml")
    with pytest.raises(ConfigError, match=r"columns.toml: classes of columns are not tried"):
        PolicySet.load(None, None, tmp_path, operations=CATALOGUE.variants())
