import sqlite3

import pytest
from botocore.exceptions import ClientError

from storage.auth.access import BucketAccess
from storage.auth.acl import private
from storage.fault import S3Error, StoreBroken
from storage.index.access import read_access
from storage.index.buckets import create_bucket
from storage.index.columns import SCHEMA
from storage.index.conditions import Conditions
from storage.index.database import Index
from storage.index.objects import delete_object, delete_version, put_object
from storage.index.outbox import lines_after
from storage.index.reads import demand_upload
from storage.index.rows import Extent, ObjectRow
from storage.index.settings import put_setting
from tests.storage.test_index import check_references


def set_versioning(s3, bucket, state="Enabled"):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": state})


def put(s3, bucket, body, key="k"):
    return s3.put_object(Bucket=bucket, Key=key, Body=body)["VersionId"]


def read(s3, bucket, key="k", **version):
    return s3.get_object(Bucket=bucket, Key=key, **version)["Body"].read()


def code_of(call, **arguments):
    with pytest.raises(ClientError) as failed:
        call(**arguments)
    return failed.value.response["Error"]["Code"]


def test_the_state_of_a_bucket(s3, bucket):
    before = s3.get_bucket_versioning(Bucket=bucket).get("Status")
    set_versioning(s3, bucket)
    enabled = s3.get_bucket_versioning(Bucket=bucket)["Status"]
    set_versioning(s3, bucket, "Suspended")

    assert (before, enabled) == (None, "Enabled")
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Suspended"
    assert code_of(set_versioning, s3=s3, bucket=bucket, state="Off") == "MalformedXML"
    assert code_of(s3.get_bucket_versioning, Bucket="nothing-there") == "NoSuchBucket"


def test_a_bucket_without_versioning_names_no_version(s3, bucket):
    answer = s3.put_object(Bucket=bucket, Key="k", Body=b"1")

    assert "VersionId" not in answer
    assert "VersionId" not in s3.head_object(Bucket=bucket, Key="k")
    assert read(s3, bucket, VersionId="null") == b"1"


@pytest.mark.parametrize("size", [10, 100_000])
def test_every_version_stays_readable_until_it_is_deleted(s3, bucket, size):
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"0" * size)
    set_versioning(s3, bucket)
    second, third = put(s3, bucket, b"1" * size), put(s3, bucket, b"2" * size)

    assert "VersionId" not in first
    assert read(s3, bucket) == b"2" * size
    assert [read(s3, bucket, VersionId=v) for v in ("null", second, third)] == [
        b"0" * size,
        b"1" * size,
        b"2" * size,
    ]
    assert s3.head_object(Bucket=bucket, Key="k", VersionId=second)["VersionId"] == second
    s3.delete_object(Bucket=bucket, Key="k", VersionId=third)
    assert read(s3, bucket) == b"1" * size
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    assert code_of(s3.get_object, Bucket=bucket, Key="k", VersionId="null") == "NoSuchVersion"
    assert code_of(s3.delete_bucket, Bucket=bucket) == "BucketNotEmpty"
    s3.delete_object(Bucket=bucket, Key="k", VersionId=second)
    s3.delete_bucket(Bucket=bucket)


def test_a_delete_leaves_a_marker_and_deleting_the_marker_undoes_it(s3, raw, bucket):
    set_versioning(s3, bucket)
    version = put(s3, bucket, b"1")
    gone = s3.delete_object(Bucket=bucket, Key="k")
    missing = raw.get(bucket, "k")
    refused = raw.send("GET", f"/{bucket}/k", f"versionId={gone['VersionId']}")
    undone = s3.delete_object(Bucket=bucket, Key="k", VersionId=gone["VersionId"])

    assert gone["DeleteMarker"] is True
    assert (missing.code, missing.headers["x-amz-delete-marker"]) == ("NoSuchKey", "true")
    assert (refused.status, refused.code) == (405, "MethodNotAllowed")
    assert (undone["DeleteMarker"], undone["VersionId"]) == (True, gone["VersionId"])
    assert s3.get_object(Bucket=bucket, Key="k")["VersionId"] == version


def test_suspended_versioning_writes_the_null_version(s3, bucket):
    set_versioning(s3, bucket)
    kept = put(s3, bucket, b"kept")
    set_versioning(s3, bucket, "Suspended")
    names = [put(s3, bucket, b"one"), put(s3, bucket, b"two")]
    marker = s3.delete_object(Bucket=bucket, Key="k")
    listed = s3.list_object_versions(Bucket=bucket)

    assert names == ["null", "null"]
    assert marker["VersionId"] == "null"
    assert [line["VersionId"] for line in listed["Versions"]] == [kept]
    assert [(line["VersionId"], line["IsLatest"]) for line in listed["DeleteMarkers"]] == [("null", True)]
    assert put(s3, bucket, b"three") == "null"
    assert "DeleteMarkers" not in s3.list_object_versions(Bucket=bucket)
    assert read(s3, bucket, VersionId=kept) == b"kept"


