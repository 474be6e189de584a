"""The rules of the house, as tests whose message teaches."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from gateway import cli, config
from gateway.metrics import COUNTERS
from gateway.problem import KINDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

# Bottom first. A module imports only what stands before it, so that a cycle cannot be written.
LADDER = str.split("""
model problem tomlfile config command
tokens once finder target headers body operation filter fields grammar refusals replacing
words cedar shipped columns policyfile policy shapes rules reading strip shield table compile proof cases
contract mutation matrix difference replay matrixpage load ratelimit metrics shadow
reply outbox connection upstream fullset store scan audit lastuse budget credentials verdicts authenticate issue
passwords signin
inforce exchange ops flow selfservice oauth admin lean wire selftest
app reload serve sandbox demo policycli scancli keyscli usercli cli __main__
""")


def own_imports() -> Iterator[tuple[str, str, str]]:
    """(importing module, imported module, file:line) for every import within the package."""
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        owner = path.relative_to(ROOT / "gateway").with_suffix("").parts[0]
        if owner == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module == "gateway":
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gateway."):
                names = [str(node.module).split(".")[1]]
            elif isinstance(node, ast.Import):
                names = [a.name.split(".")[1] for a in node.names if a.name.startswith("gateway.")]
            for name in names:
                if name != owner and not name.startswith("__version"):
                    yield owner, name, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_imports_only_go_down():
    rank = {name: place for place, name in enumerate(LADDER)}
    for owner, target, where in own_imports():
        assert owner in rank, f"{where}: {owner} has no place on the ladder"
        assert rank[target] < rank[owner], f"{where}: {owner} imports {target}, which stands above it"


def test_the_sandbox_knows_nothing_of_the_gateway():
    assert not [where for owner, _, where in own_imports() if owner == "sandbox"]


def test_every_module_on_the_ladder_exists():
    for name in LADDER:
        assert importlib.util.find_spec(f"gateway.{name}"), f"{name} stands on the ladder and is no module"


def settings(cls: Any, path: str = "") -> Iterator[str]:
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        inner = get_args(hint)[1] if get_origin(hint) is dict else hint
        if dataclasses.is_dataclass(hint):
            yield from settings(hint, f"{path}{field.name}.")
        else:
            assert inner
            yield path + field.name


def test_every_setting_is_in_the_example_and_the_example_is_valid():
    text = (ROOT / "config.example.toml").read_text()
    config.read(text, "config.example.toml")
    uncommented = re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE)
    written = tomllib.loads(uncommented)

    def has(path: str) -> bool:
        table: Any = written
        for key in path.split("."):
            if key not in table:
                return False
            table = table[key]
        return True

    missing = [path for path in settings(config.Config) if not has(path)]
    assert not missing, f"settings that config.example.toml does not show: {missing}"


def test_the_example_shows_the_defaults():
    made = config.read((ROOT / "config.example.toml").read_text(), "config.example.toml")
    bare = config.Config(public_url=made.public_url, upstream=made.upstream)
    assert made == bare
    assert made.upstream == config.Upstream(url=made.upstream.url, credentials=made.upstream.credentials)


def test_every_problem_kind_is_in_the_readme():
    for kind, facts in KINDS.items():
        assert f"| `{kind}` | {facts.status} | {facts.title} |" in README, f"README lacks the problem {kind}"


def commands(parser: argparse.ArgumentParser, path: str = "") -> Iterator[str]:
    nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not nested:
        yield path.strip()
    for action in nested:
        for name, below in action.choices.items():
            yield from commands(below, f"{path} {name}")


def test_every_command_is_in_the_readme():
    for command in commands(cli._parser()):
        assert f"`{command}`" in README, f"README lacks the command {command}"


def test_every_counter_has_a_sentence():
    assert all(what.endswith(".") for what, _ in COUNTERS.values())


def test_ci_runs_exactly_the_readmes_test_command():
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    (command,) = [block.strip() for block in blocks if "pytest" in block]
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_help_needs_no_development_extras():
    blocked = "import sys; sys.modules.update(dict.fromkeys(('pytest', 'hypothesis', 'mypy', 'ruff')));"
    run = [sys.executable, "-c", blocked + "from gateway.cli import main; main(['--help'])"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout


@pytest.mark.parametrize(
    ("kind", "account", "request_line", "decision"),
    [
        ("advertiser", "706", "GET /api/2022-08-01/33/advertisers.json", "deny"),
        ("advertiser", "706", "GET /api/2020-10-01/advertisers/transactions/706.json", "allow"),
    ],
)
def test_explain_answers_in_the_contracts_json(capsys, kind, account, request_line, decision):
    code = cli.main(
        ["policy", "explain", "--kind", kind, "--account", account, "--role", "member",
         "--scope", "transactions:read", "--json", request_line]
    )  # fmt: skip
    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert document["decision"] == decision
    assert set(document) >= {"decision", "operation", "policies", "withheld"}
    assert {"id", "effect", "reason", "source", "file", "line"} == set(document["policies"][0])


def test_policy_test_passes_on_the_shipped_set(capsys):
    assert cli.main(["policy", "test"]) == 0
    assert re.fullmatch(r"\d+ passed, 0 failed\n", capsys.readouterr().out)


def test_a_gateway_that_serves_does_without_the_policy_engine():
    asked = "import sys, gateway.app; from gateway.cedar import cedarpy; "
    for last, loaded in (("", "False"), ("cedarpy.Schema; ", "True")):
        run = [sys.executable, "-c", f"{asked}{last}print('cedarpy._internal' in sys.modules)"]
        done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=True)
        assert done.stdout.strip() == loaded
