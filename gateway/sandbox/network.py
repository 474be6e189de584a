"""The state behind the Network Integration API: one network, in memory, with sample objects from the start.

Ids in paths are the network's own (`id_from_network`), opaque text. Objects are kept as the JSON objects that
reads answer with; what they cannot do without - who owns whom - is in the keys.

Source: vendor pages Network Integration API; the shapes are those of their examples, the values are invented.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from gateway.sandbox.errors import Json, not_found
from gateway.sandbox.exchange import Ask
from gateway.sandbox.rows import Row
from gateway.sandbox.sample import ADVERTISERS, AFFILIATES, CAMPAIGNS, HOST, NETWORK_NAME

# Advertiser, campaign and affiliate; the affiliate is "" where a campaign itself is the owner.
Owner = tuple[str, str, str]

NOTIFICATIONS = (
    "budgets",
    "campaign_applications",
    "campaign_expirations",
    "creative_duplication_requests",
    "network_announcements",
    "performance_notifications",
    "monthly_campaign_performance_reports",
    "weekly_campaign_performance_reports",
    "call_activities",
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation: the request, the API version, and the ids of its path by name."""

    ask: Ask
    version: str
    ids: dict[str, str]

    @property
    def body(self) -> Json:
        return self.ask.json

    @property
    def owner(self) -> Owner:
        return self.ids["advertiser"], self.ids["campaign"], self.ids.get("affiliate", "")


@dataclass(slots=True)
class PromoNumber:
    """A phone number and whose it is; a move changes the owner and nothing else."""

    owner: Owner
    facts: Json


@dataclass(slots=True)
class Tag:
    """An Invoca Tag: its published revisions by number, which of them is live, and the draft if there is one."""

    facts: Json
    revisions: dict[int, Json] = field(default_factory=dict)
    live: int | None = None
    draft: Json | None = None


class Network:
    """Everything that the Network Integration API reads and writes."""

    def __init__(self, seed: int | str, today: date, rows: Sequence[Row]) -> None:
        self.today = today
        self.rows = rows
        self._seed = seed
        self._ids = itertools.count(9001)
        self._numbers = itertools.count(1)
        self.name = NETWORK_NAME
        self.users: list[Json] = []
        self.advertisers: dict[str, Json] = {}
        self.affiliates: dict[str, Json] = {}
        self.relationships: dict[tuple[str, str], str] = {}
        self.campaigns: dict[tuple[str, str], Json] = {}
        self.affiliate_campaigns: dict[Owner, Json] = {}
        self.promo_numbers: list[PromoNumber] = []
        self.ring_pools: dict[tuple[Owner, str], Json] = {}
        self.destinations: dict[int, Json] = {}
        self.tags: dict[str, Tag] = {}
        seed_accounts(self)
        seed_campaigns(self)

    def new_id(self) -> int:
        return next(self._ids)

    def new_number(self) -> str:
        """The next free number, ten digits: 555-01xx of area code 541, then of the codes after it."""
        taken = next(self._numbers)
        return f"{541 + taken // 100}55501{taken % 100:02}"

    def secret(self, what: str) -> str:
        """A credential-like value, the same for the same seed, that is good for nothing."""
        return hashlib.sha256(f"{self._seed}:secret:{what}".encode()).hexdigest()[:32]

    @property
    def now(self) -> str:
        """The one moment at which everything here happens, as the vendor spells times."""
        return f"{self.today.isoformat()} 09:00:00 -0800"

    @property
    def now_xml(self) -> str:
        return f"{self.today.isoformat()}T09:00:00-08:00"

    def advertiser(self, name: str) -> Json:
        return found(self.advertisers.get(name), f"Advertiser {name}")

    def affiliate(self, name: str) -> Json:
        return found(self.affiliates.get(name), f"Affiliate {name}")

    def campaign(self, advertiser: str, name: str) -> Json:
        self.advertiser(advertiser)
        return found(
            self.campaigns.get((advertiser, name)), f"AdvertiserCampaign {name}", f"advertiser {advertiser}"
        )

    def affiliate_campaign(self, owner: Owner) -> Json:
        advertiser, campaign, affiliate = owner
        self.campaign(advertiser, campaign)
        self.affiliate(affiliate)
        return found(self.affiliate_campaigns.get(owner), f"AffiliateCampaign of {affiliate}", whose(owner))

    def owned(self, owner: Owner) -> Json:
        """The campaign or affiliate campaign that an owner stands for. Raises: Refused 404."""
        return self.affiliate_campaign(owner) if owner[2] else self.campaign(owner[0], owner[1])


def found(value: Json | None, what: str, where: str = "") -> Json:
    if value is None:
        raise not_found(what, where)
    return value


def whose(owner: Owner) -> str:
    advertiser, campaign, affiliate = owner
    tail = f"advertiser campaign {campaign} and advertiser {advertiser}"
    return f"affiliate {affiliate}, {tail}" if affiliate else tail


def user(network: Network, sent: Json, platform: bool = False) -> Json:
    """A user in full. The role defaults to Super: whoever adds a user and says nothing makes an administrator."""
    quiet: Json = {f"notify_on_{topic}": False for topic in NOTIFICATIONS}
    base: Json = {
        "email_settings": [],
        "first_name": "",
        "last_name": "",
        "contact_phone_number": "",
        "role": "Super",
    }
    fixed: Json = {
        "oauth_refresh_token": network.secret(f"user {sent.get('id_from_network')}"),
        "can_login_via_platform": platform,
        "contact_country_code": "1",
    }
    return base | quiet | sent | fixed


