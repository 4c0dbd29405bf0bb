"""The handler of the operators' listener: the console's page under /console/, and behind it the door as before.

What a logged-in page asks for is what an admin key may do, by the door's own routes and functions: `/console/api` is
put before a path of `/nearfield/`. Beyond that a page may chat, as the holder of its key; what it used is counted as
that key's. Nothing is left with a connection, so a session that has ended opens nothing by an old one.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any, Final

from edge.admission.admit import CONSOLE, OPERATORS, Action, Admission, admit
from edge.admission.rate import Buckets
from edge.console import guard
from edge.console.files import read_all
from edge.console.sessions import LIFE_S, TICKET_S, Sessions
from edge.console.shelf import MAX_BYTES
from wire.flow import in_task
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from edge.console.sessions import Halves
    from edge.console.shelf import Shelf
    from edge.console.stage import Stage
    from edge.door import Door
    from regions.map.policy import KeyGrant, PolicyRow
    from wire.listener.exchange import Exchange

    Holder = tuple[str, KeyGrant]

ROOT: Final = "/console/"
API: Final = "/console/api"
CHAT: Final = "/v1/chat/completions"
MAX_LOGIN_BYTES: Final = 4096
LOG_INS_PER_S: Final = 0.5  # of one address; keys have 256 bits, so this bounds hashing and noise, not luck
LOG_INS_AT_ONCE: Final = 10.0
JSON: Final = (("content-type", "application/json"), *guard.DATA)
HTML: Final = (("content-type", "text/html; charset=utf-8"), *guard.REPORT)


class Desk:
    """`door` serves the other paths of the listener. Raises OSError if the page's files are not there."""

    def __init__(self, edge: str, door: Door, stage: Stage, shelf: Shelf) -> None:
        self._door = door
        self._stage = stage
        self._shelf = shelf
        self._files = read_all()
        self._sessions = Sessions(os.urandom)
        self._log_ins = Buckets(LOG_INS_PER_S, LOG_INS_AT_ONCE)
        self._cookie = guard.cookie_name(edge)
        self._routes: Mapping[tuple[str, str], Callable[[Exchange, Holder], Awaitable[None]]] = {
            ("GET", f"{ROOT}session"): self._who,
            ("GET", f"{ROOT}events"): self._events,
            ("POST", f"{ROOT}chat"): self._chat,
            ("POST", f"{ROOT}logout"): self._log_out,
            ("GET", f"{ROOT}reports"): self._reports,
        }

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request. Raises Refusal inside an answer."""
        path = exchange.head.path
        try:
            if CONSOLE.knows(path):
                await self._program(exchange)
            elif path == "/console" and exchange.head.method in guard.SAFE:
                await exchange.respond(303, (("location", ROOT), *guard.DATA))
            elif path.startswith(ROOT):
                await self._console(exchange, path)
            else:
                await self._door.serve(exchange)
        except Refusal as refusal:
            if exchange.status:
                raise
            await exchange.respond(refusal.status, (*refusal.headers(), *guard.DATA), refusal.body())

    async def _console(self, exchange: Exchange, path: str) -> None:
        file = self._files.get(path.removeprefix(ROOT))
        head = exchange.head
        if file is not None and head.method in guard.SAFE:
            known = file.is_known_to(head)
            await exchange.respond(304 if known else 200, file.headers, b"" if known else file.body)
            return
        guard.refuse_foreign(head)
        if (head.method, path) == ("POST", f"{ROOT}login"):
            await self._log_in(exchange)
            return
        if head.method == "GET" and path.startswith(f"{ROOT}report/"):
            self._holder(exchange, token=None)  # a browser opens it by itself, and sends no token
            await exchange.respond(
                200, HTML, await asyncio.to_thread(self._shelf.page, path.rpartition("/")[2])
            )
            return
        holder = self._holder(exchange, token=head.get(guard.HALF) or "")
        route = self._routes.get((head.method, path))
        if route is not None:
            await route(exchange, holder)
        elif path.startswith(f"{API}/"):
            await self._operate(exchange, holder, path.removeprefix(API))
        else:
            raise Refusal(404, "not_found", "Nothing is served at this path.")

    def _holder(self, exchange: Exchange, token: str | None) -> Holder:
        """Raises Refusal 401."""
        shown = guard.cookie(exchange.head, self._cookie)
        found = self._sessions.holder(shown, token, self._policy(), _now(), time.time())
        if found is None:
            raise Refusal(401, "not_logged_in", "Log in with an admin key.")
        return found

    def _policy(self) -> PolicyRow | None:
        return self._door.feed.snapshot.policy

    # in and out -----------------------------------------------------------------------------------------------

    async def _log_in(self, exchange: Exchange) -> None:
        """Two halves of a session for an admin key or a ticket. Raises Refusal 400, 401, 429."""
        wait_s = self._log_ins.take(exchange.peer, _now())
        if wait_s is not None:
            raise Refusal(429, "rate_limit_exceeded", "Too many tries; wait a little.", retry_after_s=wait_s)
        order = await _object(exchange, MAX_LOGIN_BYTES)
        key, ticket = str(order.get("key", "")), str(order.get("ticket", ""))
        now = (_now(), time.time())
        make = self._sessions.redeem if ticket else self._sessions.log_in
        halves = make(ticket or key, self._policy(), *now)
        if halves is None:
            what = (
                "This link was used already, or is too old"
                if ticket
                else "This is no admin key of this platform"
            )
            raise Refusal(401, "invalid_api_key", f"{what}; `nearfield console` gives a new link.")
        await exchange.respond(200, (*JSON, self._kept(halves)), _json({"token": halves.token}))

    def _kept(self, halves: Halves) -> tuple[str, str]:
        return guard.set_cookie(self._cookie, halves.cookie, int(LIFE_S))

    async def _log_out(self, exchange: Exchange, _holder: Holder) -> None:
        self._sessions.end(guard.cookie(exchange.head, self._cookie))
        await exchange.respond(200, (*JSON, guard.set_cookie(self._cookie, "", 0)), b"{}")

    async def _who(self, exchange: Exchange, holder: Holder) -> None:
        digest, grant = holder
        await exchange.respond(200, JSON, _json({"key": digest[:12], "tenant": grant.tenant}))

    async def _program(self, exchange: Exchange) -> None:
        """For a program that shows an admin key. Raises Refusal 400, 401, 403, 405, 413."""
        admission = admit(exchange.head, self._policy(), CONSOLE, wall_s=time.time())
        if admission.action is Action.TICKET:
            ticket = self._sessions.ticket(admission.digest, _now())
            said = {"ticket": ticket, "path": f"{ROOT}#ticket={ticket}", "valid_s": TICKET_S}
        else:
            body = await exchange.read_body(MAX_BYTES)
            number = f"{int(time.time() * 1000):013d}-{os.urandom(4).hex()}"
            said = await asyncio.to_thread(self._shelf.keep, body, number)
            said["path"] = f"{ROOT}#reports"
        await exchange.respond(200, JSON, _json(said))

    # what a page asks for --------------------------------------------------------------------------------------

    async def _events(self, exchange: Exchange, _holder: Holder) -> None:
        await in_task()
        cookie, token = guard.cookie(exchange.head, self._cookie), exchange.head.get(guard.HALF) or ""

        def goes_on() -> bool:
            return self._sessions.holder(cookie, token, self._policy(), _now(), time.time()) is not None

        await self._stage.tell(exchange, goes_on)

    async def _chat(self, exchange: Exchange, holder: Holder) -> None:
        """As the API's chat, for the holder of an admin key. Raises Refusal."""
        exchange.head = exchange.head._replace(path=CHAT, target=CHAT)
        await self._door.serve_admitted(exchange, Admission(Action.INFER, *holder), _number())

    async def _operate(self, exchange: Exchange, holder: Holder, path: str) -> None:
        """What an operator's route does. Raises Refusal."""
        head = exchange.head._replace(path=path, target=path)
        route, values = OPERATORS.find(head)
        if route is None or route.scope not in holder[1].scopes:
            raise Refusal(404, "not_found", "Nothing is served at this path.")
        exchange.head = head
        await self._door.serve_admitted(exchange, Admission(route.action, *holder, values), _number())

    async def _reports(self, exchange: Exchange, _holder: Holder) -> None:
        found = await asyncio.to_thread(self._shelf.ls)
        await exchange.respond(200, JSON, _json({"reports": found}))


async def _object(exchange: Exchange, max_bytes: int) -> dict[str, Any]:
    """The JSON object of a body. Raises Refusal 400, 413, 415."""
    if not (exchange.head.get("content-type") or "").startswith("application/json"):
        raise Refusal(415, "bad_request", "Send JSON, and say so.")
    try:
        value = json.loads(await exchange.read_body(max_bytes))
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "bad_request", "Send one small JSON object.") from error
    if not isinstance(value, dict):
        raise Refusal(400, "bad_request", "Send one small JSON object.")
    return value


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _number() -> str:
    return f"req_{os.urandom(16).hex()}"
