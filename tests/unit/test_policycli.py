"""The commands about policies, on real folders: what is printed, and with which exit code."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import cli
from gateway.policy import packaged
from gateway.policyfile import split

ROOT = Path(__file__).parents[2]
ADVERTISERS = "GET /api/2022-08-01/33/advertisers.json"
EVERYTHING = "permit(principal, action, resource);\n"
NAMED = '@id("open") @source("ours") @reason("Everything is open") '
OFFICE = """@id("office") @source("ours") @reason("Token tok_9 reads from the office alone, until 2027")
forbid (principal, action == Action::"call", resource)
when { context.token == "tok_9" }
unless { context.client.isInRange(ip("10.0.0.0/8")) && context.now < datetime("2027-01-01") };
"""


@pytest.fixture
def run(capsys):
    def run(*arguments):
        """(exit code, standard output, standard error)."""
        try:
            code = cli.main(["policy", *map(str, arguments)])
        except SystemExit as left:
            code = left.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def own(tmp_path):
    """Writes an own folder: `own(text)`, its path."""

    def write(text, name="own", **files):
        folder = tmp_path / name
        (folder / "cases").mkdir(parents=True)
        (folder / "rules.cedar").write_text(text)
        for file, held in files.items():
            (folder / "cases" / f"{file}.toml").write_text(held)
        return folder

    return write


def whole(folder, without=""):
    """A copy of the packaged set, without one policy."""
    shutil.copytree(packaged(), folder)
    for path in folder.glob("*.cedar"):
        pieces = [p for p in split(path.read_text()) if f'@id("{without}")' not in p.text]
        path.write_text("".join(piece.text for piece in pieces))
    return folder


# --- which set


def test_every_command_takes_a_whole_set_and_an_own_folder(run, tmp_path, own):
    folder, local = whole(tmp_path / "set"), own(OFFICE)
    records = tmp_path / "records.jsonl"
    records.write_text("")
    for command in (["test"], ["matrix"], ["contract"], ["replay", records]):
        for which in (["--policies", folder], ["--local", local]):
            code, out, err = run(*command, *which, "--json")
            assert (code in (0, 1), err) == (True, ""), (command, err)
            json.loads(out)


def test_a_folder_that_is_none_is_named(run, tmp_path):
    for option in ("--policies", "--local"):
        assert run("matrix", option, tmp_path / "gone") == (1, "", f"{tmp_path / 'gone'}: is not a folder\n")


def test_the_own_folder_and_the_versions_come_from_a_configuration(run, tmp_path, own):
    local = own(OFFICE)
    file = tmp_path / "config.toml"
    file.write_text(
        'public_url = "http://127.0.0.1:8080"\n[upstream]\nurl = "http://127.0.0.1:1"\n'
        f'[policies]\nlocal = "{local}"\n[versions]\nnetwork_integration = ["2031-01-01"]\n'
    )
    request = ADVERTISERS.replace("2022-08-01", "2031-01-01")
    who = ("--kind", "network", "--account", "33", "--scope", "network:read", "--token-id", "tok_9")
    code, out, _ = run("explain", "--config", file, "--json", *who, request)
    assert (code, [policy["id"] for policy in json.loads(out)["policies"]]) == (0, ["office"])
    assert json.loads(run("explain", "--json", *who, request)[1])["problem"] == "unknown-version"


@pytest.mark.parametrize("command", ["matrix", "mutate", "explain", "replay"])
def test_a_set_that_would_not_load_answers_nothing_and_says_why(run, own, command):
    more = {"explain": ("--kind", "network", "--account", "33", ADVERTISERS), "replay": ("-",)}
    code, out, err = run(command, "--local", own(NAMED + EVERYTHING), *more.get(command, ()))
    assert (code, out) == (1, "")
    assert re.search(
        r"invariants\.toml:\d+: destroy-and-publish-by-super-and-manager: broken by open: \w+ /api/", err
    )


# --- test


def test_cases_and_invariants_of_the_packaged_set_pass(run):
    assert re.fullmatch(r"\d+ passed, 0 failed\n", run("test")[1])


def test_a_failing_case_a_broken_invariant_and_a_policy_without_a_case_have_a_line_each(run, own):
    case = f"""[[case]]
