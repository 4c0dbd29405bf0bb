"""`nearfield up`: the platform in the foreground, its addresses printed ready to paste."""

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

import uvloop
from rich.console import Console
from rich.markup import escape

from deploy.faults import ConfigError
from deploy.fleet import PROFILES, FleetPlan
from deploy.terminal import pasted, show
from deploy.trust.credentials import Credentials
from deploy.up import Platform, Running

HELP = "nearfield up --help"


def run(asked: FleetPlan, *, as_json: bool) -> None:
    """Serve until Ctrl-C or SIGTERM, then stop every process.

    Raises:
        StateInUse: another platform holds the folder.
        RoleFailed: a process did not come up.
    """
    uvloop.run(_serve(asked, as_json=as_json))


def plan(state: Path, regions: tuple[str, ...], profile: str, idle_timeout_s: float) -> FleetPlan:
    """Check what was asked for. Raises ConfigError: an unknown profile, or regions that cannot be."""
    if profile not in PROFILES:
        raise ConfigError(f"no profile {profile!r}. There are: {', '.join(PROFILES)}.", HELP)
    if len(set(regions)) != len(regions) or not all(r.isalnum() and r.islower() for r in regions):
        raise ConfigError(
            f"regions {','.join(regions)!r}: distinct names of lower-case letters and digits", HELP
        )
    return FleetPlan(state.absolute(), regions, profile, idle_timeout_s)


def with_traces(asked: FleetPlan, collector: str | None, share: float) -> FleetPlan:
    """The same platform, which sends traces somewhere if it is told where."""
    return replace(asked, traces=collector, trace_share=share)


async def _serve(fleet_plan: FleetPlan, *, as_json: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    console = show.console(quiet=as_json)
    platform = Platform(fleet_plan, lambda text: console.print(f"[dim]{text}[/]"))
    starting = asyncio.create_task(platform.start())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            running = await starting
            announce(console, running)
            if as_json:
                show.emit_json(_addresses(running))
            await stopped
            console.print("\nstopping")
    finally:
        starting.cancel()
        stopped.cancel()
        await platform.stop()


def _addresses(running: Running) -> dict[str, object]:
    c = running.credentials
    return {
        "base_url": c.base_url,
        "admin_url": c.admin_url,
        "regions": dict(c.regions),
        "s3_url": c.s3_url,
        "ca": c.ca,
        "state": c.state,
        "simulated_wan": c.simulated_wan or None,
    }


def announce(console: Console, running: Running) -> None:
    """Say where everything is, as commands that work when pasted."""
    c = running.credentials
    option = "" if Path(c.state).name == ".nearfield" else escape(pasted.state_option(c.state))
    addresses(console, c)
    console.print("\nIn another terminal:")
    console.print(
        f'  eval "$(nearfield env{option})"      # settings for aws, boto3, curl and the openai client'
    )
    console.print(f"  nearfield push ./my-model acme/my-model{option}")
    console.print("  aws s3 sync ./my-model s3://models/acme/my-model/      # the same, with any S3 client")
    console.print(f"  nearfield chat acme/my-model 'Hello'{option}")
    console.print(f"  nearfield report acme/my-model --html report.html{option}")
    console.print(f"  nearfield console --open{option}      # the live page, logged in")
    console.print("\nCtrl-C stops it; the next `nearfield up` serves every model again.")


def addresses(console: Console, c: Credentials) -> None:
    """Say where it listens."""
    console.print(f"\n[bold]Nearfield is up[/]: {', '.join(c.regions)}")
    if c.simulated_wan:
        console.print(f"  long-distance delays are SIMULATED: profile {c.simulated_wan}")
    console.print(f"  endpoint   {c.base_url}   (nearest region)")
    for region, url in c.regions.items():
        console.print(f"  {region:<10} {url}")
    console.print(f"  bucket     {c.s3_url}/models")
    console.print(
        f"  console    {c.admin_url}/console/   (the live page, for operators; keep it off the internet)"
    )
    keys = f"{c.state}/credentials.toml (mode 0600), certificate authority {c.ca}"
    console.print(f"  keys       {escape(keys)}")
