"""The tables of docs/reference/edge/refusals.md are the code's: no row without a refusal, no refusal without a row."""

import ast
import dataclasses
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from edge.listeners import LIMITS
from tests.attack.http.readers import by_gate
from tests.syntax import parsed
from tests.wire.test_gate import REFUSED, request
from wire.http.limits import Limits

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reference" / "edge" / "refusals.md").read_text("utf-8")
SOURCES = (
    *(f"http/{name}" for name in ("http1", "heads", "framing")),
    *(f"listener/{name}" for name in ("incoming", "exchange", "connection", "handling", "writing")),
)
AROUND = {"….", "The body is not well-formed: ….", "The request is not well-formed: …."}  # what others say
OURS = {"The server failed on this request; try again."}  # no refusal: a fault of our own
SAID_ELSEWHERE = {408, 413, 503}  # in time, by a handler, before a byte: tests/wire/test_serve.py
SERVED = Limits(served_hosts=frozenset({"h"}))


class Row(NamedTuple):
    """One refusal; `says` has … for what differs."""

    status: int
    code: str
    says: str

    def matches(self, status: int, code: str, message: str) -> bool:
        """Whether an answer is one of this row."""
        pattern = ".+".join(map(re.escape, self.says.split("…")))
        return (status, code) == (self.status, self.code) and re.search(pattern, message) is not None


def section(title: str) -> str:
    return PAGE.split(f"# {title}\n", 1)[1].split("\n#", 1)[0]


def cells(title: str) -> list[list[str]]:
    """The rows of a section's first table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:]]


ROWS = [Row(int(status), code.strip("`"), says) for _, status, code, says in cells("What is refused")]


def text(node: ast.expr, known: dict[str, str]) -> str:
    """A message as the page writes it."""
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=values):
            return "".join(text(value, known) for value in values)
        case ast.BinOp(left=left, right=right):
            return text(left, known) + text(right, known)
        case ast.Name(id=name):
            return known.get(name, "…")
    return "…"


def refusals(source: str) -> set[Row]:
    """Every refusal that a file can make."""
    tree = parsed((ROOT / "wire" / f"{source}.py").read_text("utf-8"))
    tree.body = [node for node in tree.body if getattr(node, "name", "") != "_bad"]  # its callers say what
    known = {
        node.targets[0].id: text(node.value, {})
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Name(id="Refusal"),
                args=[ast.Constant(value=status), ast.Constant(value=code), said, *_],
            ):
                found.add(Row(status, code, text(said, known)))
            case ast.Call(func=ast.Name(id="_bad" | "FramingError"), args=[said]):
                found.add(Row(400, "bad_request", text(said, known)))
    return found


def test_the_page_has_every_refusal_and_no_other():
    found = set().union(*map(refusals, SOURCES))
    said = {row for row in found if row.says not in AROUND | OURS and row.says != "…"}

    assert len(said) > 30
    assert set(ROWS) == said
    assert len(ROWS) == len(set(ROWS))


EXAMPLES = {name: (stream, LIMITS) for name, (_, stream) in REFUSED.items()}
EXAMPLES["a Host that is not served"] = (request(host="other"), SERVED)


def row_of(name: str) -> Row:
    stream, limits = EXAMPLES[name]
    refusal = by_gate([stream], limits).refusal
    assert refusal is not None, name
    [row] = [row for row in ROWS if row.matches(refusal.status, refusal.code, refusal.message)]
    return row


def test_each_row_is_said_to_somebody():
    heard = {row_of(name) for name in EXAMPLES}

    assert {row for row in ROWS if row.status not in SAID_ELSEWHERE} == heard


@pytest.mark.parametrize("bound", [each.name for each in dataclasses.fields(Limits)])
def test_the_page_has_the_bounds_of_the_api(bound):
    said = {name.strip("`"): value for name, value, *_ in cells("How long and how much")}
    value = getattr(LIMITS, bound)
    if isinstance(value, bool | tuple | frozenset) or value is None:
        assert bound not in said, "no number"
    else:
        assert float(said[bound]) == float(value)