def test_conditions_are_about_the_version_that_is_read(s3, bucket):
    set_versioning(s3, bucket)
    put(s3, bucket, b"1")
    taken = code_of(s3.put_object, Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*")
    s3.delete_object(Bucket=bucket, Key="k")
    s3.put_object(Bucket=bucket, Key="k", Body=b"3", IfNoneMatch="*")

    assert taken == "PreconditionFailed"
    assert code_of(s3.delete_object, Bucket=bucket, Key="k", IfMatch='"0"') == "PreconditionFailed"
    assert read(s3, bucket) == b"3"


def test_copying_an_old_version_makes_it_new(s3, bucket):
    set_versioning(s3, bucket)
    old = put(s3, bucket, b"old" * 9000)
    put(s3, bucket, b"new")
    source = {"Bucket": bucket, "Key": "k", "VersionId": old}
    answer = s3.copy_object(Bucket=bucket, Key="k", CopySource=source)

    assert answer["CopySourceVersionId"] == old
    assert answer["VersionId"] not in {None, old}
    assert read(s3, bucket) == b"old" * 9000


def test_many_deletes_by_version(s3, bucket):
    set_versioning(s3, bucket)
    version = put(s3, bucket, b"1")
    answer = s3.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": "k", "VersionId": version}, {"Key": "never"}]}
    )

    by_key = {line["Key"]: line for line in answer["Deleted"]}
    assert by_key["k"] == {"Key": "k", "VersionId": version}
    assert by_key["never"]["DeleteMarker"] is True


def everything(s3, bucket, size, **asked):
    pages = s3.get_paginator("list_object_versions").paginate(
        Bucket=bucket, PaginationConfig={"PageSize": size}, **asked
    )
    seen, prefixes = [], []
    for page in pages:
        seen += page.get("Versions", []) + page.get("DeleteMarkers", [])
        prefixes += [line["Prefix"] for line in page.get("CommonPrefixes", [])]
    return seen, prefixes


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_pages_of_versions_together_are_the_list(s3, bucket, size):
    s3.put_object(Bucket=bucket, Key="a b", Body=b"0")
    set_versioning(s3, bucket)
    for key in ("a b", "a b", "d/1", "d/2", "z"):
        put(s3, bucket, b"x", key)
    s3.delete_object(Bucket=bucket, Key="z")
    seen, _ = everything(s3, bucket, size)
    short, prefixes = everything(s3, bucket, size, Delimiter="/", EncodingType="url")
    under, _ = everything(s3, bucket, size, Prefix="d/")

    names = sorted((line["Key"], line["VersionId"]) for line in seen)
    assert len(set(names)) == len(names) == 7
    assert sorted(line["Key"] for line in seen if line["IsLatest"]) == ["a b", "d/1", "d/2", "z"]
    assert sorted({line["Key"] for line in short}) == ["a%20b", "z"]
    assert prefixes == ["d/"]
    assert sorted(line["Key"] for line in under) == ["d/1", "d/2"]


def test_a_reader_that_deletes_as_it_pages_reaches_the_end(s3, bucket):
    for key in "abcde":
        s3.put_object(Bucket=bucket, Key=key, Body=b"0")
    marks = {}
    while True:
        page = s3.list_object_versions(Bucket=bucket, MaxKeys=2, **marks)
        for line in page["Versions"]:
            s3.delete_object(Bucket=bucket, Key=line["Key"], VersionId=line["VersionId"])
        if not page["IsTruncated"]:
            break
        marks = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}

    s3.delete_bucket(Bucket=bucket)


def test_bad_version_lists(raw):
    for query in ("versions=&version-id-marker=a", "versions=&key-marker=a&version-id-marker=zz"):
        assert raw.send("GET", "/models", query).code == "InvalidArgument"


def row(key, etag, *blobs):
    return ObjectRow("models", key, 10, etag, 0, (), tuple(Extent(blob, 0, 10, 7) for blob in blobs))


