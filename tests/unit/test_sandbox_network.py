"""The Network Integration API by its semantics, asked without sockets."""

import json
from datetime import date

import pytest

from gateway.sandbox import Sandbox
from gateway.sandbox.exchange import Ask

BASE = "/api/2022-08-01/33"
SPRING = "advertisers/706/advertiser_campaigns/spring"
SHARED = f"{SPRING}/affiliates/808/affiliate_campaigns"
TAG = "/api/2022-08-01/networks/33/js_tags/0054811245"


class Caller:
    """A client of a sandbox of its own; every call gives back the decoded body and checks the status."""

    def __init__(self):
        self.sandbox = Sandbox("T", calls=60)

    def __call__(self, method, path, body=None, status=200):
        target = path if path.startswith("/") else f"{BASE}/{path}.json"
        sent = b"" if body is None else json.dumps(body).encode()
        reply = self.sandbox.answer(Ask(method, target, [("Authorization", "T")], sent))
        text = b"".join(reply.chunks)
        assert reply.status == status, text
        return json.loads(text)


@pytest.fixture
def call():
    return Caller()


def names(users):
    return [user["id_from_network"] for user in users]


# Users, advertisers, affiliates


def test_users_left_out_of_a_write_are_deleted(call):
    call("PUT", "network", {"users": [{"id_from_network": "u-kim"}]})
    assert names(call("GET", "network")["users"]) == ["u-kim", "u-root"]


def test_an_empty_users_array_deletes_all_that_the_api_manages(call):
    call("PUT", "network", {"users": []})
    assert names(call("GET", "network")["users"]) == ["u-root"]


def test_a_new_user_becomes_super_unless_told_otherwise(call):
    users = call("POST", "network", {"users": [{"id_from_network": "u-new"}]}, 201)["users"]
    assert (users[0]["role"], users[0]["can_login_via_platform"]) == ("Super", False)


def test_a_platform_user_is_not_changed_through_the_api(call):
    users = call("PUT", "network", {"users": [{"id_from_network": "u-root", "role": "Observer"}]})["users"]
    assert [user["role"] for user in users] == ["Super"]


def test_user_reads_carry_refresh_tokens(call):
    for path in ("network", "advertisers/706", "affiliates/808"):
        assert all(user["oauth_refresh_token"] for user in call("GET", path)["users"])
    assert call("GET", "advertisers/706")["oauth_refresh_token"]


def test_a_put_creates_an_advertiser_and_a_post_updates_it(call):
    call("PUT", "advertisers/acme.example", {"name": "Acme"})
    call("POST", "advertisers/acme.example", {"name": "Acme & Co"})
    call("POST", "advertisers", {"id_from_network": "acme.example", "custom_data": {"a": 1}})
    read = call("GET", "advertisers/acme.example")
    assert (read["name"], read["custom_data"]) == ("Acme & Co", {"a": 1})


def test_sites_are_replaced_and_a_missing_array_changes_nothing(call):
    call("PUT", "affiliates/808", {"sites": [{"id_from_network": "s2", "name": "two.example.com"}]})
    call("PUT", "affiliates/808", {"name": "Renamed"})
    read = call("GET", "affiliates/808")
    assert names(read["sites"]) == ["s2"]
    assert names(read["users"]) == ["u-sam808"]


@pytest.mark.parametrize("path", ["advertisers/706", "affiliates/808"])
def test_an_account_with_campaigns_cannot_be_deleted(call, path):
    assert call("DELETE", path, status=403)["errors"]["class"] == "RecordInvalid"
    call("GET", path)


@pytest.mark.parametrize("path", ["advertisers/tmp", "affiliates/tmp"])
def test_an_account_without_campaigns_is_deleted_and_again_without_error(call, path):
    call("PUT", path, {"name": "Temporary"})
    call("DELETE", path)
    call("DELETE", path)
    call("GET", path, status=404)


def test_an_advertiser_user_is_written_wrapped_and_read_plain(call):
    call("POST", "advertisers/706/users", {"user": {"id_from_network": "u-1", "role": "Member"}}, 201)
    call("PUT", "advertisers/706/users/u-1", {"user": {"first_name": "Ada"}})
    read = call("GET", "advertisers/706/users/u-1")
    assert (read["role"], read["first_name"]) == ("Member", "Ada")
    call("DELETE", "advertisers/706/users/u-1")
    call("GET", "advertisers/706/users/u-1", status=404)


@pytest.mark.parametrize(("method", "body"), [("PUT", {"user": {"role": "Super"}}), ("DELETE", None)])
def test_a_user_of_the_platform_is_out_of_reach(call, method, body):
    call(method, "advertisers/706/users/u-bob706", body, 403)


