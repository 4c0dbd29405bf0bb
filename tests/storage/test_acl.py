import pytest
from botocore.exceptions import ClientError

from tests.storage.stores import ALICE, Raw, boto

EVERYBODY = "http://acs.amazonaws.com/groups/global/AllUsers"
SIGNED = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"


@pytest.fixture(scope="module")
def alice(store):
    client = boto(store.endpoint(ALICE))
    yield client
    client.close()


def lines(answer):
    """(who, what) of each grant that an answer shows."""
    return [
        (grant["Grantee"].get("URI") or grant["Grantee"]["ID"], grant["Permission"])
        for grant in answer["Grants"]
    ]


def test_every_list_is_private_at_first(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    lists = [s3.get_bucket_acl(Bucket=bucket), s3.get_object_acl(Bucket=bucket, Key="k")]

    for one in lists:
        assert one["Owner"]["ID"] == "nearfield"
        (grant,) = one["Grants"]
        assert grant["Permission"] == "FULL_CONTROL"
        assert grant["Grantee"] == {"ID": "nearfield", "DisplayName": "nearfield", "Type": "CanonicalUser"}


def test_what_stands_may_be_put_again(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    policy = {name: s3.get_bucket_acl(Bucket=bucket)[name] for name in ("Owner", "Grants")}

    s3.put_bucket_acl(Bucket=bucket, ACL="private")
    s3.put_bucket_acl(Bucket=bucket, AccessControlPolicy=policy)
    s3.put_object_acl(Bucket=bucket, Key="k", AccessControlPolicy=policy)
    with pytest.raises(ClientError, match="NoSuchKey"):
        s3.put_object_acl(Bucket=bucket, Key="none", ACL="private")


FULL = ("alice", "FULL_CONTROL")
CANNED = {
    "private": [FULL],
    "public-read": [(EVERYBODY, "READ"), FULL],
    "public-read-write": [(EVERYBODY, "READ"), (EVERYBODY, "WRITE"), FULL],
    "authenticated-read": [(SIGNED, "READ"), FULL],
}


@pytest.mark.parametrize("name", CANNED)
def test_canned_lists_are_given_back_as_what_they_mean(alice, name):
    bucket = f"canned-{name}"
    alice.create_bucket(Bucket=bucket, ACL=name)
    alice.put_object(Bucket=bucket, Key="k", Body=b"1", ACL=name)
    alice.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/k", ACL=name)
    upload = alice.create_multipart_upload(Bucket=bucket, Key="parts", ACL=name)["UploadId"]
    part = alice.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=1, Body=b"1")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    alice.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload=parts)

    assert lines(alice.get_bucket_acl(Bucket=bucket)) == CANNED[name]
    for key in ("k", "copy", "parts"):
        assert lines(alice.get_object_acl(Bucket=bucket, Key=key)) == CANNED[name]
    alice.put_bucket_acl(Bucket=bucket, ACL="private")
    alice.put_object_acl(Bucket=bucket, Key="k", ACL="private")
    assert lines(alice.get_bucket_acl(Bucket=bucket)) == [FULL]
    assert lines(alice.get_object_acl(Bucket=bucket, Key="k")) == [FULL]


def test_an_overwrite_and_a_copy_begin_private(alice):
    alice.create_bucket(Bucket="begin-private")
    alice.put_object(Bucket="begin-private", Key="k", Body=b"1", ACL="public-read")
    alice.copy_object(Bucket="begin-private", Key="copy", CopySource="begin-private/k")
    alice.put_object(Bucket="begin-private", Key="k", Body=b"2")

    for key in ("k", "copy"):
        assert lines(alice.get_object_acl(Bucket="begin-private", Key=key)) == [FULL]


def test_each_version_has_its_own_list(alice):
    alice.create_bucket(Bucket="versions-acl")
    alice.put_bucket_versioning(Bucket="versions-acl", VersioningConfiguration={"Status": "Enabled"})
    ids = [alice.put_object(Bucket="versions-acl", Key="k", Body=b"1")["VersionId"] for _ in range(2)]
    alice.put_object_acl(Bucket="versions-acl", Key="k", VersionId=ids[0], ACL="public-read")

    found = [lines(alice.get_object_acl(Bucket="versions-acl", Key="k", VersionId=id_)) for id_ in ids]
    assert found == [CANNED["public-read"], [FULL]]
    alice.delete_object(Bucket="versions-acl", Key="k", VersionId=ids[1])
    assert lines(alice.get_object_acl(Bucket="versions-acl", Key="k")) == CANNED["public-read"]


def test_grants_by_header(alice):
    grants = {
        "GrantFullControl": 'id="alice"',
        "GrantRead": f'id=bob, uri="{SIGNED}"',
        "GrantReadACP": "id=bob",
    }
    alice.create_bucket(Bucket="by-header", **grants)
    alice.put_object(Bucket="by-header", Key="k", Body=b"1", **grants)
    wanted = {FULL, ("bob", "READ"), (SIGNED, "READ"), ("bob", "READ_ACP")}

    for answer in (
        alice.get_bucket_acl(Bucket="by-header"),
        alice.get_object_acl(Bucket="by-header", Key="k"),
    ):
        assert answer["Owner"]["ID"] == "alice"
        assert lines(answer)[0] == (SIGNED, "READ")  # groups come first
        assert set(lines(answer)) == wanted


