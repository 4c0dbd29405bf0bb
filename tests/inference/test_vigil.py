"""A process that does nothing is told from one that is slow."""

import asyncio
import os
import signal
import subprocess
import sys
import time

from inference.link import NodeLink, link_pair
from inference.workers.engines.calls import EngineCalls
from inference.workers.engines.process import EngineProcess
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


async def test_an_engines_end_is_known_where_its_shell_is_frozen_and_says_nothing():
    """Else its memory would be held, and whoever waits for that room would wait for the shell."""
    never = asyncio.get_running_loop().create_future()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(60)")
    node_end, engine_end = link_pair()
    calls = EngineCalls(await NodeLink.open(node_end), lambda _: None, Unused())
    engine = EngineProcess(process.pid, never, calls, 0.0, None, Unused())
    waiting = asyncio.ensure_future(engine.ended())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    engine.kill()
    await asyncio.wait_for(waiting, 20)
    engine_end.close()
    await engine.close()
    await process.wait()


class Unused:
    """Nothing is asked of this engine."""

    async def gone(self):
        pass
