"""What every module with commands shares: exit codes, a configuration read from its file, a wrong question said."""

from __future__ import annotations

import sys
from pathlib import Path

from gateway import config
from gateway.tomlfile import ConfigError, Fault

DONE, FAULTS, ASKED_WRONGLY = 0, 1, 2


def read(path: str) -> config.Config:
    """The configuration in a file. Raises: ConfigError with every fault."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Fault(path, 0, "", f"cannot be read: {type(error).__name__}")]) from None
    return config.read(text, path, Path(path).resolve().parent)


def wrong(text: str) -> int:
    """Say what was asked wrongly; the exit code for it."""
    print(f"invoca-gateway: {text}", file=sys.stderr)
    return ASKED_WRONGLY
