"""Events that leave the house: a real store, a real receiver, and everything that may go wrong between them."""

import datetime as dt
import hashlib
import hmac
import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from deploy.trust import pki
from storage.client.sdk import Endpoint
from storage.index.outbox import MAX_LETTERS, add_letter, read_letters
from storage.notify.courier import Patience
from storage.notify.webhook import ARN_PREFIX, Webhook
from tests.storage.receiver import PATIENCE_S, Receiver
from tests.storage.stores import TENANT, Raw, StoreThread, boto

SECRET = b"a secret of the receiver's"
QUICK = Patience(tries=3, first_s=0.01, most_s=0.02, timeout_s=5.0)
CREATED, REMOVED = "s3:ObjectCreated:*", "s3:ObjectRemoved:*"


@contextmanager
def serving(root, *hooks, patience=QUICK):
    store = StoreThread(root, webhooks=hooks, patience=patience)
    s3 = boto(store.endpoint())
    try:
        yield store, s3
    finally:
        s3.close()
        store.stop()


def hook(receiver, name="a", **more):
    return Webhook(name, receiver.url, SECRET, **more)


def configure(s3, *names, events=(CREATED, REMOVED), fixes=(), bucket="models"):
    rules = [{"Name": name, "Value": value} for name, value in fixes]
    one = {"Events": list(events)} | ({"Filter": {"Key": {"FilterRules": rules}}} if rules else {})
    queues = [one | {"Id": f"to-{name}", "QueueArn": ARN_PREFIX + name} for name in names]
    s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": queues}
    )


def put(s3, *keys, body=b"1"):
    for key in keys:
        s3.put_object(Bucket="models", Key=key, Body=body)


def letters(store, name="a", method="GET", more=""):
    with Raw(store.endpoint()) as raw:
        answer = raw.send(method, "/", f"nearfield-dead-letters=&webhook={name}{more}")
    return answer.status, json.loads(answer.body) if answer.body else None


def until(true):
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_every_kind_of_change_is_told_in_order(tmp_path):
    with Receiver() as receiver, serving(tmp_path, hook(receiver)) as (_, s3):
        s3.create_bucket(Bucket="models")
        put(s3, "before")
        configure(s3, "a")
        put(s3, "a b")
        s3.copy_object(Bucket="models", Key="c", CopySource="models/before")
        upload = s3.create_multipart_upload(Bucket="models", Key="m")["UploadId"]
        part = s3.upload_part(Bucket="models", Key="m", UploadId=upload, PartNumber=1, Body=b"xyz")
        parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
        s3.complete_multipart_upload(
            Bucket="models", Key="m", UploadId=upload, MultipartUpload={"Parts": parts}
        )
        s3.delete_object(Bucket="models", Key="c")
        s3.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Enabled"})
        version = s3.put_object(Bucket="models", Key="v", Body=b"22")["VersionId"]
        s3.delete_object(Bucket="models", Key="v")
        s3.delete_object(Bucket="models", Key="v", VersionId=version)
        wanted = [
            ("ObjectCreated:Put", "a+b"),
            ("ObjectCreated:Copy", "c"),
            ("ObjectCreated:CompleteMultipartUpload", "m"),
            ("ObjectRemoved:Delete", "c"),
            ("ObjectCreated:Put", "v"),
            ("ObjectRemoved:DeleteMarkerCreated", "v"),
            ("ObjectRemoved:Delete", "v"),
        ]
        receiver.wait(lambda: len(receiver.told()) >= len(wanted))
        records = receiver.records()

        assert receiver.told() == wanted
        assert [record["s3"]["object"].get("versionId") for record in records[4:]][::2] == [version, version]
        sequence = [record["s3"]["object"]["sequencer"] for record in records]
        assert sequence == sorted(set(sequence))
        assert records[0]["s3"]["configurationId"] == "to-a"


def test_a_delivery_is_signed(tmp_path):
    with Receiver() as receiver, serving(tmp_path, hook(receiver)) as (_, s3):
        s3.create_bucket(Bucket="models")
        configure(s3, "a")
        put(s3, "k")
        receiver.wait(lambda: bool(receiver.requests))
        path, headers, body = receiver.requests[0]

        at = headers["x-nearfield-timestamp"]
        expected = hmac.new(SECRET, at.encode() + b"." + body, hashlib.sha256).hexdigest()
        assert headers["x-nearfield-signature"] == f"sha256={expected}"
        assert abs(int(at) - time.time()) < 600
        assert (path, headers["content-type"]) == ("/hook?from=test", "application/json")


