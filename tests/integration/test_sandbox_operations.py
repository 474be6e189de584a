"""Every documented operation of the two APIs, and every other surface, answers over a socket."""

import aiohttp
import pytest

from gateway.sandbox import Sandbox, start

TX = "/api/2020-10-01"
V = "/api/2022-08-01"
N = f"{V}/33"
ADV = f"{N}/advertisers/706"
CAMP = f"{ADV}/advertiser_campaigns/spring"
AC = f"{CAMP}/affiliates/808/affiliate_campaigns"
TAGS = f"{V}/networks/33/js_tags"
TAG = f"{TAGS}/0054811245"
OLD = "/api/2016-06-01/33/advertisers/706/advertiser_campaigns/spring"
SSO = "/api/2014-01-01/33"
PHONE, SHARED_PHONE = "5415550101", "5415550102"
APPROVED = {"status": "Approved"}
POOL = {"id_from_network": "p-1", "name": "P", "pool_type": "Custom", "destination_type": "Advertiser"}
USER = {"user": {"id_from_network": "u-1"}}

# id, method, path, body, expected status
OPERATIONS = [
    ("network_transactions_list", "GET", f"{TX}/networks/transactions/33.json", None, 200),
    ("advertiser_transactions_list", "GET", f"{TX}/advertisers/transactions/706.csv", None, 200),
    ("affiliate_transactions_list", "GET", f"{TX}/affiliates/transactions/808.xml", None, 200),
    ("network_read", "GET", f"{N}/network.json", None, 200),
    ("network_users_create", "POST", f"{N}/network.json", {"users": []}, 201),
    ("network_users_update", "PUT", f"{N}/network.json", {"users": []}, 200),
    ("network_prompt_recordings_read", "GET", f"{N}.json", None, 200),
    ("advertisers_list", "GET", f"{N}/advertisers.json", None, 200),
    ("advertiser_read", "GET", f"{ADV}.json", None, 200),
    ("advertiser_create", "POST", f"{N}/advertisers.json", {"id_from_network": "a1", "name": "A"}, 201),
    ("advertiser_create_at_id", "POST", f"{N}/advertisers/a1.json", {"name": "A"}, 201),
    ("advertiser_update", "PUT", f"{ADV}.json", {"name": "A"}, 200),
    ("advertiser_delete", "DELETE", f"{N}/advertisers/gone.json", None, 200),
    ("advertiser_users_list", "GET", f"{ADV}/users.json", None, 200),
    ("advertiser_user_read", "GET", f"{ADV}/users/u-ann706.json", None, 200),
    ("advertiser_user_create", "POST", f"{ADV}/users.json", USER, 201),
    ("advertiser_user_update", "PUT", f"{ADV}/users/u-1", USER, 200),
    ("advertiser_user_delete", "DELETE", f"{ADV}/users/u-ann706.json", None, 200),
    ("advertiser_campaigns_list", "GET", f"{ADV}/advertiser_campaigns.json", None, 200),
    ("advertiser_campaign_read", "GET", f"{CAMP}.json", None, 200),
    (
        "advertiser_campaign_create",
        "POST",
        f"{ADV}/advertiser_campaigns.json",
        {"id_from_network": "c1", "name": "C"},
        201,
    ),
    ("advertiser_campaign_post_at_id", "POST", f"{CAMP}.json", {"name": "C"}, 200),
    ("advertiser_campaign_update", "PUT", f"{CAMP}.json", {"name": "C"}, 200),
    ("advertiser_campaign_quick_stats", "GET", f"{CAMP}/quick_stats.json", None, 200),
    ("advertiser_campaign_go_live", "POST", f"{CAMP}/go_live.json", {"timeout": 10}, 200),
    ("advertiser_campaign_archive", "POST", f"{CAMP}/archive.json", None, 200),
    ("advertiser_campaign_unarchive", "POST", f"{CAMP}/unarchive.json", None, 200),
    ("affiliates_list", "GET", f"{N}/affiliates.json", None, 200),
    ("affiliate_read", "GET", f"{N}/affiliates/808.json", None, 200),
    ("affiliate_create", "POST", f"{N}/affiliates.json", {"id_from_network": "f1", "name": "F"}, 201),
    ("affiliate_update", "PUT", f"{N}/affiliates/808.json", {"name": "F"}, 200),
    ("affiliate_delete", "DELETE", f"{N}/affiliates/gone.json", None, 200),
    ("affiliate_campaigns_list", "GET", f"{CAMP}/affiliate_campaigns.json", None, 200),
    ("affiliate_campaign_read", "GET", f"{AC}.json", None, 200),
    (
        "affiliate_campaign_create",
        "POST",
        f"{CAMP}/affiliates/809/affiliate_campaigns.json",
        {"status": "Applied"},
        201,
    ),
    ("affiliate_campaign_update", "PUT", f"{AC}.json", APPROVED, 200),
    ("advertiser_affiliates_list", "GET", f"{ADV}/affiliates.json", None, 200),
    ("advertiser_affiliate_read", "GET", f"{ADV}/affiliates/808.json", None, 200),
    ("advertiser_affiliate_create", "POST", f"{ADV}/affiliates/808.json", APPROVED, 201),
    ("advertiser_affiliate_update", "PUT", f"{ADV}/affiliates/808.json", APPROVED, 200),
    ("advertiser_affiliate_delete", "DELETE", f"{ADV}/affiliates/808.json", None, 200),
    ("campaign_promo_numbers_list", "GET", f"{CAMP}/promo_numbers.json", None, 200),
    ("campaign_promo_number_read", "GET", f"{CAMP}/promo_numbers/{PHONE}.json", None, 200),
    ("campaign_promo_number_create", "POST", f"{CAMP}/promo_numbers.json", {"description": "x"}, 201),
    ("campaign_promo_number_update", "PUT", f"{CAMP}/promo_numbers/{PHONE}.json", {"description": "x"}, 200),
    ("campaign_promo_number_delete", "DELETE", f"{CAMP}/promo_numbers/{PHONE}.json", None, 200),
    ("affiliate_campaign_promo_numbers_list", "GET", f"{AC}/promo_numbers.json", None, 200),
    ("affiliate_campaign_promo_number_read", "GET", f"{AC}/promo_numbers/{SHARED_PHONE}.json", None, 200),
    ("affiliate_campaign_promo_number_create", "POST", f"{AC}/promo_numbers.json", {}, 201),
    ("affiliate_campaign_promo_number_update", "PUT", f"{AC}/promo_numbers/{SHARED_PHONE}.json", {}, 200),
    (
        "affiliate_campaign_promo_number_delete",
        "DELETE",
        f"{AC}/promo_numbers/{SHARED_PHONE}.json",
        None,
        200,
    ),
    ("campaign_promo_numbers_by_id_list", "GET", f"{CAMP}/promo_numbers_by_id.json", None, 200),
    ("campaign_promo_number_by_id_read", "GET", f"{CAMP}/promo_numbers_by_id/line-spring.json", None, 200),
    ("campaign_promo_number_by_id_create", "POST", f"{CAMP}/promo_numbers_by_id.json", {}, 201),
    ("campaign_promo_number_by_id_update", "PUT", f"{CAMP}/promo_numbers_by_id/line-new.json", {}, 200),
    ("campaign_promo_number_by_id_delete", "DELETE", f"{CAMP}/promo_numbers_by_id/gone.json", None, 200),
    ("affiliate_campaign_promo_numbers_by_id_list", "GET", f"{AC}/promo_numbers_by_id.json", None, 200),
    (
        "affiliate_campaign_promo_number_by_id_read",
        "GET",
        f"{AC}/promo_numbers_by_id/line-clicks.json",
        None,
        200,
    ),
    ("affiliate_campaign_promo_number_by_id_create", "POST", f"{AC}/promo_numbers_by_id.json", {}, 201),
    ("affiliate_campaign_promo_number_by_id_update", "PUT", f"{AC}/promo_numbers_by_id/n.json", {}, 200),
    ("affiliate_campaign_promo_number_by_id_delete", "DELETE", f"{AC}/promo_numbers_by_id/n.json", None, 200),
    ("ring_pools_list", "GET", f"{CAMP}/ring_pools.json", None, 200),
    ("ring_pool_read", "GET", f"{CAMP}/ring_pools/pool-spring.json", None, 200),
    ("ring_pool_create", "POST", f"{CAMP}/ring_pools.json", POOL, 201),
    ("ring_pool_update", "PUT", f"{CAMP}/ring_pools/pool-spring.json", {"name": "Q"}, 200),
    ("ring_pool_delete", "DELETE", f"{CAMP}/ring_pools/pool-spring.json", None, 200),
    ("customer_phone_numbers_list", "GET", f"{N}/customer_phone_numbers.json", None, 200),
    ("customer_phone_number_read", "GET", f"{N}/customer_phone_numbers/310.json", None, 200),
    ("customer_phone_number_delete", "DELETE", f"{N}/customer_phone_numbers/310.json", None, 200),
    ("js_tags_list", "GET", f"{TAGS}.json", None, 200),
    ("js_tag_read", "GET", f"{TAG}.json", None, 200),
    ("js_tag_create", "POST", f"{TAGS}.json", {"name": "New"}, 201),
    ("js_tag_update", "PUT", f"{TAG}.json", {"name": "Other"}, 200),
    ("js_tag_delete", "DELETE", f"{TAG}.json", None, 200),
    ("js_tag_pause", "POST", f"{TAG}/pause.json", None, 200),
    ("js_tag_unpause", "POST", f"{TAG}/unpause.json", None, 200),
    ("js_tag_go_live", "POST", f"{TAG}/go_live.json", None, 200),
    ("js_tag_revert", "POST", f"{TAG}/revert.json", {"external_revision_id": 0}, 200),
    ("js_tag_revisions_list", "GET", f"{TAG}/revisions.json", None, 200),
    ("js_tag_revision_read", "GET", f"{TAG}/revisions/1.json", None, 200),
    ("js_tag_revision_create", "POST", f"{TAG}/revisions.json", {"message": "m"}, 201),
    ("js_tag_revision_update", "PUT", f"{TAG}/revisions/draft.json", {"message": "m"}, 200),
    ("js_tag_revision_delete", "DELETE", f"{TAG}/revisions/draft.json", None, 200),
    (
        "sso_network_access_token_create",
        "POST",
        f"{SSO}/network/pat%40example.com/create_access_token.json",
        None,
        200,
    ),
    (
        "sso_advertiser_access_token_create",
        "POST",
        f"{SSO}/advertisers/706/ann706%40example.com/create_access_token.json",
        None,
        200,
    ),
    (
        "sso_affiliate_access_token_create",
        "POST",
        f"{SSO}/affiliates/808/sam808%40example.com/create_access_token.json",
        None,
        200,
    ),
    ("affiliate_campaign_delete", "DELETE", f"{AC}.json", None, 403),
    ("legacy_advertiser_campaign_go_live_get", "GET", f"{OLD}/go_live.json", None, 200),
    ("legacy_advertiser_campaign_archive_get", "GET", f"{OLD}/archive.json", None, 200),
    ("legacy_advertiser_campaign_unarchive_get", "GET", f"{OLD}/unarchive.json", None, 200),
    ("legacy_affiliate_create_at_id", "POST", f"{N}/affiliates/f2.json", {"name": "F"}, 201),
    ("legacy_ring_pool_create_at_id", "POST", f"{OLD}/ring_pools/p-2.json", POOL, 201),
    ("legacy_affiliate_campaigns_list", "GET", f"{OLD}/affiliates.json", None, 200),
    (
        "legacy_affiliate_campaign_item",
        "GET",
        f"{OLD}/affiliates/808/affiliate_campaigns/808-spring.json",
        None,
        200,
    ),
    ("legacy_affiliate_ring_pools_list", "GET", f"{AC}/ring_pools.json", None, 200),
    ("legacy_affiliate_ring_pool_read", "GET", f"{AC}/ring_pools/pool-clicks.json", None, 200),
    ("legacy_affiliate_ring_pool_create", "POST", f"{AC}/ring_pools/p-3.json", POOL, 201),
    ("legacy_affiliate_ring_pool_update", "PUT", f"{AC}/ring_pools/pool-clicks.json", {"name": "Q"}, 200),
    ("legacy_affiliate_ring_pool_delete", "DELETE", f"{AC}/ring_pools/pool-clicks.json", None, 200),
    (
        "legacy_network_virtual_lines_list",
        "GET",
        "/api/2016-07-19/i/networks/33/virtual_lines.json",
        None,
        200,
    ),
    (
        "legacy_advertiser_virtual_lines_list",
        "GET",
        "/api/2016-07-19/i/advertisers/706/virtual_lines.json",
        None,
        200,
    ),
]

