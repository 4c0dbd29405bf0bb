"""The gate's language and its verdicts: what can be said, what is refused, and what is decided by which numbers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.report.gate.figures import NoFigure, figure
from deploy.report.gate.grammar import GrammarError, Name, Number, Operation, parse
from deploy.report.gate.verdict import judge
from deploy.report.out.values import as_json_document
from tests.deploy.report_samples import report


@pytest.fixture(scope="module")
def document():
    return json.loads(json.dumps(as_json_document(report(num_cold=20, num_warm=100))))


def changed(document, start, factor):
    """The same report, with the times of one start state times `factor`."""
    other = json.loads(json.dumps(document))
    for row in other["rows"]:
        if row["start"] == start:
            row["ttft_ms"] = {k: v * factor if isinstance(v, float) else v for k, v in row["ttft_ms"].items()}
    return other


def test_a_condition_is_a_tree():
    """Products before sums, brackets first, units into ms, bytes and shares."""
    read = parse("warm.p50 + 2*(3 - 1) > 1.5s")

    assert read.left == Operation(
        "+", Name(("warm", "p50")), Operation("*", Number(2), Operation("-", Number(3), Number(1)))
    )
    assert (read.sign, read.right) == (">", Number(1500))
    assert parse("unattributed > 2%").right == Number(0.02)
    assert parse("remote_bytes > 1 MB".replace(" MB", "MB")).right == Number(1e6)
    assert parse("fra-2.region.p50 >= base").left == Name(("fra-2", "region", "p50"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "warm.p50",
        "warm.p50 >",
        "warm.p50 > 1 2",
        "warm.p50 > (1",
        "1 > 2 > 3",
        "__import__('os').system('x') > 1",
        "warm.p50 = 1",
        "warm..p50 > 1",
        "2x > 1",
        "warm.p50 > 1e9999",
        "(" * 30 + "1" + ")" * 30 + " > 1",
        "1 > " + "1+" * 400 + "1",
    ],
)
def test_what_is_no_condition_is_refused(text):
    """With words, never with another exception."""
    with pytest.raises(GrammarError):
        parse(text)


@given(st.text(alphabet="waremp50.*/+-()<>=! 1%sbase", max_size=60))
def test_any_text_is_read_or_refused(text):
    """A tree or a GrammarError, whatever was typed."""
    try:
        read = parse(text)
    except GrammarError:
        return
    assert parse(read.text) == read


def test_a_slower_start_shuts_the_gate(document):
    """`base` alone is the figure on the left, of the same region; each region is judged by itself."""
    slower = changed(document, "region", 1.2)
    condition = parse("region.p50 > 1.1*base")

    assert [v.failed for v in judge(condition, document, document)] == [False, False, False]
    verdicts = judge(condition, slower, document)
    assert [(v.region, v.failed) for v in verdicts] == [("iad", True), ("fra", True), ("nrt", True)]
    assert verdicts[0].left == pytest.approx(1.2 / 1.1 * verdicts[0].right)
    assert [v.failed for v in judge(parse("fra.region.p50 > 1.3*base.fra.region.p50"), slower, document)] == [
        False
    ]


def test_figures_of_the_whole_report(document):
    """They need no region, and a base only where it is named."""
    assert [v.failed for v in judge(parse("remote_bytes > 0"), document, None)] == [False]
    assert [v.failed for v in judge(parse("failed >= 0"), document, None)] == [True]
    assert [v.failed for v in judge(parse("unattributed > 2%"), document, None)] == [False]
    assert [v.failed for v in judge(parse("failed > base + base"), document, document)] == [False]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("region.p50 > 1.1*base", "there is no base"),
        ("region.p99 > 1", "too few requests"),
        ("region.speed > 1", "no figure 'speed'"),
        ("disk.p50 > 1", "no region has a row 'disk'"),
        ("mars.region.p50 > 1", "no row for"),
        ("warm.p50 / 0 > 1", "divides by zero"),
        ("a.b.c.d > 1", "no row for"),
        ("nonsense > 1", "no figure 'nonsense'"),
    ],
)
def test_what_cannot_be_decided_fails(document, text, why):
    """A gate that measures nothing guards nothing."""
    verdicts = judge(parse(text), document, None)

    assert verdicts
    assert all(verdict.failed and why in verdict.words for verdict in verdicts)


def test_a_figure_needs_enough_requests(document):
    """p50 of twenty is there, p90 is not; of a hundred both are."""
    assert figure(document, ("region", "p50"), "fra") > figure(document, ("warm", "p50"), "fra")
    assert figure(document, ("warm", "p90"), "fra") >= figure(document, ("warm", "p50"), "fra")
    with pytest.raises(NoFigure, match="p90 100"):
        figure(document, ("region", "p90"), "fra")
