"""What each command prints with `--json`. What a schema says stays: a change of it is a new version of its `$id`.

Objects that mirror a region's row, a receipt or the report may grow by keys; the rest is exact.
"""

from collections.abc import Mapping
from types import MappingProxyType

from deploy.schemas.parts import (
    CHANGE,
    DELTA,
    EDGE,
    FAILURES,
    KEY,
    MADE_KEY,
    MODEL,
    PLAN,
    PROOF,
    REGION,
    SCORE,
    SUM,
    TURN,
    VERDICT,
)
from deploy.schemas.words import (
    ANY,
    COUNT,
    FLAG,
    NUMBER,
    TEXT,
    Schema,
    by_name,
    grows,
    one_of,
    or_null,
    several,
    table,
)

OUTPUTS: Mapping[str, Schema] = MappingProxyType(
    {
        "error": table({"error": table({"code": TEXT, "message": TEXT, "next": TEXT})}),
        "up": table(
            {
                "base_url": TEXT,
                "admin_url": TEXT,
                "regions": by_name(TEXT),
                "s3_url": TEXT,
                "ca": TEXT,
                "state": TEXT,
                "simulated_wan": or_null(TEXT),
            }
        ),
        "console": table({"url": TEXT, "valid_s": NUMBER}),
        "push": table(
            {"model": TEXT, "plan": PLAN},
            push_id=TEXT,
            bytes=COUNT,
            uploaded_bytes=COUNT,
            upload_s=NUMBER,
            revision=TEXT,
            live=several(TEXT),
            scores=several(SCORE),
            before=or_null(TEXT),
            proofs=several(PROOF),
            changes=several(DELTA),
        ),
        "ls": by_name(by_name(or_null(MODEL))),
        "promote": TURN,
        "rollback": TURN,
        "revisions": table(
            {
                "model": TEXT,
                "revisions": several(
                    table(
                        {
                            "revision": TEXT,
                            "role": one_of("current", "kept", "gone"),
                            "proofs": several(PROOF),
                        }
                    )
                ),
            }
        ),
        "chat": table(
            {
                "text": TEXT,
                "headers": by_name(TEXT),
                "usage": or_null(by_name(ANY)),
                "receipts": several(grows({"hop": TEXT})),
            }
        ),
        "report-diff": table(
            {"changes": several(CHANGE), "failures": several(FAILURES), "gate": several(VERDICT)}
        ),
        "status": grows(
            {"edge": TEXT, "edges": by_name(EDGE), "regions": by_name(REGION), "rows": by_name(ANY)}
        ),
        "logs": table(
            {
                "ts": TEXT,
                "level": TEXT,
                "role": TEXT,
                "name": TEXT,
                "region": TEXT,
                "model": TEXT,
                "request_id": TEXT,
                "message": TEXT,
            }
        ),
        "doctor": several(table({"name": TEXT, "well": FLAG, "seen": TEXT, "fix": TEXT})),
        "usage": table({"usage": several(SUM)}, reconcile=grows({"is_zero": FLAG})),
        "stop": table({}, model=TEXT, freed_bytes=by_name(COUNT), stopped=TEXT, pid=COUNT),
        "rm": table({"model": TEXT, "deleted_objects": COUNT, "ended_uploads": COUNT}),
        "env": by_name(TEXT),
        "s3": by_name(TEXT),
        "keys-ls": several(KEY),
        "keys-make": MADE_KEY,
        "keys-rotate": MADE_KEY,
        "keys-revoke": KEY,
        "config-show": several(table({"key": TEXT, "value": ANY, "line": or_null(COUNT), "origin": TEXT})),
        "config-check": table(
            {
                "path": TEXT,
                "is_sound": FLAG,
                "stores": COUNT,
                "nodes": COUNT,
                "regions": COUNT,
                "edges": COUNT,
            }
        ),
    }
)
"""By command, a group's with a dash. `logs` and `status --watch` print such a document a line."""
