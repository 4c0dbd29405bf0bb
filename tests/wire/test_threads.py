"""Work that was handed over is done, by the threads that there are; what is refused is never done."""

import threading

import pytest

from wire.threads import Threads


@pytest.fixture
def no_more(monkeypatch):
    """From when it is called the host lets no thread begin."""

    def forbid():
        def start(_thread):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)

    return forbid


def test_the_threads_that_there_are_do_it_all(no_more, caplog):
    """Busy or idle; the lack is said once."""
    with Threads(8, "few") as pool:
        busy = threading.Event()
        pool.submit(busy.wait, 60)
        no_more()
        futures = [pool.submit(threading.current_thread) for _ in range(20)]
        busy.set()
        assert len({future.result(60) for future in futures}) <= 2
    (said,) = [record.getMessage() for record in caplog.records]
    assert "threads do the work of 8: can't start new thread" in said


def test_more_begin_once_they_may(no_more, monkeypatch):
    with Threads(2, "few") as pool:
        no_more()
        assert pool.submit(int).result(60) == 0
        monkeypatch.undo()
        both = threading.Barrier(2)
        assert {pool.submit(both.wait, 60), pool.submit(both.wait, 60)}


def test_without_one_thread_there_is_no_pool(no_more):
    no_more()
    with pytest.raises(OSError, match="lets this process begin no thread"):
        Threads(4, "none")
