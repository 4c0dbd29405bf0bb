"""One role as one operating-system process: its start, its ready line, its end."""

import asyncio
import contextlib
import gc
import os
import sys
from pathlib import Path

from deploy import edge_roles, roles
from deploy.config.document import Config
from deploy.config.read import load
from deploy.faults import RoleFailed
from deploy.life import announce, die_with_parent, live, settle_collector
from deploy.logs.line import Source, read
from deploy.logs.write import start as start_logging

READY_LIMIT_BYTES = 4096


def serve(role: str, name: str | None, config_path: Path) -> None:
    """Run one role in this process until SIGTERM or SIGINT; one JSON line on stdout says that it listens."""
    gc.disable()  # until ready: imports make what stays
    config = load(config_path)
    if role == "edge" and edge_roles.num_workers(config, name) > 1:
        _serve_crew(config, name)
        return
    run = roles.runner(config, role, name)

    def ready(port: int) -> None:
        settle_collector()
        announce(role, name, port)

    live(run, ready)


def _serve_crew(config: Config, name: str | None) -> None:
    """An edge of several processes. Each makes its own certificates and connections, after the fork.

    Raises:
        OSError: an address cannot be bound.
        RoleFailed: a worker ended before all were ready.
    """
    from deploy.crew import Crew  # noqa: PLC0415 - an edge's alone

    sockets, port, drain_s = edge_roles.edge_sockets(config, name)
    mine = Crew(sockets, drain_s).work(lambda: announce("edge", name, port))
    if mine is None:
        return
    place, say = mine

    def ready(_port: int) -> None:
        settle_collector()
        os.write(say, b"+")

    live(edge_roles.edge_worker(config, name, place), ready)


class RoleProcess:
    """A role started as a child process, with its log in a file."""

    def __init__(self, role: str, name: str, config: Path, log: Path) -> None:
        self.role, self.name, self.log = role, name, log
        self._command = [sys.executable, "-m", "deploy.process", role, name, str(config)]
        self._process: asyncio.subprocess.Process | None = None
        self.num_starts = 0

    @property
    def pid(self) -> int | None:
        """The process id while the role runs."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    async def start(self) -> None:
        """Start the process; its standard error is appended to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"NEARFIELD_PARENT": str(os.getpid())}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment,
                limit=READY_LIMIT_BYTES,
                start_new_session=True,  # Ctrl-C reaches `up` alone, which stops the roles in order
            )
        self.num_starts += 1

    async def wait_ready(self, deadline_s: float) -> None:
        """Wait for the role's ready line.

        Raises:
            RoleFailed: it ended first, or said nothing in time; the message carries the end of its log.
        """
        process = self._running()
        try:
            async with asyncio.timeout(deadline_s):
                line = await process.stdout.readline() if process.stdout else b""
        except TimeoutError as error:
            raise self._failed(f"was not ready after {deadline_s:.0f} s") from error
        if not line:
            raise self._failed(f"ended with status {await process.wait()} before it was ready")

    async def wait_end(self) -> int:
        """Wait until the process has ended; returns its exit status."""
        return await self._running().wait()

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after `grace_s`; returns once the process is gone."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"{self.role} {self.name} was never started")
        return self._process

    def _failed(self, what: str) -> RoleFailed:
        return RoleFailed(f"{self.role} {self.name} {what}.\n{log_tail(self.log)}\nThe whole log: {self.log}")


def log_tail(path: Path, num_lines: int = 8) -> str:
    """The last lines of a log, indented, for an error message."""
    if not path.exists():
        return "  (it wrote no log)"
    whose = Source("", "", "")
    lines = (read(raw, whose, 0.0).text for raw in path.read_text(errors="replace").splitlines()[-num_lines:])
    last = "\n".join(lines).splitlines()[-num_lines:]
    return "\n".join(f"  {line}" for line in last) or "  (it wrote no log)"


def _main() -> None:
    role, name, config = sys.argv[1:]
    if "NEARFIELD_PARENT" in os.environ:
        die_with_parent(int(os.environ["NEARFIELD_PARENT"]))
    start_logging(role, name)
    serve(role, name, Path(config))


if __name__ == "__main__":
    _main()
