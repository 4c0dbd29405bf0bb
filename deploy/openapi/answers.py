"""What the routes answer, as JSON Schema. A test holds the answers of a running platform to these."""

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

USAGE = grows({"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT})
PROMPT_USAGE = grows({"prompt_tokens": COUNT, "total_tokens": COUNT})
FINISH = or_null(one_of("stop", "length", "tool_calls"))
OBJECT: Schema = {"type": "object"}


def _made(kind: str, **more: Schema) -> Schema:
    """An answer in OpenAI's older shape."""
    head = {"id": TEXT, "object": one_of(kind), "created": COUNT, "model": TEXT, "system_fingerprint": TEXT}
    return grows(head | more)


def _choice(**more: Schema) -> Schema:
    return grows({"index": COUNT, "logprobs": or_null(OBJECT), "finish_reason": FINISH} | more)


MESSAGE = grows(
    {"role": one_of("assistant"), "content": or_null(TEXT), "refusal": or_null(TEXT)},
    reasoning_content=TEXT,
    tool_calls=several(OBJECT),
)
CHAT = _made("chat.completion", choices=several(_choice(message=MESSAGE)), usage=USAGE)
CHAT_CHUNK = _made("chat.completion.chunk", choices=several(_choice(delta=OBJECT)))
COMPLETION = _made("text_completion", choices=several(_choice(text=TEXT)), usage=USAGE)
EMBEDDINGS = table(
    {
        "object": one_of("list"),
        "data": several(
            table(
                {
                    "object": one_of("embedding"),
                    "index": COUNT,
                    "embedding": {"anyOf": [several(NUMBER), TEXT]},
                }
            )
        ),
        "model": TEXT,
        "usage": PROMPT_USAGE,
    }
)
RESPONSE = grows(
    {
        "id": TEXT,
        "object": one_of("response"),
        "created_at": COUNT,
        "model": TEXT,
        "status": one_of("completed", "incomplete", "failed", "in_progress"),
        "output": several(grows({"id": TEXT, "type": TEXT})),
        "usage": or_null(grows({"input_tokens": COUNT, "output_tokens": COUNT, "total_tokens": COUNT})),
    }
)
MESSAGES = grows(
    {
        "id": TEXT,
        "type": one_of("message"),
        "role": one_of("assistant"),
        "model": TEXT,
        "content": several(grows({"type": TEXT})),
        "stop_reason": or_null(one_of("end_turn", "max_tokens", "stop_sequence", "tool_use")),
        "stop_sequence": or_null(TEXT),
        "usage": grows({"input_tokens": COUNT, "output_tokens": COUNT}),
    }
)
COUNTED_INPUT = table({"object": one_of("response.input_tokens"), "input_tokens": COUNT})
COUNTED = table({"input_tokens": COUNT})
RANKED = table(
    {
        "id": TEXT,
        "model": TEXT,
        "results": several(
            table({"index": COUNT, "relevance_score": NUMBER}, document=table({"text": TEXT}))
        ),
        "usage": PROMPT_USAGE,
    }
)
TOKENS = table(
    {"count": COUNT, "max_model_len": COUNT, "tokens": several(COUNT), "token_strs": or_null(several(TEXT))}
)
DETOKENIZED = table({"prompt": TEXT})
MODEL = grows(
    {
        "id": TEXT,
        "object": one_of("model"),
        "created": COUNT,
        "owned_by": TEXT,
        "nearfield": grows(
            {
                "kind": TEXT,
                "max_len": COUNT,
                "deterministic": FLAG,
                "regions": by_name(table({"state": TEXT, "tier": or_null(TEXT), "revision": TEXT})),
            }
        ),
    }
)
MODELS = table({"object": one_of("list"), "data": several(MODEL)})
THEIR_MODEL = grows(
    {
        "type": one_of("model"),
        "id": TEXT,
        "display_name": TEXT,
        "created_at": TEXT,
        "lifecycle": one_of("active"),
        "max_input_tokens": or_null(COUNT),
        "max_tokens": or_null(COUNT),
        "nearfield": OBJECT,
    }
)
THEIR_MODELS = table(
    {"data": several(THEIR_MODEL), "has_more": FLAG, "first_id": or_null(TEXT), "last_id": or_null(TEXT)}
)
ERROR = table(
    {"error": grows({"message": TEXT, "type": TEXT, "param": or_null(TEXT), "code": or_null(TEXT)})}
)
THEIR_ERROR = grows({"type": one_of("error"), "error": grows({"type": TEXT, "message": TEXT})})
