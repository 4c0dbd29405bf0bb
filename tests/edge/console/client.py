"""The console's page as a program: the two halves of a session, and the headers that a browser sets."""

import json

from tests.edge.world import ADMIN, whole


class Visitor:
    """`cookie` and `token` are what a log-in gave; `origin` is where its page is from."""

    def __init__(self, world, origin=None):
        self.pool = world.pools["admin"]
        self.host = self.pool.host_header
        self.origin = origin or f"https://{self.host}"
        self.cookie, self.token = "", ""

    def headers(self, **others):
        found = {"origin": self.origin, "sec-fetch-site": "same-origin"}
        found |= {"cookie": self.cookie} if self.cookie else {}
        found |= {"x-nearfield-console": self.token} if self.token else {}
        named = {name.replace("_", "-"): value for name, value in others.items()}
        return tuple((found | named).items())

    async def ask(self, method, path, body=None, **others):
        """(status, headers, body); `others` are headers."""
        if isinstance(body, dict):
            body, others = json.dumps(body).encode(), {"content_type": "application/json"} | others
        return await whole(await self.pool.request(method, path, self.headers(**others), body))

    async def log_in(self, key=ADMIN, **order):
        status, headers, body = await self.ask("POST", "/console/login", order or {"key": key})
        if status == 200:
            self.cookie = headers["set-cookie"].partition(";")[0]
            self.token = json.loads(body)["token"]
        return status, headers, body

    async def events(self, num):
        """The first so many events of its stream, each (name, value)."""
        found, rest = [], b""
        async with await self.pool.request("GET", "/console/events", self.headers()) as answer:
            assert answer.head.status == 200
            while len(found) < num and (data := await answer.next(20.0)):
                *blocks, rest = (rest + data).split(b"\n\n")
                found += [_event(block) for block in blocks if block.startswith(b"event:")]
        return found[:num]


def _event(block):
    name, _, data = block.decode().partition("\n")
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))
