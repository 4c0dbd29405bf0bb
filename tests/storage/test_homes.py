"""A bucket that lives in another region's store: what is written here is there, what is there is read here, once."""

import http.client
import json
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from storage.auth.canonical import PayloadKind
from storage.client.sdk import Endpoint, presign, sign
from storage.homes.plan import CLAIM_BYTES, Plan
from tests.evidence import count
from tests.storage.far import pair
from tests.storage.stores import ADMIN, READER, ROOT_KEY, TENANT, Raw, boto
from tests.storage.test_awschunked import unsigned_body
from tests.storage.test_bodies import DATA as CHUNKED
from tests.storage.test_bodies import LENGTH, TRAILER, put_chunked, rekeyed

MIB = 1024 * 1024
SIZE = count(6, 60) * MIB + 17
DATA = random.Random(7).randbytes(SIZE)
PATH = "/models/acme/big"
TELLING = (
    "content-type",
    "content-range",
    "content-length",
    "last-modified",
    "accept-ranges",
    "cache-control",
)


@pytest.fixture(scope="module")
def both():
    with pair() as made:
        yield made


@pytest.fixture
def fresh(request):
    """A pair of the test's own, with the large object at home."""
    with pair(**getattr(request, "param", {})) as made:
        assert made.home.put("models", "acme/big", DATA).status == 200
        yield made


