"""Stores and callers for the tests of this room."""

import asyncio
import hashlib
import http.client
import select
import socket
import sqlite3
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self
from urllib.parse import quote

import boto3
from botocore.config import Config

from storage.auth.key import AccessKey, Grant
from storage.client.sdk import Endpoint, sign, url_path
from storage.run import StoreSettings, run

ROOT_KEY = b"r" * 32
ADMIN = AccessKey("NFADMIN", 1, (Grant.parse("*::admin"),))
TENANT = AccessKey("NFTENANT", 1, (Grant.parse("models:acme/:write"),))
READER = AccessKey("NFREADER", 1, (Grant.parse("models:acme/:read"),))
ALICE = AccessKey("NFALICE", 1, (Grant.parse("*::own"),), user="alice")
BOB = AccessKey("NFBOB", 1, (Grant.parse("*::own"),), user="bob")
KEYS = (ADMIN, TENANT, READER, ALICE, BOB)
_MAKING = threading.Lock()


def memory_folder() -> Path:
    """A folder without a disk under it, for tests that are not about flushing; the caller removes it."""
    shared = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))


def settled_blobs(root: Path) -> set[Path]:
    """The blobs of a store that nobody writes to, once what was freed or given up is gone: threads do that, later."""
    end = time.monotonic() + 60
    with closing(sqlite3.connect(root / "meta.db")) as db:
        while time.monotonic() < end:
            found = set(root.glob("blobs/*/*"))
            named = {row[0] for row in db.execute("SELECT id FROM blobs")}
            if {path.name for path in found} <= named and not any((root / "tmp").iterdir()):
                return found
            time.sleep(0.02)
    raise AssertionError("there are blobs that nobody names, or halves of some")


class StoreThread:
    """A store on its own loop in a thread, so that blocking clients can be used against it."""

    def __init__(self, root: Path, min_part_bytes: int = 5 * 1024 * 1024, **more: object) -> None:
        self.settings = StoreSettings(
            "127.0.0.1",
            0,
            root,
            ROOT_KEY,
            KEYS,
            "us-east-1",
            min_part_bytes,
            **({"share_bytes_per_s": 0} | more),
        )
        self.port = 0
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main)
        self._thread.start()
        assert self._ready.wait(60)
        if self._failure:
            raise self._failure

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # noqa: BLE001 - the waiting test raises it
            self._failure = error
            self._ready.set()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        await run(self.settings, self._on_ready, self._stop)

    def _on_ready(self, port: int) -> None:
        self.port = port
        self._ready.set()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self._failure:
            raise self._failure

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def endpoint(self, key: AccessKey = ADMIN) -> Endpoint:
        return Endpoint(self.url, key.id, key.secret(ROOT_KEY))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The S3 error code in the body."""
        return self.body.partition(b"<Code>")[2].partition(b"</Code>")[0].decode()


class Raw:
    """A signed request at a time over one connection, with nothing between the test and the wire."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._http = http.client.HTTPConnection(endpoint.netloc, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        query: str = "",
        headers: dict[str, str] | None = None,
        body=b"",
        **signing,
    ):
        signing.setdefault("payload", hashlib.sha256(body).hexdigest())
        given = tuple((headers or {}).items())
        signed = dict(sign(self.endpoint, method, path, query, given, **signing))
        return self.send_as_is(method, path, query, signed, body)

    def send_as_is(self, method: str, path: str, query: str, headers: dict[str, str], body=b"") -> Answer:
        target = f"{path}?{query}" if query else path
        if self._has_been_closed():
            self._http.close()  # the next line opens another
        self._http.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            self._http.putheader(name, value)
        if (body or method in {"PUT", "POST"}) and "transfer-encoding" not in headers:
            self._http.putheader("content-length", str(len(body)))
        self._http.endheaders(body)
        answer = self._http.getresponse()
        got = answer.read()
        if answer.will_close:
            self._http.close()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, got)

    def _has_been_closed(self) -> bool:
        """Whether the store ended it between two requests, as it ends what idles; bytes that nobody asked for stay."""
        line = self._http.sock
        if line is None or not select.select([line], [], [], 0)[0]:
            return False
        try:
            return not line.recv(1, socket.MSG_PEEK)
        except ConnectionResetError:
            return True

    def put(self, bucket: str, key: str, data: bytes, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send("PUT", url_path(bucket, key), "", named, data)

    def get(self, bucket: str, key: str, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send("GET", url_path(bucket, key), "", named)

    def delete(self, bucket: str, key: str, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send("DELETE", url_path(bucket, key), "", named)

    def create_upload(self, bucket: str, key: str, **headers: str) -> str:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.send("POST", url_path(bucket, key), "uploads=", named)
        assert answer.status == 200, answer
        return answer.body.partition(b"<UploadId>")[2].partition(b"</UploadId>")[0].decode()

    def put_part(self, bucket: str, key: str, upload: str, number: int, data: bytes) -> Answer:
        return self.send(
            "PUT", url_path(bucket, key), f"partNumber={number}&uploadId={quote(upload)}", {}, data
        )

    def complete(
        self, bucket: str, key: str, upload: str, parts: list[tuple[int, str]], **headers: str
    ) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        rows = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in parts)
        body = f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()
        return self.send("POST", url_path(bucket, key), f"uploadId={quote(upload)}", named, body)


@cache
def _session() -> boto3.session.Session:
    """One for all clients: reading what botocore knows of S3 takes most of the time that it takes to make one."""
    return boto3.session.Session()


def boto(endpoint: Endpoint, **config: object):
    """A boto3 client as a user makes it: every default but the address."""
    settings = {
        "s3": {"addressing_style": "path"},
        "retries": {"total_max_attempts": 1},
        "max_pool_connections": 80,
    }
    with _MAKING:  # a session is not made to be used by several threads
        return _session().client(
            "s3",
            endpoint_url=endpoint.url,
            region_name="us-east-1",
            aws_access_key_id=endpoint.access_key,
            aws_secret_access_key=endpoint.secret,
            verify=endpoint.ca,
            config=Config(**(settings | config)),
        )
