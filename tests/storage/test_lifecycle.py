"""Lifecycle rules at work: a store in this process, its sweeper, and a clock that the test turns."""

import asyncio
import time
from datetime import timedelta
from functools import partial

import pytest
from botocore.exceptions import ClientError

from storage.auth.sigv4 import Verifier, utc_now
from storage.index.objects import delete_object, put_object
from storage.index.rows import ObjectRow, UploadRow
from storage.index.settings import drop_setting, put_setting
from storage.index.tags import line_of
from storage.index.uploads import create_upload
from storage.lifecycle.sweep import PAGE_ROWS, SETTING, Pace, Sweeper
from storage.store import Store
from tests.storage.stores import KEYS, ROOT_KEY, Raw, StoreThread, boto
from tests.storage.test_index import check_references

XML = "http://s3.amazonaws.com/doc/2006-03-01/"


def document(*rules):
    return f'<LifecycleConfiguration xmlns="{XML}">{"".join(rules)}</LifecycleConfiguration>'


def rule(action, prefix=""):
    return f"<Rule><ID>{prefix or 'all'}</ID><Status>Enabled</Status><Prefix>{prefix}</Prefix>{action}</Rule>"


DAY = "<Expiration><Days>1</Days></Expiration>"
MARKER = "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"
OLD = "<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>"
KEEP = OLD.replace(
    "</NoncurrentDays>", "</NoncurrentDays><NewerNoncurrentVersions>2</NewerNoncurrentVersions>"
)
ABORT = "<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>"


class Scene:
    """A store with one bucket, days that pass, and a sweeper that does not rest."""

    def __init__(self, root):
        self.store = Store(root, Verifier(KEYS, ROOT_KEY), "us-east-1", 1, utc_now)
        self.later = timedelta()
        self.pauses = 0
        self.meanwhile = None
        self.sweeper = Sweeper(self.store, Pace(), lambda: utc_now() + self.later, self._pause)

    async def _pause(self, _seconds):
        self.pauses += 1
        if self.meanwhile is not None:
            await self.meanwhile()

    async def change(self, apply):
        return await self.store.commit(apply)

    async def rules(self, *rules, versioning=""):
        def apply(tx):
            tx.db.execute("INSERT OR IGNORE INTO buckets (name, created_ms) VALUES ('models', 0)")
            put_setting(tx.db, "models", SETTING, document(*rules))
            if versioning:
                put_setting(tx.db, "models", "versioning", versioning)

        await self.change(apply)

    async def put(self, key, tags=None):
        row = ObjectRow("models", key, 0, "e" * 32, 0, line_of(tags or {}), ())
        return await self.change(lambda tx: put_object(tx, row))

    async def delete(self, key):
        return await self.change(lambda tx: delete_object(tx, "models", key))

    async def sweep(self, days=0):
        self.later += timedelta(days=days)
        return await self.sweeper.sweep()

    def keys(self):
        rows = self.store.index.reader().execute("SELECT key FROM objects ORDER BY key").fetchall()
        return [key.decode() for (key,) in rows]

    def versions(self):
        query = "SELECT key, etag = '' FROM versions ORDER BY key, seq"
        rows = self.store.index.reader().execute(query).fetchall()
        return [(key.decode(), "marker" if marker else "version") for key, marker in rows]

    def events(self):
        query = "SELECT name, key FROM events ORDER BY seq"
        return [(name, key.decode()) for name, key in self.store.index.reader().execute(query).fetchall()]


def play(root, act):
    """Run `act(scene)` against a store in `root`."""

    async def main():
        scene = Scene(root)
        try:
            await act(scene)
        finally:
            scene.store.begin_close()
            await scene.store.close()

    asyncio.run(main())


def test_objects_go_on_their_day_and_the_outbox_says_why(tmp_path):
    async def act(scene):
        await scene.rules(rule(DAY, "tmp/"))
        await scene.put("tmp/a")
        await scene.put("kept")
        assert await scene.sweep() == 0
        assert await scene.sweep(days=2) == 1
        assert scene.keys() == ["kept"]
        assert scene.events()[-1] == ("LifecycleExpiration:Delete", "tmp/a")

    play(tmp_path, act)


