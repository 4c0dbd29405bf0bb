"""The outputs for programs: the document has its published shape, every request has its line, the rows are a table."""

import csv
import io
import json
from dataclasses import replace

import pytest

from deploy.report.gate.grammar import parse
from deploy.report.gate.verdict import judge
from deploy.report.out.lines import COLUMNS, requests, rows_csv
from deploy.report.out.markdown import markdown
from deploy.report.out.shape import WORDS, errors, schema
from deploy.report.out.values import SCHEMA, as_json_document
from deploy.report.out.write import Outputs, write
from deploy.report.page.html import page
from tests.deploy.report_samples import full_report, report


@pytest.fixture(scope="module")
def made():
    return full_report()


@pytest.fixture(scope="module")
def document(made):
    return json.loads(json.dumps(as_json_document(made)))


SHAPE = schema()


def test_the_document_has_its_published_shape(document):
    """With all further arms and with none of them."""
    plain = json.loads(json.dumps(as_json_document(report())))

    assert [*errors(document, SHAPE)] == []
    assert [*errors(plain, SHAPE)] == []
    assert SHAPE["$id"] == SHAPE["properties"]["schema"]["const"] == SCHEMA
    assert document["more"]["split"]["simulated"] is True


def words_of(part):
    """Every word that a schema uses."""
    if isinstance(part, list):
        return set().union(*map(words_of, part))
    if not isinstance(part, dict):
        return set()
    named = [*part.get("properties", {}).values(), *part.get("$defs", {}).values()]
    inner = [part[word] for word in ("items", "anyOf", "additionalProperties") if word in part]
    return set(part) | words_of([*named, *inner])


def test_the_schema_says_nothing_that_is_not_checked():
    """A word that our validator does not know would be passed over in silence."""
    assert words_of(SHAPE) <= WORDS


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: d.pop("rows"), "has no 'rows'"),
        (lambda d: d.update(extra=1), "unknown 'extra'"),
        (lambda d: d.update(seed="7"), "seed is not integer"),
        (lambda d: d.update(schema="nearfield.report/1"), "not 'nearfield.report/2'"),
        (lambda d: d["rows"][0].update(start="tepid"), "none of"),
        (lambda d: d["rows"][0]["ttft_ms"].update(interval=[1.0]), "none of what it may be"),
        (lambda d: d["requests"][3].update(late_ms=None), "requests[3].late_ms is not number"),
        (lambda d: d["more"]["split"].update(simulated=False), "more.split is none of what it may be"),
    ],
)
def test_what_breaks_the_shape_is_found(document, change, why):
    """Each kind of rule, where it is broken."""
    broken = json.loads(json.dumps(document))
    change(broken)

    assert why in " / ".join(errors(broken, SHAPE))


def test_every_request_has_its_line(made):
    """Also those of the further arms, with the arm's name."""
    lines = [json.loads(line) for line in requests(made)]

    assert len(lines) == len(made.samples) + len(made.more.samples)
    assert {line["arm"].partition(".")[0] for line in lines} == {
        "rows",
        "places",
        "herd",
        "gaps",
        "sizes",
        "split",
    }
    assert all(set(line) == {"arm", *SHAPE["$defs"]["request"]["properties"]} for line in lines)


def test_the_rows_as_csv(made):
    """A line a row, under names; no figure is invented where n is too small."""
    rows = list(csv.DictReader(io.StringIO(rows_csv(made))))

    assert [(row["region"], row["start"]) for row in rows] == [(r.region, r.start.value) for r in made.rows]
    assert set(rows[0]) == set(COLUMNS)
    assert all((row["ttft_ms_p50"] != "") == (int(row["ttft_ms_n"]) >= 20) for row in rows)
    assert all(row["ttft_ms_p99"] == "" for row in rows)


def test_the_comment_for_a_pull_request(made):
    """It says what was simulated, what failed and what the gate decided; names cannot break out of it."""
    verdicts = judge(parse("warm.p50 > 0"), as_json_document(made), None)
    said = markdown(replace(made, settings=replace(made.settings, model="a|b\n# c")), verdicts)

    assert "**Simulated**: WAN delay" in said
    assert "### Cold start against warm: a\\|b \\# c\n" in said
    assert said.count("**failed**: ") == 3
    assert "store elsewhere (simulated)" in said
    heads, marks = said.splitlines()[4:6]
    assert heads.count("|") == marks.count("|")


def test_all_of_them_into_one_folder(made, tmp_path):
    """Under the names that the documentation says; one that is named goes where it was asked for."""
    write(made, Outputs(csv=tmp_path / "rows.csv").or_in(tmp_path))

    assert {path.name for path in tmp_path.iterdir()} == {
        "report.html",
        "report.json",
        "requests.jsonl",
        "rows.csv",
        "report.md",
    }


def test_a_start_from_origin_that_moved_no_byte_is_told():
    """Models share bytes: where another one has them in a region, nothing crosses."""
    whole = report()
    shared = tuple(
        replace(each, num_bytes={**each.num_bytes, "remote": 0}) if each.region == "fra" else each
        for each in whole.samples
    )
    told = replace(whole, samples=shared)

    assert whole.at_hand == ()
    assert told.at_hand == ("fra",)
    for made in (page, markdown):
        assert "origin in fra: no byte crossed" in made(told)
        assert "no byte crossed" not in made(whole)
