"""What bucket policies decide, and which documents are no policies here. Nothing listens."""

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.auth.key import ANONYMOUS, Identity
from storage.auth.operators import glob
from storage.auth.policy import MAX_POLICY_BYTES, Verdict, parse_policy
from storage.fault import S3Error

ALICE, BOB, FLEET_KEY = Identity("A", (), "alice"), Identity("B", (), "bob"), Identity("F", ())
BUCKET = "models"
ALL = f"arn:aws:s3:::{BUCKET}/*"


def statement(**changed):
    plain = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": ALL}
    return {name: value for name, value in (plain | changed).items() if value is not None}


def policy(*statements, **more):
    document = {"Version": "2012-10-17", "Statement": list(statements)} | more
    return parse_policy(json.dumps(document).encode(), BUCKET)


def says(found, who=ALICE, action="s3:GetObject", key="acme/a", **context):
    named = {name.replace("__", ":", 1).replace("_", "-"): value for name, value in context.items()}
    return found.decide(who, action, f"arn:aws:s3:::{BUCKET}" + (f"/{key}" if key else ""), named)


@pytest.mark.parametrize(
    ("principal", "who"),
    [
        ("*", {ALICE, BOB, FLEET_KEY, ANONYMOUS}),
        ({"AWS": "*"}, {ALICE, BOB, FLEET_KEY, ANONYMOUS}),
        ({"AWS": "alice"}, {ALICE}),
        ({"CanonicalUser": ["alice", "bob"]}, {ALICE, BOB}),
        ({"AWS": "arn:aws:iam::bob:root"}, {BOB}),
        ({"AWS": ["arn:aws:iam:::user/alice"]}, {ALICE}),
        ({"AWS": "arn:aws:iam::123456789012:user/team/bob"}, {BOB}),
        ({"AWS": "carol"}, set()),
    ],
)
def test_whom_it_names(principal, who):
    found = policy(statement(Principal=principal))

    assert {each for each in (ALICE, BOB, FLEET_KEY, ANONYMOUS) if says(found, each) is Verdict.ALLOW} == who


@pytest.mark.parametrize(
    ("pattern", "action", "named"),
    [
        ("*", "s3:GetObject", True),
        ("s3:*", "s3:GetObject", True),
        ("S3:getobject", "s3:GetObject", True),
        ("s3:Get*", "s3:GetObjectAcl", True),
        ("s3:Get?bject", "s3:GetObject", True),
        ("s3:GetObject", "s3:GetObjectAcl", False),
        (["s3:PutObject", "s3:Get*Acl"], "s3:GetObjectAcl", True),
        ("s3:Get*Acl", "s3:GetObject", False),
    ],
)
def test_which_actions(pattern, action, named):
    found = policy(statement(Action=pattern))

    assert says(found, action=action) is (Verdict.ALLOW if named else Verdict.NOTHING)


@pytest.mark.parametrize(
    ("resource", "key", "named"),
    [
        (ALL, "a/b", True),
        (ALL, "", False),
        (f"arn:aws:s3:::{BUCKET}", "", True),
        (f"arn:aws:s3:::{BUCKET}", "a", False),
        (f"arn:aws:s3:::{BUCKET}/acme/*", "acme/a", True),
        (f"arn:aws:s3:::{BUCKET}/acme/*", "other/a", False),
        (f"arn:aws:s3:::{BUCKET}/[a]", "a", False),
        (f"arn:aws:s3:::{BUCKET}/[a]", "[a]", True),
        ("arn:aws:s3:::*", "a", True),
        (["arn:aws:s3:::mod*", "arn:aws:s3:::*/x"], "x", True),
        (f"arn:aws:s3:::{BUCKET}/?", "\n", True),
    ],
)
def test_which_resources(resource, key, named):
    assert says(policy(statement(Resource=resource)), key=key) is (
        Verdict.ALLOW if named else Verdict.NOTHING
    )


def test_a_denial_wins_wherever_it_stands():
    deny = statement(Effect="Deny", Principal={"AWS": "alice"})

    for found in (policy(statement(), deny), policy(deny, statement())):
        assert (says(found, ALICE), says(found, BOB)) == (Verdict.DENY, Verdict.ALLOW)


REFERER = "aws:Referer"