def test_with_versioning_an_object_goes_under_a_marker_and_then_for_good(tmp_path):
    async def act(scene):
        await scene.rules(rule(DAY), versioning="Enabled")
        await scene.put("a")
        assert await scene.sweep(days=2) == 1
        assert scene.keys() == []
        assert scene.versions() == [("a", "version"), ("a", "marker")]
        assert scene.events()[-1] == ("LifecycleExpiration:DeleteMarkerCreated", "a")
        await scene.rules(rule(OLD), rule(MARKER, "a"))
        await scene.sweep()
        await scene.sweep()
        assert scene.versions() == []
        assert scene.events()[-2:] == [("LifecycleExpiration:Delete", "a")] * 2

    play(tmp_path, act)


def test_a_marker_that_hides_versions_stays(tmp_path):
    async def act(scene):
        await scene.rules(rule(MARKER), versioning="Enabled")
        await scene.put("a")
        await scene.delete("a")
        await scene.delete("lone")
        await scene.sweep(days=9)
        assert scene.versions() == [("a", "version"), ("a", "marker")]

    play(tmp_path, act)


def test_the_newest_old_versions_may_be_kept(tmp_path):
    async def act(scene):
        await scene.rules(rule(KEEP), versioning="Enabled")
        rows = [await scene.put("a") for _ in range(6)]
        assert await scene.sweep(days=2) == 3
        left = scene.store.index.reader().execute("SELECT version FROM versions ORDER BY seq").fetchall()
        assert [version for (version,) in left] == [row.version for row in rows[3:5]]
        assert scene.keys() == ["a"]

    play(tmp_path, act)


def test_tags_decide_as_they_are_inside_the_commit(tmp_path):
    async def act(scene):
        tagged = rule(DAY).replace(
            "<Prefix></Prefix>", "<Filter><Tag><Key>k</Key><Value>v</Value></Tag></Filter>"
        )
        await scene.rules(tagged)
        await scene.put("yes", {"k": "v"})
        await scene.put("no", {"k": "w"})
        await scene.put("none")
        await scene.sweep(days=2)
        assert scene.keys() == ["no", "none"]

    play(tmp_path, act)


def test_what_was_overwritten_since_it_was_looked_at_is_judged_again(tmp_path):
    """An overwrite, and a rule that is withdrawn, between the look and the commit: nothing is taken away."""

    async def act(scene):
        await scene.rules(rule(DAY))
        await scene.put("a")
        await scene.put("b")
        scene.later += timedelta(days=2)
        looked = scene.sweeper._page("models", "objects", (b"", 0))
        await scene.put("a")  # with the test's clock it is as old, but it is another change
        taken = await scene.change(partial(scene.sweeper._take_away, due=looked))
        assert (taken, scene.keys()) == (1, ["a"])
        looked = scene.sweeper._page("models", "objects", (b"", 0))
        await scene.change(lambda tx: drop_setting(tx.db, "models", SETTING))
        assert await scene.change(partial(scene.sweeper._take_away, due=looked)) == 0
        assert scene.keys() == ["a"]

    play(tmp_path, act)


def test_unfinished_uploads_go_and_free_what_they_hold(tmp_path):
    async def act(scene):
        await scene.rules(rule(ABORT, "a"))
        now_ms = int(time.time() * 1000)
        for key in ("a1", "a2", "b"):
            upload = UploadRow(f"u-{key}", "models", key, now_ms, (), None, None, f"s-{key}")
            await scene.change(partial(create_upload, upload=upload))
        assert await scene.sweep() == 0
        assert await scene.sweep(days=3) == 2
        left = scene.store.index.reader().execute("SELECT id FROM uploads").fetchall()
        assert left == [("u-b",)]
        check_references(scene.store.index.reader())

    play(tmp_path, act)


