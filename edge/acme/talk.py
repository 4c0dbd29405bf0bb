"""Signed requests to one certificate authority: nonces, the account, polling; no order is known here."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edge.acme.faults import AcmeError, refusal, wait_s
from wire.dial import DialError, Pool

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from edge.acme.jose import AccountKey

HEAD_S: Final = 30.0
MAX_ANSWER_BYTES: Final = 256 * 1024  # a chain of four certificates has 9 KiB
MAX_HOSTS: Final = 4  # a CA has one, or two
NUM_TRIES: Final = 4  # with a fresh nonce each
MAX_NONCES: Final = 8
POLL_S: Final = 1.0  # doubled up to MAX_POLL_S where the CA does not say
MAX_POLL_S: Final = 10.0
POLL_DEADLINE_S: Final = 180.0  # a CA validates from several places of the world, and issues within seconds
JOSE: Final = (("content-type", "application/jose+json"), ("user-agent", "nearfield-acme/1"))
_URL: Final = re.compile(r"https://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)(?::(\d{1,5}))?(/[!-~]*)")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the CA: JSON where it is JSON, else the bytes."""

    url: str
    location: str
    value: Mapping[str, Any]
    body: bytes
    retry_after_s: float | None


class Talk:
    """One account's conversation. Use `open` first, `close` last."""

    def __init__(self, directory: str, key: AccountKey, tls: ssl.SSLContext) -> None:
        self._directory_url = directory
        self._key = key
        self._tls = tls
        self._pools: dict[tuple[str, int], Pool] = {}
        self._nonces: list[str] = []
        self._account: str | None = None
        self._urls: Mapping[str, Any] = {}

    async def open(self, contact: Sequence[str], *, agreed: bool) -> None:
        """Read the directory, and find or make the account. Raises AcmeError."""
        reply = await self._send("GET", self._directory_url, None)
        self._urls = reply.value
        payload: dict[str, Any] = {"contact": list(contact)} if contact else {}
        made = await self.post(self.url("newAccount"), payload | {"termsOfServiceAgreed": agreed})
        if not made.location:
            raise AcmeError("malformed", "the account has no location")
        self._account = made.location

    async def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.close()

    def url(self, name: str) -> str:
        """An entry of the directory. Raises AcmeError."""
        found = self._urls.get(name)
        if not isinstance(found, str):
            raise AcmeError("malformed", f"the directory has no {name}")
        return found

    def txt_value(self, token: str) -> str:
        """What a dns-01 challenge wants to see."""
        return self._key.txt_value(token)

    async def post(self, url: str, payload: Mapping[str, Any] | None) -> Reply:
        """A signed request, again with another nonce where the CA did not take ours (6.5). Raises AcmeError."""
        for attempt in range(NUM_TRIES):
            nonce = self._nonces.pop() if self._nonces else await self._nonce()
            try:
                return await self._send("POST", url, self._key.sign(url, nonce, payload, self._account))
            except AcmeError as error:
                if error.kind != "badNonce" or attempt == NUM_TRIES - 1:
                    raise
        raise AcmeError("badNonce", "no nonce of ours was taken")

    async def until(self, url: str, waiting: frozenset[str]) -> Reply:
        """Ask for `url` until its status is none of `waiting`, as often as the CA wants. Raises AcmeError."""
        pause_s = POLL_S
        try:
            async with asyncio.timeout(POLL_DEADLINE_S):
                while True:
                    reply = await self.post(url, None)
                    if reply.value.get("status") not in waiting:
                        return reply
                    given = reply.retry_after_s
                    await asyncio.sleep(pause_s if given is None else given)
                    pause_s = min(MAX_POLL_S, pause_s * 2)
        except TimeoutError as error:
            raise AcmeError("timeout", f"{url} is not decided after {POLL_DEADLINE_S:.0f} s") from error

    async def _nonce(self) -> str:
        await self._send("HEAD", self.url("newNonce"), None)
        if not self._nonces:
            raise AcmeError("malformed", "the CA gives no nonce")
        return self._nonces.pop()

    async def _send(self, method: str, url: str, body: bytes | None) -> Reply:
        """One request. Raises AcmeError."""
        pool, target = self._way(url)
        headers = JOSE if body is not None else JOSE[1:]
        try:
            answer = await pool.request(method, target, headers, body, connect_s=HEAD_S, head_s=HEAD_S)
            data = await answer.read(MAX_ANSWER_BYTES)
        except DialError as error:
            raise AcmeError("connection", f"{url}: {error}") from error
        now = dt.datetime.now(dt.UTC)
        if nonce := answer.head.get("replay-nonce"):
            self._nonces = [*self._nonces, nonce][-MAX_NONCES:]
        retry_after = answer.head.get("retry-after")
        if answer.head.status >= 300:
            raise refusal(answer.head.status, retry_after, data, now)
        kind = answer.head.get("content-type") or ""
        value = _read(data) if "json" in kind else {}
        return Reply(url, answer.head.get("location") or "", value, data, wait_s(retry_after, now))

    def _way(self, url: str) -> tuple[Pool, str]:
        """The connections to a URL's host, and the target. Raises AcmeError."""
        match = _URL.fullmatch(url)
        if match is None:
            raise AcmeError("malformed", f"not an https URL: {url!r}")
        host, port = match[1].strip("[]"), int(match[2] or 443)
        if (host, port) not in self._pools:
            if len(self._pools) >= MAX_HOSTS:
                raise AcmeError("malformed", f"the CA sends us to more than {MAX_HOSTS} hosts")
            self._pools[host, port] = Pool(host, port, tls=self._tls, server_name=host)
        return self._pools[host, port], match[3]


def _read(data: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise AcmeError("malformed", f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise AcmeError("malformed", "not a JSON object")
    return value
