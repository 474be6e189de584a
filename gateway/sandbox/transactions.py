"""The Transactions API: three views of the same rows, read only, in three formats.

`/api/{version}/{networks|advertisers|affiliates}/transactions/{id}.{json|csv|xml}`, and the same without
`/api/{version}`, which old snapshots of the documentation show and which answers as the oldest version.

The vendor documents no errors here. Unknown accounts are 404 in the class shape; a parameter that cannot be read
is 403 with a field map; a `limit` above 4000 means 4000.

Source: vendor pages Transactions API, for network, advertiser and affiliate users.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from itertools import islice

from gateway.sandbox.columns import VIEWS, choose
from gateway.sandbox.errors import Json, fields, not_found
from gateway.sandbox.exchange import Ask, Reply, whole_number
from gateway.sandbox.formats import CsvStyle, Pieces, csv_pieces, json_pieces, xml_pieces
from gateway.sandbox.rows import LABELS, Row
from gateway.sandbox.sample import ADVERTISERS, AFFILIATES, NETWORK_ID

OLDEST_VERSION = "2015-12-10"
ROLLUP_VERSION = "2020-10-01"  # from here on signals are rolled up into their calls, and have no rows
DEFAULT_LIMIT = 1000
LARGEST_LIMIT = 4000
PIECE_BYTES = 32 * 1024

CONTENT_TYPES = {
    "json": "application/json; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "xml": "application/xml; charset=utf-8",
}
ACCOUNTS = {
    "networks": {NETWORK_ID},
    "advertisers": {each.id for each in ADVERTISERS},
    "affiliates": {each.id for each in AFFILIATES},
}
KINDS = {"networks": "Network", "advertisers": "Advertiser", "affiliates": "Affiliate"}


def is_transactions(segments: Sequence[str]) -> bool:
    """Whether the path behind `/api/{version}` is one of this API: an account kind, then "transactions"."""
    return len(segments) == 3 and segments[0] in VIEWS and segments[1] == "transactions"


def answer(ask: Ask, version: str, segments: Sequence[str], rows: Sequence[Row]) -> Reply:
    """Args: version: of the path; segments: the three behind it. Raises: Refused."""
    accounts, account, suffix = segments[0], *segments[2].rpartition(".")[::2]
    if ask.method != "GET" or suffix not in CONTENT_TYPES:
        raise not_found(f"{ask.method} {ask.path}")
    if account not in ACCOUNTS[accounts]:
        raise not_found(f"{KINDS[accounts]} {account}")
    names = choose(
        VIEWS[accounts], version, ask.parameter("include_columns"), ask.parameter("exclude_columns")
    )
    visible = [row for row in rows if sees(accounts, account, version, row)]
    page = islice(selected(ask, visible), limit(ask))
    pieces = written(ask, suffix, (row.values for row in page), names)
    return Reply(200, CONTENT_TYPES[suffix], batches(pieces), streamed=True)


def sees(accounts: str, account: str, version: str, row: Row) -> bool:
    """Whether the account has the row, and the version has rows of its kind."""
    if row.kind == "Signal" and version >= ROLLUP_VERSION:
        return False
    if accounts == "advertisers":
        return row.campaign.advertiser.id == account
    return accounts == "networks" or (row.affiliate is not None and row.affiliate.id == account)


def selected(ask: Ask, rows: list[Row]) -> Iterator[Row]:
    """The rows that meet every filter, behind the cursor.

    With dates the order is that of the calls, without them that of the rows; a cursor is a place in that order.
    Raises: Refused, here and not while rows are taken: by then the status is on its way.
    """
    window, wanted = days(ask), kinds(ask)
    ordered = sorted(rows, key=lambda row: (row.started, row.written, row.id)) if window else rows
    one, call = ask.parameter("transaction_id"), ask.parameter("call_record_id")
    return (
        row
        for row in behind(ordered, ask.parameter("start_after_transaction_id"))
        if row.kind in wanted
        and one in ("", row.id)
        and call in ("", row.call_id)
        and (window is None or window[0] <= row.day <= window[1])
    )


def behind(rows: list[Row], cursor: str) -> Iterable[Row]:
    """The rows after the one with that id. An id that is not there is a 404: the vendor does not say."""
    if not cursor:
        return rows
    for place, row in enumerate(rows, 1):
        if row.id == cursor:
            return rows[place:]
    raise not_found(f"Transaction {cursor}")


def days(ask: Ask) -> tuple[date, date] | None:
    """First and last day, both included; None with one of them alone, which filters nothing."""
    first, last = ask.parameter("from"), ask.parameter("to")
    return (day("from", first), day("to", last)) if first and last else None


def day(name: str, text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007 - a day of the user's, not a moment
    except ValueError:
        raise fields({name: ["is not a valid date"]}) from None


def kinds(ask: Ask) -> frozenset[str]:
    """The kinds asked for, in the filter's spelling; all when none is named."""
    wanted = [ask.parameter("transaction_type"), *ask.parameters("transaction_type[]")]
    named = frozenset(kind for kind in wanted if kind)
    if not named <= LABELS.keys():
        raise fields({"transaction_type": ["is not included in the list"]})
    return named or frozenset(LABELS)


def limit(ask: Ask) -> int:
    wanted = whole_number(ask.parameter("limit") or str(DEFAULT_LIMIT))
    if not wanted:
        raise fields({"limit": ["must be greater than 0"]})
    return min(wanted, LARGEST_LIMIT)


def written(ask: Ask, suffix: str, rows: Iterable[Json], names: list[str]) -> Pieces:
    if suffix == "json":
        return json_pieces(rows, names)
    return xml_pieces(rows, names) if suffix == "xml" else csv_pieces(rows, names, csv_style(ask))


def csv_style(ask: Ask) -> CsvStyle:
    style = CsvStyle(
        ask.parameter("column_separator") or ",",
        ask.parameter("row_separator") or "\n",
        ask.parameter("include_header", "1") != "0",
        ask.parameter("force_quotes", "0") == "1",
    )
    for name in ("column_separator", "row_separator"):
        if '"' in getattr(style, name):
            raise fields({name: ["is invalid"]})
    return style


def batches(pieces: Pieces) -> Iterator[bytes]:
    """The text in chunks of about 32 KiB: one write for each row would be slow."""
    waiting: list[str] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            yield "".join(waiting).encode()
            waiting, size = [], 0
    if waiting:
        yield "".join(waiting).encode()