name = "it is open"
principal = {{ kind = "network", account = "33", role = "member", scopes = ["network:read"] }}
request = "{ADVERTISERS}"
expect = "deny"
"""
    folder = own(NAMED + EVERYTHING, own=case)
    code, out, _ = run("test", "--local", folder)
    lines = out.splitlines()
    assert code == 1
    assert any(line.startswith(f"{folder}/cases/own.toml:1: it is open: expected deny") for line in lines)
    assert any("destroy-and-publish-by-super-and-manager: broken by open" in line for line in lines)
    assert "own/rules.cedar:1: open: no case names this policy" in lines
    assert re.fullmatch(r"\d+ passed, \d+ failed", lines[-1])
    document = json.loads(run("test", "--local", folder, "--json")[1])
    assert "open" in document["untested"]
    assert "it is open" in [entry["name"] for entry in document["failed"]]


MEMBERS = """@id("members-only-look") @source("ours") @reason("A member changes nothing")
forbid (principal, action == Action::"call", resource)
when { principal.role == "member" && resource.effect == "write" };
"""
A_MEMBER_WRITES = """[[case]]
name = "a member may not rename an advertiser"
principal = { kind = "network", account = "33", role = "member", scopes = ["network:write"] }
request = "PUT /api/2022-08-01/33/advertisers/706.json"
expect = "deny"
policies = ["members-only-look"]
"""


def test_a_shipped_case_that_an_own_rule_changes_is_told_and_is_no_failure(run, own):
    folder = own(MEMBERS, members=A_MEMBER_WRITES)
    code, out, _ = run("test", "--local", folder)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith(f"{folder} changes what these shipped cases show")
    assert all(
        line.endswith("expected allow by network-integration-write, got deny by members-only-look")
        for line in lines[1:-1]
    )
    assert re.fullmatch(r"\d+ passed, 0 failed", lines[-1])
    document = json.loads(run("test", "--local", folder, "--json")[1])
    assert (document["failed"], len(document["moved"])) == ([], len(lines) - 2)
    # It still counts as a case of the shipped policy that it names.
    assert run("contract", "--local", folder)[0] == 0


def test_a_shipped_case_that_fails_by_itself_is_a_failure_beside_an_own_folder_too(run, own, tmp_path):
    lost = whole(tmp_path / "lost", "observers-only-look")
    code, out, _ = run("test", "--policies", lost, "--local", own(MEMBERS, members=A_MEMBER_WRITES))
    assert code == 1
    assert re.search(r"^\S+vendor\.toml:\d+: an observer .*got ", out, re.MULTILINE)
    assert not out.endswith(" 0 failed\n")


# --- explain


TRANSACTIONS = "GET /api/2020-10-01/networks/transactions/33.json"


@pytest.mark.parametrize(
    ("scopes", "withheld"),
    [
        ((), {"pii": 74, "financial": 12}),
        (("reveal:pii",), {"financial": 12}),
        (("reveal:pii", "reveal:financial"), {}),
    ],
)
def test_explain_tells_the_column_classes_that_are_withheld(run, scopes, withheld):
    given = [part for scope in ("transactions:read", *scopes) for part in ("--scope", scope)]
    who = ("--kind", "network", "--account", "33", "--role", "super")
    told = json.loads(run("explain", "--json", *who, *given, TRANSACTIONS)[1])
    assert (told["withheld"], told.get("withheld_columns", {})) == ([*withheld], withheld)
    text = run("explain", *who, *given, TRANSACTIONS)[1]
    columns = ", ".join(f"{number} {name}" for name, number in withheld.items())
    assert ("columns withheld from the answer: " + columns in text) == bool(withheld)


@pytest.mark.parametrize(
    ("query", "withheld", "problem"),
    [
        ("include_columns=duration,city,revenue,notes", {"pii": 2, "financial": 1}, None),
        ("include_columns=duration", {}, None),
        ("include_columns=city", {}, "columns-withheld"),
        ("from=2026-01-01", {}, "bad-parameter"),
    ],
)
def test_explain_tells_what_this_query_would_get(run, query, withheld, problem):
    who = ("--kind", "network", "--account", "33", "--role", "super", "--scope", "transactions:read")
    code, out, _ = run("explain", "--json", *who, f"{TRANSACTIONS}?{query}")
    told = json.loads(out)
    assert (code, told.get("withheld_columns", {}), told.get("problem")) == (0, withheld, problem)
    assert (told["decision"] == "deny") == (problem is not None)
    assert (problem or "allow") in run("explain", *who, f"{TRANSACTIONS}?{query}")[1]


def test_explain_knows_the_operators_own_columns(run, own):
    folder = own("")
    (folder / "columns.toml").write_text('[public]\n"Visit Booked" = ["network"]\n')
    who = (
        "--kind",
        "network",
        "--account",
        "33",
        "--role",
        "super",
        "--scope",
        "transactions:read",
        "--json",
    )
    asked = f"{TRANSACTIONS}?include_columns=Visit%20Booked,duration"
    assert json.loads(run("explain", *who, asked)[1])["withheld_columns"] == {"pii": 1}
    assert json.loads(run("explain", "--local", str(folder), *who, asked)[1])["withheld"] == []
    (folder / "columns.toml").write_text('[public]\ncity = ["network"]\n')
    code, _, told = run("explain", "--local", str(folder), *who, asked)
    assert (code, f"{folder / 'columns.toml'}:2: public.city: is pii" in told) == (1, True)


def test_explain_withholds_nothing_where_there_is_no_answer_or_no_transactions(run):
    who = ("--kind", "network", "--account", "33", "--scope", "network:read", "--json")
    assert json.loads(run("explain", *who, ADVERTISERS)[1])["withheld"] == []
    assert json.loads(run("explain", *who, TRANSACTIONS)[1])["withheld"] == []


def test_explain_is_told_who_exactly_asks_from_where_and_when(run, own):
    folder = own(OFFICE)

    def behind(*more):
        who = ("--kind", "network", "--account", "33", "--scope", "network:read", "--local", folder, "--json")
        return [p["id"] for p in json.loads(run("explain", *who, *more, ADVERTISERS)[1])["policies"]]

    inside = ("--token-id", "tok_9", "--from", "10.1.2.3", "--at", "2026-12-31T23:59:59Z")
    assert behind(*inside) == ["network-integration-read"]
    assert behind(*inside[:-1], "2027-01-01T00:00:00Z") == ["office"]
    assert behind(*inside[:2], "--from", "192.0.2.1", *inside[4:]) == ["office"]
    assert behind("--token-id", "tok_8", *inside[2:]) == ["network-integration-read"]


def test_explain_names_a_user(run, own):
    folder = own(OFFICE.replace('context.token == "tok_9"', 'principal.id == "usr_9"'))
    who = ("--kind", "network", "--account", "33", "--scope", "network:read", "--local", folder, "--json")
    assert json.loads(run("explain", *who, ADVERTISERS)[1])["decision"] == "allow"
    assert json.loads(run("explain", *who, "--user", "usr_9", ADVERTISERS)[1])["decision"] == "deny"


@pytest.mark.parametrize("request_line", ["PUT /api/2022-08-01/33/advertisers/706.json?users[]=1", None])
def test_explain_counts_a_replaced_set_as_destroying(run, request_line):
    more = () if request_line else ("--body-key", "users")
    line = request_line or "PUT /api/2022-08-01/33/advertisers/706.json"
    who = ("--kind", "network", "--account", "33", "--role", "super", "--scope", "network:write", "--json")
    assert json.loads(run("explain", *who, *more, line)[1])["missing_scope"] == "network:destroy"


@pytest.mark.parametrize("wrong", [("--at", "noon"), ("--at", "2027-01-01T00:00:00"), ("--from", "home")])
def test_a_moment_that_is_none_is_asked_wrongly(run, wrong):
    code, _, err = run("explain", "--kind", "network", "--account", "33", *wrong, ADVERTISERS)
    assert code == 2
    assert wrong[1] in err


# --- matrix


def test_the_matrix_comes_in_four_forms(run):
    assert "network: super, manager" in run("matrix")[1]
    entries = json.loads(run("matrix", "--json")[1])
    rows = list(csv.DictReader(io.StringIO(run("matrix", "--csv")[1])))
    assert [row["operation"] for row in rows] == [entry["operation"] for entry in entries]
    page = run("matrix", "--html")[1]
    assert page.startswith("<!doctype html>")
    assert page.endswith("</html>\n")


def test_the_matrix_is_narrowed(run):
    entries = json.loads(run("matrix", "--json", "--kind", "network", "--role", "member", "--administrator", "no",
                             "--operation", "advertiser_delete", "--relation", "own")[1])  # fmt: skip
    assert entries == [
        {
            "kind": "network",
            "role": "member",
            "administrator": False,
            "relation": "own",
            "operation": "advertiser_delete",
            "decision": "deny",
            "policies": [],
        }
    ]
    text = run("matrix", "--full", "--effect", "destroy", "--kind", "network")[1]
    assert "advertiser_update (replacing)" in text


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--json", "--csv"), "do not go together"),
        (("--json", "--html"), "do not go together"),
        (("--operation", "advertisers_lsit"), "there is no operation advertisers_lsit"),
        (("--decision", "allow"), "--decision goes with --json or --csv"),
    ],
)
def test_a_matrix_asked_for_wrongly_is_refused(run, asked, says):
    code, out, err = run("matrix", *asked)
    assert (code, out) == (2, "")
    assert says in err


# --- diff

OPENED = """\
old: the packaged set, {old}
new: the packaged set with {own}, {new}

