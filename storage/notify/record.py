"""One change as the record that S3 sends of it.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
"""

import json
from collections.abc import Sequence
from urllib.parse import quote_plus

from storage.http.conditions import iso_date
from storage.index.outbox import Line

Record = dict[str, object]
VERSION = "2.1"
LIFECYCLE_VERSION = "2.3"  # the first that knows of lifecycle
OWNER = {"principalId": "nearfield"}


def record_of(line: Line, target_id: str, region: str) -> Record:
    """The record of a line. The outbox does not keep who asked, nor from where: those fields are not there.

    `sequencer` grows with each change of the store; of two records of a key the greater is the later.
    """
    stored: dict[str, object] = {"key": quote_plus(line.key)}
    if line.name.startswith("ObjectCreated:"):
        stored |= {"size": line.size, "eTag": line.etag}
    if line.version:
        stored["versionId"] = line.version
    stored["sequencer"] = f"{line.seq:016X}"
    return {
        "eventVersion": LIFECYCLE_VERSION if line.name.startswith("Lifecycle") else VERSION,
        "eventSource": "aws:s3",
        "awsRegion": region,
        "eventTime": iso_date(line.at_ms),
        "eventName": line.name,
        "userIdentity": OWNER,
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": target_id,
            "bucket": {"name": line.bucket, "ownerIdentity": OWNER, "arn": f"arn:aws:s3:::{line.bucket}"},
            "object": stored,
        },
    }


def body_of(records: Sequence[Record]) -> bytes:
    """The message that carries records."""
    return json.dumps({"Records": list(records)}, ensure_ascii=False, separators=(",", ":")).encode()
