"""`pytest --workers N`: all is imported and collected once; then N processes are forked, and run lanes of tests.

A lane is what shares a process, in the order of collection. Processes that each import and collect for themselves
(pytest-xdist's) take 13 s of processor time apiece here, most of it torch and transformers: more than any test.

A worker asks for its next lane before the last test of the one it has, so that what only that lane used is taken down
with it. What it tells is read when somebody asks, or ten times a second: a parent that woke for each of some 30,000
messages took 7 s of processor time, twice as much. That setting up or taking down went well is told only where it is
shown.

One that dies fails the test it was at, and a new one goes on with the rest of its lane: the parent runs no test, so it
is always fit to be forked. Where the parent ends, however it ends, its workers take down what they have up.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import signal
import warnings
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

import pytest

from inference.shell import num_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.process import BaseProcess

FORK = multiprocessing.get_context("fork")
LOOK_S = 0.1
"""Between looks at what workers said, and for those that died while something they had started held their lines."""
PR_SET_PDEATHSIG = 1
TAKE_DOWN_S = 60.0
"""For a worker to take down what it has up when it is interrupted."""
Lane = list[int]
"""Places in `session.items`."""


class Enough(Exception):
    """So many tests failed that no other is begun (`-x`, `--maxfail`)."""


def add_option(parser: pytest.Parser) -> None:
    """For `pytest_addoption`."""
    parser.addoption("--workers", type=int, default=0, help="Run the tests in so many processes.")


def run(session: pytest.Session, lane_of: Callable[[str], str]) -> bool | None:
    """For `pytest_runtestloop`: None where it is not our turn. `lane_of` names the lane of a test's id."""
    num_workers = session.config.getoption("workers")
    if not num_workers or session.config.option.collectonly or session.testsfailed:
        return None
    Parent(session, lanes(lane_of(item.nodeid) for item in session.items)).run(num_workers)
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
    return True


def lanes(names: Iterable[str]) -> list[Lane]:
    """One for each name, in the order in which names first appear."""
    found: dict[str, Lane] = {}
    for place, name in enumerate(names):
        found.setdefault(name, []).append(place)
    return list(found.values())


class Worker:
    """In the forked process: runs what it is told, and tells the parent what a terminal would show."""

    def __init__(self, session: pytest.Session, line: Connection, asking: Connection, number: int) -> None:
        self._session, self._line, self._asking = session, line, asking
        config = session.config
        self._tells_all = bool(config.option.durations is not None or config.option.xmlpath)
        for name in ("terminalreporter", "junitxml"):  # the parent's
            config.pluginmanager.unregister(name=name)
        capture: Any = config.pluginmanager.getplugin("capturemanager")
        capture.stop_global_capturing()  # its files are the parent's: all would write at one place
        capture.start_global_capturing()
        folders: Any = config._tmp_path_factory
        folders._basetemp = folders.getbasetemp() / f"w{number}"
        folders._basetemp.mkdir(mode=0o700)
        config.pluginmanager.register(self, "worker")

    def run(self) -> None:
        """Lane after lane, until there is none or one test too many has failed."""
        lane = self._next_lane()
        while lane:
            for place, following in itertools.pairwise(lane):
                self._test(place, following)
            last, lane = lane[-1], self._next_lane()
            self._test(last, lane[0] if lane and self._in_one_room(last, lane[0]) else None)

    def _in_one_room(self, place: int, following: int) -> bool:
        """Else all that is up is taken down: a platform that nobody asks any more would go on beside other tests."""
        return self._session.items[place].path.parent == self._session.items[following].path.parent

    def _next_lane(self) -> Lane:
        self._asking.send(None)
        return list(self._asking.recv())

    def _test(self, place: int, following: int | None) -> None:
        session = self._session
        self._line.send(("at", place))
        nextitem = None if following is None else session.items[following]
        session.config.hook.pytest_runtest_protocol(item=session.items[place], nextitem=nextitem)
        if session.shouldfail or session.shouldstop:
            session._setupstate.teardown_exact(None)
            raise Enough

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.passed and report.when != "call" and not (report.sections or self._tells_all):
            return
        config = self._session.config
        self._line.send(("report", config.hook.pytest_report_to_serializable(config=config, report=report)))

    def pytest_warning_recorded(self, warning_message: Any, when: str, nodeid: str, location: Any) -> None:
        text = f"{warning_message.category.__name__}: {warning_message.message}"  # whatever can be pickled
        where = (warning_message.filename, warning_message.lineno)
        self._line.send(("warning", (text, where, {"when": when, "nodeid": nodeid, "location": location})))

    def pytest_internalerror(self, excrepr: object) -> None:
        self._line.send(("internal error", str(excrepr)))


