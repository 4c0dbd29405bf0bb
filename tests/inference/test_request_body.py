"""What is JSON for us and what is not."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.api.body import MAX_BODY_BYTES, MAX_DEPTH, read_object
from wire.refused.refusal import Refusal


def nested(depth: int) -> bytes:
    """An object whose containers nest `depth` deep."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "Expecting value"),
        (b"[1]", "not an object"),
        (b'"text"', "not an object"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": {"b": 1, "b": 1}}', "twice"),
        (b"\xff{}", "UTF-8"),
        (b'{"a": 123456789012345678901}', "digits"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\uDC00": 1}', "surrogate"),
        (nested(MAX_DEPTH + 1), "deeper"),
        (nested(100_000), "deeper"),
        (b'{"a": 1} x', "Extra data"),
    ],
)
def test_refuses_what_is_not_strict_json(data: bytes, word: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_object(data)

    assert refused.value.status == 400
    assert word in refused.value.message


def test_takes_what_is_strict_json() -> None:
    assert read_object(nested(MAX_DEPTH))["a"] is not None
    assert read_object('{"a": "\\ud83d\\ude00", "b": "é"}'.encode()) == {"a": "😀", "b": "é"}
    assert read_object(b"{}") == {}


def test_a_body_over_the_limit_is_413() -> None:
    with pytest.raises(Refusal) as refused:
        read_object(b" " * (MAX_BODY_BYTES + 1))

    assert (refused.value.status, refused.value.code) == (413, "body_too_large")


def held(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Lists and objects of `inner`. No lambda: hypothesis reads a lambda's source, over which Python 3.11 fell once."""
    return st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    held,
    max_leaves=20,
)


@given(st.dictionaries(st.text(), values, max_size=5), st.booleans())
def test_whatever_python_writes_is_read_back(value: dict[str, object], ascii_only: bool) -> None:
    assert read_object(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(max_size=80))
def test_any_bytes_give_an_object_or_a_refusal(data: bytes) -> None:
    with contextlib.suppress(Refusal):
        assert isinstance(read_object(data), dict)
