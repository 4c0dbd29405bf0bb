"""The store against a dictionary: any sequence of operations, crashes and restarts between, gives the same answers."""

import hashlib
import re
import shutil
import sqlite3
import xml.etree.ElementTree as ET
from urllib.parse import quote
from xml.sax.saxutils import escape

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from storage.client.endpoint import SOCKET_NAME
from storage.client.sdk import url_path
from tests.evidence import count
from tests.storage.stores import Raw, StoreThread, memory_folder
from tests.storage.test_index import check_references

KEYS = st.sampled_from(["a", "a/b", "a/b/c", "a0", "é/x y", "z+%", "\U0001f600"])
BODIES = st.binary(max_size=40) | st.integers(0, 255).map(lambda n: bytes([n]) * 70_000)
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


class StoreModel(RuleBasedStateMachine):
    uploads = Bundle("uploads")

    def __init__(self) -> None:
        super().__init__()
        self.folder = memory_folder()
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.changes: list[tuple[str, str]] = []
        self.num_steps = 0
        self.open()
        assert self.raw.send("PUT", "/models").status == 200

    def open(self) -> None:
        self.store = StoreThread(self.folder, min_part_bytes=0)
        self.raw = Raw(self.store.endpoint())

    def close(self) -> None:
        self.raw.__exit__()
        self.store.stop()

    def teardown(self) -> None:
        self.check_everything()
        self.close()
        db = sqlite3.connect(self.folder / "meta.db")
        check_references(db)
        named = {row[0] for row in db.execute("SELECT id FROM blobs")}
        lines = [
            (key.decode(), kind) for key, kind in db.execute("SELECT key, kind FROM events ORDER BY seq")
        ]
        db.close()
        assert {path.name for path in self.folder.glob("blobs/*/*")} <= named
        assert lines == self.changes
        shutil.rmtree(self.folder)

    def stored(self, key: str, data: bytes, etag: str) -> None:
        self.objects[key] = (data, etag)
        self.changes.append((key, "put"))

    @invariant()
    def count(self) -> None:
        self.num_steps += 1

    @precondition(lambda self: self.num_steps % 9 == 8)
    @rule()
    def restart(self) -> None:
        self.close()
        self.open()

    @precondition(lambda self: self.num_steps % 9 == 4)
    @rule()
    def crash(self) -> None:
        """A store opens the files as they lie while the first one still runs, as after a kill -9."""
        left = memory_folder()
        shutil.copytree(self.folder, left, dirs_exist_ok=True, ignore=shutil.ignore_patterns(SOCKET_NAME))
        self.close()
        shutil.rmtree(self.folder)
        self.folder = left
        self.open()

    @rule(key=KEYS, body=BODIES)
    def put(self, key: str, body: bytes) -> None:
        assert self.raw.put("models", key, body).status == 200
        self.stored(key, body, md5(body))

    @rule(key=KEYS, body=BODIES)
    def create(self, key: str, body: bytes) -> None:
        status = self.raw.put("models", key, body, if_none_match="*").status
        assert status == (412 if key in self.objects else 200)
        if status == 200:
            self.stored(key, body, md5(body))

    @rule(key=KEYS, other=KEYS, body=BODIES)
    def swap(self, key: str, other: str, body: bytes) -> None:
        """If-Match with the ETag of some object, often the right one."""
        etag = self.objects.get(other, (b"", "none"))[1]
        status = self.raw.put("models", key, body, if_match=f'"{etag}"').status
        now = self.objects.get(key)
        assert status == (404 if now is None else 200 if now[1] == etag else 412)
        if status == 200:
            self.stored(key, body, md5(body))

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        assert self.raw.delete("models", key).status == 204
        if self.objects.pop(key, None) is not None:
            self.changes.append((key, "delete"))

    @rule(key=KEYS, other=KEYS)
    def delete_if_match(self, key: str, other: str) -> None:
        etag = self.objects.get(other, (b"", "none"))[1]
        status = self.raw.delete("models", key, if_match=f'"{etag}"').status
        now = self.objects.get(key)
        assert status == (404 if now is None else 204 if now[1] == etag else 412)
        if status == 204:
            del self.objects[key]
            self.changes.append((key, "delete"))

    @rule(keys=st.lists(KEYS, min_size=1, max_size=4, unique=True))
    def delete_many(self, keys: list[str]) -> None:
        named = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in keys)
        answer = self.raw.send("POST", "/models", "delete=", {}, f"<Delete>{named}</Delete>".encode())
        assert (answer.status, answer.body.count(b"<Deleted>")) == (200, len(keys))
        for key in keys:
            if self.objects.pop(key, None) is not None:
                self.changes.append((key, "delete"))

    @rule(key=KEYS, source=KEYS, other=KEYS)
    def copy_if(self, key: str, source: str, other: str) -> None:
        """A copy of one version of the source to a key that nobody has."""
        etag = self.objects.get(other, (b"", "none"))[1]
        headers = {
            "x-amz-copy-source": url_path("models", source),
            "x-amz-copy-source-if-match": f'"{etag}"',
            "if-none-match": "*",
        }
        status = self.raw.send("PUT", url_path("models", key), "", headers).status
        if source not in self.objects:
            assert status == 404
        elif key == source:
            assert status in {400, 412}  # onto itself without a change, whichever is seen first
        else:
            assert status == (200 if self.objects[source][1] == etag and key not in self.objects else 412)
        if status == 200:
            self.stored(key, *self.objects[source])

    @rule(key=KEYS)
    def head(self, key: str) -> None:
        answer = self.raw.send("HEAD", url_path("models", key))
        assert answer.status == (200 if key in self.objects else 404)
        if answer.status == 200:
            data, etag = self.objects[key]
            assert (answer.headers["content-length"], answer.headers["etag"]) == (
                str(len(data)),
                f'"{etag}"',
            )

    @rule(upload=uploads)
    def list_parts(self, upload: tuple[str, str]) -> None:
        answer = self.raw.send("GET", url_path("models", upload[0]), f"uploadId={upload[1]}")
        numbers = [int(n) for n in re.findall(r"<PartNumber>(\d+)<", answer.body.decode())]
        assert numbers == sorted(self.parts[upload[1]])

    @rule(key=KEYS, source=KEYS)
    def copy(self, key: str, source: str) -> None:
        headers = {"x-amz-copy-source": url_path("models", source), "x-amz-metadata-directive": "REPLACE"}
        status = self.raw.send("PUT", url_path("models", key), "", headers).status
        assert status == (200 if source in self.objects else 404)
        if status == 200:
            self.stored(key, *self.objects[source])

    @rule(target=uploads, key=KEYS)
    def begin(self, key: str) -> tuple[str, str]:
        upload = self.raw.create_upload("models", key)
        self.parts[upload] = {}
        return key, upload

    @rule(upload=uploads, number=st.integers(1, 4), body=BODIES)
    def send_part(self, upload: tuple[str, str], number: int, body: bytes) -> None:
        answer = self.raw.put_part("models", upload[0], upload[1], number, body)
        assert answer.status == 200
        assert answer.headers["etag"] == f'"{md5(body)}"'
        self.parts[upload[1]][number] = body

    @rule(upload=consumes(uploads), leave_out=st.integers(1, 8))
    def complete(self, upload: tuple[str, str], leave_out: int) -> None:
        key, upload_id = upload
        parts = sorted((n, body) for n, body in self.parts.pop(upload_id).items() if n != leave_out)
        answer = self.raw.complete("models", key, upload_id, [(n, md5(body)) for n, body in parts])
        assert answer.status == (200 if parts else 400)
        if parts:
            digests = b"".join(hashlib.md5(body).digest() for _, body in parts)
            self.stored(key, b"".join(body for _, body in parts), f"{md5(digests)}-{len(parts)}")
        else:
            assert self.raw.send("DELETE", url_path("models", key), f"uploadId={upload_id}").status == 204

    @rule(upload=consumes(uploads))
    def abort(self, upload: tuple[str, str]) -> None:
        assert self.raw.send("DELETE", url_path("models", upload[0]), f"uploadId={upload[1]}").status == 204
        del self.parts[upload[1]]

    @rule(key=KEYS, first=st.integers(0, 80_000), length=st.integers(1, 80_000))
    def read_range(self, key: str, first: int, length: int) -> None:
        answer = self.raw.get("models", key, range=f"bytes={first}-{first + length - 1}")
        data = self.objects.get(key, (None, ""))[0]
        if data is None:
            assert answer.status == 404
        elif first >= len(data):
            assert answer.status == 416
        else:
            assert (answer.status, answer.body) == (206, data[first : first + length])

    @rule(prefix=st.sampled_from(["", "a", "a/", "é/", "none"]), delimiter=st.sampled_from(["", "/"]))
    def list(self, prefix: str, delimiter: str) -> None:
        query = f"delimiter={quote(delimiter, safe='')}&list-type=2&prefix={quote(prefix, safe='')}"
        root = ET.fromstring(self.raw.send("GET", "/models", query).body)
        keys = [node.findtext(f"{NAMESPACE}Key") for node in root.iter(f"{NAMESPACE}Contents")]
        common = [node.findtext(f"{NAMESPACE}Prefix") for node in root.iter(f"{NAMESPACE}CommonPrefixes")]
        under = sorted((key for key in self.objects if key.startswith(prefix)), key=str.encode)
        rolled = [key for key in under if delimiter and delimiter in key[len(prefix) :]]
        folders = {prefix + key[len(prefix) :].partition("/")[0] + "/" for key in rolled}
        assert keys == [key for key in under if key not in rolled]
        assert common == sorted(folders, key=str.encode)

    def check_everything(self) -> None:
        for key, (data, etag) in self.objects.items():
            answer = self.raw.get("models", key)
            assert (answer.status, answer.body, answer.headers["etag"]) == (200, data, f'"{etag}"')
        listed = self.raw.send("GET", "/models", "list-type=2&encoding-type=url").body.decode()
        assert len(re.findall("<Contents>", listed)) == len(self.objects)


StoreModel.TestCase.settings = settings(
    max_examples=count(8, 400),
    stateful_step_count=35,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ),  # shrinking with restarts outlives the test's time limit
)
TestStoreModel = StoreModel.TestCase
