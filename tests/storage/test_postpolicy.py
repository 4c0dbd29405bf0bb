"""Policies of forms: what they let pass. Signatures are checked against boto3's in test_post.py."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest

from storage.auth.postpolicy import parse_policy
from storage.fault import S3Error

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LATER = "2026-05-01T12:00:01Z"


def encoded(conditions, expiration=LATER, **more):
    tree = {"expiration": expiration, "conditions": conditions} | more
    return base64.b64encode(json.dumps(tree).encode()).decode()


def checked(conditions, fields, expiration=LATER, now=NOW):
    parse_policy(encoded([{"bucket": "models"}, *conditions], expiration)).check(fields, "models", now)


@pytest.mark.parametrize(
    ("conditions", "fields"),
    [
        ([{"key": "a"}], {"key": "a"}),
        ([{"KEY": "a"}, ["eq", "$acl", "private"]], {"key": "a", "acl": "private"}),
        ([["starts-with", "$key", "user/"]], {"key": "user/a"}),
        ([["StArTs-WiTh", "$kEy", ""]], {"key": "anything"}),
        ([["starts-with", "$Content-Type", "image/"]], {"content-type": "image/png,image/jpeg"}),
        ([{"key": "a", "acl": "b"}], {"key": "a", "acl": "b"}),
        ([{"key": "a"}], {"key": "a", "policy": "p", "x-amz-signature": "s", "x-ignore-me": "x"}),
        ([{"key": "a"}], {"key": "a", "x-amz-checksum-sha256": "cannot widen anything"}),
    ],
)
def test_what_is_allowed(conditions, fields):
    checked(conditions, fields)


@pytest.mark.parametrize(
    ("conditions", "fields"),
    [
        ([{"key": "a"}], {"key": "b"}),
        ([{"key": "a"}], {"key": "a", "acl": "private"}),
        ([{"key": "a"}, {"acl": "private"}], {"key": "a"}),
        ([["starts-with", "$key", "user/"]], {"key": "other/user/"}),
        ([["eq", "$key", "a"]], {"key": "ab"}),
        ([{"key": "a"}, {"bucket": "other"}], {"key": "a"}),
        ([["starts-with", "$content-type", "image/"]], {"content-type": "image/png, text/html"}),
        ([{"key": "a"}], {"key": "a", "x-amz-algorithm": "AWS4-HMAC-SHA256"}),
    ],
)
def test_what_is_denied(conditions, fields):
    with pytest.raises(S3Error, match="AccessDenied"):
        checked(conditions, fields)


def test_a_bucket_that_no_condition_names_is_denied():
    with pytest.raises(S3Error, match="Extra input fields: bucket"):
        parse_policy(encoded([{"key": "a"}])).check({"key": "a"}, "models", NOW)


def test_it_ends_when_it_says():
    checked([], {}, now=NOW + timedelta(seconds=1))
    with pytest.raises(S3Error, match=r"Policy expired\."):
        checked([], {}, now=NOW + timedelta(seconds=1, microseconds=1))


def test_the_narrowest_range_counts():
    policy = parse_policy(encoded([["content-length-range", 1, 100], ["content-length-range", "5", 50]]))

    assert (policy.least_bytes, policy.most_bytes) == (5, 50)
    assert parse_policy(encoded([])).most_bytes is None


@pytest.mark.parametrize(
    "policy",
    [
        "",
        "no base64!",
        base64.b64encode(b"no json").decode(),
        base64.b64encode(b"\xff\xfe").decode(),
        base64.b64encode(b"[" * 12_000).decode(),
        base64.b64encode(b"[]").decode(),
        encoded({}),
        encoded([{}]),
        encoded([{"key": 1}]),
        encoded(["key"]),
        encoded([["eq", "$key"]]),
        encoded([["eq", "key", "a"]]),
        encoded([["ends-with", "$key", "a"]]),
        encoded([["content-length-range", 1]]),
        encoded([["content-length-range", -1, 0]]),
        encoded([["content-length-range", 0, True]]),
        encoded([["content-length-range", 0, 1e3]]),
        encoded([], expiration=None),
        encoded([], expiration="2026-05-01"),
        encoded([], expiration="2026-05-01T12:00:00"),
        encoded([], expiration="soon"),
    ],
)
def test_what_is_no_policy(policy):
    with pytest.raises(S3Error, match="InvalidPolicyDocument"):
        parse_policy(policy)