def test_only_what_the_filter_lets_through(tmp_path):
    with Receiver() as receiver, serving(tmp_path, hook(receiver)) as (_, s3):
        s3.create_bucket(Bucket="models")
        s3.create_bucket(Bucket="other")
        configure(s3, "a", events=[CREATED], fixes=[("prefix", "in/"), ("suffix", ".bin")])
        put(s3, "in/no", "no.bin")
        s3.put_object(Bucket="other", Key="in/other.bin", Body=b"")
        put(s3, "in/gone.bin")
        s3.delete_object(Bucket="models", Key="in/gone.bin")
        put(s3, "in/last.bin")
        receiver.wait(lambda: len(receiver.told()) >= 2)

        assert [key for _, key in receiver.told()] == ["in%2Fgone.bin", "in%2Flast.bin"]


def test_what_fails_is_tried_again_and_nothing_overtakes_it(tmp_path):
    with (
        Receiver(lambda nth: 503 if nth < 3 else 200) as receiver,
        serving(tmp_path, hook(receiver)) as (store, s3),
    ):
        s3.create_bucket(Bucket="models")
        configure(s3, "a")
        put(s3, "first")
        receiver.wait(lambda: bool(receiver.requests))
        put(s3, "second")
        receiver.wait(lambda: len(receiver.requests) >= 4)

        bodies = [body for _, _, body in receiver.requests]
        assert bodies[0] == bodies[1] == bodies[2]
        assert [key for _, key in receiver.told()] == ["first"] * 3 + ["second"]
        assert letters(store)[1]["letters"] == []


def test_what_nobody_takes_is_kept_read_replayed_and_dropped(tmp_path):
    with (
        Receiver(lambda _: 500) as receiver,
        serving(tmp_path, hook(receiver)) as (store, s3),
    ):
        s3.create_bucket(Bucket="models")
        configure(s3, "a")
        put(s3, "lost")
        until(lambda: letters(store)[1]["letters"])
        (letter,) = letters(store)[1]["letters"]
        assert (letter["tries"], letter["reason"]) == (QUICK.tries, "status 500")
        assert letter["records"][0]["s3"]["object"]["key"] == "lost"
        assert len(receiver.requests) == QUICK.tries

        assert letters(store, method="POST") == (202, {"webhook": "a", "replayed": 1})
        until(lambda: letters(store)[1]["letters"][0]["tries"] == QUICK.tries + 1)
        assert not letters(store)[1]["letters"][0]["replaying"]

        receiver.answer = lambda _: 200
        put(s3, "after")
        receiver.wait(lambda: receiver.told()[-1][1] == "after")
        assert letters(store, method="POST", more=f"&letter={letter['letter']}")[1]["replayed"] == 1
        until(lambda: not letters(store)[1]["letters"])
        assert receiver.told()[-1][1] == "lost"

        receiver.answer = lambda _: 404
        put(s3, "again")
        until(lambda: letters(store)[1]["letters"])
        number = letters(store)[1]["letters"][0]["letter"]
        assert letters(store, more=f"&after={number}")[1]["letters"] == []
        assert letters(store, method="DELETE", more=f"&letter={number}")[0] == 204
        assert letters(store)[1]["letters"] == []


def test_a_redirect_is_not_followed(tmp_path):
    with Receiver(lambda _: 307) as receiver, serving(tmp_path, hook(receiver)) as (store, s3):
        s3.create_bucket(Bucket="models")
        configure(s3, "a")
        put(s3, "k")
        until(lambda: letters(store)[1]["letters"])

        assert letters(store)[1]["letters"][0]["reason"] == "status 307"
        assert {path for path, _, _ in receiver.requests} == {"/hook?from=test"}


def test_one_that_is_slow_or_dead_delays_neither_the_others_nor_the_store(tmp_path):
    dead = Webhook("dead", "http://127.0.0.1:9/", SECRET)
    with (
        Receiver() as slow,
        Receiver() as quick,
        serving(
            tmp_path, hook(slow, "slow"), hook(quick, "quick"), dead, patience=Patience(timeout_s=60)
        ) as (_, s3),
    ):
        slow.hold.set()
        s3.create_bucket(Bucket="models")
        configure(s3, "slow", "quick", "dead")
        for n in range(30):
            put(s3, f"k{n:02}")
            quick.wait(lambda wanted=n: len(quick.told()) > wanted)

        assert [key for _, key in quick.told()] == [f"k{n:02}" for n in range(30)]
        assert len(slow.requests) == 1
        slow.hold.clear()
        slow.wait(lambda: len(slow.told()) >= 30)
        assert [key for _, key in slow.told()] == [f"k{n:02}" for n in range(30)]


def test_over_tls_only_to_a_certificate_that_is_trusted(tmp_path):
    authority = pki.ensure(tmp_path / "tls", dt.datetime.now(dt.UTC))
    with Receiver(tls=(authority.cert, authority.key)) as receiver:
        trusted, stranger = hook(receiver, "trusted", ca=authority.ca), hook(receiver, "stranger")
        with serving(tmp_path / "store", trusted, stranger) as (store, s3):
            s3.create_bucket(Bucket="models")
            configure(s3, "trusted", "stranger")
            put(s3, "k")
            until(lambda: letters(store, "stranger")[1]["letters"])

            assert "certificate" in letters(store, "stranger")[1]["letters"][0]["reason"].lower()
            receiver.wait(lambda: bool(receiver.told()))
            assert receiver.told() == [("ObjectCreated:Put", "k")]


