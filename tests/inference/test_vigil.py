"""A process that does nothing is told from one that is slow."""

import os
import signal
import subprocess
import sys
import time

from inference.workers.vigil import MOST_S, Vigil, signs_of


def test_a_busy_process_shows_signs_and_a_frozen_one_does_not():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            first = signs_of(process.pid)
            deadline = time.monotonic() + 30
            while signs_of(process.pid) == first:
                assert time.monotonic() < deadline
            os.kill(process.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            stopped = signs_of(process.pid)
            time.sleep(0.3)
            assert signs_of(process.pid) == stopped
        finally:
            process.kill()
    assert signs_of(process.pid) == ()


def test_silence_is_what_was_looked_at():
    vigil = Vigil(0.0)
    assert vigil.look("a", 0.1) == 0.0
    assert vigil.look("a", 0.2) == 0.1
    assert vigil.look("a", 1000.0) == 0.1 + MOST_S, "we stood still ourselves"
    assert vigil.look("b", 1000.1) == 0.0
