"""Network users, advertisers, advertiser users, affiliates, relationships, and one-time login tokens.

What a write may do without saying so: a `users` array replaces the stored users (those who log in through the
platform excepted: the API does not manage them), a `sites` array the stored sites; an array that is missing
changes nothing. A relationship that is not Approved ends what rests on it.

Source: vendor pages Networks, Advertisers, Advertiser Users, Affiliates, Relationships, Access Tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from gateway.sandbox.errors import Json, blank, fields, invalid, not_found
from gateway.sandbox.exchange import Reply, as_json
from gateway.sandbox.network import Call, Network, new_advertiser, new_affiliate, user
from gateway.sandbox.sample import HOST

MAILBOX = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+\Z")
PROMPTS = [
    {"id_from_network": "closed", "text": "We are closed.", "prompt_url": f"{HOST}/prompts/closed.wav"},
    {"id_from_network": "hello", "text": "Welcome, please hold.", "prompt_url": f"{HOST}/prompts/hello.wav"},
]


def network_read(network: Network, call: Call) -> Reply:
    return as_json(200, network_object(network))


def network_object(network: Network) -> Json:
    return {"name": network.name, "users": network.users}


def network_prompts(network: Network, call: Call) -> Reply:
    return as_json(200, network_object(network) | {"prompt_recordings": PROMPTS})


def network_users_write(network: Network, call: Call) -> Reply:
    """POST and PUT do the same; only the status tells them apart."""
    if "users" in call.body:
        network.users = replaced(network, network.users, call.body["users"])
    return as_json(201 if call.ask.method == "POST" else 200, network_object(network))


def replaced(network: Network, stored: list[Json], sent: Any) -> list[Json]:
    """The users after a write: platform users as they were, and exactly those that were sent."""
    check_users(sent)
    old = {each["id_from_network"]: each for each in stored}
    kept = [each for each in stored if each["can_login_via_platform"]]
    theirs = {each["id_from_network"] for each in kept}
    written = [
        user(network, old.get(name, {}) | each) for name, each in named_users(sent) if name not in theirs
    ]
    return written + kept


def named_users(sent: list[Json]) -> Iterable[tuple[str, Json]]:
    for each in sent:
        name = str(each["id_from_network"])
        yield name, each | {"id_from_network": name}


def check_users(sent: Any) -> None:
    """Raises: Refused with a field map that has an entry, perhaps empty, for each user that was sent."""
    if not isinstance(sent, list) or not all(isinstance(each, dict) for each in sent):
        raise fields({"users": ["is invalid"]})
    errors = [user_errors(each) for each in sent]
    if any(errors):
        raise fields({"users": errors})


def user_errors(sent: Json) -> Json:
    errors: Json = {}
    if not sent.get("id_from_network"):
        errors["id_from_network"] = ["can't be blank"]
    bad = [address for address in addresses(sent) if not MAILBOX.match(address)]
    if bad:
        errors["email_settings"] = [{"email_address": ["is invalid"]} for _ in bad]
    return errors


def addresses(sent: Json) -> list[str]:
    """The e-mail addresses of a user, in either place where the documentation shows them."""
    settings = sent.get("email_settings")
    entries = settings if isinstance(settings, list) else []
    named = [entry.get("email_address", "") for entry in entries if isinstance(entry, dict)]
    return [
        str(address) for address in [*named, *([sent["email_address"]] if "email_address" in sent else [])]
    ]


# Advertisers and affiliates


def advertisers_list(network: Network, call: Call) -> Reply:
    return as_json(200, list(network.advertisers.values()))


def advertiser_read(network: Network, call: Call) -> Reply:
    return as_json(200, network.advertiser(call.ids["advertiser"]) | {"prompt_recordings": PROMPTS})


def advertiser_write(network: Network, call: Call) -> Reply:
    name = account_name(call, "advertiser")
    fresh = new_advertiser(network, name, network.new_id()) if name not in network.advertisers else None
    return account_write(network, call, network.advertisers, name, fresh)


def advertiser_delete(network: Network, call: Call) -> Reply:
    name = call.ids["advertiser"]
    refuse_with_campaigns("Advertiser", name, (key[0] for key in network.campaigns))
    return forget(network, network.advertisers, name)


def affiliates_list(network: Network, call: Call) -> Reply:
    return as_json(200, list(network.affiliates.values()))


def affiliate_read(network: Network, call: Call) -> Reply:
    return as_json(200, network.affiliate(call.ids["affiliate"]))


def affiliate_write(network: Network, call: Call) -> Reply:
    name = account_name(call, "affiliate")
    fresh = new_affiliate(network, name, network.new_id()) if name not in network.affiliates else None
    return account_write(network, call, network.affiliates, name, fresh)


def affiliate_delete(network: Network, call: Call) -> Reply:
    name = call.ids["affiliate"]
    refuse_with_campaigns("Affiliate", name, (key[2] for key in network.affiliate_campaigns))
    return forget(network, network.affiliates, name)


def account_name(call: Call, kind: str) -> str:
    """The id of the path, or on a collection the one of the body. Raises: Refused when there is neither."""
    name = call.ids.get(kind) or str(call.body.get("id_from_network") or "")
    if not name:
        raise blank("id_from_network")
    return name


def account_write(
    network: Network, call: Call, store: dict[str, Json], name: str, fresh: Json | None
) -> Reply:
    """Create or update, whichever verb it came with; the replies of a write show the object in full."""
    stored = fresh or store[name]
    sent = {key: value for key, value in call.body.items() if key in stored and key not in READ_ONLY}
    if not (sent.get("name") or (fresh is None and "name" not in sent)):
        raise blank("name")
    if not isinstance(sent.get("sites", []), list):
        raise fields({"sites": ["is invalid"]})
    if "users" in sent:
        sent["users"] = replaced(network, stored["users"], sent["users"])
    store[name] = stored | sent
    return as_json(201 if fresh and call.ask.method == "POST" else 200, store[name])


READ_ONLY = ("id", "id_from_network", "object_url")


def refuse_with_campaigns(kind: str, name: str, owners: Iterable[str]) -> None:
    if name in owners:
        raise invalid(f"{kind} {name} has campaigns and cannot be deleted")


def forget(network: Network, store: dict[str, Json], name: str) -> Reply:
    """Remove an account and its relationships; one that is gone already is no error."""
    if store.pop(name, None):
        network.relationships = {
            pair: status for pair, status in network.relationships.items() if name not in pair
        }
    return as_json(200, {})


# Advertiser users


def users_list(network: Network, call: Call) -> Reply:
    return as_json(200, network.advertiser(call.ids["advertiser"])["users"])


def user_read(network: Network, call: Call) -> Reply:
    found = stored_user(network, call, call.ids["user"])
    if found is None:
        raise not_found(f"User {call.ids['user']}", f"advertiser {call.ids['advertiser']}")
    return as_json(200, found)


def stored_user(network: Network, call: Call, name: str) -> Json | None:
    users: list[Json] = network.advertiser(call.ids["advertiser"])["users"]
    return next((each for each in users if each["id_from_network"] == name), None)


def user_write(network: Network, call: Call) -> Reply:
    """Create or update one user; unlike everywhere else the body is wrapped, in `user`."""
    sent = call.body.get("user")
    if not isinstance(sent, dict):
        raise blank("user")
    sent = sent | ({"id_from_network": call.ids["user"]} if "user" in call.ids else {})
    if user_errors(sent):
        raise fields({"user": user_errors(sent)})
    name = str(sent["id_from_network"])
    old = writable(network, call, name)
    written = user(network, (old or {}) | sent)
    put_user(network, call, name, written)
    return as_json(201 if old is None and call.ask.method == "POST" else 200, written)


def writable(network: Network, call: Call, name: str) -> Json | None:
    """The stored user, if any. Raises: Refused 403 for one who logs in through the platform."""
    old = stored_user(network, call, name)
    if old and old["can_login_via_platform"]:
        raise invalid(f"Validation failed: user {name} can log in via the platform")
    return old


def put_user(network: Network, call: Call, name: str, written: Json | None) -> None:
    advertiser = network.advertiser(call.ids["advertiser"])
    others = [each for each in advertiser["users"] if each["id_from_network"] != name]
    advertiser["users"] = [*others, written] if written else others


def user_delete(network: Network, call: Call) -> Reply:
    writable(network, call, call.ids["user"])
    put_user(network, call, call.ids["user"], None)
    return as_json(200, {})


# Relationships


def relationships_list(network: Network, call: Call) -> Reply:
    network.advertiser(call.ids["advertiser"])
    mine = [pair for pair in network.relationships if pair[0] == call.ids["advertiser"]]
    return as_json(200, [relationship(network, pair) for pair in mine])


def relationship(network: Network, pair: tuple[str, str]) -> Json:
    return {"status": network.relationships[pair], "affiliate_id_from_network": pair[1]}


def pair_of(network: Network, call: Call) -> tuple[str, str]:
    network.advertiser(call.ids["advertiser"])
    network.affiliate(call.ids["affiliate"])
    return call.ids["advertiser"], call.ids["affiliate"]


def relationship_read(network: Network, call: Call) -> Reply:
    pair = pair_of(network, call)
    if pair not in network.relationships:
        raise not_found(f"AdvertiserAffiliate {pair[1]}", f"advertiser {pair[0]}")
    return as_json(200, relationship(network, pair))


def relationship_write(network: Network, call: Call) -> Reply:
    pair, status = pair_of(network, call), call.body.get("status")
    if not isinstance(status, str) or not status:
        raise blank("status")
    network.relationships[pair] = status
    if status != "Approved":
        end_campaigns(network, pair)
    return as_json(201 if call.ask.method == "POST" else 200, {})


def end_campaigns(network: Network, pair: tuple[str, str]) -> None:
    """Without an Approved relationship applications are declined and running affiliate campaigns suspended."""
    for (advertiser, _, affiliate), campaign in network.affiliate_campaigns.items():
        if (advertiser, affiliate) == pair:
            campaign["status"] = "Declined" if campaign["status"] in ("Applied", "Declined") else "Suspended"


def relationship_delete(network: Network, call: Call) -> Reply:
    network.relationships.pop((call.ids["advertiser"], call.ids["affiliate"]), None)
    return as_json(200, {})


# One-time login tokens


def access_token_create(network: Network, call: Call) -> Reply:
    """A login as the named user. The vendor's examples show `token` and `id`, its text another shape."""
    name = call.ids["email"]
    if not any(name in addresses(each) for each in users_behind(network, call)):
        raise not_found(f"User {name}")
    number = network.new_id()
    return as_json(200, {"token": network.secret(f"login {number}"), "id": number})


def users_behind(network: Network, call: Call) -> list[Json]:
    if "advertiser" in call.ids:
        return list(network.advertiser(call.ids["advertiser"])["users"])
    return (
        list(network.affiliate(call.ids["affiliate"])["users"]) if "affiliate" in call.ids else network.users
    )
