"""An upstream of other people's making: uvicorn with llhttp, which answers with the target and keeps what it read."""

import socket
import threading
from typing import Any

import uvicorn

from tests.attack.http.readers import Read


class Recorder:
    """`reads` are the requests that came whole, in their order."""

    def __init__(self) -> None:
        self.reads: list[Read] = []
        config = uvicorn.Config(
            self._app,
            http="httptools",
            loop="uvloop",
            ws="none",
            lifespan="off",
            log_level="critical",
            interface="asgi3",
        )
        self._server = uvicorn.Server(config)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    def start(self) -> int:
        """Serve in a thread; its port, which takes connections already."""
        self._thread.start()
        return int(self._socket.getsockname()[1])

    def stop(self) -> None:
        """End the thread."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(60)
        self._socket.close()

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event["body"]
            more = event["more_body"]
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        headers = tuple((name, value) for name, value in scope["headers"])
        self.reads.append(Read(scope["method"].encode(), target, headers, body))
        length = b"%d" % len(target)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": target})
