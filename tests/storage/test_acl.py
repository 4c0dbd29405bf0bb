import pytest
from botocore.exceptions import ClientError


def test_every_list_is_private(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", ACL="private")
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


def test_what_would_open_it_is_refused(s3, bucket):
    everybody = {"Type": "Group", "URI": "http://acs.amazonaws.com/groups/global/AllUsers"}
    policy = {"Owner": {"ID": "nearfield"}, "Grants": [{"Grantee": everybody, "Permission": "READ"}]}

    with pytest.raises(ClientError, match="NotImplemented"):
        s3.put_bucket_acl(Bucket=bucket, AccessControlPolicy=policy)
    with pytest.raises(ClientError, match="NotImplemented"):
        s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
