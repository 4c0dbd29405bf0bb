"""`nearfield logs`: what roles said and what requests came to, merged by time; `-f` goes on as things happen."""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from deploy.commands.usage import NODES, ask_nodes, read_usage
from deploy.config.document import Config
from deploy.config.read import load
from deploy.faults import NotLive, Silent
from deploy.logs.files import Tail, merged, tails
from deploy.logs.line import Line, Wanted, of_record, shown
from deploy.terminal import patience, show
from deploy.trust import secrets
from deploy.trust.credentials import NoPlatform
from regions.usage.read import Found
from storage.client.sdk import StoreError

POLL_S = 0.5
REQUESTS_EVERY_S = 1.0
ASIDE_S = 10.0  # what roles said is there without the requests
"""Nodes are asked for their records less often than files are looked at."""
STYLES = {"error": "red", "critical": "red", "warning": "yellow", "request": "cyan"}


def run(state: Path, wanted: Wanted, num_lines: int, *, follow: bool, as_json: bool) -> None:
    """Print the last lines that are wanted, and go on with `follow` until Ctrl-C.

    Raises:
        NoPlatform: no platform ever ran in this folder.
        NotLive: it has no region of the name that is wanted.
    """
    folder = state / "logs"
    if not folder.is_dir():
        raise NoPlatform(
            f"no logs in {state}: nothing ran here. Name the folder of the platform: --state DIR"
        )
    config = load(state / "nearfield.toml") if (state / "nearfield.toml").exists() else None
    _refuse_unknown(wanted.region, config)
    files, requests = tails(folder, config), Requests(config)
    found = [line for tail in files for line in tail.more()] + requests.past()
    last = [line for line in merged(found) if wanted.has(line)][-num_lines if num_lines else None :]
    say = _say_json if as_json else _say_text
    say(last)
    try:
        while follow:
            time.sleep(POLL_S)
            say([line for line in merged(_new(files, requests)) if wanted.has(line)])
    except KeyboardInterrupt:
        return


def _refuse_unknown(region: str, config: Config | None) -> None:
    """A mistyped name would be a log in which nothing is said."""
    if region and config is not None and region not in config.regions:
        raise NotLive("unknown_region", f"no region {region!r}", f"There are: {', '.join(config.regions)}.")


def _new(files: list[Tail], requests: "Requests") -> Iterator[Line]:
    for tail in files:
        yield from tail.more()
    yield from requests.new()


class Requests:
    """Records of requests at engines: today's of the regions' stores, then what nodes have; each once."""

    def __init__(self, config: Config | None) -> None:
        self._config = config
        self._seen: set[tuple[str, str]] = set()
        self._asked = 0.0

    def past(self) -> list[Line]:
        """Those of today; what cannot be read is said on standard error and left out."""
        if self._config is None:
            return []
        try:
            found, silent = patience.ask(
                read_usage(self._config, datetime.now(UTC).date().isoformat()), NODES, ASIDE_S
            )
        except (StoreError, secrets.SecretsError, Silent) as error:
            show.problems().print(f"requests are left out: {error}", markup=False)
            return []
        for name in silent:
            show.problems().print(f"{name} does not answer: its newest requests are left out", markup=False)
        return self._fresh(found)

    def new(self) -> list[Line]:
        """Those that nodes wrote down since."""
        if self._config is None or time.monotonic() - self._asked < REQUESTS_EVERY_S:
            return []
        self._asked = time.monotonic()
        found = Found()
        for said in asyncio.run(ask_nodes(self._config)):
            if said is not None:
                found.take_node(said)
        return self._fresh(found)

    def _fresh(self, found: Found) -> list[Line]:
        fresh = {(each.node, each.attempt): each for each in found.records}
        new = [record for key, record in fresh.items() if key not in self._seen]
        self._seen |= fresh.keys()
        return [of_record(record) for record in new]


def _say_json(lines: list[Line]) -> None:
    for line in lines:
        sys.stdout.write(json.dumps(line.as_value(), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _say_text(lines: list[Line]) -> None:
    console = show.console()
    for line in lines:
        console.print(shown(line), markup=False, style=STYLES.get(line.level))
