"""A real OpenStack Swift with s3api, started as the benchmark starts it; the tests' skip words where there is none."""

import getpass
import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bench.servers import Missing
from bench.stores.peers import swift as start_swift

PROXY = shutil.which("swift-proxy-server")
NUM_TRIES = 3


def why_not() -> str:
    """What this machine lacks for a Swift; empty if nothing."""
    if PROXY is None:
        return "no OpenStack Swift on this machine (pip install -r bench/stores/peers.txt; .ci/run does it)"
    with tempfile.NamedTemporaryFile() as file:
        try:
            os.setxattr(file.name, "user.swift.metadata", b"1")
        except OSError as error:
            return f"Swift keeps what it knows in extended attributes; {tempfile.gettempdir()} takes none: {error}"
    return ""


needs_swift = pytest.mark.skipif(bool(why_not()), reason=why_not())


@contextmanager
def running_swift(folder: Path):
    """Swift with its disk in `folder`. Yields its Endpoint."""
    with ExitStack() as stack:
        yield _started(stack, folder).store


def _started(stack, folder):
    """Its four ports were free just now; where somebody was quicker it ends, and is started again on others."""
    for number in range(NUM_TRIES - 1):
        try:
            return stack.enter_context(
                start_swift(Path(PROXY).parent, folder / str(number), getpass.getuser())
            )
        except Missing:
            continue
    return stack.enter_context(start_swift(Path(PROXY).parent, folder / "last", getpass.getuser()))
