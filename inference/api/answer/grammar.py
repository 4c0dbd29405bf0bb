"""The grammar of a chat's answer: thoughts first where its model has them, then calls, or what the request asks for.

Marks that are text end what stands before them lazily (`suffix`): a greedy lexeme would run into the mark and leave
no way to end it. Marks that are special tokens end any lexeme.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from inference.api.fields import bad
from inference.api.grammar.structure import Lark, Structure, schema_rule, words
from inference.api.text.toolcalls import THINK_CLOSE, THINK_OPEN

if TYPE_CHECKING:
    from inference.api.request.tools import Tool, ToolUse
    from inference.api.text.tokens import Vocabulary
    from inference.api.text.toolcalls import Markers


def call_structure(
    use: ToolUse, markers: Markers, vocabulary: Vocabulary, asked: Structure | None = None
) -> Structure | None:
    """The grammar of an answer with calls of these tools, in the model's own format; None where nothing is held.

    A demanded call is all there is. Where calls are free, the answer is calls or what was `asked`; where nothing was
    and a tool is `strict`, words may come first, and what looks like a call is one.

    Raises:
        Refusal: 400 where an answer that was asked for cannot be told from a call.
    """
    if not use.must and asked is None and not any(tool.strict for tool in use.tools):
        return None
    rules = _calls_rules(use, markers, vocabulary)
    if use.must:
        return Structure("calls", "tools", rules)
    if asked is None:
        return Structure(_words_or_calls(markers, vocabulary), "tools", rules + _words_rules(markers))
    if markers.bare:
        why = f"calls of this model begin as {asked.param!r} may; leave out 'tools', or demand a call."
        raise bad(asked.param, why)
    return Structure("answer | calls", asked.param, f"answer: {asked.rule}\n{asked.rest}{rules}")


def after_thoughts(structure: Structure, prompt: str, vocabulary: Vocabulary) -> Structure:
    """The same behind thoughts: those that the prompt has begun must end, else the model may have some.

    A whole grammar, and an answer whose prompt has ended its thoughts, stay as they are.
    """
    if isinstance(structure, Lark) or prompt.rstrip().endswith(THINK_CLOSE):
        return structure
    ended = f"THOUGHTS {_mark(THINK_CLOSE, vocabulary)}"
    rules = "THOUGHTS: /(?s:.*)/\n"
    if not _is_special(THINK_CLOSE, vocabulary):
        ended, rules = "thoughts", f"thoughts[suffix={json.dumps(THINK_CLOSE)}]: /(?s:.*)/\n"
    first = f"{ended} BLANKS?"
    if not prompt.rstrip().endswith(THINK_OPEN):
        first = f"({_mark(THINK_OPEN, vocabulary)} {first})?"
    rules += f"BLANKS: /[ \\t\\r\\n]{{1,8}}/\nheld: {structure.rule}\n"
    return Structure(f"{first} held", structure.param, rules + structure.rest)


def _calls_rules(use: ToolUse, markers: Markers, vocabulary: Vocabulary) -> str:
    """The rules `calls` and, of its parts, `after`: what comes after the first opening."""
    one = {"anyOf": [_call_schema(tool, markers) for tool in use.tools]}
    if markers.bare:
        return f"calls: body\nbody: {schema_rule(one)}\n"
    opening = _mark(markers.opening, vocabulary)
    calls = f"calls: {opening} after\n"
    if markers.is_list:
        most = {"maxItems": 1} if use.is_single else {}
        every = {"type": "array", "minItems": 1, **most, "items": one}
        return f"{calls}after: {schema_rule(every)}\n"
    call = f'"\\n" body "\\n" {_mark(markers.closing, vocabulary)}'
    more = "" if use.is_single else f' ("\\n" {opening} {call})*'
    return f"{calls}after: {call}{more}\nbody: {schema_rule(one)}\n"


def _words_or_calls(markers: Markers, vocabulary: Vocabulary) -> str:
    if markers.bare:
        return "WORDS | calls"
    return "WORDS calls?" if _is_special(markers.opening, vocabulary) else "WORDS | said after"


def _words_rules(markers: Markers) -> str:
    """`WORDS`: any text in which no call begins; `said`: any text up to the first opening, that with it."""
    if markers.bare:
        return "WORDS: /([^{](?s:.*))?/\n"
    none = f"WORDS: /(?s:.*)/ & ~/(?s:.*){re.escape(markers.opening)}(?s:.*)/\n"
    return f"{none}said[suffix={json.dumps(markers.opening)}]: /(?s:.*)/\n"


def _call_schema(tool: Tool, markers: Markers) -> dict[str, Any]:
    """One call as a schema. Its parameters have an `$id`: what they define (`#/$defs/..`) is looked for in them."""
    parameters = {"type": "object", "$id": f"tool:{tool.name}"} | tool.parameters
    shape = {"name": {"const": tool.name}, markers.arguments: parameters}
    return {
        "type": "object",
        "properties": shape,
        "required": ["name", markers.arguments],
        "additionalProperties": False,
    }


def _mark(text: str, vocabulary: Vocabulary) -> str:
    return f"<[{vocabulary.token_of(text)}]>" if _is_special(text, vocabulary) else words(text)


def _is_special(text: str, vocabulary: Vocabulary) -> bool:
    token = vocabulary.token_of(text)
    return token is not None and vocabulary.is_special(token)