def until(true, what):
    """Wait for something that another thread does."""
    for _ in range(6000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError(f"never {what}")


def same_answer(both, method, path, query="", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    here, there = (each.send(method, path, query, named) for each in (both.far, both.home))
    assert here.status == there.status, (here, there)
    meta = {name for name in {**here.headers, **there.headers} if name.startswith("x-amz-meta-")}
    names = {"etag", *TELLING, *meta} | {
        n for n in there.headers if n.startswith(("x-amz-checksum", "x-amz-version"))
    }
    if there.status < 300:
        assert {n: here.headers.get(n) for n in names} == {n: there.headers.get(n) for n in names}
        assert here.body == there.body
    assert here.code == there.code
    return here


# ---- writes


def test_a_write_arrives_as_it_was_signed(both):
    signed = dict(
        sign(both.far_store.endpoint(), "PUT", "/models/acme/as%20is", "", (("x-amz-meta-a", "b  c"),))
    )
    answer = both.far.send_as_is("PUT", "/models/acme/as%20is", "", signed, b"hello")

    assert answer.status == 200
    head = next(head for head in reversed(both.link.seen) if head.method == "PUT")
    assert head.target == "/models/acme/as%20is"
    assert head.headers == (*signed.items(), ("content-length", "5"))
    assert head.get("host") == both.far_store.endpoint().netloc
    got = both.home.get("models", "acme/as is")
    assert (got.body, got.headers["etag"]) == (b"hello", answer.headers["etag"])


def test_clients_write_here_and_it_is_there(both):
    here, there = boto(both.far_store.endpoint()), boto(both.home_store.endpoint())
    here.put_object(Bucket="models", Key="c/put", Body=b"one", Metadata={"a": "b"})
    here.copy_object(Bucket="models", Key="c/copy", CopySource="models/c/put")
    upload = here.create_multipart_upload(Bucket="models", Key="c/parts")["UploadId"]
    tags = [
        here.upload_part(
            Bucket="models", Key="c/parts", UploadId=upload, PartNumber=n, Body=bytes([n]) * MIB
        )["ETag"]
        for n in (1, 2, 3)
    ]
    parts = [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(tags, 1)]
    here.complete_multipart_upload(
        Bucket="models", Key="c/parts", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    here.put_object(Bucket="models", Key="c/gone", Body=b"x")
    here.delete_objects(Bucket="models", Delete={"Objects": [{"Key": "c/gone"}]})

    listed = [row["Key"] for row in there.list_objects_v2(Bucket="models", Prefix="c/")["Contents"]]
    assert listed == ["c/copy", "c/parts", "c/put"]
    assert listed == [row["Key"] for row in here.list_objects_v2(Bucket="models", Prefix="c/")["Contents"]]
    whole = b"".join(bytes([n]) * MIB for n in (1, 2, 3))
    assert there.get_object(Bucket="models", Key="c/parts")["Body"].read() == whole
    assert here.get_object(Bucket="models", Key="c/parts")["Body"].read() == whole
    assert here.get_object(Bucket="models", Key="c/copy")["Metadata"] == {"a": "b"}
    assert [row["Name"] for row in here.list_buckets()["Buckets"]] == ["models"]


@pytest.mark.parametrize("kind", [PayloadKind.CHUNKS_SIGNED, PayloadKind.CHUNKS_UNSIGNED_TRAILER])
def test_streamed_bodies_pass_unchanged(both, kind):
    if kind is PayloadKind.CHUNKS_SIGNED:
        done = put_chunked(both.far_store, "chunks", kind, LENGTH, lambda link: rekeyed(CHUNKED, link, None))
    else:
        done = put_chunked(
            both.far_store, "chunks", kind, TRAILER, lambda _: unsigned_body(CHUNKED), chunked=True
        )

    assert done == (200, b"")
    assert both.home.get("models", "chunks").body == CHUNKED
    both.home.delete("models", "chunks")


def test_conditions_of_writes_are_decided_at_home(both):
    assert both.far.put("models", "once", b"1", if_none_match="*").status == 200
    assert both.home.put("models", "once", b"2", if_none_match="*").code == "PreconditionFailed"
    assert both.far.put("models", "once", b"2", if_none_match="*").code == "PreconditionFailed"
    assert both.far.put("models", "once", b"2", if_match='"bad"').code == "PreconditionFailed"
    assert both.far.get("models", "once").body == b"1"


def test_a_large_body_is_not_asked_for_before_the_home_wants_it(both):
    both.home.put("models", "there", b"1")
    headers = (("if-none-match", "*"), ("expect", "100-continue"))
    signed = sign(both.far_store.endpoint(), "PUT", "/models/there", "", headers[:1])
    connection = http.client.HTTPConnection("127.0.0.1", both.far_store.port, timeout=60)
    connection.putrequest("PUT", "/models/there", skip_host=True, skip_accept_encoding=True)
    for name, value in (*signed, headers[1], ("content-length", str(MIB))):
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()

    assert answer.status == 412, "without a byte of the body"
    connection.close()


def test_what_is_not_signed_or_not_granted_never_crosses(both):
    before = len(both.link.seen)
    signed = dict(sign(both.far_store.endpoint(), "PUT", "/models/acme/x", ""))
    bad = signed["authorization"][:-1] + ("0" if signed["authorization"][-1] != "0" else "1")
    assert (
        both.far.send_as_is("PUT", "/models/acme/x", "", {**signed, "authorization": bad}, b"x").status == 403
    )
    assert both.far.send_as_is("GET", "/models/acme/x", "", {"host": "h"}).status == 403
    with Raw(both.far_store.endpoint(READER)) as reader, Raw(both.far_store.endpoint(TENANT)) as tenant:
        assert reader.put("models", "acme/x", b"x").code == "AccessDenied"
        assert tenant.get("models", "other/x").code == "AccessDenied"
        mine = [head for head in both.link.seen[before:] if "nearfield-changes" not in head.target]
        assert mine == []
        assert tenant.put("models", "acme/x", b"x").status == 200
        assert reader.get("models", "acme/x").body == b"x"


def test_other_buckets_stay_here(both):
    assert both.far.send("PUT", "/own").status == 200
    assert both.far.put("own", "k", b"mine").status == 200
    assert both.far.get("own", "k").body == b"mine"
    assert both.home.get("own", "k").code == "NoSuchBucket"
    copy = both.far.send("PUT", "/own/c", "", {"x-amz-copy-source": "models/once"})
    assert copy.code == "NotImplemented"


def test_a_home_that_is_away_is_a_503_for_writes(fresh):
    fresh.link.cut()
    answer = fresh.far.put("models", "new", b"x")

    assert (answer.status, answer.code) == (503, "ServiceUnavailable")
    fresh.link.mend()
    assert fresh.home.get("models", "new").code == "NoSuchKey"
    assert fresh.far.put("models", "new", b"x").status == 200


# ---- reads


RANGES = [
    "bytes=0-0",
    "bytes=5-99",
    "bytes=-7",
    "bytes=100-",
    "bytes=0-9999999",
    "bytes=9-3",
    "bytes=99999999-",
    "x=1-2",
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_reads_answer_as_at_home(both, method):
    body = DATA[:100_000]
    put = both.home.put(
        "models",
        "r/k",
        body,
        content_type="a/b",
        x_amz_meta_q="r",
        cache_control="no-store",
        x_amz_checksum_algorithm="CRC32",
    )
    etag = put.headers["etag"]
    date = both.home.get("models", "r/k").headers["last-modified"]
    old = "Mon, 01 Jan 2001 00:00:00 GMT"
    asked = [{}, *({"range": each} for each in RANGES)]
    asked += [{"if-match": each} for each in (etag, "*", '"no"')]
    asked += [{"if-none-match": each} for each in (etag, "*", '"no"')]
    asked += [{"if-modified-since": each} for each in (old, date)]
    asked += [{"if-unmodified-since": each} for each in (old, date)]
    asked += [{"range": "bytes=1-2", "if-range": each} for each in (etag, '"no"', date)]
    asked += [{"x-amz-checksum-mode": "ENABLED"}, {"x-amz-checksum-mode": "ENABLED", "range": "bytes=1-2"}]
    for headers in asked:
        same_answer(both, method, "/models/r/k", **headers)
    for query in (
        "response-content-type=x%2Fy",
        "response-expires=now&response-cache-control=c",
        "partNumber=1",
    ):
        same_answer(both, method, "/models/r/k", query)
    same_answer(both, method, "/models/r/k", "versionId=null")
    same_answer(both, method, "/models/none")
    both.home.put("models", "r/empty", b"")
    same_answer(both, method, "/models/r/empty")
    same_answer(both, method, "/models/r/empty", range="bytes=0-1")


def test_versions_and_markers_are_the_homes_to_tell(both):
    assert both.far.send("PUT", "/models", "versioning=", {}, VERSIONED).status == 200
    one = both.far.put("models", "v/k", b"one").headers["x-amz-version-id"]
    two = both.home.put("models", "v/k", b"two").headers["x-amz-version-id"]
    assert same_answer(both, "GET", "/models/v/k").body == b"two"
    assert same_answer(both, "GET", "/models/v/k", f"versionId={one}").body == b"one"
    assert both.far.get("models", "v/k").headers["x-amz-version-id"] == two
    assert both.far.delete("models", "v/k").headers["x-amz-delete-marker"] == "true"
    assert same_answer(both, "GET", "/models/v/k").status == 404
    suspended = VERSIONED.replace(b"Enabled", b"Suspended")
    assert both.far.send("PUT", "/models", "versioning=", {}, suspended).status == 200


VERSIONED = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"


def test_presigned_reads_and_pages_of_other_origins(both):
    both.home.put("models", "p/k", b"shown")
    url = presign(both.far_store.endpoint(), "GET", "/models/p/k", 60)
    target = url.removeprefix(both.far_store.url)
    path, _, query = target.partition("?")
    assert (
        both.far.send_as_is("GET", path, query, {"host": both.far_store.endpoint().netloc}).body == b"shown"
    )
    rule = b"<CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule>"
    rules = b"<CORSConfiguration>" + rule + b"</CORSConfiguration>"
    assert both.home.send("PUT", "/models", "cors=", {}, rules).status == 200
    asks = {"host": "h", "origin": "http://a", "access-control-request-method": "GET"}
    assert both.far.send_as_is("OPTIONS", "/models/p/k", "", asks).status == 200
    page = both.far.get("models", "p/k", origin="http://a")
    assert (page.body, page.headers["access-control-allow-origin"]) == (b"shown", "*")


def test_what_was_acknowledged_anywhere_is_seen_here(both):
    for turn in range(count(20, 200)):
        writer = (both.home, both.far)[turn % 2]
        data = bytes([turn % 251]) * 1000
        assert writer.put("models", "w/k", data).status == 200
        assert both.far.get("models", "w/k").body == data
        assert writer.delete("models", "w/k").status == 204
        assert both.far.get("models", "w/k").code == "NoSuchKey"


@pytest.mark.parametrize("claim_bytes", [MIB, CLAIM_BYTES], ids=["many fetches", "one fetch"])
def test_sixty_four_readers_are_one_reading_of_each_byte(fresh, monkeypatch, claim_bytes):
    monkeypatch.setattr("storage.homes.copy.Plan", partial(Plan, claim_bytes=claim_bytes))
    draw = random.Random(5)
    spans = [(0, SIZE)] * 32 + [tuple(sorted(draw.sample(range(SIZE + 1), 2))) for _ in range(32)]
    start = threading.Barrier(64)

    def read(span):
        with Raw(fresh.far_store.endpoint()) as raw:
            start.wait(60)
            low, high = span
            return raw.get("models", "acme/big", range=f"bytes={low}-{high - 1}").body

    with ThreadPoolExecutor(64) as threads:
        got = list(threads.map(read, spans))

    assert all(body == DATA[low:high] for body, (low, high) in zip(got, spans, strict=True))
    assert fresh.link.body_bytes[PATH] == SIZE
    with Raw(fresh.far_store.endpoint()) as raw:
        assert raw.get("models", "acme/big").body == DATA
    assert fresh.link.body_bytes[PATH] == SIZE


def test_a_header_of_a_large_file_costs_only_itself(fresh):
    assert fresh.far.get("models", "acme/big", range="bytes=0-7").body == DATA[:8]
    assert fresh.far.get("models", "acme/big", range=f"bytes={SIZE - 100}-").body == DATA[-100:]
    assert fresh.link.body_bytes[PATH] == 108


def begin(endpoint, key="acme/big"):
    """A GET whose head has come; (connection, answer)."""
    connection = http.client.HTTPConnection(endpoint.netloc, timeout=60)
    path = f"/models/{key}"
    connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
    for name, value in sign(endpoint, "GET", path, ""):
        connection.putheader(name, value)
    connection.endheaders()
    return connection, connection.getresponse()


def test_readers_follow_the_write_head(fresh):
    fresh.link.stall_after = SIZE // 2
    (one, first), (two, second) = begin(fresh.far_store.endpoint()), begin(fresh.far_store.endpoint())
    fresh.link.stalled.wait(60)
    there = SIZE // 2 - MIB // 2
    assert first.read(there) == second.read(there) == DATA[:there], "while the rest is still to come"
    assert not fresh.link.flow.is_set()

    fresh.link.flow.set()
    assert first.read() == second.read() == DATA[there:]
    assert fresh.link.body_bytes[PATH] == SIZE
    one.close()
    two.close()


def test_the_reader_that_began_goes_away_and_the_others_read_on(fresh):
    fresh.link.stall_after = SIZE // 3
    (leader, _), (other, answer) = begin(fresh.far_store.endpoint()), begin(fresh.far_store.endpoint())
    fresh.link.stalled.wait(60)
    leader.sock.close()
    leader.close()
    time.sleep(0.1)
    fresh.link.flow.set()

    assert answer.read() == DATA
    assert fresh.link.body_bytes[PATH] == SIZE
    other.close()


def test_a_line_that_breaks_again_and_again_is_gone_on_with(fresh):
    fresh.link.break_after = SIZE // 5
    with ThreadPoolExecutor(4) as threads:
        got = list(
            threads.map(lambda _: Raw(fresh.far_store.endpoint()).get("models", "acme/big").body, range(4))
        )

    assert got == [DATA] * 4
    asked = [head for head in fresh.link.seen if head.method == "GET" and head.path == PATH]
    assert len(asked) >= 5
    assert all(head.get("if-match") for head in asked)
    assert fresh.link.body_bytes[PATH] == SIZE, "each time from the byte where it broke"


def test_a_home_that_stays_away_cuts_who_reads_and_the_next_goes_on(fresh):
    fresh.link.stall_after = SIZE // 2
    connection, answer = begin(fresh.far_store.endpoint())
    fresh.link.stalled.wait(60)
    fresh.link.cut()
    with pytest.raises(http.client.IncompleteRead) as cut:
        answer.read()
    assert cut.value.partial == DATA[: len(cut.value.partial)]
    connection.close()
    assert fresh.far.get("models", "acme/big").code == "ServiceUnavailable"

    fresh.link.mend()
    fresh.link.flow.set()
    before = fresh.link.body_bytes[PATH]
    assert fresh.far.get("models", "acme/big").body == DATA
    lost = before - len(cut.value.partial)
    assert fresh.link.body_bytes[PATH] <= SIZE + max(lost, 0)
    assert fresh.link.body_bytes[PATH] < before + SIZE


def test_a_killed_store_goes_on_where_it_was(fresh, tmp_path):
    command = [sys.executable, "-m", "tests.storage.farprocess", str(tmp_path / "far"), fresh.link.url]
    fresh.link.stall_after = SIZE // 2 + MIB

    def start():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        return process, Endpoint(process.stdout.readline().strip(), ADMIN.id, ADMIN.secret(ROOT_KEY))

    process, endpoint = start()
    connection, answer = begin(endpoint)
    answer.read(SIZE // 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    connection.close()
    fresh.link.flow.set()
    before = fresh.link.body_bytes[PATH]
    process, endpoint = start()
    with Raw(endpoint) as raw:
        assert raw.get("models", "acme/big").body == DATA
    process.terminate()
    process.kill()
    process.wait()
    process.stdout.close()

    assert before >= SIZE // 2
    again = fresh.link.body_bytes[PATH] - SIZE
    assert again <= 4 * MIB, "of each connection the piece that had no sum yet, and what was on its way"


def test_bytes_that_lie_never_make_a_whole_object(fresh):
    fresh.link.change = lambda at, data: data if at else bytes([data[0] ^ 1]) + data[1:]
    connection, answer = begin(fresh.far_store.endpoint())
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    connection.close()
    until(lambda: not list(fresh.copies.glob("*.data")), "thrown away")

    fresh.link.change = lambda at, data: data
    assert fresh.far.get("models", "acme/big").body == DATA


def test_an_overwrite_during_a_read_is_a_clean_end_and_never_a_mix(fresh):
    other = DATA[::-1]
    fresh.link.break_after = SIZE // 3
    fired = []

    def overwrite(head):
        if (
            head.method == "GET"
            and head.path == PATH
            and head.get("range") != f"bytes=0-{SIZE - 1}"
            and not fired
        ):
            fired.append(head)
            with Raw(fresh.home_store.endpoint()) as raw:
                assert raw.put("models", "acme/big", other).status == 200

    fresh.link.before = overwrite
    connection, answer = begin(fresh.far_store.endpoint())
    with pytest.raises(http.client.IncompleteRead) as cut:
        answer.read()
    assert fired
    assert cut.value.partial == DATA[: len(cut.value.partial)]
    connection.close()

    fresh.link.break_after = None
    assert fresh.far.get("models", "acme/big").body == other
    assert fresh.far.get("models", "acme/big", if_match=answer.headers["etag"]).code == "PreconditionFailed"


def test_an_overwrite_before_the_first_byte_is_read_anew(fresh):
    other, fired = DATA[::-1], []

    def overwrite(head):
        if head.method == "GET" and head.path == PATH and not fired:
            fired.append(head)
            with Raw(fresh.home_store.endpoint()) as raw:
                assert raw.put("models", "acme/big", other).status == 200

    fresh.link.before = overwrite
    assert fresh.far.get("models", "acme/big").body == other
    assert fired


@pytest.mark.parametrize("fresh", [{"copies_bytes": SIZE + SIZE // 2}], indirect=True)
def test_copies_are_bounded_and_what_is_larger_passes_through(fresh):
    huge = DATA + DATA
    for number in range(3):
        fresh.home.put("models", f"acme/{number}", DATA)
        assert fresh.far.get("models", f"acme/{number}").body == DATA
        kept = [path.stat().st_blocks * 512 for path in fresh.copies.glob("*.data")]
        assert sum(kept) <= SIZE + SIZE // 2 + len(kept) * 4096
    fresh.home.put("models", "acme/huge", huge)
    assert fresh.far.get("models", "acme/huge").body == huge
    assert fresh.far.get("models", "acme/huge", range="bytes=3-9").body == huge[3:10]


def test_a_disk_without_room_for_a_copy_is_told_and_nothing_breaks(fresh, monkeypatch):
    def full(self, at, data):
        raise OSError(28, "no room")

    monkeypatch.setattr("storage.homes.partial.Partial.write", full)
    assert fresh.far.get("models", "acme/big").code == "InsufficientStorage"
    monkeypatch.undo()
    assert fresh.far.get("models", "acme/big").body == DATA


def test_what_the_homes_disk_lost_is_still_here(fresh):
    """So a far store is a source for the home's scrubber, also of what was only read there."""
    assert fresh.far.get("models", "acme/big").body == DATA
    for blob in fresh.home_store.settings.root.glob("blobs/*/*"):
        blob.unlink()

    assert fresh.home.get("models", "acme/big").status == 500
    assert fresh.far.get("models", "acme/big", if_match="*").body == DATA


# ---- while the home is away


def test_what_was_read_is_given_while_the_home_is_away_and_says_so(fresh):
    fresh.far.get("models", "acme/big")
    fresh.home.put("models", "acme/unread", b"x")
    fresh.link.cut()

    stale = fresh.far.get("models", "acme/big")
    assert stale.body == DATA
    assert int(stale.headers["x-nearfield-stale"]) >= 0
    assert fresh.far.send("HEAD", PATH).headers["content-length"] == str(SIZE)
    assert fresh.far.get("models", "acme/unread").code == "ServiceUnavailable"
    fresh.stop_far()
    fresh.start_far()
    again = fresh.far.get("models", "acme/big")
    assert (again.body, again.headers["x-nearfield-stale"]) == (DATA, "unknown")
    fresh.link.mend()
    assert "x-nearfield-stale" not in fresh.far.get("models", "acme/big").headers
    assert fresh.link.body_bytes[PATH] == SIZE


def test_a_home_that_says_nothing_is_away_too(fresh, monkeypatch):
    """Packets are lost and nothing is refused: each read would else wait for as long as the line is silent."""
    fresh.far.get("models", "acme/big")
    monkeypatch.setattr("storage.homes.origin.LOOK_S", 0.2)
    said = threading.Event()
    fresh.link.before = lambda head: said.wait(60)
    stale = fresh.far.get("models", "acme/big")
    said.set()

    assert stale.body == DATA
    assert "x-nearfield-stale" in stale.headers


def test_who_wrote_here_reads_no_older_version_here(fresh):
    fresh.far.get("models", "acme/big")
    assert fresh.far.put("models", "acme/big", b"new").status == 200
    fresh.link.cut()

    assert fresh.far.get("models", "acme/big").code == "ServiceUnavailable"


@pytest.mark.parametrize("restart", [False, True])
def test_deletions_and_overwrites_of_a_cut_are_heard_after_it(fresh, restart):
    """Also by a store that was down: the home's outbox has the tombstones."""
    for key in ("gone", "new", "same"):
        fresh.home.put("models", key, b"old")
        fresh.far.get("models", key)
    until(lambda: len(list(fresh.copies.glob("*.data"))) == 3, "kept")
    until((fresh.copies / "feed-models").exists, "followed")
    if restart:
        fresh.stop_far()
    fresh.link.cut()
    fresh.home.delete("models", "gone")
    fresh.home.put("models", "new", b"new")
    if restart:
        fresh.start_far()
    assert fresh.far.get("models", "gone").body == b"old", "nobody can know yet"

    fresh.link.mend()
    until(lambda: len(list(fresh.copies.glob("*.data"))) == 1, "heard")
    fresh.link.cut()
    assert fresh.far.get("models", "gone").code == "ServiceUnavailable"
    assert fresh.far.get("models", "new").code == "ServiceUnavailable"
    assert fresh.far.get("models", "same").body == b"old"


def test_a_home_that_began_anew_is_compared_with(fresh):
    """The place in the feed is of another life of the home: each copy is looked at."""
    for key in ("gone", "same"):
        fresh.home.put("models", key, b"old")
        fresh.far.get("models", key)
    fresh.stop_far()
    fresh.home.delete("models", "gone")
    (fresh.copies / "feed-models").write_text('{"seq": 100000}')
    fresh.start_far()

    until(lambda: len(list(fresh.copies.glob("*.data"))) == 1, "compared")
    fresh.link.cut()
    assert fresh.far.get("models", "same").body == b"old"


def test_a_policy_at_the_home_is_obeyed_from_then_on(both):
    """What was kept before is not given past it; a bucket without one is read from the copy again."""
    both.home.put("models", "acme/judged", b"weights")
    with Raw(both.far_store.endpoint(READER)) as reader:
        assert reader.get("models", "acme/judged").body == b"weights"
        deny = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "s3:GetObject",
                    "Resource": "arn:aws:s3:::models/acme/judged",
                }
            ],
        }
        assert both.home.send("PUT", "/models", "policy=", {}, json.dumps(deny).encode()).status == 204
        assert reader.get("models", "acme/judged").status == 403
        assert both.home.send("DELETE", "/models", "policy=").status == 204
        assert reader.get("models", "acme/judged").body == b"weights"


def test_who_has_no_grant_is_sent_to_the_home(both):
    both.home.put("models", "elsewhere/open", b"1", x_amz_acl="authenticated-read")
    with Raw(both.home_store.endpoint(TENANT)) as near, Raw(both.far_store.endpoint(TENANT)) as far:
        assert near.get("models", "elsewhere/open").body == b"1"
        refused = far.get("models", "elsewhere/open")

    assert refused.code == "AccessDenied"
    assert b"home region" in refused.body
