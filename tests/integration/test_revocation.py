"""What ends a token ends it: in every order, by every hand, in every worker, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT


def bench(module: str, *arguments: str) -> tuple[int, str]:
    """(exit code, output) of a measurement; it ends what it starts, and is ended itself when it takes too long."""
    run = [sys.executable, "-m", f"bench.{module}", *arguments]
    with subprocess.Popen(
        run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, text=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=30)
            pytest.fail(f"it does not end: {said}")
    return process.returncode, said


pytestmark = pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="measured through /proc")


def test_no_interleaving_of_acts_uses_and_crashes_is_beyond_the_model(tmp_path: Path):
    code, said = bench(
        "interleave", "--count", "24", "--by-command", "0.04", "--data", str(tmp_path / "data")
    )
    assert code == 0, said  # names its seed
    assert "Every answer is the model's." in said


def test_a_deleted_token_is_accepted_by_none_of_four_workers(tmp_path: Path):
    code, said = bench("revoke", "--rounds", "2", "--data", str(tmp_path / "data"))
    assert code == 0, said
    assert "0 of " in said
