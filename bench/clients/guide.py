"""guidellm, an outside load client, on one endpoint: what it measured of each of its requests.

It is installed into an environment of its own (`peers.txt` beside it, some 350 MB beside our torch and transformers),
reads the tokenizer from the model's folder and asks no hub.
"""

import json
import os
import subprocess
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.packages import environment
from bench.servers import Missing
from bench.told import Told

PACKAGES = Path(__file__).with_name("peers.txt")
NOTHING = Told()
UNCOUNTED = 2  # requests that begin a run: they meet a new connection and a client that has not spoken yet


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked: `num` requests of one prompt, greedy, one after another, after `UNCOUNTED` of the same."""

    url: str  # without /v1
    key: str
    ca: Path
    model: str
    folder: Path
    prompt: str
    max_tokens: int
    num: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Milliseconds of each request that succeeded: to its first token and its end; `told` is the edge's word.

    `pause_s`: between an answer's end and the next request, in the middle.
    """

    first_ms: tuple[float, ...]
    whole_ms: tuple[float, ...]
    told: Told = NOTHING
    pause_s: float = 0.0

    def and_then(self, more: "Figures") -> "Figures":
        """Both runs as one."""
        told = (a + b for a, b in zip(astuple(self.told), astuple(more.told), strict=True))
        return Figures(self.first_ms + more.first_ms, self.whole_ms + more.whole_ms, Told(*told))


def install(cache: Path) -> Path:
    """The program; installed when it is not there. Raises: Missing with pip's reason."""
    return environment(cache / "load-peers", PACKAGES, sees_ours=True) / "guidellm"


def run(program: Path, load: Load, scratch: Path, within_s: float) -> Figures:
    """One run. Raises: Missing if it does not come to an end `within_s`, or a request failed."""
    rows, out = scratch / "prompts.jsonl", scratch / "guide.json"
    rows.write_text((json.dumps({"prompt": load.prompt}) + "\n") * (UNCOUNTED + load.num))
    out.unlink(missing_ok=True)
    told = os.environ | {"SSL_CERT_FILE": str(load.ca), "HF_HUB_OFFLINE": "1"}
    words = [str(program), "run", *_words(load, rows, out)]
    try:
        subprocess.run(words, env=told, check=True, capture_output=True, text=True, timeout=within_s)
    except (OSError, subprocess.SubprocessError) as error:
        raise Missing(f"guidellm failed: {str(getattr(error, 'stderr', '') or error)[-300:]}") from error
    return figures(json.loads(out.read_text()), load.num)


def _words(load: Load, rows: Path, out: Path) -> list[str]:
    backend: dict[str, object] = {
        "kind": "openai_http",
        "target": load.url,
        "model": load.model,
        "api_key": load.key,
        "request_format": "/v1/chat/completions",
        "validate_backend": "false",  # it asks for /health, which is no route of users
        "max_tokens": load.max_tokens,
        "extras.body.temperature": 0,
    }
    parts: dict[str, dict[str, object]] = {
        "backend": backend,
        "tokenizer": {"kind": "huggingface_auto", "model": load.folder},
        "data": {"kind": "json_file", "path": rows},
        "profile": {
            "kind": "synchronous"
        },  # its open loop sends what fell due while its workers started at once
        "constraint": {"kind": "max_requests", "count": UNCOUNTED + load.num},
        "output": {"kind": "json", "path": out},
    }
    said = [(f"--{name}", ",".join(f"{k}={v}" for k, v in each.items())) for name, each in parts.items()]
    return [*(word for pair in said for word in pair), "--disable-console"]


def figures(report: dict[str, Any], num: int) -> Figures:
    """Of guidellm's own file, its last `num`. Raises: Missing unless those and the uncounted succeeded."""
    requests = report["benchmarks"][0]["requests"]
    done = sorted(requests["successful"], key=lambda each: float(each["request_start_time"]))
    if len(done) < UNCOUNTED + num or requests["errored"]:
        raise Missing(f"of {UNCOUNTED + num} requests {len(done)} succeeded for guidellm")
    done = done[UNCOUNTED:]
    starts_s = [float(each["request_start_time"]) for each in done]
    ends_s = [start_s + float(each["request_latency"]) for start_s, each in zip(starts_s, done, strict=True)]
    return Figures(
        tuple(float(each["time_to_first_token_ms"]) for each in done),
        tuple(1000 * float(each["request_latency"]) for each in done),
        pause_s=max(0.0, median(b - a for a, b in zip(ends_s, starts_s[1:], strict=False))),
    )
