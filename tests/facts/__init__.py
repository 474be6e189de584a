"""The vendor's facts, as the tests know them: loaded from this folder, never from the code under test."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

FACTS: dict[str, Any] = tomllib.loads((Path(__file__).parent / "operations.toml").read_text("utf-8"))
OPERATIONS: list[dict[str, Any]] = FACTS["operation"]
OTHERS: list[dict[str, Any]] = FACTS["other"]
VECTORS: list[dict[str, Any]] = FACTS["vector"]
VERSIONS: dict[str, list[str]] = FACTS["versions"]

CURRENT = {"transactions": "2020-10-01", "network_integration": "2022-08-01"}
SAMPLES = {
    "network_id": "33",
    "advertiser_id": "706",
    "affiliate_id": "808",
    "email": "pat%40example.com",
    "promo_number": "8005550100",
    "customer_phone_number_id": "4711",
    "js_tag_id": "0054811245",
    "external_revision_id": "1",
}


def filled(path: str, suffix: str, version: str) -> str:
    """A path template with a sample in each placeholder."""
    values = {"version": version, "format": suffix, **SAMPLES}
    for name in [piece.partition("}")[0] for piece in path.split("{")[1:]]:
        path = path.replace("{" + name + "}", values.get(name, "a.b~" + name[:3]))
    return path


def effect(operation: dict[str, Any]) -> str:
    """The effect that the vendor's tags give an operation, by the rule of the design."""
    tags = set(operation["tags"])
    if "mints_credential" in tags:
        return "impersonate"
    if "publishes_live" in tags and "_archive" not in operation["id"]:
        return "publish"
    if "destructive" in tags:
        return "destroy"
    return str(operation["access"])


def scope(operation: dict[str, Any]) -> str | None:
    """The scope that the api and the effect of an operation ask for; None where no scope reaches it."""
    if effect(operation) == "impersonate":
        return None
    family = "transactions" if operation["api"] == "transactions" else "network"
    return f"{family}:{effect(operation)}"


def account(path: str) -> tuple[str, str] | None:
    """The kind and the placeholder of the account that a path template names."""
    kinds = (("network_id", "network"), ("advertiser_id", "advertiser"), ("affiliate_id", "affiliate"))
    return next(((kind, name) for name, kind in kinds if "{" + name + "}" in path), None)
