"""BIRD 2 as a gate's speaker, over the text protocol of its control socket: no process is started for a check.

BIRD's configuration has two static protocols with the anycast route, one of them with the community GRACEFUL_SHUTDOWN
and a lower preference; both start disabled, so that a BIRD that is started again says nothing until a gate does. While
both are enabled the plain one wins: a drain disables that one, and BIRD replaces the route in one update, without a
withdrawal between. See deploy/packaging/bird.conf.

The routes lead to a device that the gate holds open (edge/anycast/tie.py) while it announces, and only then. So nothing
outlives the gate, and a withdrawal does not wait for a BIRD whose control socket is slow.

A reply is lines `CODE-text`, the last one `CODE text`, continued lines begin with a space; 8xxx and 9xxx are errors.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from edge.anycast.gate import Standing
from edge.anycast.speaker import SpeakerError
from edge.anycast.tie import Tie, TieError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

REPLY_S: Final = 1.0  # BIRD answers from memory; one that takes longer is frozen
MAX_REPLY_LINES: Final = 1000
PLAIN: Final = "anycast"
DRAIN: Final = "anycast_drain"
# Enabled first, disabled after: between the two commands there is a route.
COMMANDS: Final[Mapping[Standing, tuple[str, ...]]] = {
    Standing.ANNOUNCED: (f"enable {PLAIN}", f"enable {DRAIN}"),
    Standing.DRAINING: (f"enable {DRAIN}", f"disable {PLAIN}"),
    Standing.WITHDRAWN: (f"disable {PLAIN}", f"disable {DRAIN}"),
}
_LINE = re.compile(rb"([0-9]{4})([- ])(.*)\n?", re.DOTALL)
_STATE = re.compile(r"(\w+)\s+Static\s+\S+\s+(up|down|start|stop|flush)\b")


class Reply:
    """Lines of one reply as they come; pure. `text` has all of them once `feed` returned True."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self.code = 0

    @property
    def text(self) -> str:
        """The reply without its codes."""
        return "\n".join(self._lines)

    def feed(self, line: bytes) -> bool:
        """Take one line; whether it was the last. Raises SpeakerError for what is no reply."""
        if len(self._lines) >= MAX_REPLY_LINES:
            raise SpeakerError("BIRD's reply has no end")
        if line[:1] in {b" ", b"+"}:
            self._lines.append(line[1:].decode(errors="replace").rstrip())
            return False
        match = _LINE.fullmatch(line)
        if match is None:
            raise SpeakerError(f"BIRD said {line[:64]!r}, which is no reply")
        self.code = int(match[1])
        self._lines.append(match[3].decode(errors="replace").rstrip())
        return match[2] == b" "

    def check(self) -> None:
        """Raises SpeakerError if BIRD refused."""
        if self.code >= 8000:
            raise SpeakerError(f"BIRD refused: {self.code} {self.text}")


def standing_of(text: str) -> Standing:
    """What the two protocols of a `show protocols` add up to. Raises SpeakerError if one of them is missing."""
    states: dict[str, str] = dict(_STATE.findall(text))
    missing = {PLAIN, DRAIN} - states.keys()
    if missing:
        raise SpeakerError(
            f"BIRD has no static protocol called {min(missing)}; see deploy/packaging/bird.conf"
        )
    if states[PLAIN] == "up":
        return Standing.ANNOUNCED
    return Standing.DRAINING if states[DRAIN] == "up" else Standing.WITHDRAWN


class Bird:
    """One BIRD, by its control socket; connected to when it is needed, and again after it was restarted."""

    def __init__(self, socket: Path, device: str) -> None:
        """`device` is the name of the network device that the routes lead to."""
        self._socket = socket
        self._device = device
        self._tie: Tie | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def show(self, standing: Standing) -> None:
        """Enable and disable the two protocols, and hold the device or let go of it. Raises SpeakerError."""
        if standing is Standing.WITHDRAWN:
            self._let_go()
        for command in COMMANDS[standing]:
            await self._ask(command)
        if standing is not Standing.WITHDRAWN and self._tie is None:
            try:
                self._tie = Tie(self._device)
            except TieError as error:
                raise SpeakerError(str(error)) from error

    async def shows(self) -> Standing:
        """What the two protocols of BIRD say: after its restart not what it was told. Raises SpeakerError."""
        return standing_of(await self._ask("show protocols"))

    async def close(self) -> None:
        """Close the control connection and the device."""
        self._let_go()
        self._hang_up()

    def _let_go(self) -> None:
        if self._tie is not None:
            self._tie.close()
            self._tie = None

    def _hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _ask(self, command: str) -> str:
        """The text of the reply to `command`; after a failure the next command connects anew."""
        try:
            async with asyncio.timeout(REPLY_S):
                return await self._exchange(command)
        except SpeakerError:
            self._hang_up()
            raise
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: a line without end
            self._hang_up()
            raise SpeakerError(f"BIRD at {self._socket}: {str(error) or 'no reply'}") from error

    async def _exchange(self, command: str) -> str:
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(str(self._socket))
            (await self._reply()).check()  # 0001 BIRD 2.x ready.
        self._streams[1].write(command.encode() + b"\n")
        await self._streams[1].drain()
        reply = await self._reply()
        reply.check()
        return reply.text

    async def _reply(self) -> Reply:
        reply = Reply()
        while True:
            assert self._streams is not None  # noqa: S101 - _exchange has just connected
            line = await self._streams[0].readline()
            if not line:
                raise ConnectionResetError("it closed the control connection")
            if reply.feed(line):
                return reply
