"""The shapes of request fields whose readers are written out by hand. A test sends the readers what these allow."""

from collections.abc import Mapping
from types import MappingProxyType

from deploy.schemas.words import ANY, COUNT, FLAG, NUMBER, TEXT, Schema, by_name, one_of, several, table
from inference.api.request.kinds import MAX_INPUTS, MAX_LABEL_CHARS, MAX_PROMPTS
from inference.api.request.prediction import MAX_PARTS
from inference.api.request.sampling import MAX_BIAS, MAX_BIASES, MAX_STOP_CHARS, MAX_STOPS

OBJECT: Schema = {"type": "object"}
LABEL: Schema = TEXT | {"maxLength": MAX_LABEL_CHARS}
NAMED: Schema = table({"name": TEXT})


def either(*each: Schema) -> Schema:
    """One of several shapes."""
    return {"anyOf": list(each)}


def texts(most: int) -> Schema:
    """A text, texts, token ids, or lists of them."""
    ids = several(COUNT) | {"minItems": 1}
    return either(
        TEXT, several(TEXT) | {"minItems": 1, "maxItems": most}, ids, several(ids) | {"maxItems": most}
    )


TEXT_PART = table({"type": one_of("text"), "text": TEXT})
FUNCTION = table({"name": TEXT}, description=TEXT, parameters=OBJECT, strict=FLAG)
CALL = table({"id": TEXT, "type": one_of("function"), "function": table({"name": TEXT, "arguments": TEXT})})
MESSAGE = table(
    {"role": one_of("system", "developer", "user", "assistant", "tool")},
    content=either(TEXT, several(TEXT_PART), {"type": "null"}),
    name=TEXT,
    tool_calls=several(CALL),
    tool_call_id=TEXT,
    reasoning_content=TEXT,
)
TOOL = table({"type": one_of("function"), "function": FUNCTION})
CHOICE = either(one_of("none", "auto", "required"), table({"type": one_of("function"), "function": NAMED}))
STOPS = TEXT | {"minLength": 1, "maxLength": MAX_STOP_CHARS}
FORMAT = either(
    table({"type": one_of("text", "json_object")}),
    table(
        {"type": one_of("json_schema"), "json_schema": table({"name": TEXT, "schema": OBJECT}, strict=FLAG)}
    ),
)
LABELS = by_name(LABEL) | {"maxProperties": 16}
CACHE = table({"type": one_of("ephemeral")}, ttl=TEXT)
BLOCK = {"type": "object", "properties": {"type": TEXT}, "required": ["type"]}
BLOCKS = either(TEXT, several(BLOCK))
"""Anthropic's content: a text, or blocks (`text`, `tool_use`, `tool_result`, `thinking`)."""

SHAPES: Mapping[str, Schema] = MappingProxyType(
    {
        "inference.api.request.messages.read_messages": several(MESSAGE) | {"minItems": 1},
        "inference.api.request.kinds._metadata": LABELS,
        "inference.api.request.kinds.<lambda> MAX_PROMPTS": texts(MAX_PROMPTS),
        "inference.api.request.kinds._template_kwargs": OBJECT,
        "inference.api.request.kinds.<lambda> MAX_INPUTS": texts(MAX_INPUTS),
        "inference.api.request.tools.read_tools": several(TOOL),
        "inference.api.request.tools.read_tool_choice": CHOICE,
        "inference.api.request.sampling._stops": either(STOPS, several(STOPS) | {"maxItems": MAX_STOPS}),
        "inference.api.request.sampling._skip_special": FLAG,
        "inference.api.request.sampling._biases": by_name(
            NUMBER | {"minimum": -MAX_BIAS, "maximum": MAX_BIAS}
        )
        | {"maxProperties": MAX_BIASES},
        "inference.api.request.stream_options.read_stream_options": table(
            {}, include_usage=FLAG, continuous_usage_stats=FLAG, include_obfuscation={"enum": [False]}
        ),
        "inference.api.request.prediction.read_prediction": table(
            {
                "type": one_of("content"),
                "content": either(TEXT, several(TEXT_PART) | {"maxItems": MAX_PARTS}),
            }
        ),
        "inference.api.grammar.structure.read_response_format": FORMAT,
        "inference.api.grammar.structure.read_structured_outputs": {
            "type": "object",
            "description": "one of `json`, `regex`, `choice`, `grammar`, `json_object`",
            "minProperties": 1,
        },
        "inference.api.grammar.structure.read_schema": either(OBJECT, TEXT),
        "inference.api.grammar.structure.read_regex": TEXT,
        "inference.api.grammar.structure.read_choice": several(TEXT) | {"minItems": 1},
        "inference.api.grammar.structure.read_lark": TEXT,
        "inference.api.responses.request._input": either(TEXT, several(OBJECT)),
        "inference.api.responses.request._stream_options": table({}, include_obfuscation={"enum": [False]}),
        "inference.api.responses.tools.read_tools": several(BLOCK),
        "inference.api.responses.tools.read_choice": either(one_of("none", "auto", "required"), BLOCK),
        "inference.api.responses.request._text_options": OBJECT | {"properties": {"format": BLOCK}},
        "inference.api.responses.request._reasoning": OBJECT | {"properties": {"effort": TEXT}},
        "inference.api.responses.request._metadata": LABELS,
        "inference.api.anthropic.request._messages": several(
            table({"role": one_of("user", "assistant", "system"), "content": BLOCKS})
        )
        | {"minItems": 1},
        "inference.api.anthropic.request._system": BLOCKS,
        "inference.api.anthropic.request.<lambda> MAX_STOP_CHARS MAX_STOPS": several(STOPS)
        | {"maxItems": MAX_STOPS},
        "inference.api.anthropic.tools.read_tools": several(
            table(
                {"name": TEXT, "input_schema": OBJECT},
                type=one_of("custom"),
                description=TEXT,
                strict=FLAG,
                cache_control=CACHE,
                eager_input_streaming={"enum": [True]},
                defer_loading={"enum": [False]},
                allowed_callers={"enum": [["direct"]]},
            )
        ),
        "inference.api.anthropic.tools.read_choice": table(
            {"type": one_of("auto", "any", "tool", "none")}, name=TEXT, disable_parallel_tool_use=FLAG
        ),
        "inference.api.anthropic.request._thinking": table(
            {"type": one_of("disabled", "adaptive")}, display=one_of("summarized")
        ),
        "inference.api.anthropic.request._output_config": table(
            {},
            effort=one_of("low", "medium", "high", "xhigh", "max"),
            format=table({"type": one_of("json_schema"), "schema": OBJECT}),
        ),
        "inference.api.anthropic.request._metadata": table({}, user_id=LABEL),
        "inference.api.anthropic.request._cache_control": CACHE,
        "inference.api.vectors.rerank._document": either(TEXT, table({"text": TEXT})),
        "inference.api.tokenize.requests._as_it_is": ANY,
    }
)
"""A reader's module and name -> what it accepts."""
