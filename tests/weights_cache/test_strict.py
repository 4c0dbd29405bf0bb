"""A reader takes what is within its bounds, the bounds with it, and refuses the next value and every other kind."""

import pytest

from weights_cache.model.strict import (
    MAX_INT,
    StrictError,
    boolean,
    fields,
    hexadecimal,
    integer,
    number,
    one_of,
    optional,
    parse,
    several,
    text,
)

READERS = {
    "integer": (integer(2, 5), [2, 5], [1, 6, 3.0, True, "3", None, [3]]),
    "any integer": (integer(), [0, MAX_INT], [-1, MAX_INT + 1]),
    "number": (number(0.5, 2.0), [0.5, 1, 2.0], [0.4, 2.1, True, "1", None, float("nan"), float("inf")]),
    "boolean": (boolean, [True, False], [0, 1, "true", None]),
    "text": (text(3), ["", "abc", "\u00e9"], ["abcd", "a\n", "\x7f", "\ud800", 3, None, b"a"]),
    "text of a form": (text(9, "[a-z]+"), ["abc"], ["", "a1", "1a", "A"]),
    "digits": (hexadecimal(4), ["00ff"], ["0ff", "000ff", "00FF", "00f\n", 12, None]),
    "word": (one_of("a", "b"), ["a", "b"], ["c", "", "ab", None, ["a"], 1]),
    "word or null": (one_of("a", None), ["a", None], ["b", 0]),
    "optional": (optional(integer(1, 2)), [None, 1], [0, "1"]),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, taken, _) in READERS.items() for value in taken]
)
def test_what_is_within_the_bounds_is_taken(name, value):
    assert READERS[name][0](value, "it") == value


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, _, refused) in READERS.items() for value in refused]
)
def test_what_is_not_is_refused_by_its_place(name, value):
    with pytest.raises(StrictError, match=r"^place is not|^place does not match"):
        READERS[name][0](value, "place")


def test_lists_are_read_item_by_item():
    read = several(integer(0, 9), 2)
    assert read([], "it") == ()
    assert read([1, 9], "it") == (1, 9)
    for value in ([1, 2, 3], "12", (1, 2), None, {"0": 1}):
        with pytest.raises(StrictError, match="at most 2 items"):
            read(value, "it")
    with pytest.raises(StrictError, match=r"it\[1\]"):
        read([1, 10], "it")


def test_an_object_has_exactly_its_fields():
    table = {"a": integer(), "b": boolean}
    assert fields({"b": True, "a": 1}, table, "it") == {"a": 1, "b": True}
    for value, why in (
        ({"a": 1}, "lacks the field 'b'"),
        ({"a": 1, "b": True, "c": 1}, "unknown field 'c'"),
        ({"a": True, "b": True}, r"it\.a is not"),
        ([], "is not an object"),
    ):
        with pytest.raises(StrictError, match=why):
            fields(value, table, "it")


def test_the_bytes_may_be_as_many_as_was_said_and_integers_as_long():
    assert parse(b"[1]", 3) == [1]
    assert parse(b"-" + b"9" * 16, 17) == -int("9" * 16)
    for data, most in ((b"[1]", 2), (b"1" + b"0" * 16, 99), (b"[1e", 9)):
        with pytest.raises(StrictError):
            parse(data, most)
