"""Chat templates, from the node's side: which template a model has, and the one child that renders it.

The child (`inference.api.template_child`) is killed by the kernel when a rendering takes too much processor time, and
by us when it takes too long by the clock; another is started at once. One rendering at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wire.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RENDER_CPU_MS = 200.0
"""Processor time of one rendering; real templates take under 5 ms."""
CLOCK_FACTOR = 25.0
"""By the clock a rendering may take so much longer than its processor time: the machine is shared."""
EXIT_S = 0.05
"""A child that was idle or was killed ends at once when its input closes; one that is not so is killed."""
MAX_TEMPLATE_CHARS = 512 * 1024
"""The longest public templates have about 30,000 characters."""
MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""1 MiB of text, escaped up to six times over."""
PREFIX_BYTES = 4

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A model's template and the special tokens it may name."""

    source: str
    special: Mapping[str, str]
    digest: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", sha256(self.source.encode("utf-8", "replace")).hexdigest())


def find_template(files: Mapping[str, bytes]) -> ChatTemplate | None:
    """The chat template among a model's small files, or None.

    `chat_template.jinja`, else `tokenizer_config.json`'s, else `chat_template.json`'s; of several named ones
    `default`.
    """
    config = json_file(files, "tokenizer_config.json")
    source: object = None
    if "chat_template.jinja" in files:
        source = files["chat_template.jinja"].decode("utf-8", "replace")
    elif config.get("chat_template"):
        source = config["chat_template"]
    else:
        source = json_file(files, "chat_template.json").get("chat_template")
    if isinstance(source, list):
        named = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
        source = named.get("default")
    if not isinstance(source, str) or not source:
        return None
    return ChatTemplate(source, _special_tokens(config, json_file(files, "special_tokens_map.json")))


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


class TemplateChild:
    """Renders templates in one killable child process. Start it with `start`; `close` ends it."""

    def __init__(self, cpu_ms: float = RENDER_CPU_MS) -> None:
        self._cpu_ms = cpu_ms
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._is_closed = False
        self.num_killed = 0
        """Children that a template cost us."""

    async def start(self) -> None:
        """Start the child, so that the first request does not wait for it."""
        async with self._turn:
            await self._child()

    async def close(self) -> None:
        """End the child and wait for it; nothing is rendered any more."""
        async with self._turn:
            self._is_closed = True
            await self._end()

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

    async def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """One frame there and back; any sign of trouble costs the child its life."""
        if self._is_closed:
            raise Refusal(503, "overloaded", "This node is stopping.", "server_error", retry_after_s=1)
        body = json.dumps(question).encode()
        frame = len(body).to_bytes(PREFIX_BYTES, "big") + body
        for is_last in (False, True):
            process = await self._child()
            try:
                async with asyncio.timeout(self._cpu_ms * CLOCK_FACTOR / 1000):
                    return await _exchange(process, frame)
            except TimeoutError as cause:
                raise await self._killed(
                    f"it took more than {self._cpu_ms * CLOCK_FACTOR / 1000:g} s"
                ) from cause
            except (OSError, EOFError) as cause:
                status = await self._end()
                if status == -signal.SIGPROF:
                    why = f"it took more than {self._cpu_ms:g} ms of processor time"
                    raise await self._killed(why) from cause
                if is_last:  # once, somebody may have killed it: a rendering leaves nothing behind, so it is done again
                    raise await self._killed("its process ended while it was rendered") from cause
        raise AssertionError("unreachable: the last try returns or raises")

    async def _killed(self, why: str) -> Refusal:
        """Count the child that a template cost us and start the next one; the refusal that says why."""
        self.num_killed += 1
        await self._end()
        await self._child()
        return _failed(why)

    async def _child(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "inference.api.template_child", "--cpu-ms", f"{self._cpu_ms:g}"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={"PYTHONPATH": str(Path(__file__).parents[2]), "TZ": os.environ.get("TZ", "UTC")},
                limit=MAX_ANSWER_BYTES,
            )
        return self._process

    async def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(TimeoutError):  # a child that was killed by its timer is gone already
            async with asyncio.timeout(EXIT_S):
                return await process.wait()
        process.kill()
        return await process.wait()


def _taken(task: asyncio.Task[str]) -> None:
    """Look at the outcome of a rendering whose caller may have gone, so that it is not reported as lost."""
    if not task.cancelled():
        task.exception()


async def _exchange(process: asyncio.subprocess.Process, frame: bytes) -> dict[str, Any]:
    if process.stdin is None or process.stdout is None:
        raise EOFError("the child has no pipes")
    process.stdin.write(frame)
    await process.stdin.drain()
    length = int.from_bytes(await process.stdout.readexactly(PREFIX_BYTES), "big")
    if length > MAX_ANSWER_BYTES:
        raise EOFError("the child's answer is over its limit")
    answer: dict[str, Any] = json.loads(await process.stdout.readexactly(length))
    return answer


def _failed(why: str) -> Refusal:
    message = f"The model's chat template did not accept this conversation: {why}"
    return Refusal(400, "chat_template_failed", message, param="messages")