@pytest.mark.parametrize(
    ("operator", "key", "values", "context", "holds"),
    [
        ("StringEquals", "s3:x-amz-acl", "private", {"s3__x-amz-acl": "private"}, True),
        ("StringEquals", "s3:x-amz-acl", ["a", "private"], {"s3__x-amz-acl": "private"}, True),
        ("StringEquals", "s3:x-amz-acl", "private", {}, False),
        ("StringEqualsIfExists", "s3:x-amz-acl", "private", {}, True),
        ("StringEqualsIfExists", "s3:x-amz-acl", "private", {"s3__x-amz-acl": "public-read"}, False),
        ("StringNotEquals", "s3:x-amz-acl", "private", {}, True),
        ("StringNotEquals", "s3:x-amz-acl", ["a", "private"], {"s3__x-amz-acl": "private"}, False),
        ("StringEqualsIgnoreCase", "AWS:username", "ALICE", {"aws__username": "alice"}, True),
        ("StringLike", "s3:prefix", "public/*", {"s3__prefix": "public/a"}, True),
        ("StringLike", "s3:prefix", "public/*", {"s3__prefix": "private/a"}, False),
        ("StringNotLike", "s3:prefix", "public/*", {"s3__prefix": "private/a"}, True),
        ("StringLikeIfExists", REFERER, "http://a/*", {}, True),
        ("Null", REFERER, "true", {}, True),
        ("Null", REFERER, True, {"aws__referer": "x"}, False),
        ("Null", REFERER, "false", {"aws__referer": "x"}, True),
        ("NumericLessThanEquals", "s3:max-keys", "10", {"s3__max-keys": "10"}, True),
        ("NumericLessThanEquals", "s3:max-keys", 10, {"s3__max-keys": "11"}, False),
        ("NumericLessThanEquals", "s3:max-keys", "10", {"s3__max-keys": "ten"}, False),
        ("NumericNotEquals", "s3:max-keys", "10", {"s3__max-keys": "11"}, True),
        ("IpAddress", "aws:SourceIp", "10.0.0.0/8", {"aws__sourceip": "10.1.2.3"}, True),
        ("IpAddress", "aws:SourceIp", "10.0.0.0/8", {"aws__sourceip": "::ffff:10.1.2.3"}, True),
        ("IpAddress", "aws:SourceIp", "10.0.0.0/8", {"aws__sourceip": "11.1.2.3"}, False),
        ("IpAddress", "aws:SourceIp", "10.0.0.0/8", {"aws__sourceip": ""}, False),
        ("NotIpAddress", "aws:SourceIp", ["10.0.0.0/8", "::1"], {"aws__sourceip": "::1"}, False),
        ("NotIpAddress", "aws:SourceIp", "10.0.0.0/8", {"aws__sourceip": "::1"}, True),
    ],
)
def test_conditions(operator, key, values, context, holds):
    found = policy(statement(Condition={operator: {key: values}}))
    told = {name.replace("__", ":"): value for name, value in context.items()}
    said = found.decide(ALICE, "s3:GetObject", f"arn:aws:s3:::{BUCKET}/k", told)

    assert said is (Verdict.ALLOW if holds else Verdict.NOTHING)


def test_all_conditions_of_a_statement_must_hold():
    both = {"StringEquals": {"s3:x-amz-acl": "private", "s3:ExistingObjectTag/Team": "a"}}
    found = policy(statement(Condition=both))
    context = {"s3:x-amz-acl": "private", "s3:existingobjecttag/Team": "a"}
    where = (ALICE, "s3:GetObject", f"arn:aws:s3:::{BUCKET}/k")

    assert found.reads_tags
    assert found.decide(*where, context) is Verdict.ALLOW
    for name in context:
        assert found.decide(*where, {**context, name: "other"}) is Verdict.NOTHING
    assert found.decide(*where, {**context, "s3:existingobjecttag/Team": "A"}) is Verdict.NOTHING


