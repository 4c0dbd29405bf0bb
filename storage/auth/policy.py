"""Bucket policies: a document becomes a Policy once, at the wall; what it decides is pure. Explicit denial wins.

Refused rather than half understood: NotPrincipal, NotAction, NotResource, policy variables, set operators, and
condition keys that no request here carries.
Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-policy-language-overview.html
"""

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from storage.auth.key import Identity
from storage.auth.operators import Test, glob, make_test
from storage.fault import S3Error

MAX_POLICY_BYTES = 20 * 1024  # S3's limit
MAX_TEXTS = 256  # actions, resources and values; more only slow every request down
MAX_WILDCARDS = 512  # likewise, and each is compiled when the policy is read
ARN = "arn:aws:s3:::"
OLD_TAG = "s3:existingobjecttag/"
NEW_TAG = "s3:requestobjecttag/"
SOURCE_IP = "aws:sourceip"
KEYS = frozenset(  # those that storage.authority can tell of a request, in lower case
    {
        "aws:referer",
        SOURCE_IP,
        "aws:useragent",
        "aws:username",
        "s3:delimiter",
        "s3:max-keys",
        "s3:prefix",
        "s3:versionid",
        "s3:x-amz-acl",
        "s3:x-amz-content-sha256",
        "s3:x-amz-copy-source",
        "s3:x-amz-grant-full-control",
        "s3:x-amz-grant-read",
        "s3:x-amz-grant-read-acp",
        "s3:x-amz-grant-write",
        "s3:x-amz-grant-write-acp",
        "s3:x-amz-metadata-directive",
        "s3:x-amz-server-side-encryption",
        "s3:x-amz-storage-class",
    }
)
_VERSIONS = frozenset({"2012-10-17", "2008-10-17"})
_ELEMENTS = frozenset({"Sid", "Effect", "Principal", "Action", "Resource", "Condition"})
_ACCOUNT = re.compile(r"arn:aws:iam::([^:*]*):(?:root|user/(?:.*/)?([^/*]+))")
_NARROWEST = {4: 8, 6: 32}  # S3's own bound: a network of fewer bits is as good as everybody
_EVERYBODY = "*"


