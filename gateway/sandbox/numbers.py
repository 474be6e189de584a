"""Promo numbers, RingPools and destinations (customer phone numbers).

A promo number belongs to a campaign or to an affiliate campaign, and is addressed by the number itself or by the
network's id for it. A POST takes a new number every time, even when it repeats an id; a PUT that names a
destination moves the number there. RingPool reads carry `api_key`, which is a credential of another API.

Source: vendor pages Promo Numbers, RingPools, Customer Phone Numbers (Destinations).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.sandbox.errors import Json, blank, fields, invalid, not_found
from gateway.sandbox.exchange import Ask, Reply, as_json, whole_number
from gateway.sandbox.network import Call, Network, Owner, PromoNumber, whose
from gateway.sandbox.sample import CLICKS, HOST, JUNIPER, SPRING

PROMO_FIELDS = ("id_from_network", "media_type", "description", "custom_data")
LOCAL_CENTER_KEYS = {"tn_prefix", "zipcode", "latitude", "longitude"}
PAGE = 100


def seed_numbers(network: Network) -> None:
    """A promo number and a RingPool on a campaign and on an affiliate campaign, and three destinations."""
    direct = (JUNIPER.id, SPRING.id_from_network, "")
    shared = (JUNIPER.id, SPRING.id_from_network, CLICKS.id)
    add_promo_number(network, direct, {"id_from_network": "line-spring", "description": 'Van side, "left"'})
    add_promo_number(network, shared, {"id_from_network": "line-clicks", "description": "Banner & footer"})
    network.ring_pools[direct, "pool-spring"] = new_pool(network, "pool-spring", {"name": "Search visitors"})
    network.ring_pools[shared, "pool-clicks"] = new_pool(network, "pool-clicks", {"name": "Banner visitors"})
    for place, status in enumerate(("tracked", "discovered", "ignored")):
        number = f"541-555-011{place}"
        add_destination(network, direct, number, "pool-spring", status, number=310 + place)


# Promo numbers


def add_promo_number(network: Network, owner: Owner, sent: Json) -> Json:
    number = network.new_id()
    place = f"p_campaigns/promo_numbers/{owner[2]}" if owner[2] else "a_campaigns/promo_numbers"
    base: Json = {
        "id": number,
        "id_from_network": f"line-{number}",
        "media_type": "Online: Display",
        "description": "",
        "promo_number": network.new_number(),
        "object_url": f"{HOST}/{place}/{number}",
        "custom_data": {"channel": "Paid social"},
    }
    facts = base | promo_fields(sent)
    network.promo_numbers.append(PromoNumber(owner, facts))
    return facts


def promo_fields(sent: Json) -> Json:
    """The fields a write may set; the number and Invoca's id are not among them."""
    given = {name: sent[name] for name in PROMO_FIELDS if name in sent}
    if not given.get("id_from_network"):
        given.pop("id_from_network", None)
    return given


def promo_numbers_list(network: Network, call: Call) -> Reply:
    network.owned(call.owner)
    return as_json(200, [each.facts for each in network.promo_numbers if each.owner == call.owner])


def lookup(network: Network, call: Call) -> PromoNumber | None:
    """The promo number of the path, by number or by id; of several with one id the newest."""
    network.owned(call.owner)
    key, wanted = ("promo_number", "number") if "number" in call.ids else ("id_from_network", "line")
    mine = [each for each in network.promo_numbers if each.owner == call.owner]
    return next((each for each in reversed(mine) if each.facts[key] == call.ids[wanted]), None)


def promo_number_read(network: Network, call: Call) -> Reply:
    return as_json(200, required(lookup(network, call), call).facts)


def required(number: PromoNumber | None, call: Call) -> PromoNumber:
    if number is None:
        raise not_found(f"PromoNumber {call.ids.get('number') or call.ids['line']}", whose(call.owner))
    return number


def promo_number_create(network: Network, call: Call) -> Reply:
    network.owned(call.owner)
    return as_json(201, add_promo_number(network, call.owner, call.body))


def promo_number_update(network: Network, call: Call) -> Reply:
    """Change or move. By id it creates what is missing; a phone number cannot be chosen, so by number it is 404."""
    number = lookup(network, call)
    if number is None and "line" in call.ids:
        add_promo_number(network, call.owner, call.body | {"id_from_network": call.ids["line"]})
        number = lookup(network, call)
    number = required(number, call)
    owner = destination(call)
    network.owned(owner)
    number.owner = owner
    number.facts |= promo_fields(call.body)
    return as_json(200, number.facts)


