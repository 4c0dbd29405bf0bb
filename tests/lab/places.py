"""A thread that lives in a namespace, with an event loop: what runs there is a client of that place."""

import asyncio
import concurrent.futures
import threading

import uvloop


class Place:
    def __init__(self, space):
        self._space = space
        self._loop = uvloop.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        self._up.wait()

    def _live(self):
        self._space.stay()
        asyncio.set_event_loop(self._loop)
        # of one thread, made here: look-ups of names stay in the namespace too
        self._loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
        self._loop.call_soon(self._up.set)
        self._loop.run_forever()

    def begin(self, work):
        """Start a coroutine there; its future."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def do(self, work, timeout_s=90.0):
        return self.begin(work).result(timeout_s)

    def close(self):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
