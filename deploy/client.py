"""The command line's own HTTPS client: small, synchronous, trusting only the authority in the credentials."""

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from deploy.terminal import patience
from deploy.trust.credentials import Credentials

CONNECT_S = 10.0
"""An edge that runs greets at once, whatever it has to do: one that takes connections and greets nobody is stopped."""
READ_S = 150.0
"""Longer than the platform's own deadline for a held request, so that its clear error arrives first."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024


class ApiError(Exception):
    """The platform answered with an error; `code` is the machine's word for it, the message the human's.

    `key` is the name of the key in credentials.toml that was shown.
    """

    def __init__(self, status: int, code: str, message: str, key: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code
        self.key = key


class Unreachable(Exception):
    """Nobody answered: the platform is not running, or another address holds it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer: status, lower-case headers, JSON body."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Client:
    """Asks one platform, over TLS, with one of its keys.

    Whoever keeps it waiting for seconds is named on standard error: `waits_for`, or whose address was asked.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        admin: bool = False,
        patience_s: float = READ_S,
        waits_for: str = "",
    ) -> None:
        self._credentials, self._patience_s, self._waits_for = credentials, patience_s, waits_for
        self._key_name = "admin_key" if admin else "api_key"
        self._key = credentials.admin_key if admin else credentials.api_key
        self._url = credentials.admin_url if admin else credentials.base_url
        self._context = ssl.create_default_context(cafile=credentials.ca)

    def get(self, path: str) -> Reply:
        """GET `path` (from the root of the edge)."""
        return self._whole("GET", path, None)

    def delete(self, path: str) -> Reply:
        """DELETE `path`."""
        return self._whole("DELETE", path, None)

    def post(self, path: str, body: Mapping[str, object], *, region: str | None = None) -> Reply:
        """POST JSON to `path`, at the edge or at one region's own address."""
        return self._whole("POST", path, body, region)

    def stream(
        self, path: str, body: Mapping[str, object], *, region: str | None = None
    ) -> tuple[Mapping[str, str], Iterator[str]]:
        """POST and read a server-sent stream: its headers, and its lines as they arrive."""
        connection, response = self._send("POST", path, body, region)
        headers = {k.lower(): v for k, v in response.getheaders()}
        if response.status >= 400:
            raise _error(response.status, response.read(MAX_ANSWER_BYTES), self._key_name)
        return headers, _lines(connection, response)

    def _whole(
        self, method: str, path: str, body: Mapping[str, object] | None, region: str | None = None
    ) -> Reply:
        connection, response = self._send(method, path, body, region)
        try:
            raw = response.read(MAX_ANSWER_BYTES)
        finally:
            connection.close()
        if response.status >= 400:
            raise _error(response.status, raw, self._key_name)
        headers = {k.lower(): v for k, v in response.getheaders()}
        return Reply(response.status, headers, json.loads(raw) if raw else None)

    def _send(
        self, method: str, path: str, body: Mapping[str, object] | None, region: str | None
    ) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
        address = urlsplit(self._credentials.regions[region] if region else self._url)
        connect_s = min(CONNECT_S, self._patience_s)
        connection = http.client.HTTPSConnection(
            address.hostname or "", address.port, context=self._context, timeout=connect_s
        )
        payload = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        who = self._waits_for or f"{region or 'the platform'} at {address.netloc}"
        try:
            with patience.told(who, connect_s):
                connection.connect()
            connection.sock.settimeout(self._patience_s)
            with patience.told(who, self._patience_s):
                connection.request(method, path, payload, headers)
                return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unreachable(f"{address.netloc} does not answer ({error})") from error


def _lines(connection: http.client.HTTPSConnection, response: http.client.HTTPResponse) -> Iterator[str]:
    try:
        while line := response.readline():
            yield line.decode().rstrip("\r\n")
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"the answer broke off ({error})") from error
    finally:
        connection.close()


def _error(status: int, raw: bytes, key: str) -> ApiError:
    try:
        error = json.loads(raw)["error"]
        return ApiError(status, str(error.get("code")), str(error["message"]), key)
    except (ValueError, KeyError, TypeError):
        return ApiError(status, "unreadable", f"status {status} with a body that is not an error object")
