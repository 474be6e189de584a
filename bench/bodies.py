"""What is asked for and answered in the timed runs: paths of documented list operations, and their bodies."""

from __future__ import annotations

import json

SMALL = "/api/2022-08-01/33/advertisers.json"
MEDIUM = "/api/2022-08-01/33/affiliates.json"
LARGE = "/api/2022-08-01/33/advertisers/1/advertiser_campaigns.json"
SIZES = {SMALL: 1_200, MEDIUM: 64 * 1024, LARGE: 10 * 1024 * 1024}
WRONG_CREDENTIAL = b'{"error": "the upstream saw another credential than its own"}\n'


def advertisers(size: int) -> bytes:
    """A JSON array of rows in the vendor's shape, exactly `size` bytes, padded with white space."""
    rows: list[str] = []
    length = 3
    while True:
        n = len(rows)
        row = json.dumps(
            {
                "id": 900_000 + n,
                "name": f"Advertiser {n * 7919 % 100_000}",
                "id_from_network": str(5_000 + n),
                "approval_status": "Approved" if n % 4 else "Applied",
                "timezone": "Pacific Time (US & Canada)",
            }
        )
        if length + len(row) + 2 > size:
            return ("[" + ", ".join(rows) + "]").ljust(size - 1).encode() + b"\n"
        rows.append(row)
        length += len(row) + 2


def all_bodies() -> dict[str, bytes]:
    """The body of each path."""
    return {path: advertisers(size) for path, size in SIZES.items()}
