"""Small bodies are taken on the loop: what they refuse, and that large ones are not."""

import base64
import hashlib
import threading
from datetime import UTC, datetime

import pytest

from storage.auth.claims import _stamped
from storage.http import ingest
from storage.http.receive import AT_ONCE_BYTES
from tests.storage.stores import Raw, StoreThread


@pytest.fixture
def store(tmp_path):
    running = StoreThread(tmp_path / "store")
    yield running
    running.stop()


@pytest.fixture
def threads(monkeypatch):
    """The name of each thread that finished a body."""
    seen = []
    finish = ingest.Ingest.finish

    def watched(self, pieces):
        seen.append(threading.current_thread().name)
        return finish(self, pieces)

    monkeypatch.setattr(ingest.Ingest, "finish", watched)
    return seen


@pytest.mark.parametrize(
    ("size", "in_pool"), [(0, False), (4096, False), (AT_ONCE_BYTES, False), (AT_ONCE_BYTES + 1, True)]
)
def test_who_takes_a_body(store, threads, size, in_pool):
    """Up to the bound the loop, above it a thread of the pool; the bytes are the same."""
    with Raw(store.endpoint()) as raw:
        assert raw.send("PUT", "/models").status == 200
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        threads.clear()
        assert raw.send("PUT", "/models/k", body=body).status == 200
        assert raw.send("GET", "/models/k").body == body

    assert [name.startswith("store") for name in threads] == [in_pool]


def test_a_small_body_is_checked_all_the_same(store):
    """A wrong MD5, a missing bucket and a failed condition are refused, and nothing is kept."""
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    with Raw(store.endpoint()) as raw:
        assert raw.send("PUT", "/models").status == 200
        answer = raw.send("PUT", "/models/k", headers={"content-md5": wrong}, body=b"data")
        assert (answer.status, answer.code) == (400, "BadDigest")
        assert raw.send("GET", "/models/k").status == 404
        assert raw.send("PUT", "/absent/k", body=b"data").code == "NoSuchBucket"
        assert raw.send("PUT", "/models/k", body=b"data").status == 200
        answer = raw.send("PUT", "/models/k", headers={"if-none-match": "*"}, body=b"more")
        assert (answer.status, answer.code) == (412, "PreconditionFailed")
        assert raw.send("GET", "/models/k").body == b"data"


@pytest.mark.parametrize(
    "stamp", ["20260230T000000Z", "20261301T000000Z", "20260101T250000Z", "20260101T006100Z"]
)
def test_dates_that_are_none(stamp):
    """A stamp of the right form that is no time is refused as before."""
    with pytest.raises(ValueError, match=r"must be in|out of range"):
        _stamped(stamp)


def test_a_date_is_read_whole():
    """Every field, in UTC."""
    assert _stamped("20261125T234501Z") == datetime(2026, 11, 25, 23, 45, 1, tzinfo=UTC)
