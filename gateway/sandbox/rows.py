"""The rows of the Transactions API: invented calls, the same ones for the same seed and day.

Every call of the plan is a Call row; some also have a Post Call Event, a Reported Conversion, a Signal row, or
a correction, which is a new row that names the one it replaces. Each call has a random source of its own, so
asking for more calls does not change what the earlier draws look like. Ids do not sort by time: they are opaque.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from typing import Any

from gateway.sandbox.columns import COLUMNS, CUSTOM_COLUMNS, CUSTOM_DATA
from gateway.sandbox.errors import Json
from gateway.sandbox.sample import CAMPAIGNS, HOST, NETWORK_ZONE, USER_ZONE, Campaign, Organization

DAYS = 180
CALLS = 600
PARAMETERS = ("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "landing_page", "gclid")
KEYS = ("sales", "hours", "Español", '"billing", other')
SIGNALS = ("Visit Booked", "Quote Given", "Visit Booked,Quote Given")
FIRST_NAMES = ("Robin", "Zoë", "Amara", "Jean-Luc")
LAST_NAMES = ("Vale", "O'Hara", "Łukasz", 'Smith "Jr."')
BLANK_SHARE = 0.15

DRAWN = tuple((each.name, each.group, each.draw) for each in COLUMNS if each.draw)

# What a row says in `transaction_type`, by the word that filters for it.
LABELS = {
    "Call": "Call",
    "PostCallEvent": "Post Call Event",
    "Sale": "Reported Conversion",
    "Signal": "Signal",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `values` leaves nulls out; `day` is the call's day for the user, `written` the row's time."""

    id: str
    kind: str
    call_id: str
    started: datetime
    written: datetime
    campaign: Campaign
    affiliate: Organization | None
    values: Json

    @property
    def day(self) -> date:
        return self.started.astimezone(USER_ZONE).date()


def build(seed: int | str, today: date, calls: int = CALLS) -> list[Row]:
    """All rows, oldest row first; the calls lie within the last 180 days up to `today`."""
    end = datetime.combine(today, time(23, 0), USER_ZONE)
    step = timedelta(days=DAYS) / max(calls, 1)
    plan = (call_rows(seed, index, end - step * (calls - index)) for index in range(calls))
    return sorted((row for rows in plan for row in rows), key=lambda row: (row.written, row.id))


def call_rows(seed: int | str, index: int, about: datetime) -> Iterator[Row]:
    """The rows of one call. Every how-many-th call has which extra is fixed, so each kind surely occurs."""
    chance = Random(f"{seed}:{index}")  # noqa: S311 - the data is meant to be predictable
    started = about.replace(microsecond=0) + timedelta(minutes=chance.randrange(60))
    call = call_row(seed, index, started, chance)
    yield call
    if index % 5 == 1:
        yield event(call, "Signal", seed, chance)
    if index % 7 == 2:
        yield event(call, "PostCallEvent", seed, chance)
    if index % 11 == 3:
        yield event(call, "Sale", seed, chance)
    if index % 13 == 4:
        yield correction(call, seed, chance)


def row_id(seed: int | str, *parts: object) -> str:
    """An id of 17 characters of 0-9, A-F and `-`, unlike its neighbours."""
    digest = hashlib.sha256(":".join(map(str, (seed, *parts))).encode()).hexdigest().upper()
    return f"{digest[:8]}-{digest[8:16]}"


def call_row(seed: int | str, index: int, started: datetime, chance: Random) -> Row:
    campaign = CAMPAIGNS[index % len(CAMPAIGNS)]
    affiliate = chance.choice((None, *campaign.affiliates)) if index % 3 else campaign.affiliates[0]
    identity, call_id = row_id(seed, "call", index), "CALL-" + row_id(seed, "id", index)
    talk = chance.randrange(5, 900)
    values = (
        drawn(("call", "pool", "signal", "profile"), chance)
        | parties(campaign, affiliate, chance)
        | moments(started)
        | conversation(talk, identity, chance)
        | (money(chance, affiliate) if talk > 30 else {})
        | person(chance)
        | pool_parameters(chance)
        | custom_values(chance)
    )
    for name in SIGNAL_ROW_ONLY:
        values.pop(name, None)
    return finished(
        Row(
            identity, "Call", call_id, started, started + timedelta(seconds=talk), campaign, affiliate, values
        )
    )


