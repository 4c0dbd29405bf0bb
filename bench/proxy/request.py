"""The one small request of `bench edge`, as bytes."""

import json

from bench.proxy.child import MODEL, USER_KEY

PATH = "/v1/chat/completions"


def body(**more: object) -> bytes:
    """A short question, as chat clients write it."""
    question = {"role": "user", "content": "What is the capital of France?"}
    return json.dumps({"model": MODEL, "messages": [question], "max_tokens": 1, **more}).encode()


def request(port: int, payload: bytes) -> bytes:
    """The whole request."""
    head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {USER_KEY}\r\n"
    return (
        f"{head}content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n".encode() + payload
    )