OPENED  network: super, manager
  on the owner's own account
  every upstream-refused network integration destroy operation (1)
  every old network integration publish operation (2)
  every old network integration destroy operation (3)
  every old network integration write operation (5)
  every old network integration read operation (4)
  before: no policy permits it
  now:    permit {id} (own/rules.cedar:1)

OPENED  network: super, manager
  on accounts stored under the owner's network
  every old network integration read operation (1)
  before: no policy permits it
  now:    permit {id} (own/rules.cedar:1)

OPENED  network: member
  on the owner's own account
  every network integration destroy operation (20)
  every network integration publish operation (7)
  every upstream-refused network integration destroy operation (1)
  every old network integration publish operation (2)
  every old network integration destroy operation (3)
  every old network integration write operation (5)
  every old network integration read operation (4)
  columns of class pii, financial in answers with Transactions
  before: no policy permits it
  now:    permit {id} (own/rules.cedar:1)

OPENED  network: member, observer
  on accounts stored under the owner's network
  every old network integration read operation (1)
  columns of class pii, financial in answers with Transactions
  before: no policy permits it
  now:    permit {id} (own/rules.cedar:1)

OPENED  network: observer
  on the owner's own account
  every old network integration read operation (4)
  columns of class pii, financial in answers with Transactions
  before: no policy permits it
  now:    permit {id} (own/rules.cedar:1)

