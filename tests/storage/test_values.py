"""Names, grants, checksums, XML and conditions: the pure parts."""

import base64
import hashlib
import stat
import zlib
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.auth.key import AccessKey, Grant, Identity, Right, parse_bucket, parse_key
from storage.checksum import (
    ALGORITHMS,
    COMPOSITE,
    FULL_OBJECT,
    combine_crc64nvme,
    crc64nvme,
    of_parts,
)
from storage.fault import S3Error
from storage.http.conditions import ReadAsk
from storage.http.document import MAX_DEPTH, MAX_ELEMENTS, escape_text, parse, write
from storage.index.conditions import Conditions
from storage.index.rows import ObjectRow


@pytest.mark.parametrize("name", ["abc", "a-b.c9", "9" * 63, "nearfield-system"])
def test_bucket_names(name):
    assert parse_bucket(name) == name


@pytest.mark.parametrize(
    "name", ["", "ab", "a" * 64, "Abc", "a_b", "-ab", "ab-", "a..b", "a.-b", "127.0.0.1", "a/b", "ä" * 3]
)
def test_bad_bucket_names(name):
    with pytest.raises(S3Error, match="InvalidBucketName"):
        parse_bucket(name)


@pytest.mark.parametrize(
    "key", ["a", "/", "//a", "a b+c%", "ä/\U0001f600", "\x01\x7f", ".a", "a..", "...", "k" * 1024]
)
def test_keys(key):
    assert parse_key(key.encode()) == key


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "InvalidArgument"),
        (b"a\x00b", "InvalidArgument"),
        (b"..", "InvalidArgument"),
        (b"a/../b", "InvalidArgument"),
        (b"./a", "InvalidArgument"),
        (b"a/.", "InvalidArgument"),
        (b"\xff", "InvalidURI"),
        (b"\xed\xa0\x80", "InvalidURI"),
        (b"k" * 1025, "KeyTooLongError"),
        (("ä" * 513).encode(), "KeyTooLongError"),
    ],
)
def test_bad_keys(raw, code):
    with pytest.raises(S3Error) as caught:
        parse_key(raw)

    assert caught.value.code == code


def test_unicode_forms_of_a_key_stay_apart():
    assert parse_key(b"\xc3\xa9") != parse_key(b"e\xcc\x81")


def test_grants_reach_as_far_as_they_say():
    who = Identity("k", (Grant.parse("models:acme/:write"), Grant.parse("logs::read")))

    assert who.may(Right.READ, "models", "acme/m/x")
    assert who.may(Right.WRITE, "models", "acme/")
    assert not who.may(Right.READ, "models", "acme")
    assert not who.may(Right.READ, "models", "")
    assert not who.may(Right.ADMIN, "models", "acme/")
    assert who.may(Right.READ, "logs")
    assert not who.may(Right.WRITE, "logs", "a")
    assert not who.sees("other")


@pytest.mark.parametrize(
    "text", ["", "models", "models:write", "models::owns", "models:a/:own", ":x:read", "Models::read", "a:b"]
)
def test_bad_grants(text):
    with pytest.raises(ValueError):
        Grant.parse(text)


def test_to_own_is_no_right_on_what_others_own():
    who = Identity("k", (Grant.parse("*::own"),), "alice")

    assert who.may_own("any")
    assert not who.may(Right.READ, "any")
    assert not who.sees("any")


@pytest.mark.parametrize(
    ("user", "grants"), [("", ("*::own",)), ("nearfield", ()), ("a b", ()), ("http://x", ()), ("u" * 65, ())]
)
def test_bad_users(user, grants):
    with pytest.raises(ValueError):
        AccessKey("NFUSER", 1, tuple(map(Grant.parse, grants)), user=user)


@pytest.mark.parametrize("text", ["*::own", "*::admin", "models:a:b/:read", "models:*:write"])
def test_grants_are_written_as_they_are_read(text):
    grant = Grant.parse(text)

    assert Grant.parse(str(grant)) == grant


