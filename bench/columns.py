"""What withholding columns costs: 4,000 rows of 175 columns, 75 of them withheld, in three formats, on one core.

Each filter is timed beside the usual way to do the same: load everything, filter, dump, with orjson, the csv module
and lxml (those that are installed). `first` is the first answer of its shape, with learning and compiling in it;
`MB/s` the ones after it, median (min–max) over interleaved rounds, of upstream bytes and CPU time. Memory is how far a
process of its own grows while it works. `first out` is how many upstream bytes, and how long, the client waits for the
first byte. Last, a body with nothing to withhold beside plain forwarding: the same pieces through two pairs of
sockets, which is the least a forwarding process does.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bench.processes import write_json
from bench.report import NOTHING, median, number, say, spread, table
from gateway.columns import ColumnClass, Format, Reveal, load, open_filter
from gateway.sandbox.columns import COLUMNS, CUSTOM_DATA
from gateway.sandbox.formats import CsvStyle, csv_pieces, json_pieces, xml_pieces
from gateway.sandbox.rows import build
from gateway.sandbox.sample import TODAY

ROWS = 4_000
VIEW, VERSION = "n", "2020-10-01"
OWN_COLUMNS = ("patient_email", "visit_reason")
LEFT_OUT = ("transfer_from_type", CUSTOM_DATA)
"""So that it is 175 columns with 75 withheld: the network view has 174 without custom_data, 73 of them pii."""
PIECE = 65_536
FORMATS: tuple[Format, ...] = ("json", "csv", "xml")
REVEALED: tuple[ColumnClass, ...] = ("public", "financial")
MARKS = {"json": 80, "csv": 150, "xml": 60}
Work = Callable[[bytes], object]


@dataclass(frozen=True)
class Body:
    """An answer in one format, and the same one as it would be with nothing to withhold."""

    form: Format
    data: bytes
    public: bytes


def bodies(reveal: Reveal, rows: int) -> Iterator[Body]:
    """The same rows in every format, as the sandbox writes them."""
    values = [row.values for row in build(3, TODAY, calls=rows)][:rows]
    known = [column.name for column in COLUMNS if column.known(VIEW, VERSION)]
    names = [name for name in known if name not in LEFT_OUT] + list(OWN_COLUMNS)
    seen = [name for name in names if reveal.sees(name)]

    def write(form: Format, columns: Sequence[str]) -> bytes:
        if form == "json":
            return "".join(json_pieces(values, columns)).encode()
        pieces = xml_pieces(values, columns) if form == "xml" else csv_pieces(values, columns, CsvStyle())
        return "".join(pieces).encode()

    for form in FORMATS:
        yield Body(form, write(form, names), write(form, seen))


def pieces(data: bytes) -> Iterator[bytes]:
    return (data[at : at + PIECE] for at in range(0, len(data), PIECE))


def ours(form: Format, reveal: Reveal) -> Work:
    """Feeds a body in pieces and drops what passes, as a server that writes it out would."""

    def work(data: bytes) -> int:
        chosen = open_filter(form, reveal, count=True)
        assert chosen is not None
        passed = 0
        for piece in pieces(data):
            passed += len(chosen.feed(piece))
        chosen.close()
        return passed

    return work


def peers(form: Format, reveal: Reveal) -> dict[str, Work]:
    """The usual ways that are installed: name to what takes a body and gives the filtered one."""
    if form == "csv":
        return {"csv module": lambda data: csv_module(data, reveal)}
    name = "orjson" if form == "json" else "lxml.etree"
    try:
        library = importlib.import_module(name)
    except ImportError:
        return {}
    way = with_orjson if form == "json" else with_lxml
    return {name: lambda data: way(library, data, reveal)}


def ways(form: Format, reveal: Reveal) -> dict[str, Work]:
    return {"filter": ours(form, reveal)} | peers(form, reveal)


def with_orjson(orjson: ModuleType, data: bytes, reveal: Reveal) -> bytes:
    rows = orjson.loads(data)
    seen = {name: reveal.sees(name) for name in rows[0]}
    kept = [{name: value for name, value in row.items() if seen[name]} for row in rows]
    return bytes(orjson.dumps(kept))


def csv_module(data: bytes, reveal: Reveal) -> bytes:
    rows = csv.reader(io.StringIO(data.decode(), newline=""))
    header = next(rows)
    places = [place for place, name in enumerate(header) if reveal.sees(name)]
    out = io.StringIO(newline="")
    write = csv.writer(out, lineterminator="\n").writerow
    write([header[place] for place in places])
    for row in rows:
        write([row[place] for place in places])
    return out.getvalue().encode()


def with_lxml(etree: ModuleType, data: bytes, reveal: Reveal) -> bytes:
    root = etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True))
    for row in root:
        for child in list(row):
            if not reveal.sees(child.tag):
                row.remove(child)
    return bytes(etree.tostring(root, encoding="UTF-8", xml_declaration=True))


def cpu_s(work: Work, data: bytes) -> float:
    began = time.process_time()
    work(data)
    return time.process_time() - began


def growth_mb(form: Format, name: str, data: bytes) -> float:
    """By how much a fresh process grows at most while it works, learning included."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        command = [sys.executable, "-m", "bench.columns", "--grow", form, name, file.name]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1e6  # noqa: S603 - ourselves


