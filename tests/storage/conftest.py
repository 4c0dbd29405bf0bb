import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from storage.client import Endpoint
from storage.key import AccessKey, Grant
from storage.run import StoreSettings, run

ROOT_KEY = b"r" * 32
ADMIN = AccessKey("NFADMIN", 1, (Grant.parse("*::admin"),))
TENANT = AccessKey("NFTENANT", 1, (Grant.parse("models:acme/:write"),))
READER = AccessKey("NFREADER", 1, (Grant.parse("models:acme/:read"),))
KEYS = (ADMIN, TENANT, READER)


class StoreThread:
    """A store on its own loop in a thread, so that blocking clients can be used against it."""

    def __init__(self, root: Path, min_part_bytes: int = 5 * 1024 * 1024) -> None:
        self.settings = StoreSettings("127.0.0.1", 0, root, ROOT_KEY, KEYS, "us-east-1", min_part_bytes)
        self.port = 0
        self.failure: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main)
        self._thread.start()
        assert self._ready.wait(20), self.failure
        if self.failure:
            raise self.failure

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # noqa: BLE001 - shown by the test that waits
            self.failure = error
            self._ready.set()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        await run(self.settings, self._on_ready, self._stop)

    def _on_ready(self, port: int) -> None:
        self.port = port
        self._ready.set()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(20)
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def endpoint(self, key: AccessKey = ADMIN) -> Endpoint:
        return Endpoint(self.url, key.id, key.secret(ROOT_KEY))


@dataclass
class Clients:
    """boto3 clients, closed at the end."""

    make: Callable[..., object]


def boto(store: StoreThread, key: AccessKey = ADMIN, **config: object):
    settings = {"s3": {"addressing_style": "path"}, "retries": {"total_max_attempts": 1}, "max_pool_connections": 80}
    return boto3.session.Session().client(
        "s3",
        endpoint_url=store.url,
        region_name="us-east-1",
        aws_access_key_id=key.id,
        aws_secret_access_key=key.secret(ROOT_KEY),
        config=Config(**(settings | config)),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreThread]:
    thread = StoreThread(tmp_path_factory.mktemp("store"))
    yield thread
    thread.stop()


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreThread]:
    """A store without the 5 MiB minimum, so that multipart tests are quick."""
    thread = StoreThread(tmp_path_factory.mktemp("store"), min_part_bytes=1)
    yield thread
    thread.stop()


@pytest.fixture(scope="module")
def s3(store: StoreThread) -> Iterator[object]:
    client = boto(store)
    client.create_bucket(Bucket="models")
    yield client
    client.close()


class Wire:
    """One raw connection to a store."""

    def __init__(self, store: StoreThread) -> None:
        self.sock = socket.create_connection(("127.0.0.1", store.port), timeout=10)

    def close(self) -> None:
        self.sock.close()
