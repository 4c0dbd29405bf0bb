"""The store as a role: open the folder, listen, serve until told to stop."""

import asyncio
import logging
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from storage.auth.key import AccessKey
from storage.auth.keyring import ReadKeys, keep_current
from storage.auth.sigv4 import Verifier, utc_now
from storage.client.endpoint import SOCKET_NAME, Endpoint
from storage.disk.scrub import RATE_BYTES_PER_S, Pace, Scrubber, Source
from storage.fault import StoreBroken
from storage.figures import StoreFigures
from storage.homes.door import Homes
from storage.lifecycle.sweep import Pace as LifecyclePace
from storage.lifecycle.sweep import Sweeper
from storage.notify.courier import Courier, Patience
from storage.notify.webhook import Webhook
from storage.s3 import S3Service
from storage.sharing.sharer import RATE_BYTES_PER_S as SHARE_BYTES_PER_S
from storage.sharing.sharer import Sharer
from storage.store import Store
from wire.dialect import spoken_in_s3
from wire.figures.metrics import Metrics
from wire.figures.process import add_process_figures
from wire.http.limits import Limits
from wire.listener.descriptors import listen_unix
from wire.scrape import Scrape, scraped
from wire.serve import Server
from wire.threads import Threads

log = logging.getLogger("nearfield.storage")

MIN_PART_BYTES = 5 * 1024 * 1024  # S3's smallest part but the last
SENDING_THREADS = 8  # files go out in the kernel; more than this only share the same processors
DRAIN_S = 5.0  # uploads under way get this long to finish
BROKEN_DRAIN_S = 0.5  # and callers of a store whose disk failed this long to hear of it
AGAIN_S = 10.0
FIRST_SCRUB_S = 60.0  # a start has better things to do
EVERY_HOUR = LifecyclePace()
PATIENT = Patience()
COPIES_BYTES = 64 * 1024**3  # a large model read once through a region, and room beside it
LIMITS = Limits(
    target_bytes=8 * 1024,  # a key of 1,024 bytes, each escaped, is 3 KiB; a presigned query adds 1 KiB
    num_headers=128,  # user metadata
    encoded_paths=True,  # keys hold any character
    max_connections=1024,  # each upload holds up to two batches of 512 KiB
)
LEASE_S = (
    86_400.0  # a holder of descriptors that is silent for a day may keep its files, but the store lets go
)
MAX_HOLDERS = 256  # connections to the socket: one a landing of weights


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """One region's store. `root_key` derives every access key's secret."""

    host: str
    port: int
    root: Path
    root_key: bytes
    access_keys: tuple[AccessKey, ...]
    region: str = "us-east-1"
    min_part_bytes: int = MIN_PART_BYTES
    read_keys: ReadKeys | None = (
        None  # called about once a second, in a thread; None: the keys stay as they are
    )
    sources: tuple[Source, ...] = ()  # other regions' stores, for what this one's disk lost
    scrub_bytes_per_s: float = RATE_BYTES_PER_S
    lease_s: float = LEASE_S
    anonymous: bool = False  # let in who signs nothing, to what an ACL or a policy gives to everybody
    domains: tuple[str, ...] = ()  # whose subdomains are buckets; none: path style alone
    lifecycle: LifecyclePace = EVERY_HOUR
    webhooks: tuple[Webhook, ...] = ()  # where notifications of buckets may go
    patience: Patience = PATIENT
    share_bytes_per_s: float = SHARE_BYTES_PER_S  # how fast equal bytes are looked for; 0: not at all
    sigv2: bool = False  # honour Signature Version 2 in presigned queries and forms: weaker, for old clients
    homes: Mapping[str, Endpoint] = field(
        default_factory=dict
    )  # of buckets that live in another region's store
    copies_bytes: int = COPIES_BYTES  # of those buckets' objects kept here, at most
    scrape: Scrape | None = None  # where its figures can be read


