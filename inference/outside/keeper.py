"""Runs one program and sees to it that nothing of it outlives the node. A process of its own, standard library only.

    python -I -S keeper.py SIGNAL GRACE_S PROGRAM ARGUMENT...

Standard input is the node's hold on it: one byte asks the program to stop (SIGNAL, and SIGKILL after GRACE_S
seconds), its end, which also comes when the node is killed, kills at once. Whatever the program started is killed with
it, in whatever session it is: this process is the reaper of all of them (PR_SET_CHILD_SUBREAPER). It ends when nothing
is left, with the program's own status, 128 and more for a signal.
"""

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
NOT_FOUND = 127


def main() -> int:
    """Start it, wait, end everything."""
    number, grace_s, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # the node decides, over standard input
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    keeper = os.getpid()
    child = os.fork()
    if child == 0:
        become(command, keeper)
    status = wait(child, wake, number, grace_s)
    end_all()
    return status


def become(command: list[str], keeper: int) -> None:
    """In the child: a group of its own in the keeper's session, signals as they come, nothing to read."""
    os.setpgid(0, 0)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != keeper:
        os._exit(NOT_FOUND)
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(each, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the point: a list of words, no shell
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(NOT_FOUND)


def wait(child: int, wake: int, number: int, grace_s: float) -> int:
    """Until the program has ended, or is to be killed: its status."""
    deadline = None
    while True:
        status = reaped(child)
        if status is not None:
            return status
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([0, wake], [], [], left_s)
        if wake in ready:
            os.read(wake, 512)
        if 0 in ready and not os.read(0, 512):
            deadline = time.monotonic()
        elif 0 in ready and deadline is None:
            deadline = time.monotonic() + grace_s
            send(child, number)
        if deadline is not None and time.monotonic() >= deadline:
            send(child, signal.SIGKILL)
            return code(os.waitpid(child, 0)[1])


def reaped(child: int) -> int | None:
    """Collect what has ended; the program's status once it is among that."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == child:
            return code(status)
        if pid == 0:
            return None


def code(status: int) -> int:
    """As a shell says it."""
    found = os.waitstatus_to_exitcode(status)
    return found if found >= 0 else 128 - found


def send(child: int, number: int) -> None:
    """A signal for the program and whatever is in its group."""
    try:
        os.killpg(child, number)
    except ProcessLookupError:  # it has no group of its own yet; it is not reaped, so the number is its own
        os.kill(child, number)


def end_all() -> None:
    """Kill what is left; what it leaves behind comes to us, so this ends when there is nobody."""
    while True:
        for pid in children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def children() -> list[int]:
    """Processes whose parent is this one."""
    own = os.getpid()
    return [
        int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal() and parent_of(each) == own
    ]


def parent_of(process: Path) -> int:
    """The parent of a process; 0 if it has just ended."""
    try:
        return int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


if __name__ == "__main__":
    sys.exit(main())