def test_an_unwrapped_user_is_refused(call):
    assert "user" in call("POST", "advertisers/706/users", {"id_from_network": "u-1"}, 403)["errors"]


# Campaigns


def test_changes_are_staged_until_go_live(call):
    call("PUT", SPRING, {"description": "Summer"})
    read = call("GET", SPRING)
    assert read["current_terms"]["description"] == "Regular promotion"
    assert read["future_terms"]["description"] == "Summer"
    call("POST", f"{SPRING}/go_live", {"timeout": 10})
    read = call("GET", SPRING)
    assert (read["current_terms"]["description"], read["future_terms"]) == ("Summer", {})


def test_a_campaign_is_archived_unarchived_to_paused_and_goes_live_again(call):
    for action, status in (("archive", "Archived"), ("unarchive", "Paused"), ("go_live", "Activated")):
        call("POST", f"{SPRING}/{action}")
        assert call("GET", SPRING)["status"] == status


def test_an_archived_campaign_does_not_go_live(call):
    call("POST", f"{SPRING}/archive")
    assert "status" in call("POST", f"{SPRING}/go_live", status=403)["errors"]


@pytest.mark.parametrize("timeout", [1, 61, "soon"])
def test_go_live_waits_between_2_and_60_seconds(call, timeout):
    call("POST", f"{SPRING}/go_live", {"timeout": timeout}, 403)


@pytest.mark.parametrize("action", ["go_live", "archive", "unarchive"])
def test_a_get_acts_on_old_versions_and_is_refused_on_new_ones(call, action):
    call("GET", f"/api/2018-02-01/33/{SPRING}/{action}.json")
    assert (
        call("GET", f"/api/2018-05-01/33/{SPRING}/{action}.json", status=403)["errors"]["class"]
        == "RecordInvalid"
    )


def test_an_old_get_of_archive_really_archives(call):
    call("GET", f"/api/2017-09-01/33/{SPRING}/archive.json")
    assert call("GET", SPRING)["status"] == "Archived"


@pytest.mark.parametrize("path", [SPRING, SHARED])
def test_campaigns_of_either_kind_cannot_be_deleted(call, path):
    call("DELETE", path, status=403)
    call("GET", path)


def test_quick_stats_count_the_calls_of_the_transactions_api(call):
    stats = call("GET", f"{SPRING}/quick_stats")["stats"]
    assert list(stats) == ["last_30days", "last_7days", "today"]
    spring = [row for row in call.sandbox.rows if row.campaign.id_from_network == "spring"]
    calls = [row for row in spring if row.kind == "Call" and "corrects_transaction_id" not in row.values]
    assert stats["last_30days"]["call_count"] == sum(row.day > date(2026, 5, 31) for row in calls) > 0


def test_an_affiliate_campaign_is_applied_for_and_then_approved(call):
    path = f"{SPRING}/affiliates/809/affiliate_campaigns"
    assert call("POST", path, {"status": "Applied", "id_from_network": "ac"}, 201)["status"] == "Applied"
    assert call("PUT", path, {"status": "Approved"})["status"] == "Approved"
    assert call("GET", path)["id_from_network"] == "ac"


def test_a_campaign_that_approves_everybody_approves_at_once(call):
    call("PUT", SPRING, {"auto_approve": "All"})
    call("POST", f"{SPRING}/go_live")
    assert call("POST", f"{SPRING}/affiliates/809/affiliate_campaigns", {}, 201)["status"] == "Approved"


def test_any_relationship_but_approved_suspends_and_declines(call):
    call("PUT", f"{SPRING}/affiliates/809/affiliate_campaigns", {"status": "Applied"})
    call("PUT", "advertisers/706/affiliates/809", {"status": "Paused"})
    statuses = [
        call("GET", f"advertisers/706/advertiser_campaigns/{name}/affiliates/809/affiliate_campaigns")[
            "status"
        ]
        for name in ("spring", "implants")
    ]
    assert statuses == ["Declined", "Suspended"]


def test_an_application_without_an_approved_relationship_is_declined(call):
    call("POST", "advertisers/707/affiliates/809", {"status": "Declined"}, 201)
    call("PUT", "affiliates/810", {"name": "New"})
    call("POST", "advertisers/706/affiliates/810", {"status": "Applied"}, 201)
    assert call("POST", f"{SPRING}/affiliates/810/affiliate_campaigns", {}, 201)["status"] == "Declined"


def test_a_relationship_is_deleted_more_than_once_without_error(call):
    call("DELETE", "advertisers/706/affiliates/808")
    call("DELETE", "advertisers/706/affiliates/808")
    call("GET", "advertisers/706/affiliates/808", status=404)


