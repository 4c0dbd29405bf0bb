"""A body received: its pieces through an `Ingest`, in threads, memory flat; if anything goes wrong nothing is left."""

import asyncio
from concurrent.futures import Executor

from storage.http.bodyplan import plan_body
from storage.http.ingest import Ingest, Received
from storage.http.request import S3Request
from storage.http.sinks import MemorySink, Source
from wire.serve import Exchange

BATCH_BYTES = 512 * 1024  # handed to a thread at once; a body holds at most four of these
AT_ONCE_BYTES = 16 * 1024  # 50 us of MD5; handing it to a thread and back takes as long on a busy machine


async def receive(source: Source, ingest: Ingest, pool: Executor, *, in_memory: bool = False) -> Received:
    """Run a body through `ingest`; if anything goes wrong, cancellation too, nothing is left behind.

    With `in_memory`, its sink being memory, a body up to AT_ONCE_BYTES is taken on the loop: hashing it takes less
    than a thread's turn.

    Raises: S3Error, OSError, wire's Refusal and Disconnected.
    """
    loop = asyncio.get_running_loop()
    work: asyncio.Future[None] | None = None
    pieces: list[bytes] = []
    num_bytes = 0
    whole = False
    try:
        async for piece in source.body():
            pieces.append(piece)
            num_bytes += len(piece)
            if num_bytes >= BATCH_BYTES:
                if work is not None:
                    await work
                work = loop.run_in_executor(pool, ingest.feed, pieces)
                work.add_done_callback(_seen)
                pieces, num_bytes = [], 0
                if source.peer_is_ahead:
                    await work
                    await source.read_ahead(pool, ingest.take)
        if work is not None:
            await work
        at_once = in_memory and ingest.plan.size <= AT_ONCE_BYTES
        received = (
            ingest.finish(pieces) if at_once else await loop.run_in_executor(pool, ingest.finish, pieces)
        )
        whole = True
        return received
    finally:
        if not whole:
            pool.submit(ingest.abort)


def _seen(work: "asyncio.Future[None]") -> None:
    """Mark a failure as looked at: when the body itself failed first, nobody awaits the thread's."""
    if not work.cancelled():
        work.exception()


async def read_document(exchange: Exchange, request: S3Request, max_bytes: int, pool: Executor) -> bytes:
    """A small body, checked like any other. Raises: S3Error."""
    sink = MemorySink()
    ingest = Ingest(plan_body(request, max_bytes), request, lambda: sink)
    await receive(exchange, ingest, pool, in_memory=True)
    return bytes(sink.data)
