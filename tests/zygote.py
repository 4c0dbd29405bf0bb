"""One zygote for all tests of a run, whichever process they are in: torch and transformers are imported once."""

import os
import shutil
import tempfile
from pathlib import Path

from inference.workers.shell.zygote import launch, socket_path

MAIN = os.getpid()
"""The process that outlives all others of this run: the one that loads this before any worker is forked."""
FOLDER = Path(tempfile.gettempdir()) / f"nearfield-tests-{MAIN}"


def folder() -> Path:
    """For `ShellLink.start`, and `zygote` of a node: it is there, or being started, until the run ends."""
    launch(socket_path(FOLDER), owner=MAIN)
    return FOLDER


def share(state: Path) -> None:
    """Have the platform that `up` is about to make in `state` use it."""
    state.mkdir(parents=True, exist_ok=True)
    if not (state / "zygote").exists():
        (state / "zygote").symlink_to(folder())


def clean() -> None:
    """The run has ended."""
    shutil.rmtree(FOLDER, ignore_errors=True)
