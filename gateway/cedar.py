"""Cedar's engine, loaded when it is first asked.

Policies are compiled in a process of their own, and a table that leaves nothing open never asks the engine again: a
gateway that serves does without its three megabytes.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import cedarpy as cedarpy
else:

    def _lazily(name: str) -> ModuleType:
        """A module that is found now and run when something of it is needed: the recipe of the library's manual for
        `importlib.util.LazyLoader`. Raises: ModuleNotFoundError."""
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        spec.loader = importlib.util.LazyLoader(spec.loader)
        made = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
        return made

    cedarpy = _lazily("cedarpy")
