"""Invoca Tags (js_tags) and their revisions: script that runs on customers' web pages once it is live.

A tag has published revisions, numbered from 0, and at most one draft. Only the draft can be changed or deleted;
go_live publishes it under the next number, revert makes an earlier revision the live one again.

Source: vendor pages Invoca Tags (JS Tags) and Tag Revisions.
"""

from __future__ import annotations

from gateway.sandbox.errors import Json, blank, classed, fields, invalid
from gateway.sandbox.exchange import Reply, as_json, whole_number
from gateway.sandbox.network import Call, Network, Tag
from gateway.sandbox.numbers import count, page
from gateway.sandbox.sample import SPRING

SAMPLE_TAG = "0054811245"
FIRST_TAG = 54811245
LIFETIMES = [1, 7, 14, 30]
WRITABLE = ("name", "description", "landing_page_url")


def seed_tags(network: Network) -> None:
    """One live tag with two published revisions and a draft."""
    tag = new_tag(network, SAMPLE_TAG, {"name": "Main site", "description": "All pages"})
    tag.facts["status"] = "Live"
    for number in (0, 1):
        tag.draft = new_revision(network, SAMPLE_TAG, {"message": f"revision {number}"})
        publish(tag)
    tag.draft = new_revision(network, SAMPLE_TAG, {"message": "not yet live"})
    network.tags[SAMPLE_TAG] = tag


def new_tag(network: Network, name: str, sent: Json) -> Tag:
    base: Json = {
        "id": name,
        "name": "",
        "description": "",
        "landing_page_url": "www.example.com",
        "active": True,
        "status": "Draft",
        "created_at": network.now,
        "updated_at": network.now,
    }
    return Tag(base | {key: sent[key] for key in WRITABLE if key in sent})


def new_revision(network: Network, tag: str, sent: Json) -> Json:
    """A draft revision in full. The body runs on web pages, so here it does nothing."""
    base: Json = {
        "author": "Sandbox API User",
        "allow_overflow": False,
        "auto_create_local_ringpools": False,
        "auto_create_toll_free_ringpools": False,
        "auto_swap": False,
        "body": "(function(networkId) { /* generated tag script */ })(33);",
        "cache_lifetime_days": 14,
        "custom_code": "",
        "custom_data_fields": [tag_field()],
        "default_campaign": {"default_campaign_id": SPRING.id, "default_campaign_name": SPRING.name},
        "destination_param": None,
        "message": "",
        "numbers_to_replace": [number_to_replace()],
        "numbers_to_not_replace": [],
        "organic_sources": True,
        "re_run_attribution_after": None,
        "required_params": "",
        "reset_cache_on": ["gclid", "utm_source", "utm_medium"],
        "wait_for_in_seconds": 0,
    }
    fixed: Json = {
        "created_at": network.now_xml,
        "updated_at": network.now_xml,
        "external_revision_id": None,
        "is_draft_revision": True,
        "is_live_revision": False,
        "js_tag_id": tag,
        "cache_lifetime_warning": None,
        "warning": None,
    }
    return base | {name: sent[name] for name in base if name in sent} | fixed


def tag_field() -> Json:
    return {
        "enabled": True,
        "partner_name": "visit_reason",
        "friendly_name": "Visit Reason",
        "attribution_model": "Unique",
        "data_source_type": "URLParam",
        "data_source_name": "",
    }


def number_to_replace() -> Json:
    return {
        "phone_number": "541-555-0110",
        "phone_number_e164": "+15415550110",
        "advertiser_campaign_id": SPRING.id,
        "advertiser_campaign_name": SPRING.name,
        "advertiser_campaign_id_from_network": SPRING.id_from_network,
        "destinations_enabled": False,
    }


def publish(tag: Tag) -> None:
    """Make the draft, if there is one, the live revision under the next number."""
    if tag.draft is None:
        return
    number = max(tag.revisions, default=-1) + 1
    tag.revisions[number] = tag.draft | {"external_revision_id": number, "is_draft_revision": False}
    tag.draft = None
    set_live(tag, number)


def set_live(tag: Tag, number: int) -> None:
    tag.live = number
    for each, revision in tag.revisions.items():
        revision["is_live_revision"] = each == number


def shown(tag: Tag) -> Json:
    live = tag.revisions[tag.live] | {"cache_lifetime_options": LIFETIMES} if tag.live is not None else None
    return tag.facts | {"live_revision": live, "draft_revision": tag.draft}


