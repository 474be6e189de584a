"""A refusal we can name: one exception, one catalogue, and the place where it becomes bytes.

Code that fails says what, never with which status. `detail` is written for the client: no secret, no path of
ours, no text of the upstream's.

Sources: RFC 9457 (problem details), RFC 6750 section 3 (challenges), RFC 6749 section 5.2 (OAuth errors).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

TYPE_PREFIX = "urn:invoca-gateway:problem:"


@dataclass(frozen=True, slots=True)
class Kind:
    """Status, title, the bearer error code if there is one, and the error class for the vendor's envelope."""

    status: int
    title: str
    bearer: str | None = None
    vendor: str = "InvalidInput"


UNAUTHORIZED = "UnauthorizedOperation"

KINDS: dict[str, Kind] = {
    # the wire
    "bad-request": Kind(400, "The request is not one this gateway can read safely"),
    "bad-target": Kind(400, "The request target could be read in more than one way"),
    "bad-header": Kind(400, "A request header could be read in more than one way"),
    "bad-body": Kind(400, "The request body is not accepted"),
    "credential-in-query": Kind(400, "A credential was sent in the query", "invalid_request"),
    "credential-in-body": Kind(400, "A credential was sent in the body", "invalid_request"),
    "credential-in-header": Kind(400, "A credential was sent in a cookie or a Referer", "invalid_request"),
    "two-credentials": Kind(400, "More than one credential was sent", "invalid_request"),
    "forbidden-parameter": Kind(400, "A parameter that changes the meaning of a request was sent"),
    "bad-parameter": Kind(400, "A query parameter is not one the gateway can stand for"),
    "method-not-allowed": Kind(405, "The method is not allowed here"),
    "not-implemented": Kind(501, "The method is not implemented"),
    "request-timeout": Kind(408, "The request did not arrive in time"),
    "body-too-large": Kind(413, "The request body is too large"),
    "target-too-long": Kind(414, "The request target is too long"),
    "unsupported-media-type": Kind(415, "Only application/json in UTF-8 is accepted"),
    "expectation-failed": Kind(417, "The expectation cannot be met"),
    "head-too-large": Kind(431, "The request head is too large"),
    "version-not-supported": Kind(505, "The HTTP version is not supported"),
    # who
    "no-credential": Kind(401, "A bearer token is required", None, UNAUTHORIZED),
    "invalid-token": Kind(401, "The bearer token was not accepted", "invalid_token", UNAUTHORIZED),
    "network-not-allowed": Kind(403, "The token may not be used from this network", None, UNAUTHORIZED),
    "invalid-session": Kind(401, "The session has ended, or is none of ours", None, UNAUTHORIZED),
    "sign-in-failed": Kind(401, "The e-mail address and password were not accepted", None, UNAUTHORIZED),
    "sign-in-required": Kind(403, "This is for somebody who is signed in", None, UNAUTHORIZED),
    "cross-site": Kind(403, "The request comes from another site", None, UNAUTHORIZED),
    "invalid-csrf-token": Kind(403, "The CSRF token is missing, or not the session's", None, UNAUTHORIZED),
    # what
    "not-found": Kind(404, "There is nothing here", None, "RecordNotFound"),
    "unknown-operation": Kind(
        404, "The request matches no operation of the two APIs", None, "RecordNotFound"
    ),
    "other-surface": Kind(403, "This surface of the vendor is not offered", None, UNAUTHORIZED),
    "unknown-version": Kind(403, "The API version is not one the vendor documents", None, UNAUTHORIZED),
    # may they
    "denied": Kind(403, "Policy denies this operation", None, UNAUTHORIZED),
    "insufficient-scope": Kind(403, "The token lacks a scope", "insufficient_scope", UNAUTHORIZED),
    "account-not-allowed": Kind(403, "The token does not reach this account", None, UNAUTHORIZED),
    "columns-withheld": Kind(403, "None of the columns asked for may be seen", None, UNAUTHORIZED),
    "removals-unconfirmed": Kind(409, "The request would remove what it does not name"),
    "rate-limited": Kind(429, "Too many requests", None, UNAUTHORIZED),
    "budget-spent": Kind(429, "The token has been given its personal records of the day", None, UNAUTHORIZED),
    # the admin sub-app
    "on-behalf-of": Kind(403, "Nobody makes a token on somebody else's behalf", None, UNAUTHORIZED),
    "invalid-input": Kind(422, "The request is understood and not acceptable"),
    "description-taken": Kind(409, "Another live token of yours has this description"),
    "token-ended": Kind(409, "The token has expired or was deleted"),
    "idempotency-key-reused": Kind(422, "The Idempotency-Key was used for another request"),
    "answer-gone": Kind(410, "The answer to this Idempotency-Key is no longer kept"),
    "invalid-code": Kind(403, "The one-time code was not accepted", None, UNAUTHORIZED),
    "last-administrator": Kind(409, "A network keeps an active administrator"),
    "beyond-maker": Kind(403, "A token made by a token cannot exceed it", None, UNAUTHORIZED),
    # us and the vendor
    "store-unavailable": Kind(503, "The token store cannot answer", None, "InternalServiceError"),
    "record-unavailable": Kind(503, "The decision record cannot be written", None, "InternalServiceError"),
    "no-upstream-credential": Kind(
        503, "No upstream credential is configured for this account", None, "InternalServiceError"
    ),
    "overloaded": Kind(503, "The gateway is at its limit", None, "InternalServiceError"),
    "upstream-unreachable": Kind(502, "The upstream cannot be reached", None, "InternalServiceError"),
    "upstream-invalid": Kind(502, "The upstream's answer is not valid HTTP", None, "InternalServiceError"),
    "upstream-refused-us": Kind(
        502, "The upstream refused the gateway's credential", None, "InternalServiceError"
    ),
    "upstream-redirect": Kind(502, "The upstream answered with a redirect", None, "InternalServiceError"),
    "upstream-failed": Kind(502, "The upstream failed", None, "InternalServiceError"),
    "upstream-refused": Kind(502, "The upstream refused the request", None, "InvalidInput"),
    "upstream-unreadable": Kind(
        502, "The upstream's answer cannot be read to its end", None, "InternalServiceError"
    ),
    "upstream-timeout": Kind(504, "The upstream did not answer in time", None, "InternalServiceError"),
    "internal-error": Kind(500, "The gateway made a mistake", None, "InternalServiceError"),
}

