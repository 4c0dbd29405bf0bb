"""A real OpenStack Swift with s3api, started as the benchmark starts it; the tests' skip words where there is none."""

import getpass
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.peers import swift as start_swift

PROXY = shutil.which("swift-proxy-server")
needs_swift = pytest.mark.skipif(
    PROXY is None,
    reason="no OpenStack Swift on this machine (pip install -r bench/peers.txt; .ci/run does it)",
)


@contextmanager
def running_swift(folder: Path):
    """Swift with its disk in `folder`. Yields its Endpoint."""
    with start_swift(Path(PROXY).parent, folder, getpass.getuser()) as served:
        yield served.store
