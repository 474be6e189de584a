"""The pure parts of the measurements: what they count, what they let pass, and what they print."""

from __future__ import annotations

import asyncio
import csv
import io
import random

import pytest

from bench import columns, generator, report, run, scripted, serving, slow, soak, static, steps, systems
from bench.bodies import SIZES, SMALL, all_bodies
from bench.client import Answer, Broken, Client
from bench.loads import LOADS, Timing
from gateway import config
from gateway.columns import load, open_filter

# --- numbers


def test_a_spread_is_median_and_bounds():
    assert report.spread([3.0, 1.0, 200.0]) == "3.00 (1.00–200)"
    assert report.spread([12_345.6]) == "12,346"
    assert report.spread([]) == report.NOTHING


@pytest.mark.parametrize(("share", "expected"), [(50, 50), (99, 99), (100, 100), (1, 1)])
def test_a_percentile_is_the_nearest_rank(share, expected):
    assert report.percentile(list(range(1, 101)), share) == expected


def test_a_percentile_of_nothing_is_zero():
    assert report.percentile([], 99) == 0


def test_a_slope_is_the_rise_per_unit():
    assert report.slope([(0, 1), (1, 3), (2, 5)]) == pytest.approx(2)
    assert report.slope([(1, 1), (1, 2)]) == 0


def test_a_ratio_needs_both_sides():
    assert report.ratio([2, 4, 6], [2.0]) == "2.00×"
    assert report.ratio([2.0], []) == report.NOTHING


def test_a_table_is_as_wide_as_its_widest_cell():
    assert report.table(["a", "bb"], [["long", "1"]]).splitlines() == [
        "| a    | bb |",
        "|------|----|",
        "| long | 1  |",
    ]


def test_cpu_per_request_is_unknown_without_a_process():
    assert Timing(10, 2.0, 4_000_000, 0, 1, 1, None).cpu_us is None
    one = Timing(10, 2.0, 4_000_000, 0, 1, 1, 0.5)
    assert (one.rate, one.mb_per_s, one.cpu_us) == (5.0, 2.0, 50_000.0)


# --- what is asked and answered


def test_every_load_asks_for_a_body_there_is():
    assert {load.path for load in LOADS} == set(SIZES)
    assert {path: len(body) for path, body in all_bodies().items()} == SIZES


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /x HTTP/1.1\r\nAUTHORIZATION: secret\r\n", b"200"),
        (b"GET /x HTTP/1.1\r\nAuthorization: Bearer secret\r\n", b"418"),
        (b"GET /x HTTP/1.1\r\nAuthorization: secrets\r\n", b"418"),
        (b"GET /x HTTP/1.1\r\nAuthorization: SECRET\r\n", b"418"),
        (b"GET /x HTTP/1.1\r\nAuthorization: secret\r\nAuthorization: other\r\n", b"418"),
        (b"GET /x HTTP/1.1\r\nHost: a\r\n", b"418"),
    ],
)
def test_the_upstream_answers_its_own_credential_alone(head, status):
    prepared = static.answers({SMALL: b"{}"})
    assert static.reply(head, b"\r\nauthorization: secret\r\n", prepared)[9:12] == status


def test_a_forged_token_differs_in_its_signature_alone():
    token = "header.payload." + "s" * 86
    made = systems.forged(token)
    assert made != token
    assert made[:-86] == token[:-86]
    assert len(made) == len(token)


def test_each_fresh_forgery_is_another_one():
    make = generator.fresh_forgeries("Bearer header.payload." + "s" * 86)
    made = {make() for _ in range(100)}
    assert len(made) == 100
    assert all(text.startswith("Bearer header.payload.s") and len(text) == 108 for text in made)


def test_bodies_of_the_scripted_upstream_tell_requests_apart():
    assert scripted.body(1, 500) != scripted.body(2, 500)
    assert [len(scripted.body(7, size)) for size in soak.SIZES] == list(soak.SIZES)


def test_every_fault_has_a_script():
    assert set(scripted.FAULTS) == set(scripted.Scripted("x")._scripts)


def test_the_configuration_of_the_endurance_runs_is_a_valid_one():
    text = serving.config(8080, "http://127.0.0.1:9000", {"head_timeout_s": 2.0}, soak.DEADLINES)
    made = config.read(text, "config.toml")
    assert (made.limits.head_timeout_s, made.limits.requests_per_minute) == (2.0, 0)
    assert made.upstream.idle_timeout_s == soak.DEADLINES["idle_timeout_s"]


def test_metrics_are_summed_over_their_labels():
    text = '# HELP x y\ninvoca_gateway_a{b="1"} 2\ninvoca_gateway_a{b="2"} 3\ninvoca_gateway_busy 0\n'
    assert serving.parse_metrics(text) == {"a": 5.0, "busy": 0.0}


# --- verdicts

RIGHT = b"right"


def answer(status: int, body: bytes = b"", problem: str = "") -> Answer:
    return Answer(status, {"gateway-answer": problem} if problem else {}, body)


@pytest.mark.parametrize(
    ("fault", "got"),
    [
        ("none", answer(200, RIGHT)),
        ("hang", answer(504, problem="upstream-timeout")),
        ("reset", answer(502, problem="upstream-unreachable")),
        ("cut", None),
        ("cut", answer(502, problem="upstream-invalid")),
        ("too-much", answer(200, RIGHT)),
    ],
)
def test_what_may_come_passes(fault, got):
    assert soak.judge(scripted.FAULTS[fault], got, RIGHT) is None


