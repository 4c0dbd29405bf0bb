"""What each kind of external engine is started with, where the operator says nothing else. A table, no code.

The arguments are those of the projects' own pages: https://docs.vllm.ai/en/latest/cli/serve.html,
https://docs.sglang.ai/advanced_features/server_arguments.html and llama.cpp's tools/server/README.md.
What makes a server tell its figures and cached tokens is among them. None of them lets a model bring code: neither
`--trust-remote-code` nor a plug-in is ever among them.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMAND = "command"

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
ROUTES = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES)
"""What a request may ask of an external engine; the node's other routes are our own engine's."""

SALTED: Mapping[str, frozenset[str]] = MappingProxyType(
    dict.fromkeys(("vllm", "sglang"), frozenset({CHAT, COMPLETIONS, RESPONSES}))
)
"""Where a server takes `cache_salt`: a text that its prefix cache is keyed by, so that no two of them share a prefix.

Read from vLLM's protocol classes and SGLang's `srt/entrypoints/openai/protocol.py` and `_compute_extra_key`. Messages
have no such field in either, and others would take it in silence, or refuse the request.
"""

_LOOPBACK = ("--host", "{host}", "--port", "{port}")

KINDS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "vllm": {
            "command": (
                *("vllm", "serve", "{model_dir}", "--served-model-name", "{name}", *_LOOPBACK),
                *("--max-model-len", "{max_len}", "--enable-prompt-tokens-details"),
            ),
            "routes": ROUTES,
        },
        "sglang": {
            "command": (
                *("python3", "-m", "sglang.launch_server", "--model-path", "{model_dir}"),
                *("--served-model-name", "{name}", *_LOOPBACK, "--context-length", "{max_len}"),
                *("--enable-metrics", "--enable-cache-report"),
            ),
            "routes": ROUTES,
        },
        "llama.cpp": {
            "prepare": ("convert_hf_to_gguf.py", "{model_dir}", "--outfile", "{work_dir}/model.gguf"),
            "command": (
                *("llama-server", "--model", "{work_dir}/model.gguf", "--alias", "{name}", *_LOOPBACK),
                *("--ctx-size", "{max_len}", "--metrics"),
            ),
            "routes": ROUTES,
        },
        COMMAND: {"metrics": "", "routes": (CHAT, COMPLETIONS)},
    }
)
