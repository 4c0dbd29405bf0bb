"""The outputs: one file that loads nothing, no injection, a document that says its schema, a table for 80 columns."""

import json
import math
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

from rich.console import Console

from deploy.report.arms import Start
from deploy.report.document import Tiers, document
from deploy.report.out.values import SCHEMA, as_json_document
from deploy.report.out.write import Outputs, render, write
from deploy.report.page.html import page
from deploy.report.page.markup import Html, coded, tag, text
from deploy.report.page.palette import DARK, FILLS, LIGHT, contrast, words_on
from deploy.report.phases import Family
from deploy.report.sample import failed
from tests.deploy.report_samples import WEIGHT_BYTES, full_report, report, sample, settings

NUM_REQUESTS = 10_000
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
    html = page(full_report())
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
    assert "n < 20" in shown
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
    """Ten thousand requests make a page under 2 MiB: curves are thinned, nothing is embedded for each request."""
    made, rng = full_report(num_cold=10, num_warm=10), random.Random(3)
    many = [
        replace(each, ttft_ms=each.ttft_ms * rng.uniform(0.8, 1.4))
        for each in made.samples * math.ceil(NUM_REQUESTS / len(made.samples))
    ]
    large = document(made.settings, made.tiers, many, made.more, made.terms)
    size = len(page(large).encode())

    assert len(large.samples) >= NUM_REQUESTS
    assert size < MAX_PAGE_BYTES / 4
    assert size < 2 * len(page(made).encode())


def test_words_can_be_read():
    """Contrast of at least 4.5 to 1 in light and dark: words on page, cards, notes, and on every fill."""
    for palette in (LIGHT, DARK):
        for words, ground in (
            *((words, ground) for words in ("ink", "soft", "bad", "good") for ground in ("page", "card")),
            ("note", "note-back"),
        ):
            assert contrast(palette[words], palette[ground]) >= 4.5, (words, ground)
        for fill in FILLS:
            assert contrast(words_on(palette[fill]), palette[fill]) >= 4.5, fill
    assert {f"f-{family.value.replace(' ', '-')}" for family in Family} == set(FILLS)
    assert LIGHT.keys() == DARK.keys()


def test_every_drawing_has_words():
    """A picture is named for those who do not see it, and every figure has its table."""
    read = outline(page(full_report()))
    pictures = read.seen.count("svg")

    assert pictures > 20
    assert read.attributes.count(("role", "img")) == pictures
    moved = read.attributes.count(("role", "region"))
    assert moved == read.attributes.count(("tabindex", "0")) == read.attributes.count(("class", "wide")) > 5
    assert sum(name == "aria-label" and bool(value) for name, value in read.attributes) == pictures + moved
    assert read.seen.count("details") >= 5
    for words in (
        "If the store were elsewhere",
        "simulated",
        "A herd",
        "Left alone",
        "client in nrt",
        "Expected and taken",
    ):
        assert words in read.shown


def test_a_report_of_nothing_but_failures():
    """No figures, no crash: the failures are the report."""
    made = document(settings(1, 1), {}, [failed("iad", Start.REGION, "503 model_not_ready: no")])
    shown = outline(page(made)).shown

    assert "1 of 1 request failed" in shown
    assert "503 model_not_ready: no" in shown
    assert not made.sums
    console = Console(width=80, record=True, file=StringIO())
    console.print(render(made))
    assert "503 model_not_ready" in console.export_text()


def test_the_document(tmp_path):
    """It is JSON, says its schema, and every row's phases sum to its wall time."""
    made = report()
    write(made, Outputs(json=tmp_path / "report.json"))
    value = json.loads((tmp_path / "report.json").read_text())

    assert value == json.loads(json.dumps(as_json_document(made)))
    assert value["schema"] == SCHEMA == "nearfield.report/2"
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


def test_commands_in_a_price_files_words():
    """They are code, and nothing in them is markup."""
    assert coded("as in `up <x>`; rounded") == "as in <code>up &lt;x&gt;</code>; rounded"
    assert isinstance(coded("plain & simple"), Html)
