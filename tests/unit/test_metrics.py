"""Counters and gauges in the text exposition format, with labels from closed sets."""

from __future__ import annotations

import re

import pytest

from gateway.metrics import COUNTERS, Metrics

SAMPLE = re.compile(
    r'[a-z_]+(\{[a-z_]+="[^"\\\n]*"(,[a-z_]+="[^"\\\n]*")*\})? -?[0-9.e+-]+|[a-z_]+ (nan|inf)'
)


def samples(text):
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_every_counter_is_announced_even_before_it_counts():
    text = Metrics().text()
    for name in COUNTERS:
        assert f"# TYPE invoca_gateway_{name}_total counter\n" in text
        assert f"# HELP invoca_gateway_{name}_total " in text
    assert text.endswith("\n")


def test_a_counter_without_labels_begins_at_zero():
    # Otherwise its first increase is no increase to whoever watches it.
    assert "invoca_gateway_exposed_tokens_total 0" in samples(Metrics().text())


def test_counts_add_up_by_their_labels():
    metrics = Metrics()
    for status in ("200", "200", "403"):
        metrics.count("exchanges", "proxy", status, "" if status == "200" else "denied")
    metrics.count("exposed_tokens")
    assert metrics.value("exchanges", "proxy", "200", "") == 2
    assert metrics.value("exchanges", "admin", "200", "") == 0
    found = samples(metrics.text())
    assert 'invoca_gateway_exchanges_total{surface="proxy",status="200",problem=""} 2' in found
    assert 'invoca_gateway_exchanges_total{surface="proxy",status="403",problem="denied"} 1' in found
    assert "invoca_gateway_exposed_tokens_total 1" in found


@pytest.mark.parametrize(
    "call", [("nothing",), ("exchanges",), ("exchanges", "a"), ("exposed_tokens", "x"), ("alarms",)]
)
def test_a_counter_or_a_label_outside_the_catalogue_is_a_bug_at_once(call):
    with pytest.raises(KeyError):
        Metrics().count(*call)


def test_a_gauge_is_asked_when_the_text_is_made():
    metrics, now = Metrics(), [1.5]
    metrics.gauge("upstream_busy", "Connections in use.", lambda: now[0])
    assert "invoca_gateway_upstream_busy 1.5" in samples(metrics.text())
    now[0] = 7
    assert "invoca_gateway_upstream_busy 7" in samples(metrics.text())


def test_every_line_keeps_the_format():
    metrics = Metrics()
    metrics.count("alarms", "internal-error")
    metrics.count("exchanges", "wire", "400", "bad-request")
    metrics.gauge("upstream_busy", "Connections in use.", lambda: 1_000_000)
    for line in samples(metrics.text()):
        assert SAMPLE.fullmatch(line), line
