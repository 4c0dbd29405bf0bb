"""Access control lists: who owns a bucket or an object, and what is granted on it to others. Pure.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/acl-overview.html
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from storage.auth.key import Identity
from storage.fault import S3Error

_GROUPS = "http://acs.amazonaws.com/groups/"
EVERYBODY = _GROUPS + "global/AllUsers"
SIGNED = _GROUPS + "global/AuthenticatedUsers"
GROUPS = frozenset({EVERYBODY, SIGNED})
MAX_GRANTS = 100  # S3's limit for one list
ACL_HEADER = "x-amz-acl"
GRANT_HEADER = "x-amz-grant-"
_BUCKET_OWNER = "<the bucket's owner>"

Knows = Callable[[str], bool]


class Permission(StrEnum):
    """What a list can grant; FULL_CONTROL is all the others."""

    READ = "READ"
    WRITE = "WRITE"
    READ_ACP = "READ_ACP"
    WRITE_ACP = "WRITE_ACP"
    FULL_CONTROL = "FULL_CONTROL"


@dataclass(frozen=True, slots=True)
class AclGrant:
    """One permission of one grantee: a user, or one of GROUPS."""

    grantee: str
    permission: Permission

    @property
    def public(self) -> bool:
        """True if it is everybody's, or everybody's who has any key."""
        return self.grantee in GROUPS


@dataclass(frozen=True, slots=True)
class Acl:
    """An owner and the grants, those of groups first. The owner's own rights do not hang on any grant."""

    owner: str
    grants: tuple[AclGrant, ...]

    @property
    def public(self) -> bool:
        """True if it opens anything to a group."""
        return any(grant.public for grant in self.grants)

    def opens(self, *owners: str) -> bool:
        """True if it grants anything to anybody but these."""
        return any(grant.grantee not in owners for grant in self.grants)

    def permits(self, identity: Identity, permission: Permission, *, ignore_public: bool = False) -> bool:
        """True if a grant to others gives it. A key without a user is in the groups, and is nobody beside.

        What the owner may hangs on ownership, which takes an own grant of the key: a list does not lend it.
        """
        names = {EVERYBODY} if identity.anonymous else {EVERYBODY, SIGNED, identity.user}
        names -= {self.owner} | (GROUPS if ignore_public else frozenset())
        wanted = {permission, Permission.FULL_CONTROL}
        return any(grant.grantee in names and grant.permission in wanted for grant in self.grants)


def private(owner: str) -> Acl:
    """The list of whatever was made without asking for another one."""
    return Acl(owner, (AclGrant(owner, Permission.FULL_CONTROL),))


# Each canned list's grants beside the owner's full control.
CANNED: Mapping[str, tuple[tuple[str, Permission], ...]] = MappingProxyType(
    {
        "private": (),
        "public-read": ((EVERYBODY, Permission.READ),),
        "public-read-write": ((EVERYBODY, Permission.READ), (EVERYBODY, Permission.WRITE)),
        "authenticated-read": ((SIGNED, Permission.READ),),
        "bucket-owner-read": ((_BUCKET_OWNER, Permission.READ),),
        "bucket-owner-full-control": ((_BUCKET_OWNER, Permission.FULL_CONTROL),),
    }
)
GRANT_HEADERS: Mapping[str, Permission] = MappingProxyType(
    {GRANT_HEADER + each.value.lower().replace("_", "-"): each for each in Permission}
)


def make_acl(owner: str, grants: Iterable[AclGrant], knows: Knows) -> Acl:
    """A list as it is kept. Raises: S3Error InvalidArgument for too many grants, or a user whom nobody knows."""
    kept = tuple(dict.fromkeys(sorted(grants, key=lambda grant: not grant.public)))
    unknown = [grant.grantee for grant in kept if not grant.public and not knows(grant.grantee)]
    if unknown:
        raise S3Error(
            "InvalidArgument", "Invalid id", ArgumentName="CanonicalUser/ID", ArgumentValue=unknown[0]
        )
    if len(kept) > MAX_GRANTS:
        raise S3Error("InvalidArgument", f"An ACL has at most {MAX_GRANTS} grants.")
    return Acl(owner, kept)


def canned_acl(name: str, owner: str, bucket_owner: str) -> Acl:
    """Raises: S3Error InvalidArgument for a name that is none of CANNED."""
    if name not in CANNED:
        raise S3Error(
            "InvalidArgument", "The canned ACL is not known.", ArgumentName=ACL_HEADER, ArgumentValue=name
        )
    named = [AclGrant(bucket_owner if who == _BUCKET_OWNER else who, what) for who, what in CANNED[name]]
    return make_acl(owner, [*named, AclGrant(owner, Permission.FULL_CONTROL)], lambda _: True)


def asks_acl(headers: Iterable[tuple[str, str]]) -> bool:
    """True if a request's headers ask for any list."""
    return any(name == ACL_HEADER or name.startswith(GRANT_HEADER) for name, _ in headers)


def acl_from_headers(
    headers: Iterable[tuple[str, str]], owner: str, bucket_owner: str, knows: Knows
) -> Acl | None:
    """The list that a request's headers ask for; None if they ask for none. Raises: S3Error InvalidArgument, ..."""
    asked = [(name, value) for name, value in headers if name == ACL_HEADER or name.startswith(GRANT_HEADER)]
    canned = [value for name, value in asked if name == ACL_HEADER]
    if not asked:
        return None
    if canned and len(asked) > 1:
        raise S3Error("InvalidRequest", "Specifying both Canned ACLs and Header Grants is not allowed")
    if canned:
        return canned_acl(canned[0], owner, bucket_owner)
    return make_acl(owner, [grant for name, value in asked for grant in _header_grants(name, value)], knows)


def _header_grants(name: str, value: str) -> list[AclGrant]:
    """`id="user", uri="group", ...` under one of GRANT_HEADERS."""
    if name not in GRANT_HEADERS:
        raise S3Error("InvalidArgument", f"There is no header {name}.", ArgumentName=name)
    pairs = [part.strip().partition("=") for part in value.split(",")]
    return [AclGrant(grantee(kind, who.strip('"')), GRANT_HEADERS[name]) for kind, _, who in pairs]


def grantee(kind: str, who: str) -> str:
    """Whom an `id`, a `uri` or an `emailAddress` means. Raises: S3Error."""
    if kind.lower() == "emailaddress":
        message = "The email address you provided does not match any account on record."
        raise S3Error("UnresolvableGrantByEmailAddress", message)
    if kind == "uri" and who in GROUPS:
        return who
    if kind == "id" and who and who not in GROUPS:
        return who
    raise S3Error("InvalidArgument", "Invalid group uri or id", ArgumentName=kind, ArgumentValue=who)


def pack_acl(acl: Acl | None) -> str | None:
    """A list as a column."""
    if acl is None:
        return None
    return json.dumps([acl.owner, [[g.grantee, g.permission] for g in acl.grants]], separators=(",", ":"))


def unpack_acl(text: str | None) -> Acl | None:
    """A column as a list."""
    if text is None:
        return None
    owner, grants = json.loads(text)
    return Acl(owner, tuple(AclGrant(who, Permission(what)) for who, what in grants))
