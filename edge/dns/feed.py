"""The name server's private ear: opens what edges and the ACME client send, and changes what is answered."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from edge.dns import challenge, report
from edge.dns.sealed import Kind, Opener, SealError
from edge.dns.zone import Zone, ZoneError

if TYPE_CHECKING:
    from edge.dns.presence import Presence
    from edge.dns.respond import Responder
    from edge.dns.settings import ZoneSettings
    from edge.dns.steer import Steering

SAY_EVERY_S: Final = 60.0  # the same refusal, in the log
MAX_RTT_US: Final = 10_000_000

log = logging.getLogger("nearfield.dns")


class Ear:
    """`hear` is an `Answer` that never answers; `tick` is called each second."""

    def __init__(
        self, settings: ZoneSettings, key: bytes, presence: Presence, steering: Steering, responder: Responder
    ) -> None:
        self._settings = settings
        self._pops = {pop.name: index for index, pop in enumerate(settings.pops)}
        self._opener = Opener(key)
        self._presence = presence
        self._steering = steering
        self._responder = responder
        self._challenges = challenge.Challenges()
        self._said: dict[str, float] = {}

    def hear(self, datagram: bytes, host: str, now: float) -> bytes:
        """Take one message; what is not to be believed changes nothing."""
        try:
            sealed = self._opener.open(datagram, time.time_ns())
            if sealed.kind is Kind.REPORT:
                self._report(sealed.sender, report.decode(sealed.payload), now)
            else:
                self._challenge(challenge.decode(sealed.payload), now)
        except (SealError, ValueError) as error:
            self._refuse(f"a message from {host} is refused: {error}", now)
        return b""

    def tick(self, now: float) -> None:
        """Who was silent for too long is left out, and what ran out is forgotten."""
        self._steering.tick(now)
        self._gate(now)
        if self._challenges.expire(now):
            self._rebuild(now)

    def _report(self, sender: str, said: report.Report, now: float) -> None:
        name, _, process = sender.partition("/")
        pop = self._pops.get(name)
        if pop is None:
            raise ValueError(f"{name!r} is no POP of the zone")
        self._presence.heard(pop, now, draining=said.draining, process=process)
        self._gate(now)
        for client, rtt_us in said.rtt_us:
            if rtt_us <= MAX_RTT_US:
                self._steering.note(client, pop, rtt_us / 1000)

    def _challenge(self, said: challenge.Challenge, now: float) -> None:
        if self._challenges.take(said, now):
            self._rebuild(now)

    def _gate(self, now: float) -> None:
        before = self._steering.up
        self._steering.set_up(self._presence.up(now))
        if before != self._steering.up:
            names = [self._settings.pops[index].name for index in sorted(self._steering.up)]
            log.warning("clients are sent to %s", ", ".join(names))

    def _rebuild(self, now: float) -> None:
        try:
            self._responder.use(Zone(self._settings, self._challenges.values(now)))
        except ZoneError as error:
            self._refuse(f"the zone stays as it was: {error}", now)

    def _refuse(self, line: str, now: float) -> None:
        if now - self._said.get(line, -SAY_EVERY_S) >= SAY_EVERY_S:
            if len(self._said) > 256:
                self._said.clear()
            self._said[line] = now
            log.warning("%s", line)
