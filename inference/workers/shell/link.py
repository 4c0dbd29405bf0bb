"""The node's side of the shell: get one, have it fork engines and inspect models, hear of every exit.

Standard library only: the API process imports this file.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from inference.devices import CPU
from inference.link import PREFIX_BYTES, READ_BYTES, FrameReader, LinkError, Message, frame_bytes, parse_body
from inference.workers.shell.molds import Molds
from inference.workers.shell.zygote import ZygoteError, connect, log_path, socket_path
from inference.workers.vigil import Vigil, signs_of
from inference.zygote import DEVICE_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence
    from pathlib import Path

T = TypeVar("T")

log = logging.getLogger("nearfield.node")

START_DEADLINE_S = 120.0
"""A zygote imports torch and transformers for 5 s on a quiet host, and half a minute on a crowded one."""
SEND_RETRY_S = 0.02
STDERR = 2
ANSWER_S = 40.0
"""A shell answers in milliseconds, after what it was at: the slowest is a mold (`shell.INSPECT_DEADLINE_S`) and a fork
that finds no memory. One that takes longer hangs, and every start of its node with it."""
FROZEN_S = 8.0
"""It waits for nothing as long as this: for a forked child to run at most 5 s (`shell.FORK_WAIT_S`)."""
LOOK_S = 0.25
CLOSE_DEADLINE_S = 5.0
"""A shell ends at once when its connection does; one that does not is killed."""
MAX_ANSWER_BYTES = 1 << 20
"""Facts about a model are a few hundred bytes; a refusal names a few tensors."""
LOST = -9
"""The status given for a child whose shell died: the kernel killed it with the shell."""


class ShellError(Exception):
    """The shell is gone, did not start, or refused."""


class ShellBusy(ShellError):
    """Its host lacks something now that it may have later."""


class ShellLost(ShellError):
    """It ended, or was ended, before it answered: the next one may do what it was asked."""


class ShellLink:
    """One running shell. Made by `start`; `close` ends it and every engine it forked."""

    def __init__(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._socket = sock
        self._sending = asyncio.Lock()
        self._num_asked = 0
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._hello: asyncio.Future[Message] = loop.create_future()
        self._molds = Molds()
        self._reader = loop.create_task(self._read())
        self._pidfd = -1
        self.gone: asyncio.Future[None] = loop.create_future()
        """Done once the shell has ended or broken its connection; every engine of it is dead then."""
        self.pid = 0
        self.import_ms = 0.0

    @classmethod
    async def start(
        cls, folder: Path, deadline_s: float = START_DEADLINE_S, *, device: str = CPU, num_spares: int = 0
    ) -> ShellLink:
        """A shell from the zygote of the nodes that share `folder`, once it can fork.

        With `num_spares` it keeps so many processes ready that have brought `device` up already.

        Raises:
            ShellBusy: the host lets no process be forked now.
            ShellError: there is no zygote, it ended, or it is not ready in `deadline_s`.
        """
        try:
            path = socket_path(folder)
            async with asyncio.timeout(deadline_s):
                link = cls(await connect(path))
                await link._introduce(device, num_spares)
        except ZygoteError as cause:
            raise ShellError(str(cause)) from cause
        except TimeoutError as cause:
            raise ShellError(f"the shell was not ready in {deadline_s:g} s") from cause
        except ShellBusy:
            raise
        except ShellError as cause:
            raise ShellError(f"the zygote ended before it was ready; {log_path(path)} may say why") from cause
        return link

    async def _introduce(self, device: str, num_spares: int) -> None:
        environment = {name: os.environ[name] for name in DEVICE_VARIABLES if name in os.environ}
        wishes = {"op": "serve", "device": device, "spares": num_spares, "environment": environment}
        try:
            with suppress(OSError):  # it hung up: it may have said why before
                await self._send(frame_bytes(wishes), (STDERR,))
            hello = await self._hello
            self._pidfd = os.pidfd_open(hello["pid"])
            self.pid, self.import_ms = hello["pid"], hello["import_ms"]
        except OSError as cause:
            raise ShellError(f"the shell is gone: {cause}") from cause
        finally:
            if not self.pid:
                await self.close()

    async def fork(self, spec: Mapping[str, Any], fds: Sequence[int], key: str = "") -> tuple[int, float]:
        """Fork an engine with (landing, ready, event, link); its pid and the milliseconds until it ran.

        The caller keeps its own descriptors and closes them. `key`: the mold to use, if it is there (`mold`).

        Raises:
            ShellError: refused, or the shell is gone.
        """
        answer = await self._ask(self._molds.order(spec, key), fds)
        return answer["pid"], answer["ms"]

    def has_mold(self, key: str) -> bool:
        """Whether engines of that key are forked half made."""
        return key in self._molds

    async def mold(self, spec: Mapping[str, Any], key: str) -> bool:
        """Have the shell make engines of this spec's revision ahead (`inference.engine.attach.mold`); whether it could.

        For more than `MOST_MOLDS` the one that was used longest ago goes.

        Raises:
            ShellError: refused, or the shell is gone.
        """
        while (oldest := self._molds.take_oldest()) is not None:
            await self._ask({"op": "drop", "key": oldest}, ())  # after every fork that counts on it
        ended = self._molds.trials[key] = asyncio.get_running_loop().create_future()
        try:
            await self._ask({"op": "mold", "spec": spec, "key": key}, ())
            return bool(await ended)
        finally:
            self._molds.trials.pop(key, None)

    async def inspect(self, request: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        """What transformers says about a model (`inference.inspect`), from a throw-away child.

        A child that dies over it, by time or memory, is the model's fault: that is an answer, a refusal.

        Raises:
            ShellError: the shell refused, or is gone.
        """
        ours, childs = socket.socketpair()
        with ours:
            with childs:
                await self._ask({"op": "inspect", "request": request}, (childs.fileno(),))
            data = await _read_all(ours, deadline_s)
        try:
            return parse_body(data)
        except LinkError:
            return {"refused": INSPECTION_DIED}

    def exited(self, pid: int) -> asyncio.Future[int]:
        """The exit status of an engine this shell forked (minus the signal's number; `LOST` with its shell)."""
        return self._exits[pid]

    async def close(self) -> None:
        """End the shell and with it every engine. Safe to call twice."""
        if not self.gone.done() and self.pid:
            async with self._sending:
                await self._say_bye()
        self._reader.cancel()
        await asyncio.wait({self._reader})
        self._lose()
        self._socket.close()
        if self._pidfd >= 0:
            await self._ended()
            os.close(self._pidfd)
            self._pidfd = -1

    async def _say_bye(self) -> None:
        """A zygote whose last node said so need not wait for it to come back."""
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await self._send(frame_bytes({"op": "bye"}), ())
        except (OSError, TimeoutError):
            return  # it is gone, or will be killed

    async def _ended(self) -> None:
        """Wait until the shell has ended; one that does not is killed."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._pidfd, ended.set)
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await ended.wait()
        except TimeoutError:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            await ended.wait()
        finally:
            loop.remove_reader(self._pidfd)

    async def _ask(self, message: Message, fds: Sequence[int]) -> Message:
        if self.gone.done():
            raise ShellLost("the shell is gone")
        self._num_asked += 1
        seq = self._num_asked
        answer = self._answers[seq] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_S):
                async with self._sending:
                    await self._while_alive(self._send(frame_bytes({**message, "seq": seq}), fds))
                found: Message = await self._while_alive(answer)
        except TimeoutError as cause:
            self._kill()
            raise ShellLost("the shell hangs and is replaced") from cause
        except OSError as cause:
            raise ShellLost(f"the shell is gone: {cause}") from cause
        finally:
            self._answers.pop(seq, None)
        if found["op"] == "refused":
            raise (ShellBusy if found.get("later") else ShellError)(found["message"])
        return found

    async def _while_alive(self, awaited: Awaitable[T]) -> T:
        """The same, for as long as the shell's process does anything. Raises TimeoutError: it is frozen."""
        waiting = asyncio.ensure_future(awaited)
        loop = asyncio.get_running_loop()
        vigil = Vigil(loop.time())
        try:
            while not (await asyncio.wait({waiting}, timeout=LOOK_S))[0]:
                if vigil.look(signs_of(self.pid), loop.time()) >= FROZEN_S:
                    raise TimeoutError
            return await waiting
        finally:
            waiting.cancel()

    def _kill(self) -> None:
        """End it now, and with it its engines; `gone` follows."""
        if self._pidfd >= 0 and not self.gone.done():
            log.error("the shell hangs and is ended")
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def _send(self, data: bytes, fds: Sequence[int]) -> None:
        """The descriptors go with the frame's prefix; the rest may be longer than the socket's buffer."""
        while True:
            try:
                num_sent = socket.send_fds(self._socket, [data[:PREFIX_BYTES]], list(fds))
                break
            except BlockingIOError:
                await asyncio.sleep(SEND_RETRY_S)
        await asyncio.get_running_loop().sock_sendall(self._socket, data[num_sent:])

    async def _read(self) -> None:
        frames = FrameReader()
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._socket, READ_BYTES):
                for message in frames.receive(data):
                    self._hear(message)
        except (OSError, LinkError):
            return  # told below, by `gone`
        finally:
            self._lose()

    def _hear(self, message: Message) -> None:
        match message["op"]:
            case "hello":
                self._hello.set_result(message)
            case "refused" if not self._hello.done():  # by the zygote: there is no shell
                self._hello.set_exception(ShellBusy(message["message"]))
            case "spare_ready":
                log.info("process %d stands ready with its device up", message["pid"])
            case "spare_ended":
                log.warning("a spare process ended before it had a model: %s", message["fault"])
            case "molded" | "not_molded" as op:
                self._molds.tried(message["key"], is_there=op == "molded")
            case "exited":
                if message["pid"] in self._exits:
                    self._exits[message["pid"]].set_result(message["status"])
            case _:
                self._settle(message)

    def _settle(self, message: Message) -> None:
        """An answer; a forked engine's exit may be waited for from now on, and may come before anyone asks."""
        if message["op"] == "forked":
            self._exits[message["pid"]] = asyncio.get_running_loop().create_future()
        answer = self._answers.get(message["seq"])
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _lose(self) -> None:
        """The shell is gone: whoever waits for it is told."""
        fault = ShellLost("the shell is gone")
        futures: list[asyncio.Future[Any]] = [
            *self._answers.values(),
            *self._molds.trials.values(),
            self._hello,
        ]
        for waiting in futures:
            if not waiting.done():
                waiting.set_exception(fault)
                waiting.exception()  # somebody may wait for it or not
        for exit_status in self._exits.values():
            if not exit_status.done():
                exit_status.set_result(LOST)
        if not self.gone.done():
            self.gone.set_result(None)


INSPECTION_DIED = {
    "code": "inspection_failed",
    "message": "looking at this model's config took too long or too much memory",
    "next": "check the sizes in config.json",
}


async def _read_all(sock: socket.socket, deadline_s: float) -> bytes:
    """All bytes until the end; what came so far when the deadline passes."""
    sock.setblocking(False)
    data = bytearray()
    try:
        async with asyncio.timeout(deadline_s):
            while len(data) <= MAX_ANSWER_BYTES:
                more = await asyncio.get_running_loop().sock_recv(sock, READ_BYTES)
                if not more:
                    break
                data += more
    except (TimeoutError, ConnectionError):
        return b""
    return bytes(data)
