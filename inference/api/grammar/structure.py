"""What an answer must look like: a request's schema, expression or grammar, written in llguidance's terms.

Nothing is compiled here: the result is one text that `inference.api.grammar.trial` has tried and the engine follows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.api.fields import array, bad, boolean, mapping, one_of, only, string
from inference.api.grammar.schema import followable

if TYPE_CHECKING:
    from inference.api.fields import Reader

MAX_SCHEMA_CHARS = 256 * 1024
"""OpenAI bounds a schema's names and values at 120,000 characters together."""
MAX_TEXT_CHARS = 64 * 1024
"""Of a regular expression or a grammar."""
MAX_CHOICES = 1_000
"""Of `choice`; each is compiled as a word."""
MAX_CHOICE_CHARS = 1_024
WHITESPACE = r"( |\n {0,32})?"
"""Between the parts of a JSON answer: a blank, or a new line and its indent; models can loop in more for ever."""
_name = string(64, 1)


@dataclass(frozen=True, slots=True)
class Structure:
    """`rule` is the body of a Lark rule; `param` the field that asked for it."""

    rule: str
    param: str
    rest: str = ""
    """Further rules that `rule` names."""

    @property
    def grammar(self) -> str:
        """A whole grammar."""
        return f"start: {self.rule}\n{self.rest}"


def schema_rule(schema: dict[str, Any] | bool) -> str:
    """A rule for a JSON text that the schema holds for."""
    plain = {} if isinstance(schema, bool) and schema else schema
    if isinstance(plain, dict):
        plain = followable(plain) | {
            "x-guidance": {"whitespace_flexible": True, "whitespace_pattern": WHITESPACE}
        }
    return f"%json {json.dumps(plain)}"


def any_object() -> str:
    """A rule for any JSON object."""
    return schema_rule({"type": "object"})


def words(text: str) -> str:
    """A rule for exactly this text."""
    return json.dumps(text, ensure_ascii=False)


def read_response_format(value: Any, param: str) -> Structure | None:
    """OpenAI's `response_format`; None for plain text. Raises Refusal (400)."""
    found = mapping(value, param)
    kind = one_of("text", "json_object", "json_schema")(found.get("type"), f"{param}.type")
    only(found, {"type", "json_schema"} if kind == "json_schema" else {"type"}, param)
    if kind == "text":
        return None
    if kind == "json_object":
        return Structure(any_object(), param)
    return _named_schema(found.get("json_schema"), f"{param}.json_schema")


def _named_schema(value: Any, param: str) -> Structure:
    found = mapping(value, param)
    only(found, {"name", "description", "schema", "strict"}, param)
    _name(found.get("name"), f"{param}.name")
    if found.get("description") is not None:
        string(MAX_TEXT_CHARS)(found["description"], f"{param}.description")
    if found.get("strict") is not None:
        boolean(found["strict"], f"{param}.strict")
    return read_schema({} if found.get("schema") is None else found["schema"], f"{param}.schema")


def read_schema(value: Any, param: str) -> Structure:
    """A JSON schema, given as an object or as its text (`guided_json`)."""
    if type(value) is str:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as cause:
            raise bad(param, f"{param!r} is a text that is no JSON: {cause}.") from cause
    if type(value) not in {dict, bool}:
        raise bad(param, f"{param!r} must be a JSON schema: an object.", "invalid_type")
    try:
        rule = schema_rule(value)
    except RecursionError as cause:
        raise bad(param, f"{param!r} nests too deeply.") from cause
    if len(rule) > MAX_SCHEMA_CHARS:
        raise bad(param, f"{param!r} must have at most {MAX_SCHEMA_CHARS:,} characters.")
    return Structure(rule, param)


def read_regex(value: Any, param: str) -> Structure:
    """A regular expression (Rust's dialect: no look-around, no back references) for the whole answer."""
    text = string(MAX_TEXT_CHARS, 1)(value, param)
    return Structure(f"/{_slashed(text)}/", param)


def _slashed(regex: str) -> str:
    """`/` and line ends as Lark wants them between two slashes; what is escaped already stays."""
    out, escaped = [], False
    for character in regex:
        if character == "\n":
            out.append("n" if escaped else "\\n")
        elif character == "/" and not escaped:
            out.append("\\/")
        else:
            out.append(character)
        escaped = character == "\\" and not escaped
    return "".join(out)


def read_choice(value: Any, param: str) -> Structure:
    """One of several texts."""
    texts = array(string(MAX_CHOICE_CHARS, 1), MAX_CHOICES, 1)(value, param)
    return Structure(" | ".join(map(words, texts)), param)


def read_lark(value: Any, param: str) -> Structure:
    """A Lark grammar, as llguidance reads it; its own `start` becomes the answer."""
    return Lark(string(MAX_TEXT_CHARS, 1)(value, param), param)


class Lark(Structure):
    """A grammar that is whole already."""

    @property
    def grammar(self) -> str:
        """As it was given."""
        return self.rule


def read_structured_outputs(value: Any, param: str) -> Structure:
    """VLLM's `structured_outputs`: an object with exactly one of the kinds."""
    found = {key: one for key, one in mapping(value, param).items() if one is not None and one is not False}
    only(found, set(_KINDS), param)
    if len(found) != 1:
        raise bad(param, f"{param!r} must have exactly one of {', '.join(_KINDS)}.")
    ((kind, one),) = found.items()
    return _KINDS[kind](one, f"{param}.{kind}")


def _read_any_object(value: Any, param: str) -> Structure:
    boolean(value, param)
    return Structure(any_object(), param)


_KINDS: dict[str, Reader[Structure]] = {
    "json": read_schema,
    "regex": read_regex,
    "choice": read_choice,
    "grammar": read_lark,
    "json_object": _read_any_object,
}
STRUCTURE_FIELDS: dict[str, Reader[Structure | None]] = {
    "response_format": read_response_format,
    "structured_outputs": read_structured_outputs,
    **{f"guided_{kind}": reader for kind, reader in _KINDS.items() if kind != "json_object"},
}
"""Request field -> its reader; the `guided_*` are vLLM's older names."""


def structure_of(found: dict[str, Any]) -> Structure | None:
    """The one structure that a request asks for. Raises Refusal (400) for two, or one with what breaks it."""
    asked = [field for field in STRUCTURE_FIELDS if found.get(field) is not None]
    if len(asked) > 1:
        raise bad(asked[1], f"{asked[1]!r} and {asked[0]!r} both say what the answer looks like; give one.")
    if not asked:
        return None
    for field in ("ignore_eos", "min_tokens"):
        if found.get(field):
            raise bad(field, f"{field!r} would go on after the end that {asked[0]!r} sets; leave it out.")
    structure: Structure = found[asked[0]]
    return structure
