"""The SQL of tokens, written out; and the two statements that are put together from constant parts.

Every S608 here joins constants of this file and of `decode.py`; values are always bound.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gateway.store.decode import TOKEN, USER, USERS
from gateway.store.given import bindable
from gateway.store.rows import MAX_AT_ONCE, TokenState, Which

FIND = f"SELECT {TOKEN}, {USER} FROM {USERS} JOIN tokens AS t ON t.owner_id = u.id WHERE t.jti_digest = ?"  # noqa: S608
FIND_EARLIER = FIND.replace("t.jti_digest", "t.earlier_digest")

# Tokens and all that dies with them: what it made, what that made, and so on. `t.rotate_by` and expiry need no
# such walk when a token is read: a child's expiry is cut down to its maker's when it is made, an exposure is
# handed down when it happens, and so is a deletion. The child's own row is the whole truth about it.
FAMILY = """
    WITH RECURSIVE family (id) AS (
        SELECT value FROM json_each(:ids)
        UNION
        SELECT child.id FROM tokens AS child JOIN family ON child.made_by = family.id
        WHERE child.outlives_maker = 0
    )
"""

# As TokenRow.state, each written so that an index on the rare part can serve it.
EXPIRY = "min(t.expires_at, coalesce(t.rotate_by, t.expires_at))"
STATE: dict[TokenState, str] = {
    "deleted": "t.deleted_at IS NOT NULL",
    "expired": f"t.deleted_at IS NULL AND {EXPIRY} <= :now",
    "paused": f"t.deleted_at IS NULL AND t.paused_at IS NOT NULL AND {EXPIRY} > :now",
    "exposed": "t.deleted_at IS NULL AND t.paused_at IS NULL AND t.exposed_at IS NOT NULL "
    f"AND {EXPIRY} > :now",
    "active": f"t.deleted_at IS NULL AND t.paused_at IS NULL AND t.exposed_at IS NULL AND {EXPIRY} > :now",
}

USER_BY_ID = f"SELECT {USER} FROM {USERS} WHERE u.id = ?"  # noqa: S608
GENERATION = "SELECT value FROM generation WHERE one = 1"

SAME_DESCRIPTION = """
    SELECT 1 FROM tokens
    WHERE owner_id = ? AND folded = ? AND deleted_at IS NULL
      AND expires_at > ? AND (rotate_by IS NULL OR rotate_by > ?)
    LIMIT 1
"""
INSERT_TOKEN = f"""
    INSERT INTO tokens AS t
        (id, jti_digest, owner_id, network, description, folded, scopes, created_at, expires_at, made_by,
         outlives_maker, bootstrap, accounts, networks, not_before, personal_records_per_day)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    RETURNING {TOKEN.replace("t.", "")}
"""  # noqa: S608
SIGNED = "INSERT INTO signatures (jti_digest, key_id) VALUES (?, ?)"
UNSIGN_EARLIER = """
    DELETE FROM signatures WHERE jti_digest = (SELECT earlier_digest FROM tokens WHERE id = :id)
"""
# Of both secrets of a token that was rotated, each with the key that signed it.
SIGNED_WITH = f"""
    SELECT t.id AS id, t.seq AS seq, {EXPIRY} AS until
    FROM tokens AS t LEFT JOIN signatures AS s ON s.jti_digest = t.jti_digest
    WHERE (s.key_id = :key OR s.key_id IS NULL) AND t.deleted_at IS NULL AND {EXPIRY} > :now
    UNION ALL
    SELECT t.id, t.seq, min({EXPIRY}, t.earlier_until)
    FROM tokens AS t LEFT JOIN signatures AS s ON s.jti_digest = t.earlier_digest
    WHERE (s.key_id = :key OR s.key_id IS NULL) AND t.deleted_at IS NULL
      AND t.earlier_digest IS NOT NULL AND min({EXPIRY}, t.earlier_until) > :now
"""  # noqa: S608
DELETE = f"""
    {FAMILY}
    UPDATE tokens SET deleted_at = :at, deleted_by = :by,
        delete_reason = CASE WHEN id IN (SELECT value FROM json_each(:ids)) THEN :reason ELSE :inherited END
    WHERE id IN (SELECT id FROM family) AND deleted_at IS NULL
    RETURNING 1
