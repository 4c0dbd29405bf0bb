"""A network device that lives exactly as long as this process, for BIRD's route to hang on.

BIRD's static route leads to the device; whatever ends the gate, `kill -9` included, closes its last descriptor, the
kernel removes the device with it, and BIRD withdraws a route whose device is gone, on the kernel's own notice.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Final

TUN: Final = "/dev/net/tun"
TUNSETIFF: Final = 0x400454CA
IFF_TUN: Final = 0x0001
IFF_NO_PI: Final = 0x1000
SIOCGIFFLAGS: Final = 0x8913
SIOCSIFFLAGS: Final = 0x8914
IFF_UP: Final = 0x0001
MAX_NAME: Final = 15


class TieError(Exception):
    """The device cannot be made; the message says what is missing."""


class Tie:
    """The device, while this object is open. No packet ever takes it: the address itself is the loopback's."""

    def __init__(self, name: str) -> None:
        """Raises TieError: no such right, no TUN in this kernel, or another gate has the device."""
        if not 0 < len(name) <= MAX_NAME:
            raise TieError(f"{name!r} names no network device: 1 to {MAX_NAME} characters")
        try:
            self._fd = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise TieError(
                f"{TUN}: {error.strerror}; the gate needs CAP_NET_ADMIN and the tun module"
            ) from error
        try:
            fcntl.ioctl(self._fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
            _set_up(name)
        except OSError as error:
            os.close(self._fd)
            raise TieError(f"the device {name}: {error.strerror}; is another gate running?") from error

    def close(self) -> None:
        """Remove the device, and with it the route."""
        os.close(self._fd)


def _set_up(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        asked = struct.pack("16sH22x", name.encode(), 0)
        flags = struct.unpack_from("16sH", fcntl.ioctl(control, SIOCGIFFLAGS, asked))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags | IFF_UP))
