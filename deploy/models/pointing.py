"""A model's pointer as the command line reads and moves it, and the proofs of the revisions that it names.

A move is one conditional write of one small object: nobody else's move is lost, and no byte of a model is touched.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from deploy.faults import NotLive, Silent
from deploy.models import push
from deploy.terminal import patience
from deploy.trust.credentials import Credentials
from regions.objects.ledger import Ledger
from regions.objects.pointer import KEPT_PREVIOUS, Pointer
from regions.objects.proof import Proof
from storage.client.sdk import S3, PreconditionFailed, StoreError

DENIED = frozenset({401, 403})
MOVE_TRIES = 5  # others may move it too
PROOFS_S = (
    5.0  # a region passes its proof on before it says that it is live; its home may be slow for a moment
)
LOOK_S = 0.1
LOOK_AWAY_S = 2.0  # beside another wait, which has its own end and says what it waits for

Proofs = Mapping[str, Proof]


@dataclass(frozen=True, slots=True)
class Moved:
    """One move: from one revision to another, and how long the write took."""

    pointer: Pointer
    before: str
    seconds: float


def read(
    credentials: Credentials, *models: str, give_up_s: float = patience.GIVE_UP_S
) -> list[Pointer | None]:
    """Where these are now, each None if there is none. Raises StoreError, PointerError, Silent."""
    return patience.ask(_read(credentials, models), credentials.home_store, give_up_s)


def check_named(credentials: Credentials, model: str, revision: str) -> None:
    """Raises NotLive: the pointer names another revision by now, or is gone. A store that does not answer says nothing.

    Raises: PointerError.
    """
    try:
        (now,) = read(credentials, model, give_up_s=LOOK_AWAY_S)
    except (StoreError, Silent):
        return
    if now is None:
        raise NotLive("removed", f"{model} was removed meanwhile", "nearfield ls")
    if now.revision != revision:
        cause = f"{model} was moved on to {now.revision[:16]} meanwhile: another push, promotion or roll back"
        raise NotLive("overtaken", cause, f"nearfield revisions {model}")


async def _read(credentials: Credentials, models: Iterable[str]) -> list[Pointer | None]:
    async with S3(push.endpoint(credentials)) as s3:
        found = [await Ledger(s3).pointer(model) for model in models]
        return [each[0] if each else None for each in found]


def proofs(credentials: Credentials, *revisions: str, of: Iterable[str] = ()) -> list[Proofs]:
    """What is kept of each revision, by region; waits a little until the first has all regions of `of`.

    Nothing where this key may not read it. Raises StoreError, PointerError.
    """
    work = _proofs(credentials, revisions, frozenset(of))
    return patience.ask(work, credentials.home_store)


async def _proofs(credentials: Credentials, revisions: tuple[str, ...], of: frozenset[str]) -> list[Proofs]:
    end = time.monotonic() + PROOFS_S
    async with S3(push.endpoint(credentials)) as s3:
        ledger = Ledger(s3)
        try:
            while True:
                found = []
                for each in revisions:
                    found.append(_by_region(await ledger.proofs(each)))
                    patience.heard()
                if not found or of <= found[0].keys() or time.monotonic() > end:
                    return found
                await asyncio.sleep(LOOK_S)
        except StoreError as error:
            if error.status not in DENIED:
                raise
            return [{} for _ in revisions]


def _by_region(found: Iterable[Proof]) -> Proofs:
    return {each.region: each for each in found}


def move(credentials: Credentials, model: str, turn: Callable[[Pointer | None, int], Pointer]) -> Moved:
    """Moves a pointer to what `turn` makes of it and the time now. Raises StoreError, PointerError, NotLive."""
    return patience.ask(_move(credentials, model, turn), credentials.home_store)


async def _move(
    credentials: Credentials, model: str, turn: Callable[[Pointer | None, int], Pointer]
) -> Moved:
    async with S3(push.endpoint(credentials)) as s3:
        ledger = Ledger(s3)
        for _ in range(MOVE_TRIES):
            found = await ledger.pointer(model)
            pointer = turn(found[0] if found else None, int(time.time()))
            started = time.monotonic()
            try:
                await ledger.move(pointer, found[1] if found else None)
            except PreconditionFailed:
                continue
            before = found[0].revision if found else ""
            return Moved(pointer, before, time.monotonic() - started)
    raise NotLive("busy", f"others move {model} at the same moment", "Run the same command again.")


def earlier(pointer: Pointer, wanted: str | None, known: Mapping[str, Proofs]) -> str:
    """The revision that a roll back means: the one that begins with `wanted`, else the last that was proven. Pure.

    Raises NotLive: there is none.
    """
    kept = pointer.previous[:KEPT_PREVIOUS]
    if wanted is not None:
        found = [each for each in pointer.previous if each.startswith(wanted)]
        if len(found) == 1 and found[0] in kept:
            return found[0]
        raise _nothing(pointer, f"{wanted} is none of the {len(kept)} earlier revisions whose bytes are kept")
    sound = [each for each in kept if all(proof.ok for proof in known.get(each, {}).values())]
    if not sound:
        raise _nothing(pointer, "no earlier revision that was ever proven has its bytes kept")
    return sound[0]


def _nothing(pointer: Pointer, cause: str) -> NotLive:
    return NotLive("not_found", f"{pointer.model}: {cause}", f"nearfield revisions {pointer.model}")