def test_a_document_may_take_every_grant_away(alice):
    alice.create_bucket(Bucket="revoked")
    alice.put_object(Bucket="revoked", Key="k", Body=b"1")
    alice.put_bucket_acl(Bucket="revoked", AccessControlPolicy={"Owner": {"ID": "alice"}, "Grants": []})

    assert "Grants" not in alice.get_bucket_acl(Bucket="revoked") or not lines(
        alice.get_bucket_acl(Bucket="revoked")
    )
    assert alice.get_object(Bucket="revoked", Key="k")["Body"].read() == b"1"  # the owner needs none
    alice.put_bucket_acl(Bucket="revoked", ACL="private")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-amz-acl": "open"}, "InvalidArgument"),
        ({"x-amz-acl": "private", "x-amz-grant-read": "id=bob"}, "InvalidRequest"),
        ({"x-amz-grant-read": "id=nobody"}, "InvalidArgument"),
        ({"x-amz-grant-read": "bob"}, "InvalidArgument"),
        ({"x-amz-grant-read": f"id={EVERYBODY}"}, "InvalidArgument"),
        ({"x-amz-grant-read": "uri=http://acs.amazonaws.com/groups/s3/LogDelivery"}, "InvalidArgument"),
        ({"x-amz-grant-read": "emailAddress=a@example.com"}, "UnresolvableGrantByEmailAddress"),
        ({"x-amz-grant-all": "id=bob"}, "InvalidArgument"),
        ({"x-amz-grant-read": "id="}, "InvalidArgument"),
    ],
)
def test_bad_headers_store_nothing(store, headers, code):
    with Raw(store.endpoint(ALICE)) as raw:
        raw.send("PUT", "/bad-headers")
        refused = [
            raw.send("PUT", "/bad-headers/k", "", headers, b"x"),
            raw.send("POST", "/bad-headers/k", "uploads=", headers),
            raw.send("PUT", "/bad-headers", "acl=", headers),
            raw.send("PUT", "/bad-headers-2", "", headers),
        ]

        assert [answer.code for answer in refused] == [code] * 4
        assert raw.get("bad-headers", "k").status == 404
        assert b"<Upload>" not in raw.send("GET", "/bad-headers", "uploads=").body
        assert raw.send("GET", "/bad-headers-2").code == "NoSuchBucket"


def document(*grants, owner="alice"):
    listed = "".join(f"<Grant>{grant}</Grant>" for grant in grants)
    return (
        f"<AccessControlPolicy><Owner><ID>{owner}</ID></Owner>"
        f"<AccessControlList>{listed}</AccessControlList></AccessControlPolicy>"
    ).encode()


def grant(inner, permission="READ"):
    return f"<Grantee>{inner}</Grantee><Permission>{permission}</Permission>"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "InvalidRequest"),
        (b"<AccessControlPolicy/>", "MalformedXML"),
        (document(owner="bob"), "AccessDenied"),
        (document(grant("<ID>nobody</ID>")), "InvalidArgument"),
        (document(grant("<ID>bob</ID>", "ALL")), "MalformedXML"),
        (document(grant("<ID>bob</ID><URI>x</URI>")), "MalformedXML"),
        (document(grant("")), "MalformedXML"),
        (document("<Permission>READ</Permission>"), "MalformedXML"),
        (document(grant("<URI>http://example.com</URI>")), "InvalidArgument"),
        (document(grant("<EmailAddress>a@b</EmailAddress>")), "UnresolvableGrantByEmailAddress"),
        (
            document(
                *(grant("<ID>bob</ID>", what) for what in ("READ", "WRITE") for _ in range(60)),
                *(grant(f"<ID>u{n}</ID>") for n in range(101)),
            ),
            "InvalidArgument",
        ),
    ],
)
def test_bad_documents_change_nothing(store, body, code):
    with Raw(store.endpoint(ALICE)) as raw:
        raw.send("PUT", "/bad-documents")
        before = raw.send("GET", "/bad-documents", "acl=").body
        refused = raw.send("PUT", "/bad-documents", "acl=", {}, body)

        assert refused.code == code
        assert raw.send("GET", "/bad-documents", "acl=").body == before


def test_to_make_a_bucket_again(s3, alice):
    alice.create_bucket(Bucket="again", ACL="public-read")
    alice.put_object(Bucket="again", Key="k", Body=b"1")
    alice.create_bucket(Bucket="again", ACL="public-read")
    for client, acl in ((alice, "private"), (s3, "public-read")):
        with pytest.raises(ClientError, match="BucketAlreadyExists"):
            client.create_bucket(Bucket="again", ACL=acl)

    assert lines(alice.get_bucket_acl(Bucket="again")) == CANNED["public-read"]
    assert alice.get_object(Bucket="again", Key="k")["Body"].read() == b"1"
