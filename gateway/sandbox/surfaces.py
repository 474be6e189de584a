"""Everything else that the vendor serves: other APIs and the platform, which a gateway has no business reaching.

Each answers 200 to anybody, with a body that says which surface it was, so that a request a gateway should have
refused is seen at once. Two exceptions of form: a transcript is a text with call content in it, and the old
transactions URL without `/api/` is served by the Transactions API.

Source: vendor pages Signal, Calls In Progress, Call Ingestion, Call (transcripts), RingPool, Bulk RingPool,
Conversion Reporting, SMS Messaging, Access Tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.sandbox.exchange import Ask, Reply, as_json

WRITE = ("POST", "PUT")
VERSION = r"[^/]+"
SMS = f"/sms/{VERSION}"


@dataclass(frozen=True, slots=True)
class Surface:
    """A surface by its id: the methods it takes and the paths it has, a trailing suffix being optional."""

    id: str
    methods: tuple[str, ...]
    path: re.Pattern[str]


def surface(identity: str, methods: tuple[str, ...], path: str) -> Surface:
    return Surface(identity, methods, re.compile(path + r"(\.\w+)?\Z"))


API = f"/api/{VERSION}"
SURFACES = (
    surface("signal_apply", WRITE, f"{API}/transactions"),
    surface("signal_legacy_apply", WRITE, f"{API}/transactions/signals"),
    surface("signal_legacy_apply_by_transaction", WRITE, f"{API}/transactions/[^/]+/signals"),
    surface("signal_legacy_typo", WRITE, f"{API}/transcations/signals"),
    surface("calls_in_progress_list", ("GET",), f"{API}/calls_in_progress(/current_calls)?"),
    surface("calls_in_progress_update", WRITE, f"{API}/calls_in_progress"),
    surface("call_ingestion_create", WRITE, f"{API}/calls"),
    surface("conversion_report", WRITE, f"{API}/calls/[^/]+"),
    surface("conversion_pixel", ("GET",), "/pixels/conversion/[^/]+"),
    surface("ringpool_allocate", ("GET",), f"{API}/ring_pools/[^/]+/allocate_number"),
    surface("pnapi_bulk_allocate", ("POST",), f"{API}/bulk"),
    surface("pnapi_map_number", ("GET",), "/[^/]+/api/[^/]+/map_number"),
    surface("call_transcript", ("GET",), "/call/transcript/[^/]+"),
    surface("call_transcript_analysis", ("GET",), "/call/transcript_analysis/[^/]+"),
    surface("sms_messages_list", ("GET",), f"{SMS}/messages"),
    surface("sms_message_send", ("POST",), f"{SMS}/messages"),
    surface("sms_number_usage", ("GET",), f"{SMS}/messages/phone_number/[^/]+/usage"),
    surface("sms_messages_for_number", ("GET",), f"{SMS}/messages/phone_number/[^/]+"),
    surface("sms_message_read", ("GET",), f"{SMS}/messages/uuid/[^/]+"),
    surface("sms_message_delete", ("DELETE",), f"{SMS}/messages/uuid/[^/]+"),
    surface("sms_delivery_reports_list", ("GET",), f"{SMS}/messages/uuid/[^/]+/delivery_reports"),
    surface("sms_delivery_report_read", ("GET",), f"{SMS}/messages/uuid/[^/]+/delivery_reports/uuid/[^/]+"),
    surface("sms_numbers_list", ("GET",), f"{SMS}/phone_numbers"),
    surface("sms_number_read", ("GET",), f"{SMS}/phone_numbers/[^/]+"),
    surface("sms_number_add", ("POST",), f"{SMS}/phone_numbers/[^/]+"),
    surface("sms_number_delete", ("DELETE",), f"{SMS}/phone_numbers/[^/]+"),
)
SSO_LANDING = "platform_ui_sso_landing"
TRANSCRIPT = [
    {"speaker": "agent", "text": "Juniper Dental, how can I help?"},
    {"speaker": "caller", "text": "My name is Zoë O'Hara, 541-555-0143, and my tooth hurts."},
]


def find(ask: Ask) -> str | None:
    """The id of the surface that the request reaches, or None when it is none of them."""
    path = "/" + "/".join(ask.segments)
    for each in SURFACES:
        if ask.method in each.methods and each.path.match(path):
            return each.id
    return SSO_LANDING if ask.parameter("access_token") and not path.startswith("/api/") else None


def answer(identity: str) -> Reply:
    marker = {
        "sandbox_surface": identity,
        "note": "not part of the two APIs: a gateway lets nothing through to here",
    }
    return as_json(200, marker | ({"transcript": TRANSCRIPT} if identity == "call_transcript" else {}))
