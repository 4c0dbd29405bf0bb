"""Where one start of an external engine takes place: its folders, its address, its programs."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.outside.definition import environment_of, filled
from inference.outside.process import KeptProcess
from inference.workers.board import LoadFailure
from wire.dial import Pool

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from inference.outside.definition import Definition
    from weights_cache.model.revision import Revision

HOST = "127.0.0.1"
"""External engines are for the node alone; what they listen at is never another address."""
MAX_SOCKET_CHARS = 107


@dataclass(frozen=True, slots=True)
class Site:
    """`path` is a folder of this start alone; whoever made the site removes it."""

    made: Definition
    revision: Revision
    num_threads: int
    path: Path

    @property
    def model(self) -> Path:
        """The folder of weights."""
        return self.path / "model"

    @property
    def work(self) -> Path:
        """Where its programs run, and may write."""
        return self.path / "work"

    def address(self) -> tuple[dict[str, str], Pool]:
        """Where it is to listen, and how it is reached there. Raises LoadFailure."""
        if self.made.listens_at_socket:
            path = str(self.path / "s")
            if len(path) > MAX_SOCKET_CHARS:
                message = f"{path} is too long for a socket ({MAX_SOCKET_CHARS} characters)"
                next_step = "give the node a shorter `state` in nearfield.toml"
                raise LoadFailure("engine_failed", message, next_step)
            return {"socket": path}, Pool("localhost", 80, path=path)
        port = free_port()
        return {"host": HOST, "port": str(port)}, Pool(HOST, port)

    def filled(self, words: tuple[str, ...], address: Mapping[str, str]) -> tuple[str, ...]:
        """Words of the definition with what they stand for here."""
        values = {
            "model_dir": str(self.model),
            "work_dir": str(self.work),
            "name": self.revision.model,
            "max_len": str(self.revision.facts.context_tokens),
            "num_threads": str(self.num_threads),
        }
        return filled(words, {**values, **address})

    async def start(self, words: tuple[str, ...], address: Mapping[str, str]) -> KeptProcess:
        """Start a program of the definition. Raises LoadFailure."""
        environment = environment_of(self.made, os.environ, str(self.work))
        command = self.filled(words, address)
        if shutil.which(command[0], path=environment.get("PATH")) is None:
            message = f"{self.made.name}: this host has no program {command[0]!r}"
            next_step = f"install it, or correct [engines.{self.made.name}] in nearfield.toml"
            raise LoadFailure("engine_missing", message, next_step)
        stop = self.made.signal_number, self.made.stop_s
        try:
            return await KeptProcess.start(self.made.name, command, environment, self.work, *stop)
        except OSError as cause:
            raise LoadFailure("fork_failed", f"{self.made.name}: {cause}", "it is tried again") from cause


def free_port() -> int:
    """A port of the loopback address that nobody has now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
