"""A store on a host without a thread left, as in a container at its limit of pids: it goes on with those it has."""

import threading

import pytest

from tests.storage.stores import Raw, StoreThread

MIB = 1 << 20


@pytest.fixture
def store(tmp_path):
    found = StoreThread(tmp_path)
    yield found
    found.stop()


def test_requests_are_answered_by_the_threads_that_there_are(store, monkeypatch):
    """Bodies that are hashed, written and sent in threads; they were answered 500, or done after their refusal."""
    body = bytes(range(256)) * (4 * MIB // 256)

    def start(_thread):
        raise RuntimeError("can't start new thread")

    with Raw(store.endpoint()) as raw, monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", start)
        answers = [raw.send("PUT", "/models"), raw.send("PUT", "/models/a", body=body)]
        got = raw.send("GET", "/models/a")

    assert [answer.status for answer in (*answers, got)] == [200, 200, 200]
    assert got.body == body
