"""The plan for people: what moves, then a row a region, then what the figures rest on."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from deploy.plan.plan import Plan, RegionPlan
from deploy.terminal import show
from regions.map.names import base_of
from wire.counted import counted

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_FILES = 8
COLUMNS = ("region", "has", "comes", "fits", "cold start", "from host", "live after", "past plans")
MONEY = ("running/h", "idle/h", "once")


def draw(console: "Console", plan: Plan) -> None:
    """Print it."""
    for line in _files(plan):
        console.print(line, markup=False)
    for path, reason in plan.push.left_out.items():
        console.print(f"  left out: {path} ({reason})", style="yellow", markup=False)
    is_priced = any(region.costs for region in plan.regions)
    columns = (*COLUMNS, *(MONEY if is_priced else ()))
    console.print(show.table(columns, [_row(region, is_priced) for region in plan.regions]))
    for line in _notes(plan, is_priced):
        console.print(f"  {line}", markup=False)


def _files(plan: Plan) -> Iterator[str]:
    push = plan.push
    where = ", ".join(region.region for region in plan.regions)
    yield f"{push.model}: {counted(len(push.files), 'file')}, {show.size(push.num_bytes)} → {where}"
    largest = sorted(push.files, key=lambda path: -push.files[path])
    for path in largest[:SHOWN_FILES]:
        said = _said(plan, path)
        yield f"  {show.size(push.files[path]):>9}  {path}  ({said})"
    if len(largest) > SHOWN_FILES:
        yield f"             and {len(largest) - SHOWN_FILES} smaller ones"
    yield f"  {show.size(push.upload_bytes)} to send{_pace(plan)}"


def _pace(plan: Plan) -> str:
    if plan.upload_s is None or not plan.push.upload_bytes:
        return ""
    return f", about {show.millis(1e3 * plan.upload_s)} as the last pushes went"


def _said(plan: Plan, path: str) -> str:
    if path in plan.push.shared:
        return f"shared with {base_of(plan.push.model)}"
    return "in the bucket already" if path in plan.push.unchanged else "goes up"


def _row(region: RegionPlan, is_priced: bool) -> tuple[str, ...]:
    mark = "" if region.is_measured else "~"
    cells = (
        region.region,
        "?" if region.held_bytes is None else show.size(region.held_bytes),
        show.size(region.copy_bytes),
        _fit(region),
        mark + show.millis(1e3 * region.cold_s["region"]),
        mark + show.millis(1e3 * region.cold_s["host"]),
        mark + show.span(1e3 * region.low_s, 1e3 * region.high_s),
        _past(region),
    )
    return (*cells, *_money(region)) if is_priced else cells


def _fit(region: RegionPlan) -> str:
    if not region.fits:
        return "?"
    best = max(region.fits, key=lambda fit: (fit.fits, fit.kv_tokens or 0))
    of = f"{best.device.device}, {show.size(best.device.budget_bytes)}"
    if not best.fits:
        return f"[red]no[/] ({of})"
    return f"{of}" if best.kv_tokens is None else f"{of}: {show.count(best.kv_tokens)} tokens"


def _past(region: RegionPlan) -> str:
    starts = f"starts ±{region.eta_error:.0%}" if region.eta_error else ""
    past = region.past
    pushes = f"live: {past.num_within} of {past.num} within" if past else ""
    return ", ".join(filter(None, (pushes, starts))) or "none yet"


def _money(region: RegionPlan) -> tuple[str, ...]:
    costs = region.costs
    if costs is None:
        return ("?", "?", "?")
    running = "?" if costs.running_hour is None else _price(costs.running_hour, costs.currency)
    return (running, _price(costs.idle_hour, costs.currency), _price(costs.once, costs.currency))


def _price(amount: float, currency: str) -> str:
    return f"{amount:.2g} {currency}" if 0 < amount < 0.01 else f"{amount:.2f} {currency}"


def _notes(plan: Plan, is_priced: bool) -> Iterator[str]:
    if any(not region.is_measured for region in plan.regions):
        yield "~ rests on usual figures: the region has not measured its own yet"
    if any(region.held_bytes is None for region in plan.regions):
        yield "? cannot be seen from here: that takes nearfield.toml, the fleet's key and a store that answers"
    yield f"workers stop after {plan.idle_timeout_s:g} s unused; the next request waits for a cold start"
    if plan.push.spec.prewarm:
        yield f"kept awake in these hours (UTC): {', '.join(plan.push.spec.prewarm)}"
    if not is_priced:
        yield "no price file: name one with --prices, or put prices.toml into the state folder"
