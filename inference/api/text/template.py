"""Chat templates, from the node's side: which template a model has, and the one child that renders it.

The child runs `inference.api.text.template_child`, within the limits of `inference.api.killable.child`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from inference.api.killable.child import KillableChild
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RENDER_CPU_MS = 200.0
"""Processor time of one rendering; real templates take under 5 ms."""
MAX_TEMPLATE_CHARS = 512 * 1024
"""The longest public templates have about 30,000 characters."""

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A model's template and the special tokens it may name; `for_tools` takes its place where tools are offered."""

    source: str
    special: Mapping[str, str]
    for_tools: ChatTemplate | None = None
    digest: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", sha256(self.source.encode("utf-8", "replace")).hexdigest())

    def offering(self, tools: object) -> ChatTemplate:
        """The one for a chat with these tools, or with none."""
        return self if tools is None or self.for_tools is None else self.for_tools


def find_template(files: Mapping[str, bytes]) -> ChatTemplate | None:
    """The chat template among a model's small files, or None.

    `chat_template.jinja`, else `tokenizer_config.json`'s, else `chat_template.json`'s; of several named ones
    `default`, and `tool_use` where tools are offered, as transformers chooses. Beside `chat_template.jinja` that one is
    a file of its own, as transformers writes it.
    """
    config = json_file(files, "tokenizer_config.json")
    source: object = None
    if "chat_template.jinja" in files:
        names = {"default": "chat_template.jinja", "tool_use": "additional_chat_templates/tool_use.jinja"}
        found = {
            name: files[path].decode("utf-8", "replace") for name, path in names.items() if path in files
        }
        source = [{"name": name, "template": text} for name, text in found.items()]
    elif config.get("chat_template"):
        source = config["chat_template"]
    else:
        source = json_file(files, "chat_template.json").get("chat_template")
    tool_use: object = None
    if isinstance(source, list):
        named = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
        source, tool_use = named.get("default"), named.get("tool_use")
    if not isinstance(source, str) or not source:
        return None
    special = _special_tokens(config, json_file(files, "special_tokens_map.json"))
    for_tools = ChatTemplate(tool_use, special) if isinstance(tool_use, str) and tool_use else None
    return ChatTemplate(source, special, for_tools)


def json_file(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """The object in one of a model's JSON files; {} when it is absent or is none (the commit checked what counts)."""
    try:
        value = json.loads(files.get(name, b"{}"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _special_tokens(*sources: Mapping[str, Any]) -> dict[str, str]:
    """Names -> texts, the first source that knows one deciding; a token is a string or {"content": ...}."""
    found: dict[str, str] = {}
    for source in sources:
        for name in _SPECIAL_NAMES:
            value = source.get(name)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                found.setdefault(name, text)
    return found


class TemplateChild(KillableChild):
    """Renders templates in one killable child process."""

    def __init__(self, cpu_ms: float = RENDER_CPU_MS) -> None:
        super().__init__("inference.api.text.template_child", cpu_ms, _failed)

    async def render(
        self, template: ChatTemplate, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> str:
        """The prompt's text (at most 1 MiB). `variables`: the request's own template arguments.

        Raises:
            Refusal: 400 with the template's own words when it refuses the messages, fails, or takes too much.
        """
        if len(template.source) > MAX_TEMPLATE_CHARS:
            raise _failed(f"it has more than {MAX_TEMPLATE_CHARS:,} characters")
        spoken: dict[str, Any] = {"tools": None, "documents": None, **template.special, **variables}
        question = {"digest": template.digest, "variables": spoken | {"messages": messages}}
        task = asyncio.create_task(self._render(question, template.source))
        task.add_done_callback(_taken)
        return await asyncio.shield(task)  # a caller who goes away must not leave half an exchange behind

    async def compile(self, template: ChatTemplate) -> None:
        """Have the child know the template before its first request; what is wrong with it shows then."""
        if len(template.source) <= MAX_TEMPLATE_CHARS:
            question = {"digest": template.digest, "source": template.source, "variables": None}
            async with self._turn:
                with contextlib.suppress(Refusal):
                    await self._ask(question)

    async def _render(self, question: dict[str, Any], source: str) -> str:
        async with self._turn:
            answer = await self._ask(question)
            if answer.get("unknown"):
                answer = await self._ask(question | {"source": source})
        if "text" not in answer:
            raise _failed(str(answer.get("error", "it gave no text")))
        return str(answer["text"])


def _taken(task: asyncio.Task[str]) -> None:
    """Look at the outcome of a rendering whose caller may have gone, so that it is not reported as lost."""
    if not task.cancelled():
        task.exception()


def _failed(why: str) -> Refusal:
    message = f"The model's chat template did not accept this conversation: {why}"
    return Refusal(400, "chat_template_failed", message, param="messages")
