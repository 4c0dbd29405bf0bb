"""The peer of `bench cold`: what a fresh process does today. Run as `python -m bench.starts.fresh`, order on stdin.

Reads {"url", "access_key", "secret", "bucket", "prefix", "keys", "folder", "prompt"}, downloads with boto3's own
transfer manager, loads with from_pretrained, makes one token greedily, and prints one line of JSON with the
token's text and the seconds of each step since the process began to run Python.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Do it, as a script would: imports first, everything at its defaults."""
    clock = _Clock()
    order = json.load(sys.stdin)
    import boto3
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    clock.mark("import")
    _download(boto3, order)
    clock.mark("download")
    tokenizer = AutoTokenizer.from_pretrained(order["folder"])
    model: Any = AutoModelForCausalLM.from_pretrained(order["folder"])
    clock.mark("load")
    tokens = tokenizer(order["prompt"], return_tensors="pt")
    with torch.inference_mode():
        made = model.generate(**tokens, max_new_tokens=1, do_sample=False)
    text = tokenizer.decode(made[0, tokens["input_ids"].shape[1] :])
    clock.mark("first_token")
    print(json.dumps({"text": text, "seconds": clock.seconds}), flush=True)


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = round(now - self._last, 3), now


def _download(boto3: Any, order: dict[str, Any]) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=order["url"],
        aws_access_key_id=order["access_key"],
        aws_secret_access_key=order["secret"],
        region_name="us-east-1",
    )
    for key in order["keys"]:
        target = Path(order["folder"]) / key.removeprefix(order["prefix"])
        target.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(order["bucket"], key, str(target))


if __name__ == "__main__":
    main()
