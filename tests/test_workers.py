"""Tests in forked workers: each is told once, however it ends, and what was up is taken down."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONFTEST = """
import os, pathlib, pytest
from tests import workers
LOG = pathlib.Path(__file__).with_name("log")

def pytest_addoption(parser):
    workers.add_option(parser)

@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    return workers.run(session, lambda nodeid: nodeid.partition("::")[0])

@pytest.fixture(scope="session")
def system():
    yield
    with LOG.open("a") as log:
        log.write(f"{os.getpid()} ")
"""
DIES = """
import os, pytest

@pytest.mark.parametrize("number", range(5))
def test_it(number, system, tmp_path):
    (tmp_path / "own").touch()
    print("said by", number)
    if number == 1:
        os._exit(9)
    assert number != 3
"""
PASSES = """
def test_it(system):
    pass
"""
MEETS = """
import time

def test_it(tmp_path):
    (tmp_path / "own").touch()
    together = tmp_path.parents[1]
    while len([*together.glob(f"w*/{tmp_path.name}/own")]) < 2:
        time.sleep(0.01)
    (tmp_path / "met").touch()
    while len([*together.glob(f"w*/{tmp_path.name}/met")]) < 2:
        time.sleep(0.01)
"""
"""In two workers at once: each sees what is in the other's folder."""
FAILS = """
def test_first():
    assert 0

def test_second():
    assert 0
"""


WAITS = """
import pathlib, time

def test_it(system):
    pathlib.Path(__file__).with_name("began").touch()
    time.sleep(100)
"""

HEEDING = """
import signal, sys, pytest

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(pytest.main(sys.argv[1:]))
"""
"""pytest that can be interrupted: what a shell starts in the background ignores that, and so does all it starts."""


def told(folder, *words):
    with running(folder, *words) as process:
        out, err = process.communicate(timeout=100)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def running(folder, *words):
    (folder / "conftest.py").write_text(CONFTEST)
    command = [sys.executable, "-c", HEEDING, "-p", "no:cacheprovider", "--workers", "2", *words, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_one_that_dies_and_one_that_fails_are_told_and_all_others_run(tmp_path):
    (tmp_path / "test_dies.py").write_text(DIES)
    for name in "abc":
        (tmp_path / f"test_{name}.py").write_text(PASSES)
    done = told(tmp_path)

    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 failed, 6 passed" in done.stdout
    assert "test_dies.py::test_it[1]: its process died with status 9" in done.stdout
    assert "assert 3 != 3" in done.stdout
    assert "said by 3" in done.stdout
    assert "said by 2" not in done.stdout, "that one passed"
    ended = (tmp_path / "log").read_text().split()
    assert 1 <= len(ended) == len(set(ended)) <= 2, "what a worker had up it took down, once"


def test_the_folder_of_all_may_be_named(tmp_path):
    """pytest empties it when it is first asked for: that must be before there is anything of a worker in it."""
    for name in "abcd":  # a worker asks for its second before it begins with its first
        (tmp_path / f"test_{name}.py").write_text(MEETS)
    done = told(tmp_path, "--basetemp", str(tmp_path / "folders"), "--timeout", "60")

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_first_failure_is_the_last_test_where_that_is_wished(tmp_path):
    (tmp_path / "test_fails.py").write_text(FAILS)
    done = told(tmp_path, "-x")

    assert done.returncode == 1
    assert "1 failed in" in done.stdout
    assert "stopping after 1 failures" in done.stdout


def test_who_is_interrupted_takes_down_what_is_up(tmp_path):
    """By a signal to the parent alone: a terminal sends it to all."""
    (tmp_path / "test_waits.py").write_text(WAITS)
    with running(tmp_path) as process:
        while not (tmp_path / "began").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=100)

    assert process.returncode == pytest.ExitCode.INTERRUPTED, out
    assert len((tmp_path / "log").read_text().split()) == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_of_one_that_was_killed_take_down_what_is_up(tmp_path, how):
    (tmp_path / "test_waits.py").write_text(WAITS)
    with running(tmp_path) as process:
        while not (tmp_path / "began").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(how)
        process.communicate(timeout=100)  # to the end of what its worker says

    assert process.returncode == -how
    assert len((tmp_path / "log").read_text().split()) == 1
