"""GetObjectAttributes: what is known of an object without its bytes."""

from storage.fault import S3Error
from storage.http.conditions import http_date
from storage.http.document import Node, write
from storage.http.reply import XML, Reply
from storage.http.request import S3Request
from storage.index.listing import MAX_PAGE
from storage.index.rows import ObjectRow
from storage.operations.asked import demand_judged
from storage.operations.shown import checksum_nodes, version_headers, whole_checksum
from storage.store import Store
from wire.serve import Exchange

KNOWN = frozenset({"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"})


async def get(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """GetObjectAttributes."""
    del exchange
    lines = [value for name, value in request.head.headers if name == "x-amz-object-attributes"]
    asked = {name.strip() for line in lines for name in line.split(",")}
    if not asked or not asked <= KNOWN:
        raise S3Error("InvalidArgument", f"x-amz-object-attributes names some of {', '.join(sorted(KNOWN))}.")
    row = demand_judged(store.index.reader(), request)
    nodes: list[Node] = []
    if "ETag" in asked:
        nodes.append(("ETag", row.etag))
    if "Checksum" in asked:
        nodes.append(("Checksum", checksum_nodes(row.checksum or whole_checksum(row))))
    if "ObjectParts" in asked and row.parts:
        nodes.append(("ObjectParts", _part_nodes(request, row)))
    if "StorageClass" in asked:
        nodes.append(("StorageClass", "STANDARD"))
    if "ObjectSize" in asked:
        nodes.append(("ObjectSize", str(row.size)))
    shown = (("last-modified", http_date(row.modified_ms)), *version_headers(store, row))
    return Reply(200, XML + shown, write("GetObjectAttributesResponse", nodes))


def _part_nodes(request: S3Request, row: ObjectRow) -> list[Node]:
    after, most = (
        _number(request, "x-amz-part-number-marker", 0),
        _number(request, "x-amz-max-parts", MAX_PAGE),
    )
    shown = list(enumerate(row.parts, 1))[after : after + min(most, MAX_PAGE)]
    last = shown[-1][0] if shown else after
    nodes: list[Node] = [
        ("PartsCount", str(len(row.parts))),
        ("PartNumberMarker", str(after)),
        ("NextPartNumberMarker", str(last)),
        ("MaxParts", str(most)),
        ("IsTruncated", "true" if last < len(row.parts) else "false"),
    ]
    name = row.checksum.algorithm if row.checksum else ""
    for number, (size, value) in shown:
        part: list[Node] = [("PartNumber", str(number)), ("Size", str(size))]
        nodes.append(("Part", [*part, (f"Checksum{name}", value)] if name and value else part))
    return nodes


def _number(request: S3Request, header: str, otherwise: int) -> int:
    raw = request.get(header)
    if raw is None:
        return otherwise
    if not (raw.isascii() and raw.isdigit() and len(raw) < 6):
        raise S3Error("InvalidArgument", f"{header} is a number.", ArgumentName=header)
    return int(raw)
