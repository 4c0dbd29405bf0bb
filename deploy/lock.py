"""The lock of a state folder: one `up` each. It goes with the process that took it, however that ends."""

import fcntl
import os
import shutil
from pathlib import Path
from typing import IO

from deploy.faults import NotYours, StateInUse, StateUnusable
from deploy.terminal import pasted


def hold(state: Path) -> IO[str]:
    """Take the state folder for this process.

    Raises:
        StateInUse: another process has it.
        StateUnusable: it can't be made, is not for us to write to, or no file of ours can hold its name.
    """
    _demand_text(state)
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (state / "up.lock").open("a+")
    except OSError as error:
        raise StateUnusable(f"{state} can't hold a platform: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        raise StateInUse(
            f"{state} is in use by process {file.read().strip() or 'unknown'}. "
            "Stop it with `nearfield stop`, or take another folder with --state DIR."
        ) from error
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()
    return file


def _demand_text(state: Path) -> None:
    try:
        str(state.absolute()).encode()
    except UnicodeEncodeError as error:
        raise StateUnusable(f"{state} can't hold a platform: its name is not UTF-8") from error


def holder(state: Path) -> int | None:
    """The process that runs the platform in `state`, if one does. Raises NotYours."""
    try:
        file = (state / "up.lock").open()
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise NotYours(f"{state} is another user's: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            number = file.read()
            return int(number) if number else None  # empty: it holds the lock, and is about to write it
    return None


def demand_free(state: Path) -> None:
    """Raises StateInUse: a platform runs there."""
    pid = holder(state)
    if pid is not None:
        raise StateInUse(
            f"{state} is in use by process {pid}; stop it first: nearfield stop{pasted.state_option(state)}"
        )


def wipe(state: Path) -> None:
    """Forget everything in a state folder that `up` made; refuses a folder that is something else.

    Raises:
        StateInUse: a platform runs there.
    """
    demand_free(state)
    if (state / "nearfield.toml").exists() or (state / "up.lock").exists():
        shutil.rmtree(state)
