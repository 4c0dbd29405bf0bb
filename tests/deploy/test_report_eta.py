"""The gateway's estimate of a start against what it took: read from receipts and headers, and shown."""

import json
import random

import pytest
from rich.console import Console

from deploy.report.arms import Start
from deploy.report.out.table import render
from deploy.report.out.values import as_json_document
from deploy.report.page.html import page
from deploy.report.sample import Clock, Eta, of_answer
from tests.deploy.report_samples import report, sample


def test_the_error_is_a_share_of_what_it_took():
    assert Eta(50.0, 100.0).error == Eta(150.0, 100.0).error == 0.5


def test_a_stream_says_it_in_its_receipt_and_a_warm_one_does_not():
    cold, warm = (sample("iad", start, random.Random(1)) for start in (Start.REGION, Start.WARM))

    assert cold.eta is not None
    assert cold.eta.error == pytest.approx(0.25, abs=0.001)
    assert warm.eta is None


@pytest.mark.parametrize(
    ("timing", "eta"),
    [
        ("gateway;dur=9, eta.expected;dur=120.5, eta.took;dur=100", Eta(120.5, 100.0)),
        ("gateway;dur=9", None),
        ("eta.expected;dur=120.5", None),
        ("eta.expected;dur=120.5, eta.took;dur=0", None),
    ],
)
def test_an_answer_says_it_in_server_timing(timing, eta):
    found = of_answer("iad", Start.REGION, {"server-timing": timing}, {}, Clock(0.0, 1.0))

    assert found.eta == eta


def test_the_report_shows_how_good_the_estimates_were():
    """In the document by row and request, on the page, and under the tables."""
    made = report()
    value = json.loads(json.dumps(as_json_document(made)))
    num_cold = sum(each["eta_ms"] is not None for each in value["requests"])
    console = Console(width=100)
    with console.capture() as shown:
        console.print(render(made))
    words = f"estimates of {num_cold} starts were off by 25% (median)"

    assert value["estimates"]["num"] == num_cold > 0
    assert value["estimates"]["median_error"] == pytest.approx(0.25, abs=0.001)
    assert {row["start"] for row in value["rows"] if row["eta_error"] is not None} == {
        "origin",
        "region",
        "host",
    }
    assert words in shown.get()
    assert words in str(page(made))
