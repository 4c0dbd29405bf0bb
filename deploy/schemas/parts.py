"""What several outputs of commands hold: a model, a region, an edge, a key, a plan, a proof, a move of a pointer."""

from collections.abc import Mapping
from types import MappingProxyType

from deploy.schemas.words import (
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

MODEL = grows(
    {
        "revision": TEXT,
        "state": one_of(
            "pushed", "verified", "replicated", "warming", "live", "draining", "retired", "failed"
        ),
        "tier": or_null(one_of("origin", "region", "host", "resident")),
        "kind": TEXT,
        "bytes": COUNT,
        "max_len": COUNT,
        "running": COUNT,
        "waiting": COUNT,
        "slots": COUNT,
        "error": or_null(table({"code": TEXT, "message": TEXT, "next": TEXT})),
        "progress": or_null(table({"phase": TEXT, "percent": NUMBER, "eta_s": or_null(NUMBER)})),
        "left_out": several(table({"path": TEXT, "reason": TEXT})),
    }
)
"""One model in one region, as the region's signed row has it."""

FIGURE = or_null(NUMBER)
CHANGE = table(
    {
        "region": TEXT,
        "start": TEXT,
        "figure": one_of("ttft_ms", "e2e_ms", "tokens_per_s"),
        "num_before": COUNT,
        "num_after": COUNT,
        "before": FIGURE,
        "after": FIGURE,
        "ratio": FIGURE,
        "interval": or_null(several(NUMBER)),
        "is_clear": FLAG,
        "is_worse": FLAG,
    }
)
"""One row's figure in two reports; the ratio and its 95 % interval where there were enough requests."""

FAILURES = table(
    {
        "region": TEXT,
        "start": TEXT,
        "failed_before": COUNT,
        "asked_before": COUNT,
        "failed_after": COUNT,
        "asked_after": COUNT,
        "share_before": FIGURE,
        "share_after": FIGURE,
        "probability": NUMBER,
        "is_clear": FLAG,
        "is_worse": FLAG,
    }
)
"""Requests of a row that failed in two reports; `probability` of such a difference by chance (Fisher's exact test)."""

VERDICT = table(
    {
        "condition": TEXT,
        "region": or_null(TEXT),
        "left": FIGURE,
        "right": FIGURE,
        "holds": FLAG,
        "why_not": or_null(TEXT),
    }
)
"""One condition of `--fail-if`; it shuts the gate if it holds or if it says why it cannot be decided."""

REGION_BODY = grows(
    {
        "models": by_name(MODEL),
        "store_bytes_per_s": NUMBER,
        "host_bytes_per_s": NUMBER,
        "origin_bytes_per_s": NUMBER,
        "attach_s": NUMBER,
        "eta_error": NUMBER,
    }
)
REGION = grows(
    {
        "body": or_null(REGION_BODY),
        "breaker": TEXT,
        "heard_s": or_null(NUMBER),
        "rtt_ms": or_null(NUMBER),
    }
)
EDGE = grows(
    {
        "self": FLAG,
        "heard_s": or_null(NUMBER),
        "up_s": or_null(NUMBER),
        "processes": COUNT,
        "nearest": or_null(TEXT),
        "answers_per_s": or_null(NUMBER),
        "failed_per_s": or_null(NUMBER),
        "regions": by_name(
            grows({"rtt_ms": or_null(NUMBER), "down": FLAG, "busy": COUNT, "answered": COUNT})
        ),
    }
)
"""One edge, as the edge that was asked has heard of it; `nearest` is the region that it reaches soonest."""
KEY_FIELDS: Mapping[str, Schema] = MappingProxyType(
    {
        "id": TEXT,
        "tenant": TEXT,
        "name": TEXT,
        "scopes": several(TEXT),
        "models": several(TEXT),
        "created_s": NUMBER,
        "expires_s": NUMBER,
        "quota": table(
            {"requests_per_min": COUNT, "tokens_per_min": COUNT, "streams": COUNT, "weight": COUNT}
        ),
    }
)
KEY = table(KEY_FIELDS)
MADE_KEY = table({**KEY_FIELDS, "key": TEXT})

DEVICE = table({"node": TEXT, "region": TEXT, "device": TEXT, "budget_bytes": COUNT})
PLAN_REGION = table(
    {
        "region": TEXT,
        "held_bytes": or_null(COUNT),
        "copy_bytes": COUNT,
        "fits": several(table({"device": DEVICE, "fits": FLAG, "kv_tokens": or_null(COUNT)})),
        "cold_s": table({"origin": NUMBER, "region": NUMBER, "host": NUMBER}),
        "start_s": NUMBER,
        "live_s": NUMBER,
        "low_s": NUMBER,
        "high_s": NUMBER,
        "far_bytes": COUNT,
        "is_measured": FLAG,
        "eta_error": NUMBER,
        "past": or_null(table({"num": COUNT, "num_within": COUNT, "error": NUMBER, "bias": NUMBER})),
        "costs": or_null(
            table({"currency": TEXT, "running_hour": or_null(NUMBER), "idle_hour": NUMBER, "once": NUMBER})
        ),
    }
)
PLAN = table(
    {
        "model": TEXT,
        "files": several(table({"path": TEXT, "bytes": COUNT, "is_unchanged": FLAG})),
        "left_out": several(table({"path": TEXT, "reason": TEXT})),
        "bytes": COUNT,
        "upload_bytes": COUNT,
        "upload_s": or_null(NUMBER),
        "weight_bytes": COUNT,
        "kv_bytes_per_token": COUNT,
        "idle_timeout_s": NUMBER,
        "regions": several(PLAN_REGION),
    }
)
SCORE = table(
    {
        "region": TEXT,
        "predicted_s": NUMBER,
        "low_s": NUMBER,
        "high_s": NUMBER,
        "took_s": NUMBER,
        "error": NUMBER,
    }
)
PROOF = table(
    {
        "schema": one_of("nearfield.proof/1"),
        "model": TEXT,
        "revision": TEXT,
        "region": TEXT,
        "at_s": COUNT,
        "ok": FLAG,
        "start": TEXT,
        "cold_s": or_null(NUMBER),
        "warm_s": or_null(NUMBER),
        "phases": by_name(NUMBER),
        "bytes": by_name(COUNT),
        "fault": or_null(table({"code": TEXT, "message": TEXT, "next": TEXT})),
    }
)
"""A revision's boot and its two answers in one region; `phases` are milliseconds, `bytes` by where they came from."""

DELTA = table(
    {
        "region": TEXT,
        "start": TEXT,
        "cold_s": or_null(NUMBER),
        "cold_s_before": or_null(NUMBER),
        "cold_ratio": or_null(NUMBER),
        "warm_s": or_null(NUMBER),
        "warm_s_before": or_null(NUMBER),
        "warm_ratio": or_null(NUMBER),
        "remote_bytes": COUNT,
    }
)
"""A region's proof against that of the revision before; a cold ratio only where both started from the same place."""

TURN = table(
    {
        "model": TEXT,
        "preview": or_null(TEXT),
        "revision": TEXT,
        "before": or_null(TEXT),
        "move_s": NUMBER,
    },
    live=several(TEXT),
    live_s=NUMBER,
)
"""A pointer's move: `move_s` is its one write, `live_s` until all regions served the revision."""

SUM = grows(
    {
        "tenant": TEXT,
        "key": TEXT,
        "model": TEXT,
        "day": TEXT,
        "requests": COUNT,
        "failed_requests": COUNT,
        "prompt_tokens": COUNT,
        "cached_tokens": COUNT,
        "completion_tokens": COUNT,
        "device_us": COUNT,
        "wasted_us": COUNT,
        "device_seconds": NUMBER,
        "wasted_seconds": NUMBER,
    }
)