def test_a_secret_depends_on_root_id_and_generation():
    key = AccessKey("NFA", 1, ())
    secrets = {
        key.secret(b"a" * 32),
        key.secret(b"b" * 32),
        AccessKey("NFB", 1, ()).secret(b"a" * 32),
        AccessKey("NFA", 2, ()).secret(b"a" * 32),
    }

    assert len(secrets) == 4
    assert all(len(secret) == 43 for secret in secrets)


def test_checksums_of_the_specifications():
    check = {"CRC32": 0xCBF43926, "CRC32C": 0xE3069283, "CRC64NVME": 0xAE8B14860A799888}
    for name, value in check.items():
        hasher = ALGORITHMS[name].hasher()
        hasher.update(b"1234")
        hasher.update(memoryview(b"56789"))
        assert int.from_bytes(hasher.digest(), "big") == value


@given(
    st.lists(st.binary(max_size=50), min_size=1, max_size=5),
    st.sampled_from(["CRC32", "CRC32C", "CRC64NVME"]),
)
def test_crcs_of_parts_make_the_crc_of_the_whole(parts, name):
    algorithm = ALGORITHMS[name]

    def digest(data):
        hasher = algorithm.hasher()
        hasher.update(data)
        return base64.b64encode(hasher.digest()).decode()

    whole = of_parts(algorithm, FULL_OBJECT, [(digest(part), len(part)) for part in parts])

    assert whole.value == digest(b"".join(parts))


@given(st.binary(), st.binary())
def test_two_crc64nvme_make_the_one_of_both(first, second):
    both, left, right = (crc64nvme() for _ in range(3))
    both.update(first + second)
    left.update(first)
    right.update(second)

    assert combine_crc64nvme(left.value, right.value, len(second)) == both.value


def test_a_composite_checksum_is_of_the_parts_digests():
    parts = [b"a" * 10, b"b"]
    digests = [hashlib.sha256(part).digest() for part in parts]

    made = of_parts(ALGORITHMS["SHA256"], COMPOSITE, [(base64.b64encode(d).decode(), 1) for d in digests])

    assert made.value == base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode() + "-2"


def test_documents_are_read():
    root = parse(b'<?xml version="1.0"?><a xmlns="http://x/"><b>1 &lt; 2</b><c><d/></c><b> y </b></a>', "a")

    assert [child.text for child in root.all("b")] == ["1 < 2", " y "]
    assert root.children[1].value("d") == ""


BOMB = b'<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]><a>&c;</a>'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<a>",
        b"<b/>",
        b"<a></a><a></a>",
        b"\xff\xfe",
        BOMB,
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        b"<a>&undefined;</a>",
        b"<?php x?><a/>",
        b"<a>" * (MAX_DEPTH + 1) + b"</a>" * (MAX_DEPTH + 1),
        b"<a>" + b"<b/>" * MAX_ELEMENTS + b"</a>",
    ],
)
def test_bad_documents(data):
    with pytest.raises(S3Error, match="MalformedXML"):
        parse(data, "a")


@given(st.text(st.characters(exclude_categories=("Cs",), min_codepoint=32)))
def test_what_is_written_is_read(text):
    root = parse(write("a", [("b", text)]), "a")

    assert root.all("b")[0].text == text


def test_control_characters_are_escaped():
    assert escape_text("a\x01\n") == "a&#x1;&#xa;"


ROW = ObjectRow("models", "k", 100, "e" * 32, 1_000_000_500, (), ())
BEFORE, SAME, AFTER = (
    format_datetime(datetime.fromtimestamp(at, UTC), usegmt=True) for at in (999_999, 1_000_000, 1_000_001)
)