def destination(call: Call) -> Owner:
    """Where the body says the number shall be; what it does not say stays as it is."""
    advertiser, campaign, affiliate = call.owner
    return (
        str(call.body.get("destination_advertiser_id_from_network", advertiser)),
        str(call.body.get("destination_advertiser_campaign_id_from_network", campaign)),
        str(call.body.get("destination_affiliate_id_from_network", affiliate)) if affiliate else "",
    )


def promo_number_delete(network: Network, call: Call) -> Reply:
    number = lookup(network, call)
    if number is not None:
        network.promo_numbers.remove(number)
    return as_json(200, {})


# RingPools


def new_pool(network: Network, name: str, sent: Json) -> Json:
    number = network.new_id()
    base: Json = {
        "id": str(number),
        "id_from_network": name,
        "object_url": f"{HOST}/a_campaigns/ring_pools/{number}",
        "preferred": True,
        "lifetime_seconds": 900,
        "name": "",
        "pool_type": "Custom",
        "destination_type": "Advertiser",
        "local_center": {},
        "local_number_preferences": {},
        "max_pool_size": 6,
        "api_key": network.secret(f"ring pool {number}"),
        "fill_immediately": False,
        "allow_overflow": True,
        "customer_phone_numbers": [],
        "default_customer_phone_number": None,
    }
    return base | pool_fields(sent)


def pool_fields(sent: Json) -> Json:
    names = (
        "preferred",
        "lifetime_seconds",
        "name",
        "pool_type",
        "destination_type",
        "local_center",
        "local_number_preferences",
        "max_pool_size",
        "fill_immediately",
        "allow_overflow",
    )
    return {name: sent[name] for name in names if name in sent}


def pools_list(network: Network, call: Call) -> Reply:
    network.owned(call.owner)
    return as_json(200, [facts for (owner, _), facts in network.ring_pools.items() if owner == call.owner])


def pool_read(network: Network, call: Call) -> Reply:
    network.owned(call.owner)
    facts = network.ring_pools.get((call.owner, call.ids["pool"]))
    if facts is None:
        raise not_found(f"RingPool {call.ids['pool']}", whose(call.owner))
    return as_json(200, facts)


def pool_create(network: Network, call: Call) -> Reply:
    """Create or update: repeating it changes nothing, unlike a promo number."""
    name = call.ids.get("pool") or str(call.body.get("id_from_network") or network.new_id())
    return as_json(201, put_pool(network, call, name))


def pool_update(network: Network, call: Call) -> Reply:
    return as_json(200, put_pool(network, call, call.ids["pool"]))


def put_pool(network: Network, call: Call, name: str) -> Json:
    network.owned(call.owner)
    stored = network.ring_pools.get((call.owner, name))
    check_pool(call.body, stored)
    pool = stored | pool_fields(call.body) if stored else new_pool(network, name, call.body)
    number = call.body.get("destination_phone_number")
    if number:
        linked = {"destination_phone_number": digits(number), "js_tag": None}
        pool |= {"customer_phone_numbers": [linked], "default_customer_phone_number": linked}
        add_destination(network, call.owner, str(number), name, "tracked")
    network.ring_pools[call.owner, name] = pool
    return pool


def check_pool(sent: Json, stored: Json | None) -> None:
    """Raises: Refused 403. Pool and destination type may be left out of a local pool, as its example does."""
    center = sent.get("local_center")
    if isinstance(center, dict) and not center.keys() <= LOCAL_CENTER_KEYS:
        raise invalid("Invalid Key in Local Center.")
    if stored and sent.get("allow_overflow", stored["allow_overflow"]) != stored["allow_overflow"]:
        raise fields({"allow_overflow": ["cannot be changed"]})
    needed = ("name",) if center else ("pool_type", "destination_type", "name")
    missing = [name for name in needed if not sent.get(name)] if stored is None else []
    if missing:
        raise blank(*missing)


def digits(number: Any) -> str:
    return "".join(character for character in str(number) if character.isdigit())


