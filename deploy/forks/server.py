"""The fork server of one `up`: one process that has loaded what roles need, from which each role is forked.

`python -m deploy.forks.server UP`, with a socket to `up` (see `deploy.forks.order`) as its standard input. It runs no
event loop and no thread, reads no configuration and knows no key: a role finds modules in its memory, and nothing
else. It loads a room's modules when the first role of that room is asked for. Should one of them have made a thread,
there is no safe fork any more, and roles are started afresh, each with imports of its own.

A role is a child of `up`: the process between it and us ends at once, and `up`, which is a subreaper meanwhile, gets
it. So its exit status, and the kernel's word that the parent has died, are between the two, and neither role nor `up`
needs us any more. We end when `up` does, or closes its end; roles live on if somebody kills us.
"""

import gc
import os
import socket
import sys
import time
from pathlib import Path

from deploy.forks.modules import load
from deploy.forks.order import GO, MAX_ORDER_BYTES, NUM_FDS, READY, Order
from deploy.forks.title import show_as
from deploy.roles.life import die_with_parent
from deploy.roles.process import be

ADOPTED_POLL_S = 0.0005
STDIN, STDOUT, STDERR = range(3)


class ForkServer:
    """`serve` returns in each role with the order it is to follow; in the server it returns None at the end."""

    def __init__(self, link: socket.socket, up: int) -> None:
        self._link, self._up = link, up

    def serve(self) -> Order | None:
        """See the class. Raises OSError: there is no room for another process."""
        while True:
            packet, fds, _, _ = socket.recv_fds(self._link, MAX_ORDER_BYTES, NUM_FDS)
            if not packet:
                return None
            order = Order.parse(packet)
            load(order.role)
            self._link.send(READY)
            if self._link.recv(len(GO)) != GO:
                return None
            is_alone = len(list(Path("/proc/self/task").iterdir())) == 1
            if self._fork():
                self._settle_in(order, *fds)
                if not is_alone:
                    os.execv(sys.executable, (sys.executable, *order.words))  # noqa: S606 - our own words
                return order
            for fd in fds:
                os.close(fd)

    def _fork(self) -> bool:
        """Fork twice; True in the role, once it is `up`'s child."""
        between = os.fork()
        if between:
            if os.waitpid(between, 0)[1]:
                raise OSError("no room for another process")
            return False
        try:
            between = os.getpid()
            if os.fork():
                os._exit(0)
        except OSError:
            os._exit(1)
        while os.getppid() == between:
            time.sleep(ADOPTED_POLL_S)
        return True

    def _settle_in(self, order: Order, stdout: int, stderr: int) -> None:
        """What `exec` would have done, and the word that the role runs."""
        die_with_parent(self._up)
        os.setsid()  # Ctrl-C reaches `up` alone, which stops the roles in order
        show_as(f"nf-{order.role}", (sys.executable, *order.words))
        self._link.send(str(os.getpid()).encode())
        nothing = os.open(os.devnull, os.O_RDONLY)
        for fd, place in ((nothing, STDIN), (stdout, STDOUT), (stderr, STDERR)):
            os.dup2(fd, place)
            os.close(fd)


def main() -> None:
    """Serve; then be a role, in each process that is one."""
    up = int(sys.argv[1])
    die_with_parent(up)
    os.closerange(STDERR + 1, os.sysconf("SC_OPEN_MAX"))  # uvloop leaves copies of our three in its children
    gc.disable()  # what is loaded stays
    link = socket.socket(fileno=STDIN)
    order = ForkServer(link, up).serve()
    link.detach()
    if order is not None:
        be(order.role, order.name, order.config)


if __name__ == "__main__":
    main()