def test_many_pages_with_a_rest_between_them_and_puts_meanwhile(tmp_path):
    async def act(scene):
        await scene.rules(rule(DAY, "t/"))
        names = [f"t/{n:04}" for n in range(2 * PAGE_ROWS + 5)]

        def fill(tx):
            for name in names:
                put_object(tx, ObjectRow("models", name, 0, "e" * 32, 0, (), ()))

        await scene.change(fill)
        scene.later = timedelta(days=2)
        num = 0

        async def meanwhile():
            nonlocal num
            num += 1
            await scene.put(f"other/{num}")

        scene.meanwhile = meanwhile
        assert await scene.sweep() == len(names)
        assert scene.pauses >= 3
        assert {key[:6] for key in list(scene.keys())} == {"other/"}

    play(tmp_path, act)


def test_a_stop_in_the_middle_costs_nothing(tmp_path):
    """The pass is cut after its first page; a store that is opened again finishes it."""

    class Cut(Exception):
        pass

    async def first(scene):
        await scene.rules(rule(DAY))

        def fill(tx):
            for n in range(PAGE_ROWS + 50):
                put_object(tx, ObjectRow("models", f"{n:04}", 0, "e" * 32, 0, (), ()))

        await scene.change(fill)

        async def cut():
            raise Cut

        scene.meanwhile = cut
        with pytest.raises(Cut):
            await scene.sweep(days=2)
        assert len(scene.keys()) == 50

    async def second(scene):
        assert await scene.sweep(days=2) == 50
        assert scene.keys() == []
        assert sum(name == "LifecycleExpiration:Delete" for name, _ in scene.events()) == PAGE_ROWS + 50

    play(tmp_path, first)
    play(tmp_path, second)


def test_a_bucket_says_its_rules_and_an_object_its_end(s3, bucket):
    with pytest.raises(ClientError, match="NoSuchLifecycleConfiguration"):
        s3.get_bucket_lifecycle_configuration(Bucket=bucket)
    rules = [{"ID": "r 1", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 1}}]
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})
    said = s3.put_object(Bucket=bucket, Key="tmp/a", Body=b"")
    s3.put_object(Bucket=bucket, Key="b", Body=b"")

    assert s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"] == rules
    assert 'rule-id="r 1"' in said["Expiration"]
    assert s3.head_object(Bucket=bucket, Key="tmp/a")["Expiration"] == said["Expiration"]
    assert "Expiration" not in s3.get_object(Bucket=bucket, Key="b")
    s3.delete_bucket_lifecycle(Bucket=bucket)
    assert "Expiration" not in s3.head_object(Bucket=bucket, Key="tmp/a")


def test_only_administrators_set_rules(store):
    from tests.storage.stores import TENANT

    with Raw(store.endpoint(TENANT)) as raw:
        assert raw.send("GET", "/models", "lifecycle=").status == 403
        assert raw.send("PUT", "/models", "lifecycle=", {}, document(rule(DAY)).encode()).status == 403


def test_a_running_store_sweeps_by_itself(tmp_path):
    """With a day of a second, a listing is empty after a while; the store serves meanwhile."""
    store = StoreThread(tmp_path, lifecycle=Pace(first_s=0.0, rest_s=0.05, page_rest_s=0.0, day_s=1.0))
    s3 = boto(store.endpoint())
    s3.create_bucket(Bucket="models")
    rules = [{"ID": "r", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 1}}]
    s3.put_bucket_lifecycle_configuration(Bucket="models", LifecycleConfiguration={"Rules": rules})
    for key in ("tmp/a", "tmp/b", "kept"):
        s3.put_object(Bucket="models", Key=key, Body=key.encode() * 10_000)
    try:
        left = {"tmp/a"}
        for _ in range(300):
            left = {line["Key"] for line in s3.list_objects_v2(Bucket="models")["Contents"]}
            if left == {"kept"}:
                break
            time.sleep(0.1)
        assert left == {"kept"}
        assert s3.get_object(Bucket="models", Key="kept")["Body"].read() == b"kept" * 10_000
    finally:
        s3.close()
        store.stop()