def tag_of(network: Network, call: Call) -> Tag:
    tag = network.tags.get(call.ids["tag"])
    if tag is None:
        raise classed(404, "RecordNotFound", f"Invoca Tag not found with id: '{call.ids['tag']}'")
    return tag


def tags_list(network: Network, call: Call) -> Reply:
    return as_json(200, page(call.ask, [shown(tag) for tag in network.tags.values()]))


def tag_read(network: Network, call: Call) -> Reply:
    return as_json(200, shown(tag_of(network, call)))


def tag_create(network: Network, call: Call) -> Reply:
    """The vendor's example answers with a tag that is live at once, so a first revision is published."""
    check_name(network, call.body.get("name"), None)
    name = f"{FIRST_TAG + network.new_id():010}"
    tag = new_tag(network, name, call.body)
    tag.draft = new_revision(network, name, {"message": "first revision"})
    publish(tag)
    tag.facts["status"] = "Live"
    network.tags[name] = tag
    return as_json(201, shown(tag))


def check_name(network: Network, name: object, own: Tag | None) -> None:
    if not name:
        raise blank("name")
    if any(tag.facts["name"] == name for tag in network.tags.values() if tag is not own):
        raise fields({"name": ["has already been taken"]})


def tag_update(network: Network, call: Call) -> Reply:
    tag = tag_of(network, call)
    sent = {key: call.body[key] for key in WRITABLE if key in call.body}
    check_name(network, sent.get("name", tag.facts["name"]), tag)
    tag.facts |= sent
    return as_json(200, shown(tag))


def tag_delete(network: Network, call: Call) -> Reply:
    network.tags.pop(call.ids["tag"], None)
    return as_json(200, {})


def tag_pause(network: Network, call: Call) -> Reply:
    return switched(tag_of(network, call), active=False)


def tag_unpause(network: Network, call: Call) -> Reply:
    return switched(tag_of(network, call), active=True)


def tag_go_live(network: Network, call: Call) -> Reply:
    tag = tag_of(network, call)
    publish(tag)
    return switched(tag, active=True)


def switched(tag: Tag, active: bool) -> Reply:
    tag.facts |= {"active": active, "status": "Live" if active else "Paused"}
    return as_json(200, shown(tag))


def tag_revert(network: Network, call: Call) -> Reply:
    tag, number = tag_of(network, call), call.body.get("external_revision_id")
    if type(number) is not int or number not in tag.revisions:
        raise no_revision(number)
    set_live(tag, number)
    return as_json(200, shown(tag))


def no_revision(number: object) -> Exception:
    return classed(404, "RecordNotFound", f"Invoca Tag Revision not found with revision id: '{number}'")


# Revisions


def revisions_list(network: Network, call: Call) -> Reply:
    tag = tag_of(network, call)
    all_of_it = [*tag.revisions.values(), *([tag.draft] if tag.draft else [])]
    return as_json(200, page(call.ask, all_of_it) | {"start": count(call.ask, "start", 0)})


def revision_read(network: Network, call: Call) -> Reply:
    tag, name = tag_of(network, call), call.ids["revision"]
    number = whole_number(name)
    revision = tag.draft if name == "draft" else tag.revisions.get(-1 if number is None else number)
    if revision is None:
        raise no_revision(name)
    return as_json(200, revision)


def revision_create(network: Network, call: Call) -> Reply:
    """There is one draft; a second POST takes its place."""
    tag = tag_of(network, call)
    check_lifetime(call.body)
    tag.draft = new_revision(network, call.ids["tag"], call.body)
    return as_json(201, tag.draft)


def check_lifetime(sent: Json) -> None:
    days = sent.get("cache_lifetime_days", LIFETIMES[0])
    if days in LIFETIMES:
        return
    late = isinstance(days, int) and days > max(LIFETIMES)
    too_long = [f"must be less than or equal to {max(LIFETIMES)} days"] if late else []
    raise fields({"cache_lifetime_days": [*too_long, f"must be one of {LIFETIMES}"]})


def revision_update(network: Network, call: Call) -> Reply:
    tag = draft_only(network, call)
    check_lifetime(call.body)
    tag.draft = new_revision(network, call.ids["tag"], (tag.draft or {}) | call.body)
    return as_json(200, tag.draft)


def revision_delete(network: Network, call: Call) -> Reply:
    draft_only(network, call).draft = None
    return as_json(200, {})


def draft_only(network: Network, call: Call) -> Tag:
    if call.ids["revision"] != "draft":
        raise invalid("Validation failed: This action can only be applied to the draft revision")
    return tag_of(network, call)