# With the Signal Transactions Rollup a call keeps the merged signal name only; the rest is on rows of their own.
SIGNAL_ROW_ONLY = (
    "signal_description",
    "signal_source",
    "signal_value",
    "signal_partner_unique_id",
    "signal_custom_parameter_1",
    "signal_custom_parameter_2",
    "signal_custom_parameter_3",
)


def finished(row: Row) -> Row:
    """The row with the columns that every kind of row has."""
    row.values.update(
        transaction_id=row.id,
        transaction_type=LABELS[row.kind],
        complete_call_id=row.call_id,
    )
    return row


def drawn(groups: tuple[str, ...], chance: Random) -> Json:
    """A value, or null, for every column that is a plain draw from a list."""
    picks: Json = {}
    for name, group, draw in DRAWN:
        if group in groups and chance.random() >= BLANK_SHARE:
            picks[name] = chance.choice(draw)
    return picks


def parties(campaign: Campaign, affiliate: Organization | None, chance: Random) -> Json:
    known: Json = {
        "advertiser_id": campaign.advertiser.id,
        "advertiser_id_from_network": campaign.advertiser.id,
        "advertiser_name": campaign.advertiser.name,
        "advertiser_campaign_id": str(campaign.id),
        "advertiser_campaign_id_from_network": campaign.id_from_network,
        "advertiser_campaign_name": campaign.name,
        "advertiser_campaign_country": "US",
        "virtual_line_id": f"line-{campaign.id_from_network}",
    }
    return known | (affiliation(campaign, affiliate, chance) if affiliate else {})


def affiliation(campaign: Campaign, affiliate: Organization, chance: Random) -> Json:
    """Ranks run from 0 to 5, with -1 for a new affiliate; without an affiliate they are null."""
    return {
        "affiliate_id": affiliate.id,
        "affiliate_id_from_network": affiliate.id,
        "affiliate_name": affiliate.name,
        "affiliate_campaign_id_from_network": f"{affiliate.id}-{campaign.id_from_network}",
        "affiliate_commissions_ranking": chance.randint(-1, 5),
        "affiliate_call_volume_ranking": chance.randint(-1, 5),
        "affiliate_conversion_rate_ranking": chance.randint(-1, 5),
    }


def moments(started: datetime) -> Json:
    user, network = started.astimezone(USER_ZONE), started.astimezone(NETWORK_ZONE)
    return {
        "start_time_local": spelled(user),
        "start_time_utc": int(started.timestamp() * 1000),
        "start_time_xml": user.isoformat(timespec="seconds"),
        "start_time_network_timezone": spelled(network),
        "start_time_network_timezone_xml": network.isoformat(timespec="seconds"),
    }


def spelled(moment: datetime) -> str:
    """A time with its offset as `2024-03-05 09:15:00 -08:00`."""
    return moment.isoformat(sep=" ", timespec="seconds")[:19] + " " + moment.isoformat()[-6:]


def conversation(talk: int, identity: str, chance: Random) -> Json:
    ivr, keys = chance.randrange(0, 40), chance.sample(KEYS, chance.randrange(len(KEYS) + 1))
    return {
        "calling_phone_number": phone(chance),
        "destination_phone_number": phone(chance),
        "duration": talk + ivr,
        "connect_duration": talk,
        "ivr_duration": ivr,
        "keypresses": ",".join(keys),
        **{f"keypress_{place}": key for place, key in enumerate(keys, 1)},
        "opt_in_SMS": chance.randrange(2),
        "repeat_calling_phone_number": chance.choice("01"),
        "recording": f"{HOST}/recordings/{identity}",
        "recording_download_url": f"{HOST}/recordings/{identity}.mp3?expires=60&signature={chance.randrange(10**9)}",
        "dynamic_number_pool_id": chance.choice((640, 641)),
    }


def phone(chance: Random) -> str:
    return f"541-555-01{chance.randrange(100):02}"


def money(chance: Random, affiliate: Organization | None) -> Json:
    """Amounts as strings with two decimals; the margin is the payin less the payout."""
    payin, fee = chance.randrange(800, 4000), chance.randrange(5, 60)
    payout = chance.randrange(200, 800) if affiliate else 0
    return {
        "advertiser_payin_localized": amount(payin),
        "affiliate_payout_localized": amount(payout),
        "margin_localized": amount(payin - payout),
        "call_fee_localized": amount(fee),
        "advertiser_call_fee_localized": amount(fee),
    }


