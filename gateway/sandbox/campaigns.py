"""Advertiser campaigns and affiliate campaigns.

A write to a campaign is staged: it goes to `future_terms`, and go_live makes it `current_terms`. Neither kind of
campaign can be deleted. On versions up to 2018-02-01 a GET of go_live, archive or unarchive acts like the POST,
as the documentation of those versions has it; on later ones it is refused.

Source: vendor pages Advertiser Campaigns (with the IVR pages) and Affiliate Campaigns.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from gateway.sandbox.errors import Json, blank, fields, invalid, ivr, not_found, transition
from gateway.sandbox.exchange import Reply, as_json, whole_number
from gateway.sandbox.network import Call, Network, new_affiliate_campaign, new_campaign

LAST_VERSION_WITH_ACTING_GET = "2018-02-01"
TOP_LEVEL = ("name", "custom_data")
READ_ONLY = ("id", "id_from_network", "status", "object_url", "current_terms", "future_terms")
NEEDS_NO_PROMPT = ("Connect", "Condition")


def campaigns_list(network: Network, call: Call) -> Reply:
    network.advertiser(call.ids["advertiser"])
    mine = [facts for key, facts in network.campaigns.items() if key[0] == call.ids["advertiser"]]
    return as_json(200, mine)


def campaign_read(network: Network, call: Call) -> Reply:
    return as_json(200, campaign_of(network, call))


def campaign_of(network: Network, call: Call) -> Json:
    return network.campaign(call.ids["advertiser"], call.ids["campaign"])


def campaign_write(network: Network, call: Call) -> Reply:
    """Create or update, on the collection or on the item, with POST or PUT."""
    advertiser = call.ids["advertiser"]
    network.advertiser(advertiser)
    name = call.ids.get("campaign") or str(call.body.get("id_from_network") or "")
    if not name:
        raise blank("id_from_network")
    stored = network.campaigns.get((advertiser, name))
    campaign = stored or new_campaign(network, name, network.new_id())
    network.campaigns[advertiser, name] = staged(network, campaign, call.body)
    created = stored is None and call.ask.method == "POST"
    return as_json(201 if created else 200, network.campaigns[advertiser, name])


def staged(network: Network, campaign: Json, body: Json) -> Json:
    """The campaign with the body on top of its future terms, or of its current ones when none are staged."""
    check_ivr(body.get("ivr_tree"))
    top = {name: body[name] for name in TOP_LEVEL if name in body}
    if not (campaign | top).get("name"):
        raise blank("name")
    sent = {name: value for name, value in body.items() if name not in TOP_LEVEL + READ_ONLY}
    base = campaign["future_terms"] or campaign["current_terms"] or {"id": "", "created_at": network.now}
    return (
        campaign
        | top
        | {"future_terms": base | sent | {"updated_at": network.now} if sent else campaign["future_terms"]}
    )


def check_ivr(tree: Any) -> None:
    """Raises: Refused in the singular shape when a node that speaks has nothing to say."""
    root = tree.get("root") if isinstance(tree, dict) else None
    errors = child_errors(root)
    if errors:
        raise ivr(errors)


def child_errors(node: Any) -> list[Json]:
    children = node.get("children") if isinstance(node, dict) else None
    if not isinstance(children, list):
        return []
    faults = [(str(place), node_errors(child)) for place, child in enumerate(children)]
    return [{place: fault} for place, fault in faults if fault]


def node_errors(node: Any) -> Json:
    if not isinstance(node, dict):
        return {"node_type": ["is invalid"]}
    errors: Json = {}
    if node.get("node_type") not in NEEDS_NO_PROMPT and not (
        node.get("prompt") or node.get("prompt_recording")
    ):
        errors["prompt"] = ["cannot be empty"]
    nested = child_errors(node)
    return errors | ({"children": nested} if nested else {})


def campaign_delete(network: Network, call: Call) -> Reply:
    raise invalid("Advertiser campaigns cannot be deleted")


def quick_stats(network: Network, call: Call) -> Reply:
    """Calls of today and of the last 7 and 30 days, counted in the rows of the Transactions API."""
    campaign_of(network, call)
    spans = {"last_30days": 30, "last_7days": 7, "today": 1}
    return as_json(200, {"stats": {name: stats(network, call, days) for name, days in spans.items()}})


def stats(network: Network, call: Call, days: int) -> Json:
    first, wanted = network.today - timedelta(days=days - 1), (call.ids["advertiser"], call.ids["campaign"])
    durations = [
        row.values["duration"]
        for row in network.rows
        if row.kind == "Call"
        and "corrects_transaction_id" not in row.values
        and first <= row.day <= network.today
        and (row.campaign.advertiser.id, row.campaign.id_from_network) == wanted
    ]
    average = round(sum(durations) / len(durations), 1) if durations else 0.0
    return {"call_avg_total_duration": average, "call_count": len(durations)}


# Actions


def go_live(network: Network, call: Call) -> Reply:
    campaign = acted_on(network, call)
    check_timeout(call.body.get("timeout", call.ask.parameter("timeout") or None))
    if campaign["status"] == "Archived":
        raise fields({"status": ["cannot transition from 'Archived'"]})
    if campaign["future_terms"]:
        campaign["current_terms"], campaign["future_terms"] = campaign["future_terms"], {}
    campaign["status"] = "Activated"
    return as_json(200, {})


def check_timeout(timeout: Any) -> None:
    if timeout is not None and not 2 <= (whole_number(str(timeout)) or 0) <= 60:
        raise fields({"timeout": ["must be between 2 and 60"]})


def archive(network: Network, call: Call) -> Reply:
    acted_on(network, call)["status"] = "Archived"
    return as_json(200, {})


def unarchive(network: Network, call: Call) -> Reply:
    """Leaves the campaign paused; go_live is a step of its own. One that is not archived stays as it is."""
    campaign = acted_on(network, call)
    if campaign["status"] == "Archived":
        campaign["status"] = "Paused"
    return as_json(200, {})


def acted_on(network: Network, call: Call) -> Json:
    """The campaign of an action. Raises: Refused 403 for a GET on a version that no longer documents it."""
    if call.ask.method == "GET" and call.version > LAST_VERSION_WITH_ACTING_GET:
        raise invalid("Validation failed: this action needs a POST")
    return campaign_of(network, call)


# Affiliate campaigns


def affiliate_campaigns_list(network: Network, call: Call) -> Reply:
    campaign_of(network, call)
    place = (call.ids["advertiser"], call.ids["campaign"])
    mine = [shown(network, owner) for owner in network.affiliate_campaigns if owner[:2] == place]
    return as_json(200, mine)


def shown(network: Network, owner: tuple[str, str, str]) -> Json:
    """An affiliate campaign with the terms of its campaign, which it does not have of its own."""
    terms: Json = network.campaign(owner[0], owner[1])["current_terms"]
    names = ("advertiser_payin", "pricing_type", "ivr_tree", "affiliate_payout")
    return network.affiliate_campaign(owner) | {"current_terms": {name: terms.get(name) for name in names}}


def affiliate_campaign_read(network: Network, call: Call) -> Reply:
    network.affiliate_campaign(call.owner)
    return as_json(200, shown(network, call.owner))


def affiliate_campaign_item(handler: Callable[[Network, Call], Reply]) -> Callable[[Network, Call], Reply]:
    """The old form of the path, with the id of the affiliate campaign at its end."""

    def checked(network: Network, call: Call) -> Reply:
        stored = network.affiliate_campaigns.get(call.owner)
        name = call.ids["affiliate_campaign"]
        if call.ask.method == "GET" and (stored is None or stored["id_from_network"] != name):
            raise not_found(f"AffiliateCampaign {name}")
        return handler(network, call)

    return checked


def affiliate_campaign_create(network: Network, call: Call) -> Reply:
    """Apply. Raises: Refused, with the status that was asked for, when the affiliate campaign is past Applied."""
    stored, wanted = owned_or_none(network, call), str(call.body.get("status", "Applied"))
    before = stored["status"] if stored else "New"
    if wanted != "Applied" or before not in ("New", "Applied"):
        raise transition({"status": [f"cannot transition from '{before}'"]}, wanted)
    campaign = put_affiliate_campaign(network, call, stored, starting_status(network, call))
    return as_json(200 if stored else 201, campaign)


def owned_or_none(network: Network, call: Call) -> Json | None:
    campaign_of(network, call)
    network.affiliate(call.ids["affiliate"])
    return network.affiliate_campaigns.get(call.owner)


def starting_status(network: Network, call: Call) -> str:
    """Applied; Approved where the campaign approves everybody; Declined where the relationship forbids it."""
    pair = (call.ids["advertiser"], call.ids["affiliate"])
    if network.relationships.get(pair, "Approved") != "Approved":
        return "Declined"
    everybody = campaign_of(network, call)["current_terms"].get("auto_approve") == "All"
    return "Approved" if everybody else "Applied"


def put_affiliate_campaign(network: Network, call: Call, stored: Json | None, status: str) -> Json:
    affiliate = call.ids["affiliate"]
    given = call.ids.get("affiliate_campaign") or str(call.body.get("id_from_network") or network.new_id())
    campaign = stored or new_affiliate_campaign(network, given, affiliate)
    sent = {name: call.body[name] for name in ("custom_data", "max_promo_numbers") if name in call.body}
    network.affiliate_campaigns[call.owner] = campaign | sent | {"status": status}
    return shown(network, call.owner)


def affiliate_campaign_update(network: Network, call: Call) -> Reply:
    """Set the status, creating the affiliate campaign if need be; the statuses are an open set."""
    stored = owned_or_none(network, call)
    status = call.body.get("status", stored["status"] if stored else "Applied")
    if not isinstance(status, str) or not status:
        raise blank("status")
    pair = (call.ids["advertiser"], call.ids["affiliate"])
    if status == "Approved" and network.relationships.get(pair, "Approved") != "Approved":
        raise transition({"status": ["cannot transition while the relationship is not Approved"]}, status)
    return as_json(200, put_affiliate_campaign(network, call, stored, status))


def affiliate_campaign_delete(network: Network, call: Call) -> Reply:
    raise invalid("Affiliate campaigns cannot be deleted")