# Numbers


@pytest.mark.parametrize("owner", [SPRING, SHARED])
@pytest.mark.parametrize(
    ("form", "key"), [("promo_numbers", "promo_number"), ("promo_numbers_by_id", "id_from_network")]
)
def test_a_promo_number_is_created_read_changed_and_deleted(call, owner, form, key):
    path = f"{owner}/{form}"
    made = call("POST", path, {"id_from_network": "mine", "description": "one"}, 201)
    call("PUT", f"{path}/{made[key]}", {"description": "two"})
    assert call("GET", f"{path}/{made[key]}")["description"] == "two"
    call("DELETE", f"{path}/{made[key]}")
    call("DELETE", f"{path}/{made[key]}")
    call("GET", f"{path}/{made[key]}", status=404)


def test_each_post_takes_another_number_even_for_the_same_id(call):
    posts = [call("POST", f"{SPRING}/promo_numbers", {"id_from_network": "x"}, 201) for _ in range(120)]
    numbers = {post["promo_number"] for post in posts}
    assert len(numbers) == 120
    assert all(number[3:8] == "55501" and len(number) == 10 for number in numbers)


def test_a_put_with_a_destination_moves_a_number_to_another_advertiser(call):
    move = {
        "destination_advertiser_id_from_network": "707",
        "destination_advertiser_campaign_id_from_network": "gutters",
    }
    call("PUT", f"{SPRING}/promo_numbers_by_id/line-spring", move)
    call("GET", f"{SPRING}/promo_numbers_by_id/line-spring", status=404)
    call("GET", "advertisers/707/advertiser_campaigns/gutters/promo_numbers_by_id/line-spring")


def test_a_move_to_nowhere_leaves_the_number_where_it_is(call):
    path = f"{SHARED}/promo_numbers_by_id/line-clicks"
    call("PUT", path, {"destination_affiliate_id_from_network": "none"}, 404)
    call("GET", path)


def test_a_put_by_id_creates_and_a_put_by_number_cannot(call):
    assert call("PUT", f"{SPRING}/promo_numbers_by_id/fresh", {})["id_from_network"] == "fresh"
    call("PUT", f"{SPRING}/promo_numbers/2125550199", {}, 404)


def test_ring_pools_carry_their_api_key(call):
    assert call("GET", f"{SPRING}/ring_pools/pool-spring")["api_key"]
    assert all(pool["api_key"] for pool in call("GET", f"{SPRING}/ring_pools"))


def test_a_ring_pool_post_is_repeatable_and_adds_a_destination(call):
    body = {"id_from_network": "p", "name": "P", "local_center": {"zipcode": "97403"}}
    ids = [
        call("POST", f"{SPRING}/ring_pools", body | {"destination_phone_number": "541-555-0150"}, 201)["id"]
    ]
    ids.append(call("POST", f"{SPRING}/ring_pools", body, 201)["id"])
    assert ids[0] == ids[1]
    assert call("GET", "/api/2022-08-01/33/customer_phone_numbers.json?query=0150")["recordsTotal"] == 1


def test_a_ring_pool_goes_alone_or_with_its_destinations(call):
    call(
        "DELETE", f"/api/2022-08-01/33/{SPRING}/ring_pools/pool-spring.json?delete_detected_phone_number=true"
    )
    call("GET", f"{SPRING}/ring_pools/pool-spring", status=404)
    assert call("GET", "customer_phone_numbers")["recordsTotal"] == 2


def test_overflow_cannot_be_changed_later(call):
    call("PUT", f"{SPRING}/ring_pools/pool-spring", {"allow_overflow": True})
    call("PUT", f"{SPRING}/ring_pools/pool-spring", {"allow_overflow": False}, 403)


def test_destinations_are_paged_filtered_and_sorted(call):
    def ids(query):
        page = call("GET", f"/api/2022-08-01/33/customer_phone_numbers.json?{query}")
        assert list(page) == ["data", "requestId", "recordsTotal"]
        return [each["id"] for each in page["data"]]

    assert ids("") == [310, 311, 312]
    assert ids("limit=1&start=1") == [311]
    assert ids("sort_dir=desc&sort_by=phone_number") == [312, 311, 310]
    assert [ids(f"status={status}") for status in ("tracked", "discovered", "ignored")] == [
        [310],
        [311],
        [312],
    ]


# Tags


def test_go_live_publishes_the_draft_under_the_next_number(call):
    call("PUT", f"{TAG}/revisions/draft.json", {"custom_code": "alert(1)"})
    tag = call("POST", f"{TAG}/go_live.json")
    assert (tag["live_revision"]["external_revision_id"], tag["draft_revision"]) == (2, None)
    assert tag["live_revision"]["custom_code"] == "alert(1)"


