"""Looking at a pushed folder before it is committed: its small files are read here, judged in a throw-away child.

The child (`inference.inspect`, forked by the shell) knows transformers. Whether the tokenizer
can be read is tried in a child as well: that costs time and memory.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from inference.api.body import MAX_BODY_BYTES
from inference.api.modeltext import NEWER_TOKENIZER, TOKENIZER_BAD, TOKENIZER_MISSING
from inference.api.text.tokenizer_check import tokenizer_fault
from inference.workers.shell.link import ShellError
from weights_cache.reading.fetch import ReadError
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inference.workers.seams import Shell
    from inference.workers.store_threads import StoreThreads
    from weights_cache.reading.fetch import RangeReader

INSPECT_S = 50.0
"""A forked child builds the architecture on the meta device in under a second; the region waits 60."""
MAX_JSON_BYTES = MAX_BODY_BYTES
"""One JSON file that is looked at; configs have kilobytes. Together with the rest it fits a frame of 16 MiB."""
MAX_TOKENIZER_BYTES = 128 * 1024 * 1024
"""The largest public tokenizers are about 35 MB."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
)
MAX_TOTAL_JSON_BYTES = 8 * 1024 * 1024
"""All JSON files of a folder that are handed to the child."""

Files = dict[str, bytes]


class FolderRefused(Exception):
    """The folder cannot be served; the three words are for whoever pushed it."""

    def __init__(self, code: str, message: str, next_step: str) -> None:
        super().__init__(message)
        self.answer = {"refused": {"code": code, "message": message, "next": next_step}}


async def look_at(
    question: Mapping[str, Any],
    shell: Shell,
    make_reader: Callable[[dict[str, str]], RangeReader],
    threads: StoreThreads,
) -> dict[str, Any]:
    """{"facts", "left_out"} or {"refused": {"code", "message", "next"}}. `question` as `control.read_inspect`.

    Raises:
        Refusal: 503 when the store or the shell cannot be asked now.
    """
    try:
        files = await threads.call(_read, question, make_reader)
        await _try_tokenizer(files)
        request = _request(question, files)
        return await shell.inspect(request, INSPECT_S)
    except FolderRefused as refused:
        return refused.answer
    except ShellError as cause:
        message = f"This node cannot inspect models now: {cause}"
        raise Refusal(503, "overloaded", message, "server_error", retry_after_s=2) from cause


def _read(question: Mapping[str, Any], make_reader: Callable[[dict[str, str]], RangeReader]) -> Files:
    """The folder's small files by path; each is read as the version that was listed (If-Match)."""
    wanted = {file["path"]: file for file in question["files"] if _is_wanted(file["path"], file["size"])}
    urls = {path: "/" + quote(f"{question['bucket']}/{question['prefix']}{path}") for path in wanted}
    reader = make_reader({urls[path]: file["etag"].strip('"') for path, file in wanted.items()})
    try:
        return {path: _one(reader, urls[path], file["size"]) for path, file in wanted.items()}
    except ReadError as cause:
        if cause.code == "changed":
            raise FolderRefused(
                "changed", f"a file changed while it was read: {cause}", "push it again"
            ) from cause
        message = f"The region's store did not give a file: {cause}"
        raise Refusal(503, "overloaded", message, "server_error", retry_after_s=1) from cause
    finally:
        reader.close()


def _is_wanted(path: str, size: int) -> bool:
    if path in TOKENIZER_FILES:
        return size <= MAX_TOKENIZER_BYTES
    return path.endswith(".json") and not path.endswith(".index.json") and size <= MAX_JSON_BYTES


def _one(reader: RangeReader, url: str, size: int) -> bytes:
    data = bytearray(size)
    if size:
        reader.read_into(url, 0, memoryview(data))
    return bytes(data)


async def _try_tokenizer(files: Files) -> None:
    if "tokenizer.json" not in files:
        raise FolderRefused(*TOKENIZER_MISSING)
    if (fault := await tokenizer_fault(files["tokenizer.json"])) is not None:
        raise FolderRefused(TOKENIZER_BAD, fault, NEWER_TOKENIZER)


def _request(question: Mapping[str, Any], files: Files) -> dict[str, Any]:
    """The child's question: `config.json` must be there; another JSON file that is none is left out."""
    parsed: dict[str, Any] = {}
    room = MAX_TOTAL_JSON_BYTES
    for path, data in sorted(files.items(), key=lambda item: len(item[1])):
        room -= len(data)
        if path.endswith(".json") and path != "tokenizer.json" and room >= 0:
            value = _parsed(path, data)
            if value is not None:
                parsed[path] = value
    config = parsed.get("config.json")
    if not isinstance(config, dict):
        raise FolderRefused(
            "missing_config", "there is no config.json that holds an object", "push the whole folder"
        )
    paths = [file["path"] for file in question["files"]]
    rest = {"paths": paths, "quantize": question.get("quantize")}
    return {"config": config, "tensors": list(question["tensors"]), "files": parsed, **rest}


def _parsed(path: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as cause:
        if path == "config.json":
            raise FolderRefused("bad_config", f"config.json is not JSON: {cause}", "push it again") from cause
        return None
