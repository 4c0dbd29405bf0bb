"""The text that Prometheus reads: its form, its arithmetic, its bounds."""

import re

import pytest

from wire.figures.metrics import MAX_SERIES, Metrics, one

SAMPLE = re.compile(
    r'[a-zA-Z_:][a-zA-Z0-9_:]*(\{[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
    r'(?:,[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*")*\})? (?:[-+]?[0-9.]+(?:e[-+]?[0-9]+)?|\+Inf|NaN)'
)


def test_a_page_has_the_form():
    metrics = Metrics()
    counter = metrics.counter("nf_bytes_total", "Bytes read.", "source")
    counter.add(3, "region")
    counter.add(4, "region")
    counter.add(1.5, 'a"b\\c\nd')
    metrics.gauge("nf_held", "Requests that wait.", lambda: one(2))
    metrics.gauge("nf_rate", "Unknown yet.", lambda: one(None))
    lines = metrics.page().decode().splitlines()

    assert lines == [
        "# HELP nf_bytes_total Bytes read.",
        "# TYPE nf_bytes_total counter",
        'nf_bytes_total{source="region"} 7',
        'nf_bytes_total{source="a\\"b\\\\c\\nd"} 1.5',
        "# HELP nf_held Requests that wait.",
        "# TYPE nf_held gauge",
        "nf_held 2",
        "# HELP nf_rate Unknown yet.",
        "# TYPE nf_rate gauge",
    ]
    assert all(SAMPLE.fullmatch(line) for line in lines if not line.startswith("#"))


def test_a_histogram_counts_up():
    """A value on a bound is under it; one past all bounds is only in +Inf; sum and count are of all."""
    metrics = Metrics()
    seconds = metrics.histogram("nf_s", "Seconds.", "start", bounds=(0.5, 1.0))
    for value in (0.1, 0.5, 0.75, 7.0):
        seconds.observe(value, "host")
    lines = metrics.page().decode().splitlines()[2:]

    assert lines == [
        'nf_s_bucket{start="host",le="0.5"} 2',
        'nf_s_bucket{start="host",le="1"} 3',
        'nf_s_bucket{start="host",le="+Inf"} 4',
        'nf_s_sum{start="host"} 8.35',
        'nf_s_count{start="host"} 4',
    ]
    assert all(SAMPLE.fullmatch(line) for line in lines)


def test_a_histogram_may_be_told_later_than_it_happens():
    """Who observes together what came by is asked before anybody looks."""
    metrics, waiting = Metrics(), [0.1, 0.5, 7.0]
    seconds = metrics.histogram("nf_s", "Seconds.", bounds=(0.5,))
    seconds.on_look = lambda: (seconds.observe_all(waiting), waiting.clear())
    pages = [metrics.page().decode().splitlines()[2:] for _ in range(2)]

    assert (
        pages == [['nf_s_bucket{le="0.5"} 2', 'nf_s_bucket{le="+Inf"} 3', "nf_s_sum 7.6", "nf_s_count 3"]] * 2
    )


@pytest.mark.parametrize("values", [[], [0.5], [7.0], [0.2, 3.0, 0.5, 1.0, 0.1, 1.0, 0.75, 9.0], [0.75] * 64])
def test_a_histogram_that_is_told_many_counts_each(values):
    metrics = Metrics()
    together, each = (
        metrics.histogram(name, "Seconds.", bounds=(0.5, 1.0, 2.0)) for name in ("nf_a", "nf_b")
    )
    for _ in range(2):
        together.observe_all(values)
        for value in values:
            each.observe(value)
    lines = metrics.page().decode().splitlines()
    of_a, of_b = (
        [line[len("nf_a") :] for line in lines if line.startswith(name)] for name in ("nf_a", "nf_b")
    )

    assert of_a[-1:] == ([f"_count {2 * len(values)}"])
    assert of_b == (of_a if values else [])  # one that was told of nothing has its zeros already


def test_series_are_bounded():
    """Labels without end end in one series; those that were there keep theirs."""
    metrics = Metrics()
    counter = metrics.counter("nf_total", "Things.", "kind")
    for number in range(MAX_SERIES + 100):
        counter.add(1, f"kind {number}")
    counter.add(5, "kind 0")
    lines = metrics.page().decode().splitlines()[2:]

    assert len(lines) == MAX_SERIES + 1
    assert lines[0] == 'nf_total{kind="kind 0"} 6'
    assert lines[-1] == 'nf_total{kind="other"} 100'


def test_a_gauge_of_a_thousand_models_is_bounded_too():
    metrics = Metrics()
    metrics.gauge("nf_cache", "Bytes.", lambda: (((f"acme/m{i}",), 1.0) for i in range(10_000)), "model")

    assert len(metrics.page().decode().splitlines()) == 2 + MAX_SERIES


def test_a_name_is_one_figures():
    metrics = Metrics()
    metrics.counter("nf_total", "Things.")
    with pytest.raises(ValueError, match="nf_total"):
        metrics.histogram("nf_total", "Other things.")