@pytest.mark.parametrize(
    "changed",
    [
        {"Effect": "Maybe"},
        {"Effect": None},
        {"Principal": None},
        {"Principal": "alice"},
        {"Principal": {}},
        {"Principal": {"Service": "ec2"}},
        {"Principal": {"AWS": []}},
        {"Principal": {"AWS": "al*"}},
        {"Principal": {"AWS": "arn:aws:iam::a:role/x"}},
        {"Principal": None, "NotPrincipal": {"AWS": "alice"}},
        {"Action": None},
        {"Action": []},
        {"Action": "ec2:Run"},
        {"Action": 1},
        {"Action": None, "NotAction": "s3:Get*"},
        {"Resource": None},
        {"Resource": "*"},
        {"Resource": "arn:aws:s3:::other/*"},
        {"Resource": "arn:aws:s3:::model?s"},
        {"Resource": "arn:aws:s3:::models/${aws:username}/*"},
        {"Resource": None, "NotResource": ALL},
        {"Condition": []},
        {"Condition": {"StringEquals": "a"}},
        {"Condition": {"StringEquals": {"s3:x-amz-acl": []}}},
        {"Condition": {"StringEquals": {"s3:x-amz-acl": [None]}}},
        {"Condition": {"StringEquals": {"aws:SecureTransport": "true"}}},
        {"Condition": {"StringEquals": {"s3:ExistingObjectTag/": "true"}}},
        {"Condition": {"Sounds": {"s3:x-amz-acl": "a"}}},
        {"Condition": {"ForAllValues:StringEquals": {"s3:x-amz-acl": "a"}}},
        {"Condition": {"IpAddress": {"aws:SourceIp": "here"}}},
        {"Condition": {"NumericEquals": {"s3:max-keys": "many"}}},
        {"Condition": {"Null": {"aws:Referer": "maybe"}}},
        {"Comment": "no"},
    ],
)
def test_what_is_half_understood_is_refused(changed):
    with pytest.raises(S3Error, match="MalformedPolicy"):
        policy(statement(**changed))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 20_000,
        b'{"Version": "2012-10-17", "Statement": []}',
        b'{"Version": "2012-10-17"}',
        b'{"Version": "2025-01-01", "Statement": [{}]}',
        b'{"Version": "2012-10-17", "Statement": ["a"]}',
        b'{"Statement": [], "Statement": []}',
        json.dumps({"Version": "2012-10-17", "Statement": [statement()]}).encode("utf-16"),
        json.dumps({"Version": "2012-10-17", "Statement": [statement(Sid="s" * MAX_POLICY_BYTES)]}).encode(),
    ],
)
def test_what_is_no_document_is_refused(raw):
    with pytest.raises(S3Error, match="MalformedPolicy"):
        parse_policy(raw, BUCKET)


def test_a_name_that_comes_twice_is_refused():
    """Another reader may take the other one."""
    text = json.dumps({"Version": "2012-10-17", "Statement": [statement()]})

    with pytest.raises(S3Error, match="MalformedPolicy"):
        parse_policy(
            text.replace('"Effect": "Allow"', '"Effect": "Deny", "Effect": "Allow"').encode(), BUCKET
        )


@pytest.mark.parametrize(
    ("changed", "public"),
    [
        ({}, True),
        ({"Effect": "Deny"}, False),
        ({"Principal": {"AWS": "alice"}}, False),
        ({"Principal": {"AWS": ["alice", "*"]}}, True),
        ({"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}, False),
        ({"Condition": {"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "0.0.0.0/1"]}}}, True),
        ({"Condition": {"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}, True),
        ({"Condition": {"IpAddressIfExists": {"aws:SourceIp": "10.0.0.0/8"}}}, True),
        ({"Condition": {"StringLike": {"aws:Referer": "http://a/*"}}}, True),
    ],
)
def test_what_is_public(changed, public):
    assert policy(statement(**changed)).public is public


@given(st.text("ab*?", max_size=8), st.text("ab*?", max_size=8), st.booleans())
def test_patterns_match_what_a_regular_expression_says(pattern, text, any_case):
    wanted = "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern)
    flags = re.DOTALL | (re.IGNORECASE if any_case else 0)

    assert glob(pattern, any_case=any_case)(text) is (re.fullmatch(wanted, text, flags) is not None)
    assert glob(pattern.upper(), any_case=True)(text) is (re.fullmatch(wanted, text, re.DOTALL) is not None)


def test_a_policy_of_very_many_patterns_is_refused():
    assert policy(statement(Action=[f"s3:Get{n}" for n in range(255)]))
    long = f"arn:aws:s3:::{BUCKET}/" + "*a" * 256 + "?b" * 256
    assert policy(statement(Principal={"AWS": "alice"}, Resource=long))
    for changed in (
        {"Action": [f"s3:Get{n}" for n in range(256)]},
        {"Resource": long + "?"},
    ):
        with pytest.raises(S3Error, match="MalformedPolicy"):
            policy(statement(Principal={"AWS": "alice"}, **changed))


@pytest.mark.parametrize("part", ["*a", "*a?"])
def test_matching_does_not_explode(part):
    """Twice the text takes about twice as long, whatever the stars: this one takes years if it is tried each way."""
    test = glob(part * 200 + "*c*b")

    def took(text):
        begun = time.perf_counter()
        assert not test(text)
        return time.perf_counter() - begun

    assert test("a" * 1000 + "cb")
    assert min(took("a" * 1000 + "b") for _ in range(5)) < 40 * min(took("a" * 500 + "b") for _ in range(5))
