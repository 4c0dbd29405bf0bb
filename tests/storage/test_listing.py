import sqlite3

from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage.index.columns import SCHEMA
from storage.index.listing import PageAsk, decode_token, encode_token, page_of, scan_objects, successor
from tests.evidence import count

TEXTS = st.text(alphabet="ab/\xe9\U0001f600", max_size=6).map(str.encode)
KEYS = st.sets(TEXTS.filter(bool), max_size=25)


def database(keys) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.executescript(SCHEMA)
    rows = [("models", key, 1, "e", 0, 0, None, 0, None, "[]", "[]") for key in keys]
    db.executemany("INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'null', '[]', NULL)", rows)
    db.execute(
        "INSERT INTO objects VALUES ('other', x'61', 1, 'e', 0, 0, NULL, 0, NULL, '[]', '[]', 'null', '[]', NULL)"
    )
    return db


def expected(keys, prefix: bytes, delimiter: bytes) -> list[tuple[str, bytes]]:
    """The whole listing, by the definition."""
    entries = []
    for key in sorted(key for key in keys if key.startswith(prefix)):
        rest = key[len(prefix) :]
        if delimiter and delimiter in rest:
            common = prefix + rest[: rest.index(delimiter) + len(delimiter)]
            if ("prefix", common) not in entries:
                entries.append(("prefix", common))
        else:
            entries.append(("key", key))
    return entries


@given(keys=KEYS, prefix=TEXTS, delimiter=st.sampled_from([b"", b"/", b"a", b"ab"]), size=st.integers(1, 4))
@example(
    keys={b"ab", b"aba"}, prefix=b"a", delimiter=b"ab", size=1
)  # a key that ends as a common prefix would
@settings(max_examples=count(100, 300), deadline=None)
def test_pages_together_are_the_listing(keys, prefix, delimiter, size):
    scan = scan_objects(database(keys), "models")
    found, after = [], b""
    for _ in range(40):
        page = page_of(scan, PageAsk(prefix, delimiter, after, size))
        entries = [("key", row.raw_key) for row in page.rows] + [
            ("prefix", common) for common in page.prefixes
        ]
        found += sorted(entries, key=lambda entry: entry[1])
        assert len(entries) == size or not page.truncated
        if not page.truncated:
            break
        after = decode_token(encode_token(page.last))

    assert found == expected(keys, prefix, delimiter)


@given(keys=KEYS, after=TEXTS)
@settings(deadline=None)
def test_start_after_is_after(keys, after):
    page = page_of(scan_objects(database(keys), "models"), PageAsk(b"", b"", after, 1000))

    assert [row.raw_key for row in page.rows] == sorted(key for key in keys if key > after)


@given(st.binary(max_size=4), st.binary(max_size=4))
def test_the_successor_is_above_everything_below_a_prefix(prefix, rest):
    above = successor(prefix)

    assert above is None or above > prefix + rest


def test_a_common_prefix_costs_one_seek(monkeypatch):
    """A folder of 20,000 keys is passed without reading them."""
    keys = [b"a/%05d" % n for n in range(20_000)] + [b"b"]
    db = database(keys)
    steps = []
    db.set_progress_handler(lambda: steps.append(1), 1000)

    page = page_of(scan_objects(db, "models"), PageAsk(b"", b"/", b"", 1000))

    assert page.prefixes == (b"a/",)
    assert [row.raw_key for row in page.rows] == [b"b"]
    assert len(steps) < 3
