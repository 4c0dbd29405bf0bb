"""`nearfield push`: the plan first, then the bytes going up, then each region until the model is live there."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from deploy.client import Client
from deploy.models import push
from deploy.models.before import Before
from deploy.models.push import PushRefused
from deploy.plan import memory, scores, there
from deploy.plan.draw import draw
from deploy.plan.landing import Landing
from deploy.plan.moving import Moving
from deploy.plan.plan import Known, Plan, make
from deploy.prices.book import PriceBook
from deploy.prices.reading import load, usual
from deploy.terminal import person, show
from deploy.terminal.exits import Exit
from deploy.trust.credentials import Credentials
from regions.map.names import BadNameError, ModelName, base_of, is_preview
from regions.push.fit import shown

if TYPE_CHECKING:
    from rich.console import Console

CONFIG = "config.json"
UPLOADS = "uploads"
"""In the state folder: notes on files that are going up, or were when their push was cut."""
HALF_UP = "ended before everything was up, so nothing changes; the same command sends what is not there yet"
ALL_UP = "everything is up, and it goes live without you: nearfield ls"


@dataclass(frozen=True, slots=True)
class Order:
    """What to push where; `wait_s` 0: return once it is uploaded."""

    folder: Path
    model: str
    regions: tuple[str, ...] | None
    wait_s: float
    prices: Path | None
    state: Path


def run(credentials: Credentials, order: Order, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Push, once the plan was seen; with `wait_s` above 0 return only when it is live, or say why it is not.

    Raises:
        PushRefused: before any byte moved, by the same rules the platform applies.
        NotLive: the platform refused it, its probe failed, or time ran out.
    """
    _check(credentials, order.model, order.regions)
    console = show.console(quiet=as_json)
    status = Client(credentials, admin=True).get("/nearfield/status").body
    before = Before.read(credentials, order.model)
    if order.regions is None:
        order = replace(order, regions=before.regions)
    plan = planned(credentials, order, status)
    draw(console, plan)
    if dry_run or not (yes or as_json or _may_go_on(console)):
        _end(plan, dry_run, as_json)
    started, change = time.monotonic(), list[str]()
    with Moving(console, plan) as moving:
        with person.ctrl_c_says(HALF_UP):
            notes = _notes(order.state, moving)
            pushed = push.upload(plan.push, credentials, order.regions, moving.sent, notes, moving.kept)
        upload_s = time.monotonic() - started
        moving.uploaded()
        result = {
            "model": order.model,
            "push_id": pushed.push_id,
            "bytes": plan.push.num_bytes,
            "plan": plan.as_value(),
        }
        sent_bytes = plan.push.upload_bytes - moving.kept_bytes
        result["uploaded_bytes"], result["upload_s"] = sent_bytes, upload_s
        if order.wait_s > 0:
            live = Landing(plan, status, sent_bytes, upload_s)
            with person.ctrl_c_says(ALL_UP):
                result |= live.wait(credentials, moving, pushed, order.regions, order.wait_s, order.state)
            proven, change = before.compared(credentials, result)
            result |= proven
    _say_end(console, credentials, order, result, change)
    if as_json:
        show.emit_json(result)


def planned(credentials: Credentials, order: Order, status: Mapping[str, Any]) -> Plan:
    """What would happen. Raises PushRefused, PricesError, StoreError."""
    every = tuple(credentials.regions)
    folder = there.without_unchanged(push.plan(order.folder, order.model, every), credentials)
    where = order.regions or folder.spec.regions or every
    config = there.operators_config(order.state)
    plan = make(
        folder,
        memory.needs(_config(order.folder), folder.weight_bytes, folder.spec.dtype),
        where,
        Known(
            bodies={region: seen.get("body") for region, seen in status["regions"].items()},
            home=config.home if config else every[0],
            held_bytes=there.held_bytes(folder, config, where),
            devices=there.devices(config),
            prices=_prices(order, every),
            past=scores.load(order.state),
            rtts_ms={region: seen.get("rtt_ms") for region, seen in status["regions"].items()},
            idle_timeout_s=config.idle_timeout_s if config else 300.0,
        ),
    )
    _refuse_what_fits_nowhere(plan)
    return plan


