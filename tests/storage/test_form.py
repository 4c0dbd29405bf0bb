"""The form parser alone: bytes in, events out, however the bytes are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.fault import S3Error
from storage.http.form import (
    MAX_FIELDS,
    MAX_FIELDS_BYTES,
    MAX_PART_HEAD_BYTES,
    Field,
    FileBegins,
    FormParser,
    boundary_of,
)

BOUNDARY = "xx-boundary"


def part(name, value, more=""):
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def form(fields, data, file_name="a.bin", after=()):
    parts = [part(name, value.encode()) for name, value in fields]
    parts.append(part("file", data, f'; filename="{file_name}"\r\nContent-Type: text/plain'))
    parts += [part(name, value.encode()) for name, value in after]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def parsed(pieces):
    parser = FormParser(BOUNDARY.encode())
    events = [event for piece in pieces for event in parser.receive(piece)]
    fields = [(event.name, event.value) for event in events if isinstance(event, Field)]
    names = [event.name for event in events if isinstance(event, FileBegins)]
    return parser.ended, fields, names, b"".join(event for event in events if isinstance(event, bytes))


def cut(data, marks):
    edges = [0, *sorted(mark % (len(data) + 1) for mark in marks), len(data)]
    return [data[low:high] for low, high in pairwise(edges)]


near_boundary = st.lists(
    st.sampled_from([b"\r\n", b"--", b"\r", b"\n", b"\r\n--xx-boundar", b"xx-boundary", b"z", b"\0"])
).map(b"".join)
text = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n"), max_size=20)


@given(
    st.lists(st.tuples(st.sampled_from(["key", "acl", "x-amz-meta-a"]), text), max_size=4),
    st.one_of(st.binary(max_size=200), near_boundary).filter(lambda data: b"--xx-boundary" not in data),
    st.lists(st.integers(0, 10_000), max_size=12),
)
def test_what_was_sent_comes_out_however_it_is_cut(fields, data, marks):
    sent = form(fields, data, after=[("ignored", "after the file")])

    assert parsed(cut(sent, marks)) == (True, fields, ["a.bin"], data)


def test_byte_by_byte_with_a_preamble_and_an_epilogue():
    sent = b"to be skipped\r\n" + form([("Key", "k")], b"data\r\n") + b"to be skipped too"

    assert parsed([sent[i : i + 1] for i in range(len(sent))]) == (
        True,
        [("key", "k")],
        ["a.bin"],
        b"data\r\n",
    )


@pytest.mark.parametrize(
    ("sent", "name"),
    [("a.txt", "a.txt"), ("/etc/x/a.txt", "a.txt"), ("C:\\dir\\a.txt", "a.txt"), ("a%22b", 'a"b'), ("", "")],
)
def test_a_file_name_has_no_folders(sent, name):
    assert parsed([form([], b"", sent)])[2] == [name]


def test_the_file_is_never_held():
    parser = FormParser(BOUNDARY.encode())
    parser.receive(form([], b"")[: -len(f"\r\n--{BOUNDARY}--\r\n")])

    for _ in range(50):
        given_out = sum(len(event) for event in parser.receive(b"x" * 65536))
        assert given_out > 65536 - 100
        assert parser.held_bytes < 100


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"--xx-boundary?\r\n", "MalformedPOSTRequest"),
        (part("", b""), "MalformedPOSTRequest"),
        (b"--xx-boundary\r\n\r\nno headers", "MalformedPOSTRequest"),
        (part("k", b"\xff\xfe"), "MalformedPOSTRequest"),
        (b"--xx-boundary\r\nX: " + b"y" * (MAX_PART_HEAD_BYTES + 10), "MalformedPOSTRequest"),
        (part("k", b"") * (MAX_FIELDS + 1), "MalformedPOSTRequest"),
        (part("k", b"v" * (MAX_FIELDS_BYTES + 1)), "MaxPostPreDataLengthExceeded"),
        (part("k", b"v" * 1000) * 21, "MaxPostPreDataLengthExceeded"),
        (part("k", b"")[:-2] + b"endless" * 9000, "MaxPostPreDataLengthExceeded"),
        (b"a preamble without end" * 9000, "MaxPostPreDataLengthExceeded"),
    ],
)
def test_what_is_no_form_or_too_much_of_one(sent, code):
    with pytest.raises(S3Error) as error:
        parsed(cut(sent + b"--xx-boundary\r\n", range(0, len(sent), 500)))

    assert error.value.code == code


def test_a_form_that_is_cut_off_has_not_ended():
    sent = form([], b"data")

    assert not parsed([sent[:-8]])[0]


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=utf-8; Boundary="a b"', b"a b"),
        ("multipart/mixed; boundary=abc", None),
        ("text/plain", None),
        (None, None),
    ],
)
def test_boundaries(content_type, boundary):
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize("bad", ["", "; boundary=", "; boundary=" + "a" * 71, '; boundary="a\\r"'])
def test_bad_boundaries(bad):
    with pytest.raises(S3Error, match="MalformedPOSTRequest"):
        boundary_of("multipart/form-data" + bad)