def _follow(parent: int) -> None:
    """Be interrupted when the parent ends, and by it: what a shell starts in the background would ignore that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != parent:
        raise KeyboardInterrupt


def _work(session: pytest.Session, line: Connection, asking: Connection, number: int, parent: int) -> None:
    status = 1
    try:
        _follow(parent)
        Worker(session, line, asking, number).run()
        status = 0
    except Enough:
        status = 0
    except (KeyboardInterrupt, EOFError, BrokenPipeError):  # the latter: the parent is gone
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells us, and so does the parent
        session._setupstate.teardown_exact(None)  # what is up would stay up for ever
        status = 0
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        session.config.notify_exception(pytest.ExceptionInfo.from_exception(error), session.config.option)
    finally:
        os._exit(status)  # what is registered for the end of the process is the parent's


@dataclass
class Forked:
    """What the parent knows of a worker: its lanes, the one it is in first, and where in it.

    It tells on `line`, and asks for lanes on `asking`.
    """

    process: BaseProcess
    line: Connection
    asking: Connection
    lanes: list[Lane] = field(default_factory=list)
    at: int | None = None

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def rest(self) -> Iterator[Lane]:
        """What it was given and has not begun."""
        for lane in self.lanes:
            yield lane[lane.index(self.at) + 1 :] if self.at in lane else lane


class Parent:
    """Forks the workers, gives them lanes, and hears their reports."""

    def __init__(self, session: pytest.Session, waiting: list[Lane]) -> None:
        self._session, self._waiting = session, waiting
        self._workers: list[Forked] = []
        self._num_forked = 0

    def run(self, num_workers: int) -> None:
        """Until all lanes ran, or one test too many failed.

        The folder in which each has its own is made here: a worker that made it would, where it has been given a name
        (`--basetemp`), first remove those of the others.
        """
        folders: Any = self._session.config._tmp_path_factory
        folders.getbasetemp()
        try:
            for _ in range(min(num_workers, len(self._waiting))):
                self._fork()
            while self._workers:
                wait([each.asking for each in self._workers], LOOK_S)
                for worker in [*self._workers]:
                    self._hear(worker)
        finally:
            self._end()

    def _end(self) -> None:
        """Where not all came to its end: workers that run take down what they have up."""
        for worker in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGINT)
        for worker in self._workers:
            worker.process.join(TAKE_DOWN_S)
            worker.process.kill()

    def _fork(self) -> None:
        if num_threads() != 1:
            raise pytest.UsageError("collecting the tests left threads: workers cannot be forked")
        (mine, theirs), (asked, asking) = FORK.Pipe(), FORK.Pipe()
        process = FORK.Process(
            target=_work, args=(self._session, theirs, asking, self._num_forked, os.getpid())
        )
        process.start()
        theirs.close()
        asking.close()
        self._num_forked += 1
        self._workers.append(Forked(process, mine, asked))

    def _hear(self, worker: Forked) -> None:
        has_ended = not worker.process.is_alive()  # asked first: what it said before is then all there
        try:
            asks = worker.asking.poll()  # as well
            while worker.line.poll():
                self._take(worker, *worker.line.recv())
            if asks:
                self._answer(worker)
        except (EOFError, ConnectionResetError):
            worker.process.join()
            has_ended = True
        if has_ended:
            self._bury(worker)

    def _take(self, worker: Forked, word: str, said: Any) -> None:
        match word:
            case "at":
                worker.at = said
                worker.lanes = worker.lanes[said not in worker.lanes[0] :]
            case "report":
                self._report(said)
            case "warning":
                self._warn(said)
            case _:
                raise RuntimeError(f"a worker of tests failed:\n{said}")

    def _answer(self, worker: Forked) -> None:
        """Its next lane, an empty one where there is none."""
        worker.asking.recv()
        stop = self._session.shouldfail or self._session.shouldstop
        lane = self._waiting.pop(0) if self._waiting and not stop else []
        worker.lanes.append(lane)
        worker.asking.send(lane)

    def _report(self, said: dict[str, Any]) -> None:
        hook, config = self._session.config.hook, self._session.config
        hook.pytest_runtest_logreport(report=hook.pytest_report_from_serializable(config=config, data=said))

    def _warn(self, said: tuple[str, tuple[str, int], dict[str, Any]]) -> None:
        text, where, rest = said
        message = warnings.WarningMessage(pytest.PytestWarning(text), pytest.PytestWarning, *where)
        hook = self._session.config.hook.pytest_warning_recorded
        hook.call_historic(kwargs={"warning_message": message} | rest)

    def _bury(self, worker: Forked) -> None:
        """It ended: well, or in a test, which fails for it; another one takes over what was left."""
        self._workers.remove(worker)
        worker.line.close()
        worker.asking.close()
        if worker.process.exitcode == 0:
            return
        if worker.at is None:
            raise RuntimeError("a worker of tests died before its first test")
        self._fail(self._session.items[worker.at], f"its process died with status {worker.process.exitcode}")
        self._waiting[:0] = [lane for lane in worker.rest() if lane]
        if self._waiting:
            self._fork()

    def _fail(self, item: pytest.Item, why: str) -> None:
        said = pytest.TestReport(item.nodeid, item.location, {}, "failed", f"{item.nodeid}: {why}", "call")
        item.config.hook.pytest_runtest_logreport(report=said)
