"""From settings to the catalogue and the compiled policies: what `serve`, `check` and every reload do the same way.

It imports little on purpose: a reload does this in a process of its own, which has to be up soon.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from gateway import contract
from gateway.compile import compile
from gateway.config import Config
from gateway.operation import Catalogue
from gateway.policy import PolicySet, packaged
from gateway.proof import prove
from gateway.table import Table
from gateway.tomlfile import ConfigError, Fault

log = logging.getLogger("gateway.load")

Packed = tuple[bytes, bytes | None]
"""A `Sets` on its way to another process of the same gateway."""


@dataclass(frozen=True, slots=True)
class Sets:
    """What is loaded together and replaced together: the set to enforce, and the one that is only tried, if any."""

    enforced: Table
    tried: Table | None = None

    def pack(self) -> Packed:
        return self.enforced.pack(), None if self.tried is None else self.tried.pack()

    @classmethod
    def unpack(cls, packed: Packed) -> Sets:
        """Raises: ValueError for what is no table (`Table.unpack`)."""
        enforced, tried = packed
        return cls(Table.unpack(enforced), None if tried is None else Table.unpack(tried))


def load_catalogue(config: Config | None = None) -> Catalogue:
    """The packaged catalogue, with the versions a configuration adds. Raises: ConfigError."""
    path = packaged() / "operations.toml"
    extra = None if config is None else config.versions
    return Catalogue.load(path.read_text(encoding="utf-8"), str(path), extra)


def load_sets(config: Config, catalogue: Catalogue) -> Sets:
    """Both sets of a configuration. Raises: ConfigError with the faults of both."""
    made: list[Table | None] = []
    faults: list[Fault] = []
    for load in (load_policies, load_shadow):
        try:
            made.append(load(config, catalogue))
        except ConfigError as error:
            faults += (fault for fault in error.faults if fault not in faults)
    if faults:
        raise ConfigError(faults)
    enforced, tried = made
    assert enforced is not None
    return Sets(enforced, tried)


def load_policies(config: Config, catalogue: Catalogue) -> Table:
    """The packaged policies with the operator's laid over them, as `check_policies` passes them.

    Raises: ConfigError, for a broken invariant with a request that shows it.
    """
    table, broken = _compiled(config.policies.local, None, catalogue)
    if broken:
        raise ConfigError(broken)
    return table


def check_policies(policies: PolicySet, catalogue: Catalogue) -> tuple[Table, list[Fault]]:
    """A set compiled, and why it may not serve: each sentence of the page and each invariant that it breaks.

    Raises: ConfigError when it cannot be compiled.
    """
    table = compile(policies, catalogue.variants())
    broken = (
        Fault(it.invariant.file, it.invariant.line, it.invariant.id, it.text)
        for it in prove(table, policies.invariants)
    )
    return table, [*contract.check(policies.policies), *broken]


def load_shadow(config: Config, catalogue: Catalogue) -> Table | None:
    """The set that is tried: packaged, the operator's, and the shadow folder on top; None without that folder.

    It may break invariants, since it decides nothing: a warning names each with its counterexample. What cannot
    be judged at all is refused. Raises: ConfigError.
    """
    if config.policies.shadow is None:
        return None
    table, broken = _compiled(config.policies.local, config.policies.shadow, catalogue)
    for fault in broken:
        log.warning("shadow-breaks-invariant: %s", fault)
    return table


def _compiled(local: str | None, shadow: str | None, catalogue: Catalogue) -> tuple[Table, list[Fault]]:
    """The packaged set with these folders laid over it; and what it breaks, as `check_policies` says."""
    policies = PolicySet.load(
        local=None if local is None else Path(local),
        shadow=None if shadow is None else Path(shadow),
        operations=catalogue.variants(),
    )
    return check_policies(policies, catalogue)
