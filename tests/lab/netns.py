"""Network namespaces that are held by a descriptor alone: they go with this process, however it ends."""

import ctypes
import os
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def _called(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Namespace:
    """`with namespace:` this thread is in it: sockets that it makes and processes that it starts stay in it."""

    def __init__(self, name):
        self.name = name
        self.fd = -1
        maker = threading.Thread(target=self._make)
        maker.start()
        maker.join()
        if self.fd < 0:
            raise OSError("no new network namespace: not root?")
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        self.ip("link set lo up")

    def _make(self):
        if LIBC.unshare(CLONE_NEWNET) == 0:
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    @contextmanager
    def entered(self):
        outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _called(LIBC.setns(self.fd, CLONE_NEWNET))
            yield
        finally:
            _called(LIBC.setns(outside, CLONE_NEWNET))
            os.close(outside)

    def stay(self):
        """This thread is in it from here on."""
        _called(LIBC.setns(self.fd, CLONE_NEWNET))

    def ip(self, *lines):
        """Run `ip` commands, one a line."""
        with self.entered():
            subprocess.run(
                ["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True, capture_output=True
            )

    def forward(self):
        """Be a router."""
        with self.entered():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            for each in ("all", "default"):
                Path(f"/proc/sys/net/ipv4/conf/{each}/rp_filter").write_text("0")

    def close(self):
        os.close(self.fd)


def join(near, near_device, near_address, far, far_device, far_address):
    """A cable between two namespaces, both ends up with their addresses."""
    near.ip(
        f"link add {near_device} type veth peer name {far_device} netns {far.path}",
        f"addr add {near_address} dev {near_device}",
        f"link set {near_device} up",
    )
    far.ip(f"addr add {far_address} dev {far_device}", f"link set {far_device} up")
