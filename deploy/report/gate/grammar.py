"""A condition such as `region.p50 > 1.1*base`: a tiny language of its own, parsed to a tree. Pure.

condition  = side comparison side
comparison = "<" | "<=" | ">" | ">=" | "==" | "!="
side       = product { ("+" | "-") product }
product    = atom { ("*" | "/") atom }
atom       = number [ unit ] | name | "(" side ")"
unit       = "ms" | "s" | "%" | "B" | "kB" | "MB" | "GB"
name       = word { "." word }        such as warm.p99, fra.region.p50, base, base.warm.tokens_per_s
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

MAX_CHARS = 300
MAX_DEPTH = 20  # brackets in brackets; deeper is a mistake, and recursion has an end
UNITS: Mapping[str, float] = {  # into ms, bytes and shares
    "": 1.0,
    "ms": 1.0,
    "s": 1000.0,
    "%": 0.01,
    "B": 1.0,
    "kB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
}
TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s|%|B|kB|MB|GB)?(?![\w.])"
    r"|(?P<name>[A-Za-z_][\w-]*(?:\.[\w-]+)*)|(?P<sign><=|>=|==|!=|[<>+\-*/()]))"
)
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


class GrammarError(Exception):
    """The condition cannot be read; the message shows where."""


@dataclass(frozen=True, slots=True)
class Number:
    """A constant, in ms, bytes or a share."""

    value: float


@dataclass(frozen=True, slots=True)
class Name:
    """A figure of the report; `base` and `base.…` one of the report that it is compared with."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """Two sides and what is between them."""

    sign: str
    left: "Side"
    right: "Side"


Side = Number | Name | Operation


@dataclass(frozen=True, slots=True)
class Condition:
    """What must not be so. `text` is as it was written."""

    text: str
    left: Side
    sign: str
    right: Side


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    value: float = 0.0


def parse(text: str) -> Condition:
    """Read one condition. Raises: GrammarError."""
    if len(text) > MAX_CHARS:
        raise GrammarError(f"a condition has at most {MAX_CHARS} characters")
    reader = _Reader(text, [*_tokens(text)])
    left = reader.side()
    sign = reader.take("sign", COMPARISONS)
    condition = Condition(text.strip(), left, sign, reader.side())
    reader.end()
    return condition


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while text[at:].strip():
        found = TOKEN.match(text, at)
        if found is None:
            raise GrammarError(f"cannot read {text[at:].strip()[:20]!r} in {text.strip()!r}")
        at = found.end()
        if found["number"] is not None:
            yield _Token("number", found["number"], float(found["number"]) * UNITS[found["unit"] or ""])
        elif found["name"] is not None:
            yield _Token("name", found["name"])
        else:
            yield _Token("sign", found["sign"])


class _Reader:
    """Recursive descent over the tokens."""

    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self._text, self._tokens = text.strip(), tokens[::-1]

    def side(self, depth: int = 0) -> Side:
        """Sums of products."""
        return self._chain("+-", self._product, depth)

    def take(self, kind: str, allowed: Mapping[str, object]) -> str:
        """The next token, which must be one of these."""
        if not self._tokens or self._tokens[-1].kind != kind or self._tokens[-1].text not in allowed:
            raise self._unexpected(f"one of {' '.join(allowed)}")
        return self._tokens.pop().text

    def end(self) -> None:
        """Nothing may follow."""
        if self._tokens:
            raise self._unexpected("the end")

    def _product(self, depth: int) -> Side:
        return self._chain("*/", self._atom, depth)

    def _chain(self, signs: str, inner: Callable[[int], Side], depth: int) -> Side:
        left = inner(depth)
        while self._tokens and self._tokens[-1].kind == "sign" and self._tokens[-1].text in signs:
            left = Operation(self._tokens.pop().text, left, inner(depth))
        return left

    def _atom(self, depth: int) -> Side:
        if depth > MAX_DEPTH:
            raise GrammarError(f"at most {MAX_DEPTH} brackets stand in one another")
        if not self._tokens:
            raise self._unexpected("a number or a name")
        token = self._tokens.pop()
        if token.kind == "number":
            return Number(token.value)
        if token.kind == "name":
            return Name(tuple(token.text.split(".")))
        if token.text == "(":
            inside = self.side(depth + 1)
            self.take("sign", {")": None})
            return inside
        self._tokens.append(token)
        raise self._unexpected("a number or a name")

    def _unexpected(self, wanted: str) -> GrammarError:
        found = repr(self._tokens[-1].text) if self._tokens else "nothing"
        return GrammarError(f"expected {wanted}, found {found}, in {self._text!r}")
