"""One role as one operating-system process, from its configuration to its end."""

import gc
import os
import sys
from pathlib import Path

from deploy.config.document import Config
from deploy.config.read import load
from deploy.logs.write import start as start_logging
from deploy.roles import pop, runner
from deploy.roles.life import announce, live, settle_collector


def serve(role: str, name: str | None, config_path: Path) -> None:
    """Run one role in this process until SIGTERM or SIGINT; one JSON line on stdout says that it listens."""
    gc.disable()  # until ready: imports make what stays
    config = load(config_path)
    if role == "edge" and pop.num_workers(config, name) > 1:
        _serve_crew(config, name)
        return
    run = runner.runner(config, role, name)

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
    from deploy.roles.crew import Crew  # noqa: PLC0415 - an edge's alone

    sockets, port, drain_s = pop.edge_sockets(config, name)
    mine = Crew(sockets, drain_s).work(lambda: announce("edge", name, port))
    if mine is None:
        return
    place, say = mine

    def ready(_port: int) -> None:
        settle_collector()
        os.write(say, b"+")

    live(pop.edge_worker(config, name, place), ready)


def be(role: str, name: str, config: Path) -> None:
    """What a role's process does from its first line to its end."""
    start_logging(role, name)
    serve(role, name, config)


if __name__ == "__main__":
    be(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
