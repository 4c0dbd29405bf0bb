"""What every role is made with: how it is run, where it shows its figures, its certificate for other machines."""

import asyncio
from collections.abc import Awaitable, Callable

from deploy.config.document import Config
from deploy.trust import secrets
from deploy.trust.hops import Hops
from wire.address import split_address
from wire.scrape import Scrape

Ready = Callable[[int], None]
Runner = Callable[[Ready, asyncio.Event], Awaitable[None]]


def scrape_of(config: Config, address: str | None) -> Scrape | None:
    """Where a role shows its figures, if anywhere."""
    if address is None:
        return None
    return Scrape(*split_address(address), secrets.metrics_key(secrets.root_key(config.secrets)))


def hops_of(config: Config, role: str, name: str) -> Hops | None:
    """Its certificates for the other machines of the fleet, where those are asked for."""
    return Hops(secrets.root_key(config.secrets), role, name) if config.mutual_tls else None


def renewing(hops: Hops | None, run: Runner) -> Runner:
    """The role, with its certificate for the other machines of the fleet kept fresh meanwhile."""
    if hops is None:
        return run

    async def both(ready: Ready, stop: asyncio.Event) -> None:
        keeping = asyncio.create_task(hops.keep())
        try:
            await run(ready, stop)
        finally:
            keeping.cancel()

    return both
