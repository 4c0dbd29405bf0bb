"""The condition operators of a bucket policy, over one value of a request or none. Pure.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

Test = Callable[[str], bool]  # is the value of a request one of those that the policy names?
Make = Callable[[tuple[str, ...]], Test]

IF_EXISTS = "IfExists"
NULL = "Null"


def glob(pattern: str, *, any_case: bool = False) -> Test:
    """`*` is any text, `?` any character, all else itself.

    Each part between two stars is looked for once, behind the one before: no pattern is tried in many ways.
    """
    first, *rest = (_part(each, any_case=any_case) for each in pattern.split("*"))

    def test(text: str) -> bool:
        if not rest:
            return first.length == len(text) and first.find(text, 0, len(text)) == 0
        *middle, last = rest
        at, end = first.length, len(text) - last.length
        if at > end or first.find(text, 0, at) < 0 or last.find(text, end, len(text)) < 0:
            return False
        for part in middle:
            at = part.find(text, at, end) + part.length
            if at < part.length:
                return False
        return True

    return test


@dataclass(frozen=True, slots=True)
class _Part:
    """What stands between two stars. `find` gives where it begins within two bounds of a text, -1 for nowhere."""

    length: int
    find: Callable[[str, int, int], int]


def _part(text: str, *, any_case: bool) -> _Part:
    if "?" not in text and not any_case:
        return _Part(len(text), lambda within, first, end: within.find(text, first, end))
    literals = (re.escape(each) for each in text.split("?"))
    found = re.compile(".".join(literals), re.DOTALL | (re.IGNORECASE if any_case else 0))

    def find(within: str, first: int, end: int) -> int:
        match = found.search(within, first, end)
        return -1 if match is None else match.start()

    return _Part(len(text), find)


def _equals(values: tuple[str, ...]) -> Test:
    return frozenset(values).__contains__


def _equals_any_case(values: tuple[str, ...]) -> Test:
    folded = frozenset(value.casefold() for value in values)
    return lambda text: text.casefold() in folded


def _like(values: tuple[str, ...]) -> Test:
    tests = [glob(value) for value in values]
    return lambda text: any(test(text) for test in tests)


def _bool(values: tuple[str, ...]) -> Test:
    """Raises: ValueError."""
    folded = frozenset(value.lower() for value in values)
    if not folded <= {"true", "false"}:
        raise ValueError("Bool takes true or false")
    return lambda text: text.lower() in folded


def _in_network(values: tuple[str, ...]) -> Test:
    """Raises: ValueError for what is no network."""
    networks = [ipaddress.ip_network(value, strict=False) for value in values]

    def test(text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        plain = getattr(address, "ipv4_mapped", None) or address  # as a listener on :: sees IPv4
        return any(plain in network for network in networks)

    return test


def _number(compare: Callable[[float, float], bool]) -> Make:
    def make(values: tuple[str, ...]) -> Test:
        """Raises: ValueError for what is no number."""
        bounds = [float(value) for value in values]

        def test(text: str) -> bool:
            try:
                number = float(text)
            except ValueError:
                return False
            return any(compare(number, bound) for bound in bounds)

        return test

    return make


_POSITIVE: Mapping[str, Make] = MappingProxyType(
    {
        "StringEquals": _equals,
        "StringEqualsIgnoreCase": _equals_any_case,
        "StringLike": _like,
        "ArnEquals": _like,
        "ArnLike": _like,
        "Bool": _bool,
        "IpAddress": _in_network,
        "NumericEquals": _number(lambda a, b: a == b),
        "NumericLessThan": _number(lambda a, b: a < b),
        "NumericLessThanEquals": _number(lambda a, b: a <= b),
        "NumericGreaterThan": _number(lambda a, b: a > b),
        "NumericGreaterThanEquals": _number(lambda a, b: a >= b),
    }
)
_NEGATIVE: Mapping[str, str] = MappingProxyType(
    {
        "StringNotEquals": "StringEquals",
        "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
        "StringNotLike": "StringLike",
        "ArnNotEquals": "ArnEquals",
        "ArnNotLike": "ArnLike",
        "NotIpAddress": "IpAddress",
        "NumericNotEquals": "NumericEquals",
    }
)


def make_test(operator: str, values: tuple[str, ...]) -> Callable[[str | None], bool]:
    """The test that `operator` makes of a request's value, or of there being none.

    A value that is not there fails a plain operator, passes a negated one, and passes any that ends in IfExists.
    Raises: KeyError for an operator that is not known, ValueError for values that it does not take.
    """
    if operator == NULL:
        absent = _bool(values)
        return lambda value: absent("true" if value is None else "false")
    name = operator.removesuffix(IF_EXISTS)
    negated = name in _NEGATIVE
    test = _POSITIVE[_NEGATIVE.get(name, name)](values)
    without = negated or operator.endswith(IF_EXISTS)
    return lambda value: without if value is None else test(value) != negated
