"""The policy of a browser's form: who signed it, until when, and what each field may say. Pure: time is an argument.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from storage.auth import sigv2
from storage.auth.canonical import ALGORITHM, PayloadKind, signing_key
from storage.auth.claims import MAX_EXPIRES_S, MAX_SKEW_S, sigv2_is_off
from storage.auth.key import ANONYMOUS
from storage.auth.sigv4 import Verified, Verifier
from storage.checksum import HEADER_PREFIX
from storage.fault import S3Error

Fields = Mapping[str, str]  # lower-case names

UNCOVERED = frozenset({"x-amz-signature", "signature", "awsaccesskeyid", "file", "policy"})
# What needs no condition by its prefix; a checksum can only make the upload fail.
UNCOVERED_PREFIXES = ("x-ignore-", HEADER_PREFIX)
RANGE = "content-length-range"
_SIGNED = frozenset({"policy", "signature", "awsaccesskeyid"})
_SIGNED_PREFIXES = ("x-amz-signature", "x-amz-credential", "x-amz-algorithm", "x-amz-security-token")
SIGV4_FIELDS = ("x-amz-credential", "x-amz-date", "x-amz-signature")


@dataclass(frozen=True, slots=True)
class Condition:
    """What one field must say: exactly `value`, or something that begins with it."""

    field: str
    value: str
    prefix: bool

    def holds(self, said: str) -> bool:
        """True if the field may say so; a list of content types must hold for each."""
        if not self.prefix:
            return said == self.value
        each = [part.strip() for part in said.split(",")] if self.field == "content-type" else [said]
        return all(part.startswith(self.value) for part in each)

    def __str__(self) -> str:
        return json.dumps(["starts-with" if self.prefix else "eq", f"${self.field}", self.value])


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy document, read. `least_bytes` and `most_bytes` bound the file, None where it says nothing."""

    expires: datetime
    conditions: tuple[Condition, ...]
    least_bytes: int | None = None
    most_bytes: int | None = None

    def check(self, fields: Fields, bucket: str, now: datetime) -> None:
        """Every condition holds, and every field has one. Raises: S3Error AccessDenied."""
        if now > self.expires:
            raise _denied("Policy expired.")
        said = {**fields, "bucket": bucket}
        for condition in self.conditions:
            if not condition.holds(said.get(condition.field, "")):
                raise _denied(f"Policy Condition failed: {condition}")
        covered = {condition.field for condition in self.conditions} | UNCOVERED
        extra = sorted(name for name in said.keys() - covered if not name.startswith(UNCOVERED_PREFIXES))
        if extra:
            raise _denied(f"Extra input fields: {', '.join(extra)}")


ANYTHING = Policy(datetime.max.replace(tzinfo=UTC), ())  # what a form says that nobody signed


def parse_policy(encoded: str) -> Policy:
    """Raises: S3Error InvalidPolicyDocument."""
    try:
        tree = json.loads(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON
        raise _invalid("it is not base64 of JSON") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("conditions"), list):
        raise _invalid("it has no list of conditions")
    least, most = _bounds([each for each in tree["conditions"] if _is_range(each)])
    named = tuple(
        condition for each in tree["conditions"] if not _is_range(each) for condition in _read(each)
    )
    return Policy(_time(tree.get("expiration")), named, least, most)


def _time(raw: object) -> datetime:
    try:
        at = datetime.fromisoformat(str(raw))
    except ValueError as error:
        raise _invalid("its expiration is no ISO 8601 time") from error
    if at.tzinfo is None or "T" not in str(raw):
        raise _invalid("its expiration is no ISO 8601 time in UTC")
    return at.astimezone(UTC)


def _is_range(each: object) -> bool:
    return isinstance(each, list) and bool(each) and str(each[0]).lower() == RANGE


def _bounds(ranges: Sequence[list[object]]) -> tuple[int | None, int | None]:
    """The one range that all of them leave."""
    for each in ranges:
        if len(each) != 3 or not all(_is_size(bound) for bound in each[1:]):
            raise _invalid(f"{RANGE} has two sizes in bytes")
    if not ranges:
        return None, None
    return max(int(str(each[1])) for each in ranges), min(int(str(each[2])) for each in ranges)


def _is_size(bound: object) -> bool:
    text = str(bound)
    return not isinstance(bound, bool) and text.isascii() and text.isdigit() and len(text) < 16