def pool_delete(network: Network, call: Call) -> Reply:
    """The documentation does not say where `delete_detected_phone_number` goes; query and body both count."""
    network.owned(call.owner)
    name = call.ids["pool"]
    also = call.ask.parameter("delete_detected_phone_number") or call.body.get("delete_detected_phone_number")
    if network.ring_pools.pop((call.owner, name), None) and str(also).lower() == "true":
        kept = {key: each for key, each in network.destinations.items() if pool_name(each) != name}
        network.destinations = kept
    return as_json(200, {})


def pool_name(found: Json) -> Any:
    return (found["dynamic_number_pool"] or {}).get("id_from_network")


# Destinations


def add_destination(
    network: Network, owner: Owner, phone: str, pool: str, status: str, number: int | None = None
) -> None:
    """A destination is born with a RingPool; there is no operation that creates one."""
    identity, campaign = number or network.new_id(), network.campaign(owner[0], owner[1])
    facts = network.ring_pools.get((owner, pool), {"id_from_network": pool})
    network.destinations[identity] = {
        "id": identity,
        "country_code": "1",
        "phone_number": phone,
        "primary_url": "",
        "requested_destination_name": "",
        "acknowledged_at": None,
        "created_at": network.now,
        "updated_at": network.now,
        "advertiser_campaign": {name: campaign[name] for name in ("id_from_network", "name", "status")},
        "dynamic_number_pool": pool_summary(facts) if status == "tracked" else None,
        "ignored_at": network.now if status == "ignored" else None,
        "notified_at": None,
    }


def pool_summary(facts: Json) -> Json:
    names = ("id_from_network", "name", "pool_type", "destination_type", "lifetime_seconds", "max_pool_size")
    return {name: facts.get(name) for name in names} | {
        "preferred": facts.get("preferred", True),
        "is_first_preference": True,
        "use_custom_data": True,
    }


def status_of(found: Json) -> str:
    if found["ignored_at"]:
        return "ignored"
    return "tracked" if found["dynamic_number_pool"] else "discovered"


def destinations_list(network: Network, call: Call) -> Reply:
    """The one list with real paging: limit, start, query, status, sort_by, sort_dir."""
    status, wanted = call.ask.parameter("status"), call.ask.parameter("query")
    found = [
        each
        for each in network.destinations.values()
        if status in ("", status_of(each)) and wanted in each["phone_number"]
    ]
    found.sort(
        key=sorting(call.ask.parameter("sort_by", "id")), reverse=call.ask.parameter("sort_dir") == "desc"
    )
    return as_json(200, page(call.ask, found))


def sorting(name: str) -> Callable[[Json], tuple[str, int]]:
    """Order by a column, then by id. Raises: Refused 403 for a column that a destination does not have."""
    if name not in ("id", "phone_number", "country_code", "created_at", "updated_at"):
        raise fields({"sort_by": ["is not included in the list"]})
    return lambda each: ("" if name == "id" else str(each[name]), each["id"])


def page(ask: Ask, found: list[Json]) -> Json:
    """The envelope of destinations, tags and revisions around the asked-for part of a list."""
    start, limit = count(ask, "start", 0), count(ask, "limit", PAGE)
    return {"data": found[start : start + limit], "requestId": None, "recordsTotal": len(found)}


def count(ask: Ask, name: str, default: int) -> int:
    number = whole_number(ask.parameter(name) or str(default))
    if number is None:
        raise fields({name: ["is not a number"]})
    return number


def destination_read(network: Network, call: Call) -> Reply:
    facts = network.destinations.get(whole_number(call.ids["destination"]) or 0)
    if facts is None:
        raise not_found(f"CustomerPhoneNumber {call.ids['destination']}")
    return as_json(200, facts)


def destination_delete(network: Network, call: Call) -> Reply:
    network.destinations.pop(whole_number(call.ids["destination"]) or 0, None)
    return as_json(200, {})


# Virtual lines: in the documentation of 2016-07-19 only


def virtual_lines(network: Network, call: Call) -> Reply:
    """Promo numbers under an older name, of the network or of one advertiser, by `limit` and `offset`."""
    advertiser = call.ids.get("advertiser")
    if advertiser:
        network.advertiser(advertiser)
    mine = [each.facts for each in network.promo_numbers if advertiser in (None, each.owner[0])]
    offset, limit = count(call.ask, "offset", 0), count(call.ask, "limit", PAGE)
    return as_json(200, mine[offset : offset + limit])