def test_references_through_all_that_versions_do(tmp_path):
    index = Index(tmp_path / "meta.db")
    dead = []
    index.on_dead = dead.extend

    def run(apply):
        done = index.commit(apply).result()
        check_references(index.reader())
        return done

    run(lambda tx: create_bucket(tx, "models"))
    run(lambda tx: put_object(tx, row("k", "e0", "b0")))
    run(lambda tx: put_setting(tx.db, "models", "versioning", "Enabled"))
    second = run(lambda tx: put_object(tx, row("k", "e1", "b1", "b0")))
    run(lambda tx: put_setting(tx.db, "models", "versioning", "Suspended"))
    run(lambda tx: put_object(tx, row("k", "e2", "b2")))
    assert dead == []  # the null version went, but b0 has another name
    run(lambda tx: delete_object(tx, "models", "k"))
    assert dead == ["b2"]
    with pytest.raises(S3Error, match="PreconditionFailed"):
        run(lambda tx: delete_version(tx, "models", "k", second.version, Conditions(("other",))))
    run(lambda tx: delete_version(tx, "models", "k", second.version))
    run(lambda tx: delete_version(tx, "models", "k", "null"))

    assert sorted(dead) == ["b0", "b1", "b2"]
    index.close()


_LATER = {  # what each layout added to the schema, as it is written there
    2: ("version TEXT NOT NULL DEFAULT 'null', parts TEXT NOT NULL DEFAULT '[]',",),
    3: (" acl TEXT,", ",\n    acl TEXT", ", owner TEXT NOT NULL DEFAULT 'nearfield'"),
}


def layout(number):
    """The schema as the releases of that layout wrote it."""
    text = SCHEMA
    for later in range(3, number, -1):
        for added in _LATER[later]:
            assert added in text
            text = text.replace(added, "")
    tables = text.split(";")
    return ";".join(t for t in tables if number > 1 or ("versions" not in t and "settings" not in t))


def old_index(path, number):
    """An index of that layout with one bucket, one object and one upload in it."""
    db = sqlite3.connect(path)
    db.executescript(layout(number))
    db.execute("INSERT INTO buckets (name, created_ms) VALUES ('models', 0)")
    db.execute(
        "INSERT INTO objects (bucket, key, size, etag, modified_ms, seq, num_parts, headers, extents)"
        " VALUES ('models', x'6b', 10, 'e', 0, 1, 0, '[]', '[[\"b\",0,10,7]]')"
    )
    db.execute(
        "INSERT INTO uploads (id, bucket, key, created_ms, headers, slab)"
        " VALUES ('u', 'models', x'6b', 0, '[]', 's')"
    )
    db.execute("INSERT INTO blobs VALUES ('b', 1), ('s', 1)")
    db.execute(f"PRAGMA user_version = {number if number > 1 else 0}")
    db.commit()
    db.close()


@pytest.mark.parametrize("number", [1, 2])
def test_an_index_of_an_older_layout_is_brought_up_to_date(tmp_path, number):
    old_index(tmp_path / "meta.db", number)

    for _ in range(2):
        index = Index(tmp_path / "meta.db")
        reader = index.reader()
        check_references(reader)
        assert reader.execute("SELECT version, parts, acl FROM objects").fetchall() == [("null", "[]", None)]
        assert reader.execute("SELECT owner FROM buckets").fetchall() == [("nearfield",)]
        assert demand_upload(reader, "models", "k", "u").acl is None
        assert read_access(reader, "models") == BucketAccess("nearfield", private("nearfield"))
        index.close()


def test_an_index_of_the_second_layout_tells_of_what_it_did_not_name_before(tmp_path):
    """Lines of before have no name for an event, so no webhook is told of them; those of now have."""
    named = ",\n    name TEXT NOT NULL DEFAULT '', version TEXT NOT NULL DEFAULT ''"
    assert named in SCHEMA
    db = sqlite3.connect(tmp_path / "meta.db")
    db.executescript(SCHEMA.replace(named, ""))
    db.execute("INSERT INTO events VALUES (1, 'models', x'6b', 'put', 0, 'e', 0)")
    db.execute("PRAGMA user_version = 2")
    db.commit()
    db.close()
    index = Index(tmp_path / "meta.db")
    index.commit(lambda tx: create_bucket(tx, "models")).result()
    index.commit(lambda tx: put_object(tx, ObjectRow("models", "k", 0, "e", 0, (), ()))).result()

    lines = [(line.seq, line.key, line.name) for line in lines_after(index.reader(), 0, 9)]
    assert lines == [(1, "k", ""), (2, "k", "ObjectCreated:Put")]
    index.close()


def test_an_index_of_a_newer_release_is_refused(tmp_path):
    db = sqlite3.connect(tmp_path / "meta.db")
    db.execute("PRAGMA user_version = 99")
    db.close()

    with pytest.raises(StoreBroken, match="newer release"):
        Index(tmp_path / "meta.db")