def _read(each: object) -> list[Condition]:
    if isinstance(each, dict) and each and all(isinstance(value, str) for value in each.values()):
        return [Condition(name.lower(), value, prefix=False) for name, value in each.items()]
    if not isinstance(each, list) or len(each) != 3 or not all(isinstance(word, str) for word in each):
        raise _invalid("a condition is {field: value} or [operator, $field, value]")
    operator, field, value = each
    if operator.lower() not in {"eq", "starts-with"} or not field.startswith("$"):
        raise _invalid(f"{operator!r} of {field!r} is no condition")
    return [Condition(field[1:].lower(), value, operator.lower() == "starts-with")]


def _invalid(why: str) -> S3Error:
    return S3Error("InvalidPolicyDocument", f"The content of the form does not meet the conditions: {why}.")


def _denied(why: str) -> S3Error:
    return S3Error("AccessDenied", f"Invalid according to Policy: {why}")


def is_unsigned(fields: Fields) -> bool:
    """True if nothing among them looks like a signature or its policy."""
    return not any(name in _SIGNED or name.startswith(_SIGNED_PREFIXES) for name in fields)


def verify_form(verifier: Verifier, fields: Fields, now: datetime) -> Verified:
    """Who signed the policy among `fields`; nobody, if nothing is signed and the store lets strangers in.

    Raises: S3Error AccessDenied, InvalidAccessKeyId, InvalidArgument, NotImplemented, SignatureDoesNotMatch.
    """
    if verifier.anonymous and is_unsigned(fields):
        return Verified(ANONYMOUS, PayloadKind.UNSIGNED, None, None)
    if "policy" not in fields and "x-amz-signature" not in fields and "signature" not in fields:
        raise S3Error("AccessDenied", "Anonymous access is off; sign the form's policy.")
    if "signature" not in fields and "awsaccesskeyid" not in fields:
        return _verify_v4(verifier, fields, now)
    if not verifier.sigv2:
        raise sigv2_is_off()
    return _verify_v2(verifier, fields, now)


def _verify_v4(verifier: Verifier, fields: Fields, now: datetime) -> Verified:
    _demand_fields(fields, ("policy", "x-amz-algorithm", *SIGV4_FIELDS))
    if fields["x-amz-algorithm"] != ALGORITHM:
        raise S3Error("InvalidArgument", f"X-Amz-Algorithm only supports {ALGORITHM}.")
    scope = fields["x-amz-credential"].split("/")
    if len(scope) != 5 or scope[3:] != ["s3", "aws4_request"]:
        raise S3Error("InvalidArgument", "X-Amz-Credential is <key>/<yyyymmdd>/<region>/s3/aws4_request.")
    _check_date(fields["x-amz-date"], scope[1], now)
    verified, secrets = _holder(verifier, scope[0], now)
    policy = fields["policy"].encode()
    signed = [
        hmac.digest(signing_key(secret, scope[1], scope[2]), policy, hashlib.sha256).hex()
        for secret in secrets
    ]
    if not sum(hmac.compare_digest(each.encode(), fields["x-amz-signature"].encode()) for each in signed):
        raise S3Error(
            "SignatureDoesNotMatch", "The signature does not match; check the secret key and the policy."
        )
    return verified


def _verify_v2(verifier: Verifier, fields: Fields, now: datetime) -> Verified:
    _demand_fields(fields, ("policy", "awsaccesskeyid", "signature"))
    verified, secrets = _holder(verifier, fields["awsaccesskeyid"], now)
    sigv2.demand_signer(secrets, [fields["policy"].encode()], fields["signature"])
    return verified


def _demand_fields(fields: Fields, names: Sequence[str]) -> None:
    for name in names:
        if name not in fields:
            message = f"Bucket POST must contain a field named '{name}'."
            raise S3Error("InvalidArgument", message, ArgumentName=name)


def _check_date(at: str, day: str, now: datetime) -> None:
    try:
        signed_at = datetime.strptime(at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise S3Error("InvalidArgument", "X-Amz-Date must be yyyymmddThhmmssZ.") from error
    if at[:8] != day:
        raise S3Error("InvalidArgument", "X-Amz-Date must be of the day of the credential.")
    age = now - signed_at
    if not -timedelta(seconds=MAX_SKEW_S) <= age <= timedelta(seconds=MAX_EXPIRES_S):
        raise S3Error("AccessDenied", "The form was signed in the future, or over seven days ago.")


def _holder(verifier: Verifier, key_id: str, now: datetime) -> tuple[Verified, tuple[str, ...]]:
    found = verifier.keys.find(key_id, now.timestamp())
    if found is None:
        raise S3Error("InvalidAccessKeyId", "The access key id is not known here.")
    return Verified(found[0], PayloadKind.UNSIGNED, None, None), found[1]
