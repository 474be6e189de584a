"""Who a write would remove, told by natural keys; and the number that has to be right."""

from __future__ import annotations

import json

import pytest

from gateway import replacing
from gateway.problem import Problem

NONE: frozenset[str] = frozenset()


def users(*keys: object) -> list[dict[str, object]]:
    return [{"id_from_network": key} for key in keys]


@pytest.mark.parametrize(
    ("document", "query", "kept"),
    [
        ({}, NONE, {}),
        ({"name": "x"}, NONE, {}),
        ({"users": users("a", 5)}, NONE, {"users": {"a", "5"}}),
        ({"users": []}, NONE, {"users": set()}),
        ({"users": None}, NONE, {"users": set()}),
        ({"users": {"0": {"id_from_network": "a"}}}, NONE, {"users": set()}),
        ({"advertiser": {"users": users("a")}}, NONE, {"users": {"a"}}),
        ({"users": users("a", "b"), "deep": [{"users": users("b")}]}, NONE, {"users": {"b"}}),
        ({"users": users("a")}, frozenset({"users"}), {"users": set()}),
        ({}, frozenset({"users", "other"}), {"users": set()}),
        ({"users": ["a", True, *users(True, None, "a")]}, NONE, {"users": {"", "a"}}),
    ],
)
def test_what_a_write_keeps(document, query, kept):
    found = replacing.replaced(["users"], document, query)
    assert {name: set(keys) for name, keys in found.items()} == kept


def test_platform_users_are_not_counted_and_only_a_true_says_that_they_are():
    stored = [{"id_from_network": key, "can_login_via_platform": value} for key, value in
              [("a", True), ("b", False), ("c", "true"), ("d", 1), ("e", None)]]  # fmt: skip
    found = replacing.stored(json.dumps({"users": stored}).encode(), ["users", "sites"])
    assert found == {"users": ("b", "c", "d", "e"), "sites": ()}


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{", b'{"users": null}', b'{"users": [1]}', b'{"users": {}}', b'{"users": [], "users": []}',
     b'{"users": NaN}', b'{"a": "\xff"}', b"[" * 100_000,
     b'{"users": [{"id_from_network": "a", "id_from_network": "b"}]}'],
)  # fmt: skip
def test_what_is_stored_is_read_strictly(text):
    with pytest.raises(Problem, match="upstream-unreadable"):
        replacing.stored(text, ["users"])


def test_members_without_a_key_count_as_removed_one_by_one():
    present = replacing.stored(b'{"users": [{}, {}, {"id_from_network": "a"}]}', ["users"])
    gone = replacing.removals(present, {"users": ("", "a")})
    assert gone == {"users": ("", "")}


def test_only_the_right_number_confirms():
    gone = {"users": ("a", "b"), "sites": ("c",)}
    replacing.require(gone, 3)
    replacing.require({}, None)
    replacing.require({}, 0)
    for number in (None, 0, 2, 4):
        with pytest.raises(Problem) as raised:
            replacing.require(gone, number)
        assert raised.value.members == {"removals": {"users": ["a", "b"], "sites": ["c"]}, "count": 3}
    with pytest.raises(Problem, match="removals-unconfirmed"):
        replacing.require({}, 1)


def test_a_long_list_is_told_in_part_and_counted_whole():
    problem = replacing.unconfirmed("x", {"users": tuple(map(str, range(1_000)))})
    assert (len(problem.members["removals"]["users"]), problem.members["count"]) == (100, 1_000)


@pytest.mark.parametrize(
    ("path", "collection", "document", "where"),
    [
        ("/a/advertisers/1.json", False, {"id_from_network": "2"}, "/a/advertisers/1.json"),
        ("/a/advertisers.json", True, {"id_from_network": "2"}, "/a/advertisers/2.json"),
        ("/a/advertisers.json", True, {"id_from_network": 2}, "/a/advertisers/2.json"),
        (
            "/a/advertisers.json",
            True,
            {"id_from_network": "a/b \u00e9"},
            "/a/advertisers/a%2Fb%20%C3%A9.json",
        ),
        ("/a/advertisers.json", True, {}, None),
        ("/a/advertisers.json", True, {"id_from_network": [1]}, None),
    ],
)
def test_where_what_is_replaced_is_read(path, collection, document, where):
    assert replacing.where_stored(path, collection, document) == where