@pytest.mark.parametrize(
    ("fault", "got"),
    [
        ("none", None),
        ("none", answer(200, b"another")),
        ("none", answer(502, problem="upstream-invalid")),
        ("cut", answer(200, RIGHT)),
        ("cut", answer(200, RIGHT[:-1])),
        ("hang", answer(502, problem="upstream-timeout")),
        ("500", answer(500)),
        ("reset", answer(500, problem="internal-error")),
    ],
)
def test_what_may_not_come_is_named(fault, got):
    assert soak.judge(scripted.FAULTS[fault], got, RIGHT)


def test_growth_leaves_the_warm_up_out():
    warm = [soak.Sample(at, 50.0 + at * 10, 10, 0, 0) for at in range(3)]
    steady = [soak.Sample(at, 80.0, 10, 0, 0) for at in range(3, 13)]
    assert soak.growth(warm + steady, "memory_mb") == pytest.approx((0, 0))


@pytest.mark.parametrize("seed", range(20))
def test_garbage_ends_like_a_head(seed):
    assert b"\r\n\r\n" in soak.garbage(random.Random(seed))


def crowd(lasted: float) -> slow.Attack:
    made = slow.Attack(0, "", 0.5, [])
    for kind in slow.KINDS:
        made.lasted[kind], made.statuses[kind] = [lasted], {"none": 1}
    return made


def found(p99_ms: float, wrong: int = 0) -> dict[str, object]:
    return {"requests": 100, "statuses": {"200": 100 - wrong}, "faults": 0, "p99_us": p99_ms * 1000}


@pytest.mark.parametrize(
    ("loud", "memory", "lasted", "words"),
    [
        (found(15), [60.0], 10.0, None),
        (found(40), [60.0], 10.0, "p99"),
        (found(15, wrong=1), [60.0], 10.0, "wrong"),
        (found(15), [60.0, 200.0], 10.0, "memory"),
        (found(15), [60.0], 16.0, "lasted"),
    ],
)
def test_an_attack_is_stood_or_not(loud, memory, lasted, words):
    options = slow.parse([])
    got = slow.faults_of(options, crowd(lasted), found(10), loud, 50.0, memory, slow.Deadlines(10, 30, 5))
    assert [words in text for text in got] == ([] if words is None else [True])


# --- the strict client


async def ask(wire: bytes) -> Answer:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(wire)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        client = Client("127.0.0.1", server.sockets[0].getsockname()[1])
        try:
            await client.send(b"x")
            return await client.answer(10)
        finally:
            client.close()


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "wire",
    [
        HEAD + b"Content-Length: 5\r\n\r\nright",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nrig\r\n2\r\nht\r\n0\r\n\r\n",
    ],
)
async def test_a_whole_answer_is_read(wire):
    assert (await ask(wire)).body == RIGHT


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        HEAD,
        HEAD + b"\r\nright",
        HEAD + b"Content-Length: 6\r\n\r\nright",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nright\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nright\r\n0\r\n",
        b"garbage\r\n\r\n",
    ],
)
async def test_an_answer_that_is_not_whole_is_none(wire):
    with pytest.raises(Broken):
        await ask(wire)


# --- the commands


@pytest.mark.parametrize("command", [run, steps, slow, soak])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        command.parse(["--help"])
    assert ended.value.code == 0
    assert "python -m bench." in capsys.readouterr().out


@pytest.mark.parametrize(
    "url", ["http://example.com:80", "http://127.0.0.1.example.com:80", "http://127.0.0.1", ""]
)
def test_nothing_but_loopback_is_loaded(url, capsys):
    with pytest.raises(SystemExit):
        run.parse(["--against", f"peer={url}"])
    assert "loopback" in capsys.readouterr().err


def test_an_unknown_load_is_named(capsys):
    with pytest.raises(SystemExit):
        run.parse(["--loads", "smal"])
    assert "smal" in capsys.readouterr().err


def test_extra_policies_are_as_many_as_asked_for():
    assert steps.extra_policies(3).count("@id(") == 3


# --- columns


def test_the_answer_has_175_columns_of_which_75_are_withheld():
    reveal = load().reveal(columns.REVEALED)
    (table,) = [body for body in columns.bodies(reveal, 5) if body.form == "csv"]
    names = table.data.decode().split("\n", 1)[0].split(",")
    assert (len(names), sum(not reveal.sees(name) for name in names)) == (175, 75)
    assert table.public.decode().split("\n", 1)[0].split(",") == [name for name in names if reveal.sees(name)]


def test_the_usual_way_and_the_filter_pass_the_same_table():
    reveal = load().reveal(columns.REVEALED)
    (table,) = [body for body in columns.bodies(reveal, 20) if body.form == "csv"]
    chosen = open_filter("csv", reveal)
    passed = [list(csv.reader(io.StringIO(each.decode(), newline=""))) for each in
              (chosen.feed(table.data), columns.csv_module(table.data, reveal), table.public)]  # fmt: skip
    assert passed[0] == passed[1] == passed[2]