OPENED  network: every role; advertiser: every role; affiliate: every role
  on any other account
  columns of class pii, financial in answers with Transactions
  before: no policy permits it
  now:    permit {id} (own/rules.cedar:1)

OPENED  advertiser: member, observer; affiliate: member, observer
  on the owner's own account
  columns of class pii, financial in answers with Transactions
  before: no policy permits it
  now:    permit {id} (own/rules.cedar:1)

"""


def test_what_a_permit_for_everything_opens_is_shown_to_the_cell_though_it_would_not_load(run, own):
    folder = own(NAMED + EVERYTHING)
    code, out, _ = run("diff", "--local", folder)
    digests = dict(re.findall(r"^(old|new): .*, ([0-9a-f]{16})$", out, re.MULTILINE))
    expected = OPENED.format(own=folder, id="open", **digests)
    assert out[: len(expected)] == expected
    counted, _, refused = out[len(expected) :].partition("\n\nthe new set does not load:\n")
    assert re.fullmatch(
        r"\d+ decisions flip: \d+ opened, 0 closed\n\d+ stay as they are, by other policies\n"
        r"\d+ more flip that no request leads to",
        counted,
    )
    broken = [line.split(": ")[1] for line in refused.splitlines()]
    assert broken == ["destroy-and-publish-by-super-and-manager", "no-foreign-columns"]
    assert "broken by open: " in refused
    assert code == 1


def test_a_permit_without_a_name_is_shown_as_well_and_named_as_what_keeps_it_from_loading(run, own):
    folder = own("// ours\n" + EVERYTHING)
    code, out, _ = run("diff", "--local", folder)
    named = OPENED.format(own=folder, id="unnamed-rules-2", old="", new="").replace("cedar:1)", "cedar:2)")
    assert out.partition("\n\n")[2].startswith(named.partition("\n\n")[2].rstrip("\n"))
    for name in ("id", "source", "reason"):
        assert f'{folder}/rules.cedar:2: needs @{name}("...")' in out
    assert "broken by unnamed-rules-2: " in out
    assert code == 1


def test_a_fault_in_a_folder_without_names_is_told_where_it_is(run, own):
    folder = own(EVERYTHING + NAMED + "permit (principal, action, resource) when { principal.rol };")
    code, _, err = run("diff", "--local", folder)
    assert code == 1
    assert f"{folder}/rules.cedar:1: needs @id" in err
    assert f"{folder}/rules.cedar:2: open: " in err


def test_whole_sets_and_own_folders_are_told_apart(run, tmp_path, own):
    lost = whole(tmp_path / "lost", "own-network-only")
    code, out, _ = run("diff", "-", lost)
    assert out.startswith("old: the packaged set, ")
    assert f"\nnew: {lost}, " in out
    assert re.search(r"contract: P4 \(.*\) lost its policy own-network-only", out)
    assert code == 1
    one, two = own(OFFICE, "one"), own(OFFICE.replace("10.0.0.0/8", "172.16.0.0/12"), "two")
    code, out, _ = run("diff", one, two)
    assert f"old: the packaged set with {one}, " in out
    # The very same cells: but from other addresses.
    assert "NOW AND THEN  network, token tok_9: every role" in out
    assert code == 0
    assert run("diff", "--policies", lost, one, one)[1].startswith(f"old: {lost} with {one}, ")
    assert run("diff", "--local", one, two, "-")[:2] == (1, "")


def test_diff_in_json_has_every_cell_and_both_sets(run, own):
    folder = own(NAMED + EVERYTHING)
    document = json.loads(run("diff", "-", folder, "--json")[1])
    assert (document["old"]["loads"], document["new"]["loads"]) == (True, False)
    assert [fault["key"] for fault in document["new"]["faults"]] == [
        "destroy-and-publish-by-super-and-manager",
        "no-foreign-columns",
    ]
    flips = document["flips"]
    assert {flip["change"] for flip in flips} == {"opened"}
    assert {flip["was"]["decision"] for flip in flips} == {"deny"}
    assert {tuple(flip["policies"]) for flip in flips} == {("open",)}
    assert sum(flip["reachable"] for flip in flips) == document["counts"]["opened"]
    assert {flip["change"] for flip in document["others"]} == {"reason"}
    # Every vendor rule still holds: nothing of the Network Integration API opens to anybody outside a network.
    outside = [flip for flip in flips if flip["kind"] != "network" and "operation" in flip]
    assert {flip["operation"] for flip in outside} <= {
        "network_transactions_list", "advertiser_transactions_list", "affiliate_transactions_list",
    }  # fmt: skip


def test_diff_tells_which_columns_change_class(run, own):
    folder = own("")
    (folder / "columns.toml").write_text(
        '[public]\n"Visit Booked" = ["network"]\n[pii]\nduration = ["network"]\n'
    )
    assert json.loads(run("diff", "-", folder, "--json")[1])["columns"] == [
        {"name": "duration", "old": "public", "new": "pii"},
        {"name": "Visit Booked", "old": "pii", "new": "public"},
    ]
    code, text, _ = run("diff", "-", folder)
    assert (code, "column Visit Booked: was pii, is public\n" in text) == (0, True)
    assert run("diff", "-", folder, "--exit-code")[0] == 1


def test_diff_of_a_set_with_itself_is_nothing(run):
    code, out, _ = run("diff", "-", "-", "--exit-code")
    assert code == 0
    assert out.splitlines()[-1] == "0 decisions flip: 0 opened, 0 closed"


def test_diff_asked_for_wrongly_is_refused(run, tmp_path):
    assert run("diff")[0] == 2
    assert run("diff", tmp_path)[0] == 2
    assert run("diff", tmp_path, tmp_path / "gone")[0] == 1


def test_flips_can_be_an_exit_code(run, own):
    folder = own(OFFICE.replace("forbid", "permit").replace('context.token == "tok_9"', 'context.relation == "own" '
                 '&& principal.role == "super" && resource.effect == "read" && resource.status == "legacy" && '
                 'principal.account.kind == "network"').partition("unless")[0] + ";")  # fmt: skip
    assert run("diff", "--local", folder)[0] == 0
    assert run("diff", "--local", folder, "--exit-code")[0] == 1


# --- a vendor's policy is cut out


def test_a_whole_set_without_a_vendors_policy_does_not_load_and_contract_names_its_sentence(
    run, tmp_path, own
):
    lost = whole(tmp_path / "lost", "network-integration-for-network-users")
    sentence = (
        r"contract\.toml:\d+: contract: P3 \(.*\) lost its policy network-integration-for-network-users"
    )
    code, out, err = run("matrix", "--policies", lost)
    assert (code, out) == (1, "")
    assert re.search(sentence, err)
    code, out, _ = run("contract", "--policies", lost)
    assert code == 1
    assert re.search(sentence, out)
    # With a permit for everything laid over it, a request shows what would be open.
    _, _, err = run("matrix", "--policies", lost, "--local", own(NAMED + EVERYTHING))
    assert re.search(
        r"network-integration-network-only: broken by open: \w+ /api/\S+ would be allowed to ", err
    )


# --- mutate, contract


def test_no_mutant_of_the_shipped_set_survives(run):
    code, out, _ = run("mutate", "--json")
    document = json.loads(out)
    assert (code, document["survivors"]) == (0, [])
    whole_policies = [
        entry for entry in document["mutants"] if entry["change"].startswith(("deleted", "inverted"))
    ]
    assert {entry["fate"] for entry in whole_policies} == {"noticed"}
    assert len(whole_policies) == 2 * len({entry["policy"] for entry in whole_policies})


def test_a_rule_without_a_case_survives_and_is_named(run, own):
    folder = own(OFFICE)
    code, out, _ = run("mutate", "--policies", packaged(), "--local", folder, "--only", "office")
    assert code == 1
    assert "own/rules.cedar:1: office: no case and no invariant notices: deleted" in out
    assert 'notices: without: context.token == "tok_9"' not in out  # the shipped cases notice that
    assert run("mutate", "--only", "offise")[0] == 2


def test_a_case_that_fails_already_notices_no_mutant(run, own):
    failing = A_MEMBER_WRITES.replace('"deny"', '"allow"')
    out = run("mutate", "--local", own(MEMBERS, members=failing), "--only", "members-only-look")[1]
    assert "members-only-look: no case and no invariant notices: deleted" in out
    out = run(
        "mutate", "--local", own(MEMBERS, "two", members=A_MEMBER_WRITES), "--only", "members-only-look"
    )[1]
    assert "deleted" not in out


def test_the_contract_has_no_orphan_and_a_rule_without_a_case_is_one(run, own):
    code, out, _ = run("contract", "--local", own(OFFICE))
    assert code == 1
    assert "own/rules.cedar:1: office: no case is about this policy" in out
    document = json.loads(run("contract", "--json")[1])
    assert [sentence["id"] for sentence in document["sentences"]] == [f"P{n}" for n in range(1, 10)]


# --- replay


RECORD = {
    "v": 1, "time": "2027-01-15T08:00:00.250+00:00", "event": "exchange", "request_id": "r-1", "surface": "proxy",
    "client": "192.0.2.1", "method": "GET", "token_id": "tok_9", "owner": "usr_1", "account": "network:33",
    "network": "33", "role": "member", "administrator": False, "scopes": "network:read",
    "operation": "advertisers_list", "effect": "read", "version": "2022-08-01", "path_account": "33",
    "relation": "own", "decision": "allow", "policies": ["network-integration-read"], "duration_ms": 1.0,
}  # fmt: skip


def test_replay_reads_rotated_packed_and_piped_records(run, tmp_path, own, monkeypatch):
    line = json.dumps(RECORD).encode() + b"\n"
    plain, packed = tmp_path / "records.jsonl", tmp_path / "records.jsonl.1.gz"
    plain.write_bytes(line + b'{"torn')
    packed.write_bytes(gzip.compress(line * 2))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line)))
    code, out, _ = run("replay", plain, packed, "-", "--json", "--local", own(OFFICE))
    document = json.loads(out)
    assert (code, document["judged"], document["flipped"]) == (0, 4, 4)
    (change,) = document["changes"]
    assert (change["operation"], change["was"], change["now"]) == (
        "advertisers_list",
        {"decision": "allow", "policies": ["network-integration-read"]},
        {"decision": "deny", "policies": ["office"]},
    )
    assert change["first"] == {"file": str(plain), "line": 1, "request_id": "r-1"}
    assert document["unusable"] == {
        "count": 1,
        "first": [{"file": str(plain), "line": 2, "text": "is not a whole line of JSON"}],
    }


def test_replay_says_what_cannot_be_read(run, tmp_path):
    code, out, _ = run("replay", tmp_path / "gone")
    assert code == 1
    assert f"{tmp_path / 'gone'}: cannot be read: FileNotFoundError" in out


def test_flips_of_a_replay_can_be_an_exit_code(run, tmp_path, own):
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps(RECORD) + "\n")
    assert run("replay", records, "--exit-code")[0] == 0
    local = own(OFFICE)
    assert run("replay", records, "--local", local)[0] == 0
    assert run("replay", records, "--local", local, "--exit-code")[0] == 1


# --- as a process


def test_the_commands_run_as_they_are_typed(tmp_path, own):
    folder = own(NAMED + EVERYTHING)
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "policy", "diff", "-", str(folder)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    assert "the new set does not load:" in done.stdout
    page = subprocess.run(
        [sys.executable, "-m", "gateway", "policy", "matrix", "--html"],
        capture_output=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert page.stdout.decode("utf-8").count("<tr>") > 100
