"""Where the shipped policies lie."""

from __future__ import annotations

from pathlib import Path


def packaged() -> Path:
    """The folder of the shipped policies: inside the package in a wheel, beside it in a source checkout."""
    inside = Path(__file__).parent / "policies"
    return inside if inside.is_dir() else inside.parents[1] / "policies"