def sample_user(network: Network, name: str, platform: bool = False, role: str = "Manager") -> Json:
    settings = [{"email_address": f"{name}@example.com", "use_for_notifications": True}]
    facts: Json = {
        "id_from_network": f"u-{name}",
        "email_settings": settings,
        "first_name": name.title(),
        "last_name": "O'Vale",
        "contact_phone_number": "541-555-0101",
        "role": role,
    }
    return user(network, facts, platform)


def seed_accounts(network: Network) -> None:
    network.users = [
        sample_user(network, "pat", role="Super"),
        sample_user(network, "kim"),
        sample_user(network, "root", platform=True, role="Super"),
    ]
    for each in ADVERTISERS:
        users = [sample_user(network, f"ann{each.id}"), sample_user(network, f"bob{each.id}", platform=True)]
        network.advertisers[each.id] = new_advertiser(network, each.id, int(each.id)) | {
            "name": each.name,
            "users": users,
            "sites": [{"id_from_network": "site-1", "name": f"www{each.id}.example.com"}],
        }
    for each in AFFILIATES:
        network.affiliates[each.id] = new_affiliate(network, each.id, int(each.id)) | {
            "name": each.name,
            "users": [sample_user(network, f"sam{each.id}")],
            "sites": [{"id_from_network": "site-9", "name": f"news{each.id}.example.com"}],
        }


def new_advertiser(network: Network, name: str, number: int) -> Json:
    return {
        "id": number,
        "id_from_network": name,
        "web_integration_phone_number": "5415550120",
        "approval_status": "Approved",
        "object_url": f"{HOST}/as/{number}/dashboards/ui",
        "sites": [],
        "name": "",
        "users": [],
        "default_creative_id_from_network": "61",
        "oauth_refresh_token": network.secret(f"advertiser {name}"),
        "custom_data": {"channel": "Paid social"},
    }


def new_affiliate(network: Network, name: str, number: int) -> Json:
    return {
        "id": number,
        "id_from_network": name,
        "object_url": f"{HOST}/ps/{number}/dashboards/ui",
        "sites": [],
        "name": "",
        "users": [],
        "status": "Approved",
        "custom_data": {"channel": "Paid social"},
    }


def seed_campaigns(network: Network) -> None:
    for each in CAMPAIGNS:
        key = (each.advertiser.id, each.id_from_network)
        network.campaigns[key] = new_campaign(network, each.id_from_network, each.id) | {
            "name": each.name,
            "status": "Activated",
            "current_terms": sample_terms(network, each.id),
        }
        for affiliate in each.affiliates:
            owner = (*key, affiliate.id)
            network.relationships[each.advertiser.id, affiliate.id] = "Approved"
            network.affiliate_campaigns[owner] = new_affiliate_campaign(
                network, f"{affiliate.id}-{each.id_from_network}", affiliate.id
            ) | {"status": "Approved"}


def new_campaign(network: Network, name: str, number: int) -> Json:
    return {
        "id": number,
        "id_from_network": name,
        "name": "",
        "status": "Entry",
        "object_url": f"{HOST}/a_campaigns/terms/{number}",
        "current_terms": {},
        "future_terms": {},
    }


def new_affiliate_campaign(network: Network, name: str, affiliate: str) -> Json:
    number = network.new_id()
    return {
        "max_promo_numbers": 4,
        "status": "Applied",
        "id": number,
        "id_from_network": name,
        "affiliate_id_from_network": affiliate,
        "object_url": f"{HOST}/p_campaigns/terms/{affiliate}/{number}",
        "custom_data": {"channel": "Paid social"},
    }


def sample_terms(network: Network, number: int) -> Json:
    """Terms as a campaign is sold: what is paid, when it is open, and where calls go."""
    connect: Json = {
        "node_type": "Connect",
        "destination_phone_number": "5415550110",
        "destination_country_code": "1",
    }
    return {
        "id": str(number * 2),
        "description": "Regular promotion",
        "timezone": "Pacific Time (US & Canada)",
        "visibility": "All",
        "auto_approve": "None",
        "operating_24_7": False,
        "go_live_date": None,
        "expiration_date": None,
        "default_creative_id_from_network": "61",
        "campaign_language": "English",
        "campaign_country": "US",
        "campaign_type": "AffiliateEnabled",
        "pricing_type": "Fixed",
        "advertiser_payin": payment(12.5, "duration > 1 min 45 sec"),
        "affiliate_payout": payment(8, ""),
        "ivr_tree": {
            "record_calls": True,
            "root": {
                "node_type": "Condition",
                "condition": "during_hours",
                "children": [connect | {"prompt": ""}, {"node_type": "EndCall", "prompt": "We are closed."}],
            },
        },
        "url": "http://www.example.com/offer",
        "hours": {"monday_open": 28800, "monday_close": 64800, "monday_closed": False},
        "named_regions": [
            {"name": "West", "regions": [{"region_type": "State", "value": "OR", "text": "TBD"}]}
        ],
        "created_at": network.now,
        "updated_at": network.now,
    }


def payment(amount: float, condition: str) -> Json:
    priced = f"${amount:.2f} per call"
    policy: Json = {"type": "Base", "currency": "USD", "condition": condition, "amount": amount}
    return {
        "min": amount,
        "max": amount,
        "currency": "USD",
        "pricing": priced,
        "range": priced,
        "policies": [policy],
    }
