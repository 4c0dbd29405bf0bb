"""What must hold of the object that a write replaces, as If-Match and If-None-Match say it."""

import re
from dataclasses import dataclass

from storage.fault import S3Error


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must hold of the object that a write replaces; decided inside the commit.

    S3's pages say that If-None-Match takes only `*` here; ETags mean what RFC 9110 section 13.1.2 says.
    """

    if_match: tuple[str, ...] = ()
    if_none_match: tuple[str, ...] = ()

    @classmethod
    def parse(cls, if_match: str | None, if_none_match: str | None) -> "Conditions":
        """The conditions of two headers."""
        return cls(parse_etags(if_match), parse_etags(if_none_match))

    def check(self, etag: str | None) -> None:
        """`etag` of the object as it is, None for none. Raises: S3Error PreconditionFailed, NoSuchKey."""
        if etag is not None and {etag, "*"} & set(self.if_none_match):
            raise _failed("If-None-Match")
        if not self.if_match:
            return
        if etag is None:
            raise S3Error("NoSuchKey", "The specified key does not exist.")
        if "*" not in self.if_match and etag not in self.if_match:
            raise _failed("If-Match")


def _failed(condition: str) -> S3Error:
    return S3Error(
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold",
        Condition=condition,
    )


def parse_etags(raw: str | None) -> tuple[str, ...]:
    """The unquoted ETags of an If-Match or If-None-Match header; `*` stays `*`."""
    if raw is None:
        return ()
    return tuple(re.sub(r'^(?:W/)?"|"$', "", part.strip()) for part in raw.split(","))
