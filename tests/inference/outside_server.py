"""A small OpenAI-compatible server with a script of faults: what an external engine may do to its node.

    python -I -S outside_server.py MODE ADDRESS LOG    (ADDRESS: a port, or the path of a Unix socket)

MODE is how it starts: good, exit, never-ready, flood, child. What it does at one request is said by that request's
`user`. LOG gets one line for each request, and one for each client that left.
"""

import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

WORDS = ["The ", "quick ", "brown ", "fox"]
LOG = Path(sys.argv[3])
STATE = {"health": 200}


def note(**line):
    with LOG.open("a") as file:
        file.write(json.dumps(line) + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def address_string(self):
        return "client"

    def do_GET(self):
        if self.path == "/health":
            self.reply(STATE["health"], b"{}")
        elif self.path == "/metrics":
            page = (
                "# HELP vllm:num_requests_running Number.\n# TYPE vllm:num_requests_running gauge\n"
                'vllm:num_requests_running{model_name="m"} 3.0\nnearfield_node_workers{state="forged"} 7\nnonsense\n'
            )
            self.reply(200, page.encode(), "text/plain")
        else:
            self.reply(404, b'{"detail": "Not Found"}')

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        note(path=self.path, body=body)
        act = getattr(self, "do_" + str(body.get("user", "answer")).replace("-", "_"))
        act(body)

    def reply(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def usage(self, num):
        return {"prompt_tokens": 7, "completion_tokens": num, "total_tokens": 7 + num}

    def chunk(self, body, text, **more):
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        return {
            "id": "c1",
            "object": "chat.completion.chunk",
            "model": body["model"],
            "choices": [choice],
            **more,
        }

    def begin(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

    def event(self, value):
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()

    def do_answer(self, body):
        if not body.get("stream"):
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": "".join(WORDS)},
                "text": "".join(WORDS),
            }
            value = {"id": "c1", "object": "chat.completion", "model": body["model"], "choices": [choice]}
            self.reply(200, json.dumps(value | {"usage": self.usage(4)}).encode())
            return
        self.begin()
        for word in WORDS:
            self.event(self.chunk(body, word))
        if (body.get("stream_options") or {}).get("include_usage"):
            self.event(self.chunk(body, "") | {"choices": [], "usage": self.usage(4)})
        self.wfile.write(b"data: [DONE]\n\n")

    def do_slow(self, body):
        self.begin()
        try:
            for number in range(2_000):
                self.event(self.chunk(body, f"{number} "))
                time.sleep(0.02)
        except OSError:
            note(left=True)

    def do_die(self, body):
        self.begin()
        self.event(self.chunk(body, "half"))
        os.kill(os.getpid(), signal.SIGKILL)

    def do_die_first(self, body):
        os.kill(os.getpid(), signal.SIGKILL)

    def do_mute(self, body):
        self.begin()
        self.event(self.chunk(body, "half"))
        time.sleep(600)

    def do_sick(self, body):
        STATE["health"] = 500
        self.do_answer(body)

    def do_html(self, body):
        self.reply(200, b"<html>no</html>", "text/html")

    def do_no_json(self, body):
        self.reply(200, b"{half")

    def do_half_pair(self, body):
        if not body.get("stream"):
            self.reply(200, b'{"choices": [{"message": {"content": "a\\ud83d"}}], "model": "m"}')
            return
        self.begin()
        self.event(self.chunk(body, "a\ud83d"))
        self.wfile.write(b"data: [DONE]\n\n")

    def do_nan(self, body):
        self.reply(200, b'{"choices": [], "logprob": NaN}')

    def do_no_object(self, body):
        self.reply(200, b"[1]")

    def do_no_events(self, body):
        self.begin()
        self.wfile.write(b"garbage\n\n")

    def do_late_garbage(self, body):
        self.begin()
        self.event(self.chunk(body, "half"))
        self.wfile.write(b"data: {half\n\n")

    def do_endless_event(self, body):
        self.begin()
        with suppress(OSError):
            self.wfile.write(b"data: " + b"x" * (3 << 20))

    def do_huge(self, body):
        with suppress(OSError):
            self.reply(200, b'{"x": "' + b"x" * (1 << 20) + b'"}')

    def do_error_event(self, body):
        self.begin()
        self.event({"error": f"it broke at {body['model']}"})

    def do_error_400(self, body):
        error = {"message": "temperature must be positive", "type": "BadRequestError", "param": "temperature"}
        self.reply(400, json.dumps({"error": error | {"code": 400}}).encode())

    def do_error_422(self, body):
        self.reply(422, b'{"detail": [{"loc": ["body", "top_k"], "msg": "Extra inputs are not permitted"}]}')

    def do_error_context(self, body):
        message = "This model's maximum context length is 128 tokens. You requested 900."
        self.reply(400, json.dumps({"object": "error", "message": message, "code": 400}).encode())

    def do_error_500(self, body):
        self.reply(500, b"Internal Server Error", "text/plain")

    def do_error_503(self, body):
        self.reply(503, b'{"error": "busy"}')

    def do_error_404(self, body):
        self.reply(404, b'{"detail": "Not Found"}')

    def do_environment(self, body):
        self.reply(
            200,
            json.dumps(
                {"model": body["model"], "names": sorted(os.environ), "cwd": str(Path.cwd())}
            ).encode(),
        )


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def get_request(self):
        connection, _ = super().get_request()
        return connection, ("client", 0)


def main():
    mode, address = sys.argv[1], sys.argv[2]
    print(f"starting {mode}", flush=True)
    if mode == "exit":
        sys.exit(3)
    if mode == "flood":
        noise = ("noise " * 400 + "\n").encode() * 32
        threading.Thread(target=lambda: [os.write(2, noise) for _ in iter(int, 1)], daemon=True).start()
    if mode == "child":
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        note(child=child.pid)
    if mode == "never-ready":
        STATE["health"] = 503
    place = address if "/" in address else ("127.0.0.1", int(address))
    server = (UnixServer if "/" in address else Server)(place, Handler)
    note(started=os.getpid())
    server.serve_forever()


main()