def amount(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"


def person(chance: Random) -> Json:
    """The caller as a demographics lookup tells it; unknown for one call in four."""
    if chance.random() < 0.25:
        return {}
    first, last = chance.choice(FIRST_NAMES), chance.choice(LAST_NAMES)
    return {
        "first_name_data_append": first,
        "last_name_data_append": last,
        "display_name_data_append": f"{first} {last}",
        "primary_email_address_data_append": f"caller{chance.randrange(1000)}@example.com",
        "linked_email_addresses_data_append": "a@example.com,b@example.com",
    }


def pool_parameters(chance: Random) -> Json:
    """Up to 25 RingPool parameters, filled from the front."""
    used = chance.choice((0, 3, 25))
    named: Json = {}
    for place in range(1, used + 1):
        stem = f"dynamic_number_pool_referrer_param{place}"
        named[f"{stem}_name"] = PARAMETERS[(place - 1) % len(PARAMETERS)]
        named[f"{stem}_value"] = chance.choice(("google", "cpc & display", "a,b", 'say "hi"', "ä/ö", ""))
    return named


def custom_values(chance: Random) -> Json:
    """The account's own columns, their `.source` columns, and the same once more as `custom_data`."""
    values: Json = {}
    entries: list[Json] = []
    for custom in CUSTOM_COLUMNS:
        if chance.random() < 0.3:
            continue
        value = chance.choice(custom.draw) if custom.draw else True
        values[custom.name] = 1 if value is True else value
        values[f"{custom.name}.source"] = custom.source
        kind = {"data_type": custom.data_type, "source": custom.source}
        entries.append({custom.label: custom.name, **kind, "value": value})
    return values | {CUSTOM_DATA: entries}


def event(call: Row, kind: str, seed: int | str, chance: Random) -> Row:
    """A row that tells more about a call: it repeats who was called when, and leaves most columns null."""
    written = call.written + timedelta(minutes=chance.randrange(1, 600))
    kept: Json = {name: value for name, value in call.values.items() if name in EVENT_KEEPS}
    extra = sale(call, chance) if kind == "Sale" else signal(written, chance)
    values = kept | {"original_order_id": call.id} | extra
    identity = row_id(seed, kind, call.id)
    return finished(
        Row(identity, kind, call.call_id, call.started, written, call.campaign, call.affiliate, values)
    )


EVENT_KEEPS = (
    "advertiser_id",
    "advertiser_id_from_network",
    "advertiser_name",
    "advertiser_campaign_id",
    "affiliate_id",
    "affiliate_id_from_network",
    "calling_phone_number",
    *moments(datetime(2026, 1, 1, tzinfo=UTC)),
)


def signal(written: datetime, chance: Random) -> Json:
    return drawn(("signal",), chance) | {
        "signal_name": chance.choice(SIGNALS),
        "signal_occurred_at": int(written.timestamp()),
        "signal_value": chance.choice((True, False)),
        "revenue": amount(chance.randrange(1000, 90000)),
    }


def sale(call: Row, chance: Random) -> Json:
    name = f"{chance.choice(FIRST_NAMES)} {chance.choice(LAST_NAMES)}"
    return drawn(("sale",), chance) | {
        "name": name,
        "email_address": f"buyer{chance.randrange(1000)}@example.com",
        "home_phone_number": call.values["calling_phone_number"],
        "cell_phone_number": phone(chance),
        "sale_amount": amount(chance.randrange(1000, 90000)),
    }


def correction(call: Row, seed: int | str, chance: Random) -> Row:
    """A new Call row in place of an earlier one, written within three days of it."""
    written = call.written + timedelta(hours=chance.randrange(1, 72))
    changed: Json = {
        "corrects_transaction_id": call.id,
        "corrected_at": spelled(written.astimezone(USER_ZONE)),
        "advertiser_payin_localized": "0.00",
        "affiliate_payout_localized": "0.00",
        "margin_localized": "0.00",
        "notes": 'Refunded: "wrong number", see <policy>',
    }
    identity = row_id(seed, "correction", call.id)
    values: dict[str, Any] = call.values | changed
    return finished(
        Row(identity, "Call", call.call_id, call.started, written, call.campaign, call.affiliate, values)
    )
