"""GetObject and HeadObject: a span of an object, opened, held against deletion, none of it known to be damaged."""

from collections.abc import Callable, Iterator

from storage.disk.blobs import BlobMissing
from storage.disk.sound import Unsound, is_sound
from storage.fault import S3Error
from storage.http.conditions import ReadAsk
from storage.http.handover import ASK, OpenFiles
from storage.http.reply import Body, ManySlices, OneSlice, Reply
from storage.http.request import S3Request
from storage.index.reads import read_inline
from storage.index.rows import Extent, ObjectRow
from storage.index.versions import find_version
from storage.operations.asked import demand_judged
from storage.operations.shown import object_headers
from storage.store import Store
from wire.serve import Exchange

MAX_LOOKS = 4  # times a read looks again when an overwrite deleted what it was about to open

_How = Callable[[Store, list[Extent], int], Body]


def read_ask(request: S3Request) -> ReadAsk:
    """What a read asks of the object."""
    get = request.get
    return ReadAsk(
        get("if-match"),
        get("if-none-match"),
        get("if-modified-since"),
        get("if-unmodified-since"),
        get("range"),
        get("if-range"),
    )


async def head(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """HeadObject."""
    del exchange
    row = demand_judged(store.index.reader(), request)
    ask = read_ask(request)
    ask.check(row)
    span = span_of(request, ask, row)
    length = row.size if span is None else span[1]
    return Reply(200 if span is None else 206, object_headers(store, request, row, span), length=length)


def span_of(request: S3Request, ask: ReadAsk, row: ObjectRow) -> tuple[int, int] | None:
    """(first byte, length) of a range or a part; None for the whole. Raises: S3Error."""
    raw = request.query.get("partNumber")
    if raw is None:
        return ask.span(row)
    if ask.range is not None:
        raise S3Error("InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
    number = int(raw) if raw.isascii() and raw.isdigit() and len(raw) < 6 else 0
    sizes = [size for size, _ in row.parts] or [row.size]
    if not 1 <= number <= len(sizes):
        raise S3Error("InvalidPart", "The requested partnumber is not satisfiable", PartNumber=raw)
    return sum(sizes[: number - 1]), sizes[number - 1]


async def get(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """GetObject."""
    ask = read_ask(request)
    how = _as_files if _wants_files(exchange, request) else _as_bytes
    for _ in range(MAX_LOOKS):
        row = demand_judged(store.index.reader(), request)
        ask.check(row)
        span = span_of(request, ask, row)
        body = await _open_sound(store, row, span or (0, row.size), how)
        if body is not None:
            return Reply(200 if span is None else 206, object_headers(store, request, row, span), body)
    raise S3Error(
        "InternalError", "The object's bytes are set aside as damaged, or change too fast to be read."
    )


def _wants_files(exchange: Exchange, request: S3Request) -> bool:
    """True if descriptors are asked for. Raises: S3Error InvalidRequest where none can be sent."""
    wanted = request.get(ASK)
    if wanted is None:
        return False
    if wanted != "1" or not exchange.carries_descriptors:
        raise S3Error("InvalidRequest", f"{ASK}: 1 is understood on the store's Unix socket only.")
    return True


async def _open_sound(store: Store, row: ObjectRow, span: tuple[int, int], how: _How) -> Body | bytes | None:
    """The body, none of whose bytes is known to be damaged or was not looked at. Raises: S3Error InternalError."""
    wholes = [extent for extent, _ in _touched(row.extents, *span)]
    try:
        if wholes and not wholes[0].inline:
            await store.sound.demand(wholes)
        return _open(store, row, span, wholes, how)
    except BlobMissing:
        return None
    except Unsound as error:
        await store.set_aside(error.extent, row)
        raise S3Error("InternalError", "The stored bytes fail their checksum and are not served.") from error


def _open(
    store: Store, row: ObjectRow, span: tuple[int, int], wholes: list[Extent], how: _How
) -> Body | bytes | None:
    """The body, held against deletion; None if an overwrite was quicker. `wholes`: the extents that are touched."""
    pieces = slices_of(row.extents, *span)
    if not pieces:
        return b""
    if pieces[0].inline:
        data = read_inline(store.index.reader(), wholes[0])
        if data is not None and not is_sound(data, wholes[0]):
            raise Unsound(wholes[0])
        low = pieces[0].offset - wholes[0].offset
        return None if data is None else data[low : low + pieces[0].length]
    body = how(store, pieces, span[0])
    if isinstance(body, ManySlices) and not _is_there(store, row):
        body.close()
        return None
    return body


def _is_there(store: Store, row: ObjectRow) -> bool:
    """True if the version is there still: its blobs, pinned before this look, were not deleted before the pin."""
    now = find_version(store.index.reader(), row.bucket, row.key, row.version)
    return now is not None and (now.seq, now.extents) == (row.seq, row.extents)


def _as_bytes(store: Store, pieces: list[Extent], first: int) -> Body:
    """Raises: BlobMissing, OSError."""
    del first
    return OneSlice(store.blobs, pieces[0]) if len(pieces) == 1 else ManySlices(store.blobs, pieces)


def _as_files(store: Store, pieces: list[Extent], first: int) -> Body:
    """All are opened here, so none can go any more. Raises: S3Error, BlobMissing, OSError."""
    return OpenFiles(store.blobs, store.leases, pieces, first)


def slices_of(extents: tuple[Extent, ...], first: int, length: int) -> list[Extent]:
    """Where bytes first..first+length of an object lie; the CRCs are of the whole extents still."""
    return [piece for _, piece in _touched(extents, first, length)]


def _touched(extents: tuple[Extent, ...], first: int, length: int) -> Iterator[tuple[Extent, Extent]]:
    """(whole extent, the piece of it that lies in first..first+length)."""
    start = 0
    for extent in extents:
        low = max(first, start)
        high = min(first + length, start + extent.length)
        if low < high:
            yield extent, Extent(extent.blob, extent.offset + low - start, high - low, extent.crc64)
        start += extent.length