def _check(credentials: Credentials, model: str, regions: tuple[str, ...] | None) -> None:
    try:
        ModelName.parse(model)
    except BadNameError as error:
        raise PushRefused("bad_name", f"{model!r} is no name of a model", _named_so(model)) from error
    unknown = [r for r in regions or () if r not in credentials.regions]
    if unknown:
        known = ", ".join(credentials.regions)
        raise PushRefused("unknown_region", f"no region {unknown[0]!r}", f"There are: {known}.")


def _named_so(model: str) -> str:
    """How a name is to be; of a preview's, which of its parts."""
    if "@" in model:
        return (
            "Name a preview of a model, not of a preview, in at most 32 lower-case letters, digits and hyphens: "
            "ORG/NAME --preview pr-42"
        )
    return (
        "Name it ORG/NAME, for example acme/my-model: letters, digits, dots, hyphens and underscores, "
        "at most 64 and 96, and a letter or digit first."
    )


def _notes(state: Path, moving: Moving) -> Path | None:
    """Where it is noted what goes up; None where nothing can be written, and that is said."""
    folder = state / UPLOADS
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
    if os.access(folder, os.W_OK | os.X_OK):
        return folder
    moving.remark(f"{folder} cannot be written: if this push is cut, its large files begin anew")
    return None


def _config(folder: Path) -> Mapping[str, Any]:
    """The model's own config; that it is a JSON object was seen when the folder was judged, or it is nothing here."""
    try:
        value = json.loads((folder / CONFIG).read_bytes())
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _prices(order: Order, regions: tuple[str, ...]) -> PriceBook | None:
    path = order.prices or usual(order.state)
    return load(path, regions) if path else None


def _refuse_what_fits_nowhere(plan: Plan) -> None:
    if plan.fits_somewhere:
        return
    largest = max(fit.device.budget_bytes for region in plan.regions for fit in region.fits)
    raise PushRefused(
        "does_not_fit",
        f"the weights are {shown(plan.needs.weight_bytes)}; the largest node may use {shown(largest)}",
        "push a smaller model or save it in a smaller dtype, or give a node more memory and push again",
    )


def _may_go_on(console: "Console") -> bool:
    """Ask whoever sits at a terminal; a script has nobody to ask and goes on."""
    if not (console.is_terminal and sys.stdin.isatty()):
        return True
    return person.agrees("Proceed?", default=True)


def _end(plan: Plan, dry_run: bool, as_json: bool) -> None:
    if as_json:
        show.emit_json({"model": plan.push.model, "plan": plan.as_value()})
    else:
        typer.echo("nothing was moved")
    raise typer.Exit(Exit.OK if dry_run else Exit.FAILED)


def _say_end(
    console: "Console",
    credentials: Credentials,
    order: Order,
    result: Mapping[str, Any],
    change: Sequence[str],
) -> None:
    if "live" not in result:
        console.print("  uploaded; see it go live: nearfield ls")
        return
    where = ", ".join(result["live"])
    console.print(f"[bold green]live[/] in {where}: {credentials.base_url}  model={order.model}")
    for line in change:
        console.print(f"  {line}", markup=False)
    for each in result["scores"]:
        took, foretold = (
            show.millis(1e3 * each["took_s"]),
            show.span(1e3 * each["low_s"], 1e3 * each["high_s"]),
        )
        off = "" if each["low_s"] <= each["took_s"] <= each["high_s"] else f": off by {each['error']:.0%}"
        console.print(f"  {each['region']} live after {took}, foretold {foretold}{off}")
    console.print(f"  try: nearfield chat {order.model} 'Hello'")
    if is_preview(order.model):
        console.print(f"  serve it as {base_of(order.model)}: nearfield promote {order.model}")
