"""Times the gateway beside what is installed: a plain aiohttp proxy, nginx, another commit, a peer that runs already.

Every system is started here (peers aside), is checked, and stays up, idle until its turn; rounds are interleaved.
What is measured has one CPU and one worker, so every number is per core; load and upstream share another CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from bench.generator import pairs
from bench.loads import LOADS, Generator, Load, Timing
from bench.processes import Children, Tools, ending_on_signals, memory_mb, two_cpus, write_json
from bench.report import note, number, ratio, say, spread, table
from bench.systems import UPSTREAM_TOKEN, Starter, System, check, export, forged

Results = dict[str, dict[str, list[Timing]]]
"""Timings by system and load."""


def start(options: argparse.Namespace, starter: Starter) -> list[System]:
    """Everything that can be timed here; what cannot is said."""
    makers: list[tuple[str, Callable[[], System]]] = [("plain", starter.plain)]
    program = starter.tools.find("nginx")
    if program is not None:
        makers.append(("nginx", lambda: starter.nginx(program)))
    else:
        note("nginx: not found, left out")
    makers.append(("gateway", starter.gateway))
    if options.commit:
        root = export(options.commit, starter.folder)
        makers.append(("commit", lambda: starter.gateway("commit", root, f"gateway at {options.commit}")))
    systems = []
    for name, make in makers:
        if name in options.skip:
            continue
        try:
            systems.append(make())
        except (RuntimeError, OSError, ValueError) as error:
            note(f"{name}: left out, it does not start: {error}")
    return systems + peers(options)


def peers(options: argparse.Namespace) -> list[System]:
    """The systems that run already. Their token comes from `--header`, and is spoilt for the 401s."""
    fields = pairs(options.header)
    known: dict[str, dict[str, str]] = {"good": fields}
    if "Authorization" in fields and len(fields["Authorization"]) > 60:
        known["forged"] = fields | {"Authorization": forged(fields["Authorization"])}
    if options.denied_header:
        known["denied"] = pairs(options.denied_header)
    return [System(name, name, url.rstrip("/"), dict(known)) for name, _, url in
            (peer.partition("=") for peer in options.against)]  # fmt: skip


def admitted(systems: Sequence[System], starter: Starter) -> list[System]:
    """Those that pass the check."""
    fine = []
    for system in systems:
        faults = check(system, starter.bodies)
        if faults:
            note(f"{system.name}: left out, it does not do the job: {'; '.join(faults)}")
            if system.child is not None and system.child.said():
                note(f"{system.name} said: {system.child.said()[-600:]}")
        else:
            fine.append(system)
    return fine


def timed(
    options: argparse.Namespace, systems: Sequence[System], generator: Generator, loads: Sequence[Load]
) -> Results:
    """Every load on every system, round by round."""
    results: Results = {system.name: {load.id: [] for load in loads} for system in systems}
    for system in systems:  # connections and caches are warm, and no just-in-time surprise is in round 1
        generator.run(LOADS[0], system.url, system.fields["good"], 1.0)
    for turn in range(options.rounds):
        for load in loads:
            for system in systems:
                if load.credential not in system.fields:
                    continue
                seconds = options.seconds if load.id == "small" else options.short
                try:
                    one = generator.run(load, system.url, system.fields[load.credential], seconds, system.pid)
                except (RuntimeError, OSError) as error:
                    system.notes.append(f"round {turn + 1}, {load.id}: {error}")
                    continue
                results[system.name][load.id].append(one)
                if one.wrong:
                    system.notes.append(
                        f"round {turn + 1}, {load.id}: {one.wrong} wrong answers of {one.requests}"
                    )
        done = ", ".join(f"{s.name} {results[s.name][loads[0].id][-1].rate:,.0f}/s"
                         for s in systems if results[s.name][loads[0].id])  # fmt: skip
        note(f"round {turn + 1} of {options.rounds}: {done}")
    return results


def values(timings: Sequence[Timing], what: Callable[[Timing], float | None]) -> list[float]:
    return [value for value in map(what, timings) if value is not None]


def show(systems: Sequence[System], results: Results, loads: Sequence[Load]) -> None:
    """A table for each load, with how each stands to the plain proxy and to nginx."""
    for load in loads:
        metric, unit = (_flow, "MB/s") if load.id in ("medium", "large") else (_rate, "req/s")
        rows = []
        for system in systems:
            got = results[system.name][load.id]
            mine = values(got, metric)
            rows.append(
                [
                    system.says,
                    spread(mine),
                    spread(values(got, lambda one: one.p50_us)),
                    spread(values(got, lambda one: one.p99_us)),
                    spread(values(got, lambda one: one.cpu_us)),
                    *(
                        ratio(mine, values(results.get(other, {}).get(load.id, []), metric))
                        for other in ("plain", "nginx")
                    ),
                ]
            )
        say(f"\n{load.says}\n")
        say(table(["system", unit, "p50 µs", "p99 µs", "CPU µs/request", "to plain", "to nginx"], rows))


def _rate(one: Timing) -> float:
    return one.rate


def _flow(one: Timing) -> float:
    return one.mb_per_s


def show_memory(systems: Sequence[System], idle: Mapping[str, float], after: Mapping[str, float]) -> None:
    rows = [[s.says, number(idle[s.name]), number(after[s.name])] for s in systems if s.name in idle]
    say("\nResident memory, MB\n")
    say(table(["system", "idle", "after the load"], rows))


def memory(systems: Sequence[System]) -> dict[str, float]:
    return {system.name: memory_mb(system.pid) for system in systems if system.pid is not None}


def as_document(
    systems: Sequence[System], results: Results, idle: Mapping[str, float], after: Mapping[str, float]
) -> list[dict[str, object]]:
    """What `--json` writes."""
    return [
        {
            "name": system.name,
            "says": system.says,
            "notes": system.notes,
            "memory_mb": {"idle": idle.get(system.name), "after": after.get(system.name)},
            "loads": {
                load: {
                    "rate": statistics.median([one.rate for one in timings]) if timings else None,
                    "runs": [asdict(one) for one in timings],
                }
                for load, timings in results[system.name].items()
            },
        }
        for system in systems
    ]


def _on_loopback(url: str) -> bool:
    place = urlsplit(url)
    return place.scheme == "http" and place.hostname in ("127.0.0.1", "localhost") and place.port is not None


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    gateway_cpus, load_cpus = two_cpus()
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run of the first load")
    parser.add_argument("--short", type=float, default=4.0, help="of each run of the other loads")
    parser.add_argument(
        "--loads", default=",".join(load.id for load in LOADS), help="which; default: %(default)s"
    )
    parser.add_argument(
        "--skip", action="append", default=[], metavar="NAME", help="leave out plain, nginx or gateway"
    )
    parser.add_argument("--tools", type=Path, metavar="DIR", help="look for wrk and nginx here before PATH")
    parser.add_argument("--commit", metavar="REV", help="time this commit of ours beside the working tree")
    parser.add_argument(
        "--against", action="append", default=[], metavar="NAME=URL", help="a peer that runs already"
    )
    parser.add_argument(
        "--header", action="append", default=[], metavar="NAME: VALUE", help="what peers are sent"
    )
    parser.add_argument("--denied-header", action="append", default=[], metavar="NAME: VALUE",
                        help="what peers answer with 403")  # fmt: skip
    parser.add_argument("--upstream-port", type=int, help="of the upstream, for peers; a free one by default")
    parser.add_argument("--upstream-token", default=UPSTREAM_TOKEN, help="the only credential it takes")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS",
                        help="between the start of the upstream and the check, to start peers in")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write every timing here")
    parser.set_defaults(gateway_cpus=gateway_cpus, load_cpus=load_cpus)
    options = parser.parse_args(arguments)
    unknown = set(options.loads.split(",")) - {load.id for load in LOADS}
    if unknown or options.rounds < 1:
        parser.error(
            f"there is no load {', '.join(sorted(unknown))}" if unknown else "--rounds has to be above 0"
        )
    if not all(_on_loopback(peer.partition("=")[2]) for peer in options.against):
        parser.error("--against takes NAME=http://127.0.0.1:PORT: nothing but loopback is loaded")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it all. Returns 1 when the gateway could not be timed, or answered wrongly."""
    options = parse(arguments)
    loads = [load for load in LOADS if load.id in options.loads.split(",")]
    tools = Tools(options.tools)
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending_on_signals())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        children = stack.enter_context(Children(folder))
        starter = Starter(children, tools, folder, options.gateway_cpus, options.load_cpus,
                          upstream_token=options.upstream_token)  # fmt: skip
        starter.upstream_port = options.upstream_port or starter.upstream_port
        upstream, generator = starter.upstream(), Generator(tools, options.load_cpus)
        say(f"upstream: {upstream} at {starter.upstream_url}; load: {generator.name}")
        say(
            f"CPU of the systems: {sorted(options.gateway_cpus)}; of load and upstream: {sorted(options.load_cpus)}"
        )
        if options.gateway_cpus == options.load_cpus:
            say("There is one CPU for both, so rates and latencies say little; CPU µs/request still does.")
        time.sleep(options.wait)
        systems = admitted(start(options, starter), starter)
        if not systems:
            say("There is nothing to time.")
            return 1
        share = len(systems) * options.rounds
        note(
            f"{len(systems)} systems, about {share * (options.seconds + options.short * (len(loads) - 1)):.0f} s"
        )
        time.sleep(0.5)
        idle = memory(systems)
        results = timed(options, systems, generator, loads)
        after = memory(systems)
    say(f"\nMedian of {options.rounds} interleaved rounds (min–max).")
    show(systems, results, loads)
    show_memory(systems, idle, after)
    remarks = [f"{system.name}: {text}" for system in systems for text in system.notes]
    say(
        "\n" + ("\n".join(remarks) if remarks else "Every answer of every run had the status it should have.")
    )
    if options.json:
        write_json(options.json, {"upstream": upstream, "load": generator.name,
                                  "systems": as_document(systems, results, idle, after)})  # fmt: skip
    ours = [system for system in systems if system.name in ("gateway", "commit")]
    wrong = any(one.wrong for s in ours for runs in results[s.name].values() for one in runs)
    return 1 if wrong or ("gateway" not in options.skip and not ours) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