def test_a_bucket_says_what_it_tells(tmp_path):
    with Receiver() as receiver, serving(tmp_path, hook(receiver)) as (store, s3):
        s3.create_bucket(Bucket="models")
        configure(s3, "a", fixes=[("prefix", "x/")])
        said = s3.get_bucket_notification_configuration(Bucket="models")["QueueConfigurations"]
        with pytest.raises(ClientError, match="InvalidArgument"):
            configure(s3, "nobody")
        configure(s3)

        rules = [{"Name": "Prefix", "Value": "x/"}]
        assert said == [
            {
                "Id": "to-a",
                "QueueArn": ARN_PREFIX + "a",
                "Events": [CREATED, REMOVED],
                "Filter": {"Key": {"FilterRules": rules}},
            }
        ]
        assert "QueueConfigurations" not in s3.get_bucket_notification_configuration(Bucket="models")
        put(s3, "x/quiet")
        configure(s3, "a")
        put(s3, "told")
        receiver.wait(lambda: bool(receiver.told()))
        assert receiver.told() == [("ObjectCreated:Put", "told")]
        with Raw(store.endpoint(TENANT)) as raw:
            assert raw.send("GET", "/models", "notification=").status == 403
            assert raw.send("GET", "/", "nearfield-dead-letters=&webhook=a").status == 403
        with Raw(store.endpoint()) as raw:
            assert raw.send("GET", "/", "nearfield-dead-letters=&webhook=nobody").code == "InvalidArgument"
            assert raw.send("DELETE", "/", "nearfield-dead-letters=&webhook=a").code == "InvalidArgument"


def test_a_stop_in_the_middle_loses_nothing(tmp_path):
    """Stopped while the receiver is down: what was not told is told by the next store, in order."""
    answers = [503]
    with Receiver(lambda _: answers[0]) as receiver:
        with serving(tmp_path, hook(receiver), patience=Patience(first_s=60.0)) as (_, s3):
            s3.create_bucket(Bucket="models")
            configure(s3, "a")
            put(s3, "k0", "k1", "k2")
            receiver.wait(lambda: bool(receiver.requests))
        answers[0] = 200
        failed = len(receiver.told())
        with serving(tmp_path, hook(receiver)):
            receiver.wait(lambda: len(receiver.told()) >= failed + 3)

        assert [key for _, key in receiver.told()[failed:]] == ["k0", "k1", "k2"]


class StoreProcess:
    """A store with one webhook in a process of its own."""

    def __init__(self, root: Path, url: str) -> None:
        command = [sys.executable, "-m", "tests.storage.hooked", str(root), url]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        port, key, secret = self.process.stdout.readline().split()
        self.endpoint = Endpoint(f"http://127.0.0.1:{port}", key, secret)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


def test_kill_9_again_and_again_loses_nothing_and_keeps_the_order(tmp_path):
    """At least once: each acknowledged put is told, first tellings come in order, and repeats only after a kill."""
    keys, num_kills = [], 4
    with Receiver() as receiver:
        for kill in range(num_kills):
            process = StoreProcess(tmp_path / "store", receiver.url)
            s3 = boto(process.endpoint)
            if not kill:
                s3.create_bucket(Bucket="models")
                configure(s3, "a")
            for n in range(20):
                keys.append(f"k{kill}-{n:02}")
                put(s3, keys[-1])
            first = keys[-20]
            receiver.wait(lambda wanted=first: wanted in {key for _, key in receiver.told()})
            s3.close()
            process.kill()
        process = StoreProcess(tmp_path / "store", receiver.url)
        receiver.wait(lambda: {key for _, key in receiver.told()} >= set(keys))
        process.kill()

    told = [key for _, key in receiver.told()]
    assert list(dict.fromkeys(told)) == keys
    assert len(told) <= len(keys) + 100 * (num_kills + 1)


def test_letters_are_bounded(tmp_path):
    from storage.index.database import Index

    index = Index(tmp_path / "meta.db")

    def fill(tx):
        many = (("a", "[]", 1, "r", 0) for _ in range(MAX_LETTERS))
        tx.db.executemany(
            "INSERT INTO dead_letters (webhook, records, tries, reason, at_ms) VALUES (?, ?, ?, ?, ?)", many
        )

    index.commit(fill).result()
    assert index.commit(lambda tx: add_letter(tx, "b", "[]", 1, "r")).result() == 0
    assert index.commit(lambda tx: add_letter(tx, "a", "[]", 1, "newest")).result() == 1
    left = read_letters(index.reader(), "a", 0, MAX_LETTERS + 1)

    assert (len(left), left[0].id, left[-1].reason) == (MAX_LETTERS, 2, "newest")
    index.close()