Headers = tuple[tuple[str, str], ...]
Wire = tuple[int, Headers, bytes]


class Problem(Exception):
    """A refusal of a known kind. `members` become extension members of the problem document.

    `status` is given only where the upstream's own status has to be kept (kind `upstream-refused`).
    """

    def __init__(
        self, kind: str, detail: str = "", *, status: int = 0, headers: Headers = (), **members: object
    ) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail
        self.status = status or KINDS[kind].status
        self.headers = headers
        self.members = members

    def challenge(self) -> str | None:
        """The `WWW-Authenticate` value, or None. No error code when no credential was sent (RFC 6750 3.1)."""
        kind = KINDS[self.kind]
        if kind.bearer is None:
            return 'Bearer realm="invoca-gateway"' if kind.status == 401 else None
        parts = ['Bearer realm="invoca-gateway"', f'error="{kind.bearer}"']
        if self.detail:
            parts.append(f'error_description="{_challenge_text(self.detail)}"')
        scope = self.members.get("scope")
        if isinstance(scope, str):
            parts.append(f'scope="{scope}"')
        return ", ".join(parts)

    def to_problem_json(self, request_id: str = "") -> Wire:
        """RFC 9457, with the vendor's envelope as `errors` so that Invoca clients can read it too."""
        kind = KINDS[self.kind]
        document: dict[str, object] = {
            "type": TYPE_PREFIX + self.kind,
            "title": kind.title,
            "status": self.status,
            "detail": self.detail or kind.title,
        }
        if request_id:
            document["instance"] = "urn:invoca-gateway:request:" + request_id
        document |= self.members
        document["errors"] = {"class": kind.vendor, "invalid_data": self.detail or kind.title}
        headers = [
            ("Content-Type", "application/problem+json"),
            ("Cache-Control", "no-store"),
            ("Gateway-Answer", self.kind),
        ]
        challenge = self.challenge()
        if challenge is not None:
            headers.append(("WWW-Authenticate", challenge))
        # Half a surrogate pair, out of a raw byte of a target, is written as the JSON escape that it is.
        body = json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")
        return self.status, (*headers, *self.headers), body


def to_oauth_json(error: str, description: str, status: int = 400, headers: Headers = ()) -> Wire:
    """An error answer of an OAuth endpoint, RFC 6749 section 5.2."""
    body = json.dumps({"error": error, "error_description": _challenge_text(description)}).encode()
    fixed: Headers = (
        ("Content-Type", "application/json"),
        ("Cache-Control", "no-store"),
        ("Pragma", "no-cache"),
        ("Gateway-Answer", error.replace("_", "-")),
    )
    return status, (*fixed, *headers), body


def _challenge_text(text: str) -> str:
    """Only the characters RFC 6750 section 3 and RFC 6749 section 5.2 allow in a description."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in text)
