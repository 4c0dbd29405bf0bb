"""Noticing that the way to a peer is gone: its kernel is asked, so a slow process is never taken for a dead one."""

import socket

IDLE_S = 1  # the kernel counts whole seconds; a probe is one segment, sent only where nothing else is
INTERVAL_S = 1


def notice_loss(sock: socket.socket, lost_s: float) -> None:
    """Have the connection end once the peer's kernel has acknowledged nothing for about `lost_s` (at least 2).

    A cable that is cut says nothing, and TCP alone would wait for it for many minutes.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(lost_s * 1000))