@pytest.mark.parametrize(
    ("raw", "span"),
    [
        (None, None),
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 10)),
        ("bytes=90-1000", (90, 10)),
        ("bytes=-10", (90, 10)),
        ("bytes=-1000", (0, 100)),
        ("bytes=99-99", (99, 1)),
        ("bytes= 0-9", (0, 10)),
        ("bytes=9-0", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("items=0-9", None),
        ("bytes=a-9", None),
        ("bytes=0x1-9", None),
    ],
)
def test_ranges(raw, span):
    assert ReadAsk(range=raw).span(ROW) == span


@pytest.mark.parametrize(
    ("raw", "size"),
    [("bytes=100-", 100), ("bytes=100-200", 100), ("bytes=-0", 100), ("bytes=0-", 0), ("bytes=-5", 0)],
)
def test_unsatisfiable_ranges(raw, size):
    with pytest.raises(S3Error, match="InvalidRange"):
        ReadAsk(range=raw).span(ObjectRow("models", "k", size, "e", 0, (), ()))


@pytest.mark.parametrize(
    ("if_range", "applies"), [(f'"{"e" * 32}"', True), ('"other"', False), (SAME, True), (AFTER, False)]
)
def test_if_range(if_range, applies):
    assert (ReadAsk(range="bytes=0-0", if_range=if_range).span(ROW) is not None) == applies


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (ReadAsk(), None),
        (ReadAsk(if_match="*"), None),
        (ReadAsk(if_match=f'"{"e" * 32}"'), None),
        (ReadAsk(if_match=f'"x", "{"e" * 32}"'), None),
        (ReadAsk(if_match='"x"'), "PreconditionFailed"),
        (ReadAsk(if_none_match='"x"'), None),
        (ReadAsk(if_none_match="*"), "NotModified"),
        (ReadAsk(if_none_match="e" * 32), "NotModified"),
        (ReadAsk(if_modified_since=BEFORE), None),
        (ReadAsk(if_modified_since=SAME), "NotModified"),
        (ReadAsk(if_modified_since="yesterday"), None),
        (ReadAsk(if_none_match='"x"', if_modified_since=AFTER), None),
        (ReadAsk(if_unmodified_since=SAME), None),
        (ReadAsk(if_unmodified_since=BEFORE), "PreconditionFailed"),
        (ReadAsk(if_match="*", if_unmodified_since=BEFORE), None),
    ],
)
def test_conditional_reads(ask, code):
    if code is None:
        ask.check(ROW)
        return
    with pytest.raises(S3Error, match=code):
        ask.check(ROW)


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "etag", "code"),
    [
        (None, None, None, None),
        (None, "*", None, None),
        (None, "*", "e", "PreconditionFailed"),
        (None, '"e"', "e", "PreconditionFailed"),
        (None, '"x", "e"', "e", "PreconditionFailed"),
        (None, '"x"', "e", None),
        (None, '"e"', None, None),
        ('"e"', None, "e", None),
        ("e", None, "e", None),
        ("*", None, "e", None),
        ('"x"', None, "e", "PreconditionFailed"),
        ('"x"', None, None, "NoSuchKey"),
        ("*", None, None, "NoSuchKey"),
    ],
)
def test_conditional_writes(if_match, if_none_match, etag, code):
    conditions = Conditions.parse(if_match, if_none_match)
    if code is None:
        conditions.check(etag)
        return
    with pytest.raises(S3Error, match=code):
        conditions.check(etag)


def test_crc32_is_zlibs():
    hasher = ALGORITHMS["CRC32"].hasher()
    hasher.update(b"abc")

    assert int.from_bytes(hasher.digest(), "big") == zlib.crc32(b"abc")
    assert crc64nvme().digest() == bytes(8)


def test_secret_files_are_private(tmp_path):
    from storage.__main__ import prepare

    settings, credentials = prepare(tmp_path / "s", "127.0.0.1", 0)
    again, _ = prepare(tmp_path / "s", "127.0.0.1", 0)

    assert again == settings
    assert {stat.S_IMODE(path.stat().st_mode) for path in (credentials, tmp_path / "s/root.json")} == {0o600}
    assert settings.access_keys[0].secret(settings.root_key) in credentials.read_text()
