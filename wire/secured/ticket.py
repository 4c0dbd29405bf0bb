"""A session of TLS that a next connection resumes: what it saves is most of a handshake."""

import ssl
from typing import Final

LASTS_S: Final = 3600.0  # of a session: certificates between hosts are renewed every 8 hours and live 24


class Ticket:
    """The last session with one server of one name, which the next connection resumes (RFC 8446, 2.2).

    No certificate is sent then: it was, for this very name, when the session began. After LASTS_S, and with a server
    that does not know the session, hands are shaken in full.
    """

    __slots__ = ("_began", "_session")

    def __init__(self) -> None:
        self._session: ssl.SSLSession | None = None
        self._began = 0.0

    def session(self, now: float) -> ssl.SSLSession | None:
        """What to resume at `now` (seconds of a monotonic clock), if anything."""
        return self._session if now - self._began < LASTS_S else None

    def renew(self, tls: ssl.SSLObject, now: float) -> None:
        """The next one resumes this connection's; as long as the session has lasted, so long it has."""
        if not tls.session_reused:
            self._began = now
        self._session = tls.session
