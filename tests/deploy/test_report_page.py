"""The outputs: one file that loads nothing, no injection, a document that says its schema, a table for 80 columns."""

import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

from rich.console import Console

from deploy.report.arms import Start
from deploy.report.document import SCHEMA, Tiers, as_json_document, document
from deploy.report.html import page
from deploy.report.markup import Html, tag, text
from deploy.report.sample import failed
from deploy.report.write import render, write
from tests.deploy.report_samples import WEIGHT_BYTES, report, sample, settings
from tests.evidence import count

NUM_REQUESTS = count(120, 300)
"""Of each region and start state."""
MAX_PAGE_BYTES = 2 * 1024 * 1024
VOID = {"meta"}


class Outline(HTMLParser):
    """Checks that every element is closed where it was opened, and remembers what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.shown = ""

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.shown += data


def outline(html: str) -> Outline:
    read = Outline()
    read.feed(html)
    assert read.open == []
    return read


def test_the_page_stands_alone():
    """No script, no address, nothing to load; light and dark, phone and paper."""
    html = page(report())
    read = outline(html)

    assert not {"script", "link", "img", "iframe", "object"} & set(read.seen)
    assert not re.search(r"https?://|url\(|@import", html)
    assert {"svg", "table", "title"} <= set(read.seen)
    for wish in ("prefers-color-scheme: dark", "max-width: 620px", "@media print", "width=device-width"):
        assert wish in html
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in read.attributes


def test_the_page_says_the_figures():
    """What was measured is on it, what is simulated is labelled, and too few samples are said."""
    made = report(num_cold=2, num_warm=100)
    shown = outline(page(made)).shown

    assert "Simulated: WAN delay between edge and regions (us-eu-jp)" in shown
    assert "0 B from another region" in shown
    assert "n < 3" in shown
    assert "iad is the home region" in shown
    for row in made.rows:
        assert row.region in shown
        assert row.start.value in shown


def test_nothing_can_be_injected():
    """Names and errors come from elsewhere: they are text, never markup."""
    evil = '<script>alert(1)</script>"><img src=x onerror=1>&'
    rng = random.Random(1)
    samples = [
        replace(sample("iad", Start.REGION, rng), region=evil, revision=evil),
        sample("iad", Start.WARM, rng),
        failed(evil, Start.HOST, evil),
    ]
    setting = replace(
        settings(1, 1, (evil, "iad")),
        model=evil,
        prompt=evil,
        simulated=(evil,),
        home_regions=(evil,),
        made_at=evil,
    )
    made = document(setting, {evil: Tiers({"region": 1e9}, WEIGHT_BYTES)}, samples)
    read = outline(page(made))

    assert not {"script", "img"} & set(read.seen)
    assert not any(name.startswith("on") for name, _ in read.attributes)
    assert evil in read.shown
    console = Console(width=200, record=True, file=StringIO())
    console.print(render(made))
    assert "<script>" in console.export_text()


def test_markup_escapes_all_but_markup():
    """The one place where text becomes markup."""
    assert tag("p", 'a<b>"', title='"<') == '<p title="&quot;&lt;">a&lt;b&gt;&quot;</p>'
    assert tag("p", tag("b", "x"), None) == "<p><b>x</b></p>"
    assert (
        tag("rect", x=1.5, width=2.0, class_=None, aria_hidden="true")
        == '<rect x="1.5" width="2" aria-hidden="true"></rect>'
    )
    assert text(Html("<b>")) == "<b>"


def test_a_large_report_stays_small():
    """Thousands of requests make a page far under 2 MiB: curves are thinned, nothing is embedded per request."""
    small, large = (
        len(page(report(num_cold=n, num_warm=n)).encode()) for n in (NUM_REQUESTS // 5, NUM_REQUESTS)
    )

    assert large < MAX_PAGE_BYTES / 4
    assert large < 2 * small


def test_a_report_of_nothing_but_failures():
    """No figures, no crash: the failures are the report."""
    made = document(settings(1, 1), {}, [failed("iad", Start.REGION, "503 model_not_ready: no")])
    shown = outline(page(made)).shown

    assert "1 of 1 requests failed" in shown
    assert "503 model_not_ready: no" in shown
    assert not made.sums
    console = Console(width=80, record=True, file=StringIO())
    console.print(render(made))
    assert "503 model_not_ready" in console.export_text()


def test_the_document(tmp_path):
    """It is JSON, says its schema, and every row's phases sum to its wall time."""
    made = report()
    write(made, None, tmp_path / "report.json")
    value = json.loads((tmp_path / "report.json").read_text())

    assert value == json.loads(json.dumps(as_json_document(made)))
    assert value["schema"] == SCHEMA == "nearfield.report/1"
    assert value["checks"]["phases_sum_to_wall"] is True
    assert {(row["region"], row["start"]) for row in value["rows"]} == {
        (r.region, r.start.value) for r in made.rows
    }
    for row in value["rows"]:
        for name in ("typical_before_first_token", "typical_whole"):
            part = row[name]
            assert abs(sum(part["phases_ms"].values()) - part["wall_ms"]) <= 0.05 * part["wall_ms"]
        assert row["most_remote_bytes"] == (WEIGHT_BYTES if row["start"] == "origin" else 0)
    assert len(value["requests"]) == len(made.samples)


def test_the_table_fits_a_terminal():
    """80 columns, no figure cut off; no colour codes off a terminal."""
    console = Console(width=80, record=True, file=StringIO())
    console.print(render(report()))
    shown = console.export_text()

    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    for words in ("Cold start against warm", "Simulated", "remote", "prefill", "unattributed"):
        assert words in shown
