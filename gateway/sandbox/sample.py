"""The organisations that exist from the start: one network, two advertisers, two affiliates, their campaigns.

An id given by Invoca and the network's own id (`id_from_network`) are the same here for advertisers and
affiliates, so that a sample path needs one number only; for campaigns and numbers they differ, as in life.
Hosts are under example.com and phone numbers are 555-01xx: nothing here reaches anybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta, timezone

NETWORK_ID = "33"
NETWORK_NAME = "Cedar Harbor Network"
HOST = "https://cedarharbor.example.com"

# The data ends on this day unless a Sandbox is given another: a fixed one, so that examples stay true.
TODAY = date(2026, 6, 30)

# Fixed offsets, not zone names: the sandbox then needs no time zone database, and days have no seams.
USER_ZONE = timezone(timedelta(hours=-8))
NETWORK_ZONE = timezone(timedelta(hours=-5))


@dataclass(frozen=True, slots=True)
class Organization:
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign of an advertiser and the affiliates whose affiliate campaign on it is approved."""

    id: int
    id_from_network: str
    name: str
    advertiser: Organization
    affiliates: tuple[Organization, ...]


JUNIPER = Organization("706", "Juniper Dental, Inc.")
ROOFING = Organization("707", 'Wölfli & Sons "Roofing"')
ADVERTISERS = (JUNIPER, ROOFING)

CLICKS = Organization("808", "Harbor Clicks")
MEDIA = Organization("809", "O'Neil <Média>")
AFFILIATES = (CLICKS, MEDIA)

SPRING = Campaign(5501, "spring", "Spring Check-ups", JUNIPER, (CLICKS,))
IMPLANTS = Campaign(5502, "implants", "Implants & Crowns", JUNIPER, (MEDIA,))
GUTTERS = Campaign(5601, "gutters", 'Gutters, "all sizes"', ROOFING, (CLICKS, MEDIA))
CAMPAIGNS = (SPRING, IMPLANTS, GUTTERS)
