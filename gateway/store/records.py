"""How many personal records a token was given on a day, against how many it may be given.

What a token may still receive is the least that is left to it and to every token above it: what it was made by, and
what that was made by. So no number of tokens brings more than the one that made them. All of it is one transaction;
and since something is decided by it, it lies where tokens do, and is on the disk before it is acknowledged.
"""

from __future__ import annotations

from typing import Any

import aiosqlite

from gateway.store.decode import Row, Unreadable
from gateway.store.tally import DAY_S
from gateway.store.transaction import rows_of

_LINE = """
    WITH RECURSIVE line (id, made_by, most) AS (
        SELECT id, made_by, personal_records_per_day FROM tokens WHERE id = :id
        UNION
        SELECT t.id, t.made_by, t.personal_records_per_day FROM tokens AS t JOIN line ON t.id = line.made_by
    )
"""
LEFT = f"""
    {_LINE}
    SELECT min(max(0, line.most - coalesce(given.count, 0)))
    FROM line LEFT JOIN given_records AS given ON given.token_id = line.id AND given.day = :day
    WHERE line.most IS NOT NULL
"""  # noqa: S608
_TAKE = f"""
    {_LINE}
    INSERT INTO given_records (token_id, day, count) SELECT id, :day, :count FROM line WHERE most IS NOT NULL
    ON CONFLICT (token_id, day) DO UPDATE SET count = count + excluded.count
"""  # noqa: S608
_GIVE_BACK = f"""
    {_LINE}
    UPDATE given_records SET count = max(0, count - :count) WHERE day = :day AND token_id IN (SELECT id FROM line)
"""  # noqa: S608
# An answer that began before midnight is counted, and what it did not need given back, after it.
_FORGET = "DELETE FROM given_records WHERE token_id = :id AND day < :day - 1"


def of(token_id: str, at: int, count: int = 0) -> dict[str, Any]:
    """The values of these statements. A day is one of UTC."""
    return {"id": token_id, "day": at // DAY_S, "count": count}


def left(rows: list[Row]) -> int | None:
    """What LEFT tells; None where no token of the line is limited. Raises: Unreadable."""
    found = rows[0][0]
    if found is not None and type(found) is not int:
        raise Unreadable
    return found


async def take(db: aiosqlite.Connection, values: dict[str, Any]) -> int | None:
    """None when they are taken; else how many are left, which is fewer, and nothing is taken."""
    found = left(await rows_of(db, LEFT, values))
    if found is None or found < values["count"]:
        return found
    await rows_of(db, _FORGET, values)
    await rows_of(db, _TAKE, values)
    return None


async def give_back(db: aiosqlite.Connection, values: dict[str, Any]) -> None:
    await rows_of(db, _GIVE_BACK, values)