MESSAGES = "/sms/2022-08-01/messages"
SURFACES = [
    ("signal_apply", "POST", "/api/2018-02-01/transactions.json"),
    ("signal_legacy_apply", "PUT", "/api/2017-02-01/transactions/signals.json"),
    ("signal_legacy_apply_by_transaction", "POST", "/api/2017-02-01/transactions/00-01/signals"),
    ("signal_legacy_typo", "POST", "/api/2015-08-17/transcations/signals.json"),
    ("calls_in_progress_list", "GET", f"{V}/calls_in_progress/current_calls.json"),
    ("calls_in_progress_update", "PUT", f"{V}/calls_in_progress.json"),
    ("call_ingestion_create", "POST", "/api/2022-03-01/calls.json"),
    ("conversion_report", "POST", "/api/2014-04-15/calls/23.xml"),
    ("conversion_pixel", "GET", "/pixels/conversion/706.gif"),
    ("ringpool_allocate", "GET", "/api/2015-12-09/ring_pools/16/allocate_number.xml"),
    ("pnapi_bulk_allocate", "POST", "/api/2013-07-01/bulk.json"),
    ("pnapi_map_number", "GET", "/na/api/2/map_number.jsonp"),
    ("call_transcript", "GET", "/call/transcript/CUID-33"),
    ("call_transcript_analysis", "GET", "/call/transcript_analysis/CUID-33"),
    ("sms_messages_list", "GET", MESSAGES),
    ("sms_message_send", "POST", MESSAGES),
    ("sms_messages_for_number", "GET", f"{MESSAGES}/phone_number/5415550101"),
    ("sms_number_usage", "GET", f"{MESSAGES}/phone_number/5415550101/usage"),
    ("sms_message_read", "GET", f"{MESSAGES}/uuid/1-2"),
    ("sms_message_delete", "DELETE", f"{MESSAGES}/uuid/1-2"),
    ("sms_delivery_reports_list", "GET", f"{MESSAGES}/uuid/1-2/delivery_reports"),
    ("sms_delivery_report_read", "GET", f"{MESSAGES}/uuid/1-2/delivery_reports/uuid/3"),
    ("sms_numbers_list", "GET", "/sms/2022-08-01/phone_numbers"),
    ("sms_number_read", "GET", "/sms/2022-08-01/phone_numbers/5415550101"),
    ("sms_number_add", "POST", "/sms/2022-08-01/phone_numbers/5415550101"),
    ("sms_number_delete", "DELETE", "/sms/2022-08-01/phone_numbers/5415550101"),
    ("platform_ui_sso_landing", "GET", "/home?access_token=t"),
]


@pytest.fixture
async def base():
    runner, port = await start(Sandbox("T", calls=30))
    yield f"http://127.0.0.1:{port}"
    await runner.cleanup()


def test_the_table_holds_each_of_the_101_operations_once():
    assert len({row[0] for row in OPERATIONS}) == len(OPERATIONS) == 101


@pytest.mark.parametrize(
    ("name", "method", "path", "body", "status"), OPERATIONS, ids=[row[0] for row in OPERATIONS]
)
async def test_each_operation_answers_with_its_status(base, name, method, path, body, status):
    async with (
        aiohttp.ClientSession(headers={"Authorization": "T"}) as client,
        client.request(method, base + path, json=body) as reply,
    ):
        assert reply.status == status, await reply.text()
        assert await reply.read()


@pytest.mark.parametrize(("name", "method", "path"), SURFACES, ids=[row[0] for row in SURFACES])
async def test_every_other_surface_says_that_it_was_reached(base, name, method, path):
    async with aiohttp.ClientSession() as client, client.request(method, base + path) as reply:
        assert reply.status == 200
        assert (await reply.json())["sandbox_surface"] == name
