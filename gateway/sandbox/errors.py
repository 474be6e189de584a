"""The vendor's refusals: five documented shapes of an error body, each with the case that brings it about here.

1. Class and text   `{"errors": {"class": "RecordNotFound", "invalid_data": "..."}}`: whatever is not there
2. Field map        `{"errors": {"name": ["can't be blank"]}}`, nested as the request nests: a bad field
3. Field map, plus  `{"errors": {...}, "status": "Applied"}`: an affiliate campaign that is past Applied
4. Singular         `{"error": {"ivr_tree": {"children": [{"0": {...}}]}}}`: an IVR node without its prompt
5. Handle           `{"errors": {"class": "InternalServiceError", "invalid_data": "refer to error handle 1"}}`:
                    status 500, only by `Sandbox.faults`

403 says "invalid arguments" here, not "forbidden". The body of a 401 is not documented; shape 1 stands in.

Source: vendor pages Error Handling, Advertiser Campaigns (IVR), Affiliate Campaigns (POST), RingPools.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


class Refused(Exception):
    """A request that the sandbox turns down, with the status and JSON body to answer."""

    def __init__(self, status: int, body: Json) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


def classed(status: int, error_class: str, text: str) -> Refused:
    """Shape 1."""
    return Refused(status, {"errors": {"class": error_class, "invalid_data": text}})


def not_found(what: str, where: str = "") -> Refused:
    """Shape 1 with 404: `what` names kind and id, `where` the owners."""
    return classed(404, "RecordNotFound", f"Could not find {what}{where and ' for ' + where}")


def invalid(text: str) -> Refused:
    """Shape 1 with 403, for what cannot be pinned on one field."""
    return classed(403, "RecordInvalid", text)


def fields(errors: Json) -> Refused:
    """Shape 2: messages under the names of the request."""
    return Refused(403, {"errors": errors})


def blank(*names: str) -> Refused:
    """Shape 2 for required fields that are missing."""
    return fields({name: ["can't be blank"] for name in names})


def transition(field_errors: Json, status: str) -> Refused:
    """Shape 3: the status that was asked for stands beside the errors."""
    return Refused(403, {"errors": field_errors, "status": status})


def ivr(children: list[Json]) -> Refused:
    """Shape 4: the key of each child is its place, counted from zero, as text."""
    return Refused(403, {"error": {"ivr_tree": {"children": children}}})


def service_error(handle: int) -> Refused:
    """Shape 5: the handle is all a client learns; the vendor's support looks it up."""
    return classed(500, "InternalServiceError", f"refer to error handle {handle}")


def unauthorized() -> Refused:
    """401 for a missing or wrong credential."""
    return classed(
        401, "UnauthorizedOperation", "You do not have permissions to perform the requested operation."
    )
