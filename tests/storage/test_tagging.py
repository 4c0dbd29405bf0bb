import pytest
from botocore.exceptions import ClientError

from tests.storage.stores import Raw

TWO = {"TagSet": [{"Key": "a", "Value": "1"}, {"Key": "b c", "Value": "ä&="}]}


def tags(s3, bucket, key="k", **version):
    return s3.get_object_tagging(Bucket=bucket, Key=key, **version)["TagSet"]


def test_tags_of_an_object(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", Metadata={"m": "1"})
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=TWO)
    head = s3.head_object(Bucket=bucket, Key="k")

    assert tags(s3, bucket) == TWO["TagSet"]
    assert head["ResponseMetadata"]["HTTPHeaders"]["x-amz-tagging-count"] == "2"
    assert head["Metadata"] == {"m": "1"}
    assert "x-amz-tagging" not in head["ResponseMetadata"]["HTTPHeaders"]
    s3.delete_object_tagging(Bucket=bucket, Key="k")
    assert tags(s3, bucket) == []


def test_tags_come_with_a_write_and_a_copy_keeps_or_replaces_them(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", Tagging="x=1&y")
    source = {"Bucket": bucket, "Key": "k"}
    s3.copy_object(Bucket=bucket, Key="same", CopySource=source)
    s3.copy_object(Bucket=bucket, Key="new", CopySource=source, TaggingDirective="REPLACE", Tagging="z=2")
    s3.copy_object(Bucket=bucket, Key="meta", CopySource=source, MetadataDirective="REPLACE")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="many", Tagging="m=3")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="many", UploadId=upload, PartNumber=1, Body=b"1")
    named = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"], "ChecksumCRC32": part["ChecksumCRC32"]}]}
    s3.complete_multipart_upload(Bucket=bucket, Key="many", UploadId=upload, MultipartUpload=named)

    kept = [{"Key": "x", "Value": "1"}, {"Key": "y", "Value": ""}]
    assert tags(s3, bucket) == tags(s3, bucket, "same") == tags(s3, bucket, "meta") == kept
    assert tags(s3, bucket, "new") == [{"Key": "z", "Value": "2"}]
    assert tags(s3, bucket, "many") == [{"Key": "m", "Value": "3"}]


def test_tags_belong_to_a_version(s3, bucket):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    old = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["VersionId"]
    s3.put_object(Bucket=bucket, Key="k", Body=b"2", Tagging="new=1")
    s3.put_object_tagging(Bucket=bucket, Key="k", VersionId=old, Tagging=TWO)

    assert tags(s3, bucket, VersionId=old) == TWO["TagSet"]
    assert tags(s3, bucket) == [{"Key": "new", "Value": "1"}]


def test_tags_of_a_bucket(s3, bucket):
    with pytest.raises(ClientError, match="NoSuchTagSet"):
        s3.get_bucket_tagging(Bucket=bucket)
    s3.put_bucket_tagging(Bucket=bucket, Tagging=TWO)
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == TWO["TagSet"]
    s3.delete_bucket_tagging(Bucket=bucket)
    with pytest.raises(ClientError, match="NoSuchTagSet"):
        s3.get_bucket_tagging(Bucket=bucket)


@pytest.mark.parametrize(
    "pairs",
    [
        [("k" * 129, "v")],
        [("k", "v" * 257)],
        [("k", "1"), ("k", "2")],
        [(f"k{n}", "v") for n in range(11)],
    ],
)
def test_bad_tags(s3, bucket, pairs):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    document = {"TagSet": [{"Key": key, "Value": value} for key, value in pairs]}

    with pytest.raises(ClientError, match="InvalidTag"):
        s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=document)
    assert tags(s3, bucket) == []


def test_bad_tag_headers_write_nothing(store, raw, bucket):
    for line in ("=1", "a=1&a=2", "k" * 129):
        assert raw.put(bucket, "k", b"1", x_amz_tagging=line).code == "InvalidTag"
    assert raw.get(bucket, "k").status == 404
    with Raw(store.endpoint()) as other:
        answer = other.send("PUT", f"/{bucket}/k", "tagging=", {}, b"<Tagging/>")
    assert answer.code == "MalformedXML"