"""  # noqa: S608
EXPOSE = f"""
    {FAMILY}
    UPDATE tokens SET
        exposed_at = CASE WHEN id = :id THEN :at ELSE exposed_at END,
        rotate_by = min(:rotate_by, coalesce(rotate_by, :rotate_by))
    WHERE id IN (SELECT id FROM family)
"""  # noqa: S608
ROTATE = f"""
    UPDATE tokens AS t SET
        earlier_digest = jti_digest, earlier_until = :until, jti_digest = :digest, rotated_at = :now,
        expires_at = :ends, exposed_at = NULL, rotate_by = NULL
    WHERE id = :id
    RETURNING {TOKEN.replace("t.", "")}
"""  # noqa: S608
# What a token that ends earlier than it did takes with it.
SHORTEN = f"""
    {FAMILY}
    UPDATE tokens SET rotate_by = min(:ends, coalesce(rotate_by, :ends))
    WHERE id IN (SELECT id FROM family) AND id <> :id AND expires_at > :ends
"""  # noqa: S608
PAUSE = """
    UPDATE tokens SET paused_at = coalesce(paused_at, :at), paused_by = :by
    WHERE id IN (SELECT value FROM json_each(:ids))
"""
OVER = """
    SELECT * FROM (SELECT 1 FROM answers WHERE sealed IS NOT NULL AND until <= :now LIMIT 1)
    UNION ALL SELECT * FROM (SELECT 1 FROM answers WHERE until <= :old LIMIT 1)
"""


RARE: dict[TokenState | None, str] = {
    "deleted": "tokens_deleted",
    "paused": "tokens_paused",
    "exposed": "tokens_exposed",
}


def index_of(owner: bool, network: bool, state: TokenState | None) -> str | None:
    """The index that a list goes by. Without statistics SQLite cannot know which states are rare."""
    if owner:
        return "tokens_by_owner"
    return RARE.get(state, "tokens_by_network") if network else None


def tokens_page(where: Sequence[str], index: str | None) -> str:
    """The statement behind a page of tokens, from constant conditions."""
    filters, by = " AND ".join(where) or "1", f"INDEXED BY {index}" if index else ""
    return f"SELECT {TOKEN} FROM tokens AS t {by} WHERE {filters} ORDER BY t.seq DESC LIMIT :limit"  # noqa: S608


def chosen_tokens(which: Which, where: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """The statement behind an act on many tokens, and its values but for `at`; `where` are constants."""
    values: dict[str, Any] = {"network": bindable(which.network), "limit": MAX_AT_ONCE + 1}
    conditions = [
        "t.network = :network", "t.deleted_at IS NULL", f"{EXPIRY} > :at", *where
    ]  # fmt: skip
    index = "tokens_by_network"
    if which.ids is not None:
        index = "sqlite_autoindex_tokens_1"
        values["ids"] = as_json([bindable(token_id) for token_id in which.ids])
        conditions.append("t.id IN (SELECT value FROM json_each(:ids))")
    if which.owner_id is not None:
        index = "tokens_by_owner"
        values["owner"] = bindable(which.owner_id)
        conditions.append("t.owner_id = :owner")
    if which.account is not None:
        index = "tokens_by_owner"
        values["kind"], values["account"] = map(bindable, which.account)
        conditions.append(
            "t.owner_id IN (SELECT id FROM users WHERE account_kind = :kind AND account_id = :account)"
        )
    if which.made_by is not None:
        index = "tokens_by_maker"
        values["maker"] = bindable(which.made_by)
        conditions.append("t.made_by = :maker")
    if which.spare is not None and which.ids is None:
        values["spare"] = bindable(which.spare)
        conditions.append("t.id <> :spare")
    filters = " AND ".join(conditions)
    sql = f"SELECT t.id FROM tokens AS t INDEXED BY {index} WHERE {filters} ORDER BY t.seq LIMIT :limit"  # noqa: S608
    return sql, values


def as_json(items: Sequence[str] | None) -> str | None:
    return None if items is None else json.dumps(items)
