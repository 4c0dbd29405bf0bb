"""`nearfield usage`: what was used, from the objects of every region; `--reconcile`: whether engines say the same."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.config.document import Config
from deploy.config.entries import NodeEntry
from deploy.config.read import load
from deploy.fleet import SYSTEM_GRANTS
from deploy.roles.runner import endpoint
from deploy.terminal import patience, show
from deploy.terminal.exits import Exit
from deploy.trust import secrets
from regions.usage.read import Found, read_store
from regions.usage.reconcile import differences, totals
from regions.usage.record import Record, RecordError
from regions.usage.sums import BY, Sum, sums
from storage.client.sdk import S3, StoreError
from wire.address import split_address
from wire.dial import DialError, Pool

MAX_NODE_BYTES = 64 * 1024 * 1024
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
COLUMNS = (*BY, "requests", "failed", "prompt", "cached", "completion", "device s", "wasted s")
US_PER_S = 1e6
ASK_S = 5.0  # of a node, which has its records in memory
NODES = "a node"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for; empty is everything."""

    tenant: str = ""
    key: str = ""
    model: str = ""
    since: str = ""

    def has(self, record: Record) -> bool:
        """Whether a record is asked for; its day is looked at by the sums."""
        asked = ((self.tenant, record.tenant), (self.key, record.key), (self.model, record.model))
        return all(not mine or mine == its for mine, its in asked)


def run(config_path: Path, wanted: Wanted, *, reconcile: bool, as_json: bool) -> Exit:
    """Print it. GATE_FAILED: the two sides differ, or one could not be asked. Raises StoreError, ConfigError."""
    work = read_usage(load(config_path), "" if reconcile else wanted.since)
    found, silent = patience.ask(work, NODES)
    rows = {
        by: each for by, each in sums(filter(wanted.has, found.records)).items() if by[-1] >= wanted.since
    }
    compared = _compared(found, silent) if reconcile else None
    if as_json:
        show.emit_json({"usage": _values(rows)} | ({"reconcile": compared} if compared else {}))
    else:
        _print(rows, compared)
        _say_silent(silent)
    return Exit.OK if compared is None or compared["is_zero"] else Exit.GATE_FAILED


async def read_usage(config: Config, since: str) -> tuple[Found, list[str]]:
    """Every record since a day, and the names of nodes that do not answer. Raises StoreError, SecretsError.

    Nodes before stores: what a node brings to its store meanwhile is then read twice, and not missed.
    """
    found = Found()
    asked = await ask_nodes(config)
    for said in asked:
        if said is not None:
            found.take_node(said)
    for region in config.regions:
        patience.turn_to(f"the store in region {region}")
        try:
            async with S3(endpoint(config, region, SYSTEM_GRANTS)) as store:
                await read_store(store, found, since, patience.heard)
        except* (StoreError, RecordError) as errors:
            raise _unread(region, errors.exceptions[0]) from errors
    return found, [name for name, said in zip(config.nodes, asked, strict=True) if said is None]


def _unread(region: str, error: Exception) -> StoreError:
    """The error with the region whose store it is."""
    if isinstance(error, StoreError):
        return StoreError(error.code, f"the store of {region}: {error.message}", error.status)
    return StoreError("UsageUnread", f"the store of {region}: {error}")


async def ask_nodes(config: Config) -> list[Mapping[str, Any] | None]:
    """What each node has, in the configuration's order. Raises SecretsError."""
    token = secrets.hop_token(secrets.root_key(config.secrets))
    return list(await asyncio.gather(*(_ask(node, token) for node in config.nodes.values())))


async def _ask(node: NodeEntry, token: str) -> Mapping[str, Any] | None:
    """What a node has that no store has; None: it does not answer."""
    pool = Pool(*split_address(node.listen))
    try:
        answer = await pool.request("GET", "/usage", (("authorization", f"Bearer {token}"),), head_s=ASK_S)
        async with answer:
            value = json.loads(await answer.read(MAX_NODE_BYTES))
    except (DialError, ValueError):
        return None
    finally:
        await pool.close()
    return value if answer.head.status == 200 and isinstance(value, dict) else None


def _compared(found: Found, silent: list[str]) -> dict[str, Any]:
    off = differences(found.records, found.logs, found.running)
    return {
        **totals(found.records, found.logs, found.running),
        "num_records": len({(each.node, each.attempt) for each in found.records}),
        "num_open_orders": sum(len(node.open_orders) for node in found.running),
        "differences": [asdict(each) for each in off],
        "silent_nodes": silent,
        "is_zero": not off and not silent,
    }


def _values(rows: Mapping[tuple[str, ...], Sum]) -> list[dict[str, Any]]:
    return [dict(zip(BY, by, strict=True)) | asdict(each) | _seconds(each) for by, each in rows.items()]


def _seconds(each: Sum) -> dict[str, float]:
    return {"device_seconds": each.device_us / US_PER_S, "wasted_seconds": each.wasted_us / US_PER_S}


def _print(rows: Mapping[tuple[str, ...], Sum], compared: Mapping[str, Any] | None) -> None:
    console = show.console()
    console.print(show.table(COLUMNS, (_row(by, each) for by, each in rows.items())))
    if compared is None:
        return
    for name, engines in compared["engines"].items():
        recorded = compared["recorded"][name]
        console.print(
            f"{name}: recorded {recorded:,}, engines {engines:,}, difference {recorded - engines:,}"
        )
    for each in compared["differences"]:
        console.print("{node} {request}: {what} {recorded:,}, not {engine:,}".format(**each), style="red")


def _row(by: tuple[str, ...], each: Sum) -> tuple[str, ...]:
    counts = (
        each.requests,
        each.failed_requests,
        each.prompt_tokens,
        each.cached_tokens,
        each.completion_tokens,
    )
    seconds = (f"{us / US_PER_S:.3f}" for us in (each.device_us, each.wasted_us))
    return (*(part or "-" for part in by), *(f"{count:,}" for count in counts), *seconds)


def _say_silent(silent: list[str]) -> None:
    for name in silent:
        show.problems().print(f"{name} does not answer: what it has not brought to its store is not in here")
