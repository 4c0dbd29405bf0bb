"""What SGLang 0.5.23 shows of itself, without SGLang: its words, its routes, its shapes. Standard library only.

    python3 -m sglang.launch_server --model-path DIR --served-model-name NAME ...

A word that SGLang does not have ends it, as it would end SGLang. Shapes are those of its
`srt/entrypoints/openai/protocol.py`. `user` of a request says what it does; its words are told by `/server_info`.
"""

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WORDS = ["The ", "quick ", "brown ", "fox"]
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 4,
    "total_tokens": 11,
    "prompt_tokens_details": {"cached_tokens": 3},
    "reasoning_tokens": 0,
}
METRICS = """# HELP sglang:num_running_reqs The number of running requests.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{engine_type="unified",model_name="acme/m",pp_rank="0",tp_rank="0"} 0.0
"""


def read_words():
    parser = argparse.ArgumentParser("sglang.launch_server", allow_abbrev=False)
    parser.add_argument("--model-path", "--model", required=True)
    for name in (
        "--served-model-name",
        "--host",
        "--port",
        "--context-length",
        "--device",
        "--attention-backend",
    ):
        parser.add_argument(name)
    for name in ("--enable-metrics", "--enable-cache-report"):
        parser.add_argument(name, action="store_true")
    return vars(parser.parse_args())


WORDS_GIVEN = read_words()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        files = sorted(each.name for each in Path(WORDS_GIVEN["model_path"]).iterdir())
        pages = {
            "/health": (200, b""),
            "/metrics": (200, METRICS.encode() if WORDS_GIVEN["enable_metrics"] else b""),
            "/server_info": (200, json.dumps(WORDS_GIVEN | {"files": files}).encode()),
        }
        self.reply(*pages.get(self.path, (404, b'{"detail":"Not Found"}')))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body["model"] != WORDS_GIVEN["served_model_name"]:
            self.error(400, "BadRequest", f"Model {body['model']} not found")
        elif body.get("temperature", 0) > 1.5:
            self.error(400, "BadRequest", "temperature must be at most 1.5, got 2.0.")
        elif body.get("user") == "broken":
            self.error(
                500, "InternalServerError", f"Internal server error: {WORDS_GIVEN['model_path']} is gone"
            )
        elif body.get("stream"):
            self.stream(body)
        else:
            self.whole(body)

    def whole(self, body):
        choice = {"index": 0, "logprobs": None, "finish_reason": "stop", "matched_stop": 2}
        choice |= {"message": {"role": "assistant", "content": "".join(WORDS)}, "text": "".join(WORDS)}
        usage = USAGE if WORDS_GIVEN["enable_cache_report"] else USAGE | {"prompt_tokens_details": None}
        value = {"id": "r", "object": "chat.completion", "created": 1, "model": body["model"]}
        value |= {"choices": [choice], "usage": usage, "metadata": {"weight_version": "default"}}
        self.reply(200, json.dumps(value).encode())

    def stream(self, body):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in WORDS)]
        chunks = [self.chunk(body, delta, None) for delta in deltas]
        chunks.append(self.chunk(body, {"content": None}, "stop"))
        if body["stream_options"]["include_usage"]:
            chunks.append(self.chunk(body, {}, None) | {"choices": [], "usage": USAGE})
        for chunk in chunks:
            self.wfile.write(b"data: %b\n\n" % json.dumps(chunk).encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def chunk(self, body, delta, finish):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "matched_stop": None}
        head = {"id": "r", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        return head | {"choices": [choice], "usage": None}

    def error(self, status, kind, message):
        value = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
        self.reply(status, json.dumps(value).encode())

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer((WORDS_GIVEN["host"], int(WORDS_GIVEN["port"])), Handler).serve_forever()
