import os

import pytest
from botocore.exceptions import ClientError

from tests.storage.stores import Raw, settled_blobs

HERE = {"Bucket": "models", "Key": "copied"}


def begin(s3, **how):
    return s3.create_multipart_upload(**HERE, **how)["UploadId"]


def finish(s3, upload, parts):
    named = [{"PartNumber": number, "ETag": part["ETag"]} for number, part in enumerate(parts, 1)]
    return s3.complete_multipart_upload(**HERE, UploadId=upload, MultipartUpload={"Parts": named})


def used_bytes(store):
    return sum(path.stat().st_size for path in settled_blobs(store.settings.root))


@pytest.mark.parametrize("size", [10, 16 * 1024, 3_000_000])
def test_parts_that_are_copied(small_s3, small_store, size):
    data = os.urandom(size)
    small_s3.put_object(Bucket="models", Key="source", Body=data)
    used = used_bytes(small_store)
    source, third = {"Bucket": "models", "Key": "source"}, size // 3
    upload = small_s3.create_multipart_upload(**HERE)["UploadId"]
    parts = [
        small_s3.upload_part_copy(**HERE, UploadId=upload, PartNumber=n, CopySource=source, **asked)[
            "CopyPartResult"
        ]
        for n, asked in enumerate(
            (
                {"CopySourceRange": f"bytes=0-{third}"},
                {"CopySourceRange": f"bytes={third + 1}-{size - 1}"},
                {},
            ),
            1,
        )
    ]
    finish(small_s3, upload, parts)
    small_s3.delete_object(Bucket="models", Key="source")
    got = small_s3.get_object(**HERE, ChecksumMode="ENABLED")
    second = small_s3.get_object(**HERE, PartNumber=2)

    assert got["Body"].read() == data + data
    assert (second["PartsCount"], second["Body"].read()) == (3, data[third + 1 :])
    assert used_bytes(small_store) - used <= 2 * 16 * 1024


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"CopySourceRange": "bytes=0-10"}, "InvalidRange"),
        ({"CopySourceRange": "bytes=3-1"}, "InvalidArgument"),
        ({"CopySourceRange": "bytes=1-"}, "InvalidArgument"),
        ({"CopySourceIfMatch": '"0"'}, "PreconditionFailed"),
        ({"CopySource": {"Bucket": "models", "Key": "none"}}, "NoSuchKey"),
    ],
)
def test_what_cannot_be_copied(small_s3, asked, code):
    small_s3.put_object(Bucket="models", Key="ten", Body=b"0123456789")
    upload = begin(small_s3)
    source = {"CopySource": {"Bucket": "models", "Key": "ten"}}

    with pytest.raises(ClientError, match=code):
        small_s3.upload_part_copy(**HERE, UploadId=upload, PartNumber=1, **(source | asked))


def test_attributes(small_s3, small_store):
    data = os.urandom(3000)
    small_s3.put_object(Bucket="models", Key="one", Body=data, ChecksumAlgorithm="SHA256")
    upload = begin(small_s3, ChecksumAlgorithm="CRC32")
    parts = [
        small_s3.upload_part(
            **HERE, UploadId=upload, PartNumber=n, Body=data[: n * 1000], ChecksumAlgorithm="CRC32"
        )
        for n in (1, 2, 3)
    ]
    finish(small_s3, upload, parts)
    names = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]
    one = small_s3.get_object_attributes(Bucket="models", Key="one", ObjectAttributes=names)
    many = small_s3.get_object_attributes(**HERE, ObjectAttributes=names, MaxParts=1, PartNumberMarker=1)

    assert one["ObjectSize"] == 3000
    assert set(one["Checksum"]) == {"ChecksumSHA256", "ChecksumType"}
    assert "ObjectParts" not in one
    assert many["ETag"].endswith("-3")
    assert (many["ObjectParts"]["TotalPartsCount"], many["ObjectParts"]["IsTruncated"]) == (3, True)
    shown = {"PartNumber": 2, "Size": 2000, "ChecksumCRC32": parts[1]["ChecksumCRC32"]}
    assert many["ObjectParts"]["Parts"] == [shown]
    with Raw(small_store.endpoint()) as raw:
        assert raw.send("GET", "/models/one", "attributes=").code == "InvalidArgument"