def test_revert_makes_an_earlier_revision_the_live_one(call):
    assert (
        call("POST", f"{TAG}/revert.json", {"external_revision_id": 0})["live_revision"][
            "external_revision_id"
        ]
        == 0
    )
    live = [
        each["external_revision_id"]
        for each in call("GET", f"{TAG}/revisions.json")["data"]
        if each["is_live_revision"]
    ]
    assert live == [0]


def test_a_tag_is_paused_and_unpaused(call):
    assert call("POST", f"{TAG}/pause.json")["status"] == "Paused"
    assert call("POST", f"{TAG}/unpause.json")["active"] is True


def test_revisions_are_read_by_number_and_as_draft(call):
    assert call("GET", f"{TAG}/revisions/1.json")["is_draft_revision"] is False
    assert call("GET", f"{TAG}/revisions/draft.json")["is_draft_revision"] is True
    call("DELETE", f"{TAG}/revisions/draft.json")
    call("GET", f"{TAG}/revisions/draft.json", status=404)


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_only_the_draft_can_be_written(call, method):
    assert call(method, f"{TAG}/revisions/1.json", status=403)["errors"]["class"] == "RecordInvalid"


# Errors: each of the shapes


def test_class_and_text_tell_what_is_missing_and_where(call):
    errors = call("GET", f"{SPRING}/ring_pools/123", status=404)["errors"]
    assert errors == {
        "class": "RecordNotFound",
        "invalid_data": "Could not find RingPool 123 for advertiser campaign spring and advertiser 706",
    }


def test_a_field_map_names_the_missing_fields(call):
    blank = ["can't be blank"]
    errors = call("POST", f"{SPRING}/ring_pools", {}, 403)["errors"]
    assert errors == {"pool_type": blank, "destination_type": blank, "name": blank}


def test_a_field_map_nests_as_the_request_does(call):
    body = {"users": [{"id_from_network": "u", "email_settings": [{"email_address": "nowhere"}]}]}
    errors = call("PUT", "network", body, 403)["errors"]
    assert errors == {"users": [{"email_settings": [{"email_address": ["is invalid"]}]}]}


def test_a_status_stands_beside_the_field_map(call):
    body = call("POST", SHARED, {"status": "Applied"}, 403)
    assert body == {"errors": {"status": ["cannot transition from 'Approved'"]}, "status": "Applied"}


def test_an_ivr_error_is_singular_and_counts_children_from_zero(call):
    silent = {"ivr_tree": {"root": {"children": [{"node_type": "EndCall"}]}}}
    body = call("PUT", SPRING, silent, 403)
    assert body == {"error": {"ivr_tree": {"children": [{"0": {"prompt": ["cannot be empty"]}}]}}}


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        (
            "POST",
            "/api/2022-08-01/networks/33/js_tags.json",
            {"name": "Main site"},
            {"name": ["has already been taken"]},
        ),
        (
            "POST",
            f"{TAG}/revisions.json",
            {"cache_lifetime_days": 31},
            {
                "cache_lifetime_days": [
                    "must be less than or equal to 30 days",
                    "must be one of [1, 7, 14, 30]",
                ]
            },
        ),
        (
            "POST",
            f"{SPRING}/ring_pools",
            {"local_center": {"nonsense": 1}},
            {"class": "RecordInvalid", "invalid_data": "Invalid Key in Local Center."},
        ),
    ],
)
def test_documented_refusals_have_their_documented_bodies(call, method, path, body, expected):
    assert call(method, path, body, 403) == {"errors": expected}


# Paths


@pytest.mark.parametrize(
    "path", ["/api/2022-08-01/advertisers/706", "/api/2022-08-01/33//advertisers/706.json/"]
)
def test_network_id_suffix_and_extra_slashes_are_optional(call, path):
    assert call("GET", path)["id"] == 706


@pytest.mark.parametrize(
    "path", ["/api/2022-08-01/34/advertisers.json", "/api/2022-08-01/networks/34/js_tags.json"]
)
def test_another_network_is_not_found(call, path):
    call("GET", path, status=404)


def test_a_login_wins_over_an_advertiser_user_of_that_name(call):
    path = "/api/2014-01-01/33/advertisers/706/users/create_access_token.json"
    assert "User users" in call("POST", path, status=404)["errors"]["invalid_data"]


def test_a_login_token_is_minted_once_for_each_call(call):
    path = "/api/2014-01-01/33/network/pat%40example.com/create_access_token.json"
    first, second = call("POST", path), call("POST", path)
    assert first.keys() == {"token", "id"}
    assert first["token"] != second["token"]