async def run(settings: StoreSettings, ready: Callable[[int], None], stop: asyncio.Event) -> None:
    """Serve until `stop` is set; `ready` gets the port once requests are taken.

    Raises: OSError (the address or the folder is taken), sqlite3.Error, StoreBroken if the disk failed.
    """
    verifier = Verifier(
        settings.access_keys, settings.root_key, sigv2=settings.sigv2, anonymous=settings.anonymous
    )
    store = Store(settings.root, verifier, settings.region, settings.min_part_bytes, utc_now)
    store.domains = settings.domains
    store.webhooks = frozenset(webhook.id for webhook in settings.webhooks)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(Threads(SENDING_THREADS, "send"))

    def broken() -> None:
        loop.call_soon_threadsafe(ended.set)

    store.index.on_broken = broken
    homes = Homes(store, settings.homes, settings.copies_bytes)
    try:
        works = _works(store, settings)
        await homes.start()
        metrics = Metrics()
        add_process_figures(metrics, "store", settings.region)
        figures = StoreFigures(metrics, settings.root)
        async with scraped(settings.scrape, metrics):
            servers = await _listen(S3Service(store, homes, figures), settings)
            ready(servers[0].port)
            tidying = loop.run_in_executor(store.pool, store.tidy)
            scrubber = Scrubber(store, settings.sources, Pace(settings.scrub_bytes_per_s), time.monotonic)
            beside = [asyncio.create_task(_keep_going(work)) for work in works]
            beside.append(asyncio.create_task(_scrub(scrubber)))
            beside.append(asyncio.create_task(homes.follow()))
            if settings.read_keys is not None:
                beside.append(asyncio.create_task(keep_current(verifier.keys, settings.read_keys)))
            await _first_of(stop, ended)
            store.begin_close()
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
            drain_s = DRAIN_S if stop.is_set() else BROKEN_DRAIN_S
            await asyncio.gather(*(each.drain(drain_s) for each in servers))
            await tidying
    finally:
        store.index.on_broken = lambda: None
        await homes.close()
        await store.close()
    if ended.is_set():
        raise StoreBroken("the index failed; see the log. Restart once the disk is well")


async def _listen(service: S3Service, settings: StoreSettings) -> list[Server]:
    """The port, and the socket of this host where the folder can hold one: else everybody reads bytes.

    On the socket a connection is the lease on what it was handed. Its name stays when the store ends; nobody
    listens then, and the next start takes it.
    """
    server = await Server.start(service, settings.host, settings.port, limits=LIMITS, speak=spoken_in_s3)
    limits = replace(
        LIMITS, idle_s=settings.lease_s, max_connections=MAX_HOLDERS, max_per_address=MAX_HOLDERS
    )
    try:
        listener = listen_unix(settings.root / SOCKET_NAME)
    except OSError as error:
        log.warning("no socket in %s, so no descriptors are handed over: %s", settings.root, error)
        return [server]
    return [server, await Server.start_unix(service, listener, limits=limits)]


def _works(store: Store, settings: StoreSettings) -> list[Callable[[], Awaitable[None]]]:
    """What runs beside the requests for as long as the store does. Raises: OSError for a webhook's certificates."""
    sweeper = Sweeper(store, settings.lifecycle, store.clock)
    couriers = [Courier(store, each, settings.patience, random.random) for each in settings.webhooks]
    sharers = [Sharer(store, settings.share_bytes_per_s)] if settings.share_bytes_per_s else []
    return [sweeper.run, *(each.run for each in sharers), *(each.run for each in couriers)]


async def _scrub(scrubber: Scrubber) -> None:
    await asyncio.sleep(FIRST_SCRUB_S)
    with suppress(StoreBroken):  # said and acted on by whoever serves
        await scrubber.run()


async def _keep_going(work: Callable[[], Awaitable[None]]) -> None:
    """Begin `work` again after an error of the index that did not stop the store: it must not end unnoticed."""
    with suppress(StoreBroken):  # as above
        while True:
            try:
                await work()
            except sqlite3.Error:
                log.exception("work beside the requests begins again in %s s", AGAIN_S)
                await asyncio.sleep(AGAIN_S)


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