def grown(form: Format, name: str, path: str) -> int:
    """In that process: bytes beyond what it had with the body, and the libraries loaded."""
    work = ways(form, load().reveal(REVEALED))[name]
    data = Path(path).read_bytes()
    # The smallest of answers first, so that modules are loaded and buffers there.
    work({"json": b"[{}]", "csv": b"duration\n1\n", "xml": b"<Transactions/>"}[form])
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    work(data)
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return max(0, int(peak[1]) * 1024 - before)


def first_out(form: Format, reveal: Reveal, data: bytes) -> tuple[int, float]:
    """(upstream bytes fed, µs of CPU) until the first byte passes, when 1,024 bytes come at a time."""
    chosen = open_filter(form, reveal, count=True)
    assert chosen is not None
    began = time.process_time()
    for at in range(0, len(data), 1024):
        if chosen.feed(data[at : at + 1024]):
            return at + 1024, (time.process_time() - began) * 1e6
    return len(data), (time.process_time() - began) * 1e6


class Forwarding:
    """Pieces through two pairs of sockets: from an upstream to us, and from us to a client."""

    def __init__(self) -> None:
        self._upstream, self._in = socket.socketpair()
        self._out, self._client = socket.socketpair()
        for each in (self._upstream, self._out):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * PIECE)

    def through(self, data: bytes, feed: Callable[[bytes], bytes] | None) -> None:
        for piece in pieces(data):
            self._upstream.sendall(piece)
            came = self._in.recv(PIECE)
            passed = came if feed is None else feed(came)
            if passed:
                self._out.sendall(passed)
                left = len(passed)
                while left:
                    left -= len(self._client.recv(left))

    def close(self) -> None:
        for each in (self._upstream, self._in, self._out, self._client):
            each.close()


def filtering(body: Body, reveal: Reveal, everything: Reveal, rounds: int) -> dict[str, object]:
    """One line of the table for the filter and each peer, by name."""
    works = ways(body.form, reveal)
    size = len(body.data) / 1e6
    grown_mb = {name: growth_mb(body.form, name, body.data) for name in works}
    fed, waited = first_out(body.form, reveal, body.data)
    first = size / cpu_s(works["filter"], body.data)
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(size / cpu_s(work, body.data))
    return {
        name: {
            "mb_per_s": times[name],
            "first_mb_per_s": first if name == "filter" else None,
            "grown_mb": grown_mb[name],
            "first_out_bytes": fed if name == "filter" else len(body.data),
            "first_out_us": waited if name == "filter" else size / (median(times[name]) or 1) * 1e6,
        }
        for name in works
    } | {"everything": open_filter(body.form, everything) is None}


def nothing_to_withhold(body: Body, reveal: Reveal, rounds: int) -> dict[str, list[float]]:
    """CPU ns a byte of forwarding a body with nothing to withhold: plainly, and with the filter looking."""
    forwarding = Forwarding()
    times: dict[str, list[float]] = {"plain": [], "verified": []}
    for _ in range(rounds + 1):
        for name, taken in times.items():
            chosen = open_filter(body.form, reveal, count=True) if name == "verified" else None
            began = time.process_time()
            forwarding.through(body.public, chosen and chosen.feed)
            taken.append((time.process_time() - began) / len(body.public) * 1e9)
    forwarding.close()
    return {name: taken[1:] for name, taken in times.items()}


def show(form: Format, found: dict[str, object], rows: list[list[str]]) -> None:
    for name, numbers in found.items():
        if isinstance(numbers, dict):
            first = numbers["first_mb_per_s"]
            rows.append(
                [
                    f"{form} {name}",
                    spread(numbers["mb_per_s"]),
                    str(MARKS[form]) if name == "filter" else NOTHING,
                    NOTHING if first is None else number(first),
                    number(numbers["grown_mb"]),
                    f"{number(numbers['first_out_bytes'] / 1e3)} kB, {number(numbers['first_out_us'])} µs",
                ]
            )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--json", metavar="FILE", help="write all numbers here")
    parser.add_argument("--grow", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.grow:
        say(str(grown(*options.grow)))
        return
    classes = load()
    reveal, everything = classes.reveal(REVEALED), classes.reveal(["public", "pii", "financial"])
    document: dict[str, object] = {}
    rows: list[list[str]] = []
    idle: list[list[str]] = []
    for body in bodies(reveal, options.rows):
        found = filtering(body, reveal, everything, options.rounds)
        plain = nothing_to_withhold(body, reveal, options.rounds)
        document[body.form] = {"bytes": len(body.data), "filtering": found, "nothing_to_withhold": plain}
        show(body.form, found, rows)
        cost = (median(plain["verified"]) or 0) / (median(plain["plain"]) or 1)
        skipped = "1.00× (no filter)" if found["everything"] else NOTHING
        idle.append([body.form, spread(plain["plain"]), spread(plain["verified"]), f"{cost:.2f}×", skipped])
    say(table(["", "MB/s", "mark", "first, MB/s", "grown, MB", "first out"], rows))
    say()
    say("Nothing to withhold, CPU ns a byte:")
    say(table(["", "plain forwarding", "verified", "verified / plain", "all classes revealed"], idle))
    if options.json:
        write_json(options.json, document)


if __name__ == "__main__":
    main()
