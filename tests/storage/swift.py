"""A real OpenStack Swift with s3api, started as the benchmark starts it; the tests' skip words where there is none."""

import getpass
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.peers import swift as start_swift

PROXY = shutil.which("swift-proxy-server")


def why_not() -> str:
    """What this machine lacks for a Swift; empty if nothing."""
    if PROXY is None:
        return "no OpenStack Swift on this machine (pip install -r bench/peers.txt; .ci/run does it)"
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
    with start_swift(Path(PROXY).parent, folder, getpass.getuser()) as served:
        yield served.store