class Verdict(Enum):
    """What a policy says to one request."""

    DENY = "Deny"
    ALLOW = "Allow"
    NOTHING = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one key. `values` stay for the question whether they narrow."""

    operator: str
    key: str
    values: tuple[str, ...]
    holds: Callable[[str | None], bool]

    @property
    def narrows(self) -> bool:
        """True if it leaves only known addresses."""
        if self.operator != "IpAddress" or self.key != SOURCE_IP:
            return False
        networks = [ipaddress.ip_network(value, strict=False) for value in self.values]
        return all(network.prefixlen >= _NARROWEST[network.version] for network in networks)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, its patterns compiled."""

    effect: Verdict
    principals: frozenset[str]
    actions: tuple[Test, ...]
    resources: tuple[Test, ...]
    conditions: tuple[Condition, ...]

    @property
    def num_texts(self) -> int:
        """How much there is to compare with a request."""
        num_values = sum(len(condition.values) for condition in self.conditions)
        return len(self.actions) + len(self.resources) + num_values

    @property
    def public(self) -> bool:
        """True if it allows something to everybody, wherever they are."""
        everybody = self.effect is Verdict.ALLOW and _EVERYBODY in self.principals
        return everybody and not any(condition.narrows for condition in self.conditions)

    def is_about(self, identity: Identity, action: str, resource: str, context: Mapping[str, str]) -> bool:
        """True if it speaks of this request."""
        named = _EVERYBODY in self.principals or (identity.user and identity.user in self.principals)
        return bool(
            named
            and any(test(action) for test in self.actions)
            and any(test(resource) for test in self.resources)
            and all(condition.holds(context.get(condition.key)) for condition in self.conditions)
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """One bucket's policy."""

    statements: tuple[Statement, ...]

    @property
    def public(self) -> bool:
        """True if any statement is."""
        return any(statement.public for statement in self.statements)

    @property
    def reads_tags(self) -> bool:
        """True if deciding needs the tags that an object has."""
        return any(
            condition.key.startswith(OLD_TAG)
            for statement in self.statements
            for condition in statement.conditions
        )

    def decide(self, identity: Identity, action: str, resource: str, context: Mapping[str, str]) -> Verdict:
        """What it says: a denial if there is any, else a permission if there is any."""
        said = {
            statement.effect
            for statement in self.statements
            if statement.is_about(identity, action, resource, context)
        }
        return next((each for each in (Verdict.DENY, Verdict.ALLOW) if each in said), Verdict.NOTHING)


def parse_policy(data: bytes, bucket: str) -> Policy:
    """Raises: S3Error MalformedPolicy, saying what this store does not take."""
    if len(data) > MAX_POLICY_BYTES:
        raise _malformed(f"it has more than {MAX_POLICY_BYTES} bytes")
    try:
        tree = json.loads(data.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _malformed("it is no JSON") from error
    if not isinstance(tree, dict) or not tree.keys() <= {"Version", "Id", "Statement"}:
        raise _malformed("it has a Version and a Statement, and may have an Id")
    if tree.get("Version", "2008-10-17") not in _VERSIONS:
        raise _malformed("Version is 2012-10-17")
    if sum(map(json.dumps(tree).count, "*?")) > MAX_WILDCARDS:
        raise _malformed(f"it has more than {MAX_WILDCARDS} wildcards")
    statements = tree.get("Statement")
    listed = statements if isinstance(statements, list) else [statements]
    if not listed:
        raise _malformed("it has no Statement")
    policy = Policy(tuple(_statement(each, bucket) for each in listed))
    if sum(statement.num_texts for statement in policy.statements) > MAX_TEXTS:
        raise _malformed(f"it names more than {MAX_TEXTS} actions, resources and values")
    return policy


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises: ValueError for a name that comes twice: which one is meant?"""
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name comes twice")
    return dict(pairs)


def _statement(tree: object, bucket: str) -> Statement:
    if not isinstance(tree, dict):
        raise _malformed("a Statement is an object")
    unknown = sorted(tree.keys() - _ELEMENTS)
    if unknown:
        raise _malformed(f"{unknown[0]} is not taken here")
    effect: str = str(tree.get("Effect"))
    if effect not in {"Allow", "Deny"}:
        raise _malformed("Effect is Allow or Deny")
    return Statement(
        Verdict(effect),
        _principals(tree.get("Principal")),
        tuple(_action(text) for text in _texts(tree.get("Action"), "Action")),
        tuple(_resource(text, bucket) for text in _texts(tree.get("Resource"), "Resource")),
        _conditions(tree.get("Condition", {})),
    )


def _texts(tree: object, name: str) -> tuple[str, ...]:
    """One text or a list of them, none of which asks for what is not there."""
    listed = tree if isinstance(tree, list) else [tree]
    texts = tuple(text for text in listed if isinstance(text, str) and text)
    if not texts or len(texts) != len(listed):
        raise _malformed(f"{name} is a text or a list of texts")
    if any("${" in text for text in texts):
        raise _malformed("policy variables are not taken here")
    return texts


def _principals(tree: object) -> frozenset[str]:
    """The users that are named; `*` is everybody. An account of AWS is a user here."""
    if tree == _EVERYBODY:
        return frozenset({_EVERYBODY})
    if not isinstance(tree, dict) or not tree or not tree.keys() <= {"AWS", "CanonicalUser"}:
        raise _malformed("Principal is *, or names AWS or CanonicalUser")
    return frozenset(_principal(text) for each in tree.values() for text in _texts(each, "Principal"))


def _principal(text: str) -> str:
    match = _ACCOUNT.fullmatch(text)
    name = (match[2] or match[1]) if match else text
    if not name or (match is None and text.startswith("arn:")) or (name != _EVERYBODY and "*" in name):
        raise _malformed("a Principal is *, a user, or an arn:aws:iam of one")
    return name


def _action(text: str) -> Test:
    if text != "*" and not text.lower().startswith("s3:"):
        raise _malformed("an Action is * or begins with s3:")
    return glob(text, any_case=True)


def _resource(text: str, bucket: str) -> Test:
    name, _, _ = text.removeprefix(ARN).partition("/")
    if not text.startswith(ARN) or not glob(name)(bucket):
        raise _malformed(f"a Resource is of this bucket: {ARN}{bucket}, or {ARN}{bucket}/*")
    return glob(text)


def _conditions(tree: object) -> tuple[Condition, ...]:
    if not isinstance(tree, dict) or not all(isinstance(keys, dict) for keys in tree.values()):
        raise _malformed("Condition is operators with keys with values")
    return tuple(
        _condition(operator, key, values) for operator, keys in tree.items() for key, values in keys.items()
    )


def _condition(operator: str, raw_key: str, raw_values: object) -> Condition:
    prefix, slash, rest = raw_key.partition("/")
    key = prefix.lower() + slash + rest
    if key not in KEYS and not (rest and key.startswith((OLD_TAG, NEW_TAG))):
        raise _malformed(f"the condition key {raw_key} is not taken here")
    listed = raw_values if isinstance(raw_values, list) else [raw_values]
    values = _texts([_as_text(value) for value in listed], "a condition's value")
    try:
        return Condition(operator, key, values, make_test(operator, values))
    except (KeyError, ValueError) as error:
        raise _malformed(f"the condition {operator} is not taken here, or not with these values") from error


def _as_text(value: object) -> object:
    """JSON's own true, false and numbers, as AWS takes them."""
    return json.dumps(value) if isinstance(value, bool | int | float) else value


def _malformed(why: str) -> S3Error:
    return S3Error("MalformedPolicy", f"This policy is not accepted: {why}.")
