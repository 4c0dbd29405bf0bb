"""`/v1/models` as Anthropic's clients read it: one page of the list, and one model of it. Pure.

Made from OpenAI's objects of `edge/models.py`, so both clients see the same models under the same key.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_LIMIT: Final = 20  # theirs, as is the next
MAX_LIMIT: Final = 1000


def page(models: Sequence[Mapping[str, Any]], query: str) -> dict[str, Any]:
    """The page that `query` asks for: `limit`, and `after_id` or `before_id`, a model of the page before.

    Raises Refusal 400 if those are wrong.
    """
    asked = parse_qs(query, keep_blank_values=True)
    limit = _limit(asked.get("limit", [str(DEFAULT_LIMIT)])[0])
    ids = [each["id"] for each in models]
    if "before_id" in asked:
        end = _place(ids, asked["before_id"][0], "before_id")
        start = max(0, end - limit)
        more = start > 0
    else:
        start = _place(ids, asked["after_id"][0], "after_id") + 1 if "after_id" in asked else 0
        end = min(len(ids), start + limit)
        more = end < len(ids)
    data = [one(each) for each in models[start:end]]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": data, "has_more": more, "first_id": first, "last_id": last}


def one(model: Mapping[str, Any]) -> dict[str, Any]:
    """Their object of OpenAI's. A context holds prompt and answer, and neither is empty: hence one token less."""
    max_len = model["nearfield"]["max_len"]
    longest = None if max_len is None else max_len - 1
    return {
        "type": "model",
        "id": model["id"],
        "display_name": model["id"],
        "created_at": dt.datetime.fromtimestamp(model["created"], dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": longest,
        "max_tokens": longest,
        "nearfield": model["nearfield"],
    }


def _limit(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LIMIT)) and 1 <= int(text) <= MAX_LIMIT:
        return int(text)
    raise Refusal(400, "invalid_value", f"'limit' is a number from 1 to {MAX_LIMIT}.", param="limit")


def _place(ids: Sequence[str], wanted: str, param: str) -> int:
    if wanted in ids:
        return ids.index(wanted)
    raise Refusal(400, "invalid_value", f"'{param}' names no model of this list.", param=param)
