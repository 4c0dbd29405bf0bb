"""What a bucket says about access, read once and kept until a commit changes anything of the kind.

So a request on a bucket that has been used before asks the index nothing to find that it has no policy.
"""

import sqlite3

from storage.auth.access import BucketAccess
from storage.auth.acl import Acl, private, unpack_acl
from storage.auth.policy import parse_policy
from storage.index.database import Index, Transaction
from storage.index.settings import drop_setting, find_setting, put_setting

ACL = "acl"
POLICY = "policy"
SWITCHES = "public-access"
MIXED = "mixed"
MAX_KEPT = 256  # buckets; the largest policy compiles to about 200 KB

_QUERY = (
    "SELECT b.owner, s.name, s.document FROM buckets b LEFT JOIN settings s"
    " ON s.bucket = b.name AND s.name IN (?, ?, ?, ?) WHERE b.name = ?"
)


def read_access(db: sqlite3.Connection, bucket: str) -> BucketAccess | None:
    """What stands in the index; None if there is no such bucket."""
    rows = db.execute(_QUERY, (ACL, POLICY, SWITCHES, MIXED, bucket)).fetchall()
    if not rows:
        return None
    owner = str(rows[0][0])
    said = {name: document for _, name, document in rows if name is not None}
    return BucketAccess(
        owner,
        unpack_acl(said.get(ACL)) or private(owner),
        parse_policy(said[POLICY].encode(), bucket) if POLICY in said else None,
        frozenset(said.get(SWITCHES, "").split()),
        MIXED in said,
    )


def put_access(tx: Transaction, bucket: str, name: str, document: str) -> None:
    """Set one of ACL, POLICY, SWITCHES and MIXED."""
    put_setting(tx.db, bucket, name, document)
    tx.access_changed = True


def drop_access(tx: Transaction, bucket: str, name: str) -> None:
    """Unset it, if it is set."""
    drop_setting(tx.db, bucket, name)
    tx.access_changed = True


def kept_acl(tx: Transaction, bucket: str, owner: str, acl: Acl | None) -> Acl | None:
    """The list to write beside an object, none if it says what holds anyway; any other makes the bucket mixed."""
    if acl is None or acl == private(owner):
        return None
    if find_setting(tx.db, bucket, MIXED) is None:
        put_access(tx, bucket, MIXED, "1")
    return acl


class Accesses:
    """What was read, by bucket, since the last change of access. On the event loop only."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._kept: dict[str, BucketAccess] = {}
        self._at = index.num_access_changes

    def find(self, bucket: str) -> BucketAccess | None:
        """What holds for a bucket now; None if there is none."""
        now = self._index.num_access_changes  # before anything is read: what is read is at least as new
        if now != self._at:
            self._kept.clear()
            self._at = now
        found = self._kept.get(bucket)
        if found is None:
            found = read_access(self._index.reader(), bucket)
            if found is not None:
                self._keep(bucket, found)
        return found

    def _keep(self, bucket: str, access: BucketAccess) -> None:
        if len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[bucket] = access
