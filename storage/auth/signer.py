"""Signature Version 4, the caller's side: headers and presigned queries of one access key."""

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from storage.auth.canonical import (
    ALGORITHM,
    UNRESERVED,
    Claim,
    Headers,
    PayloadKind,
    Signable,
    canonical_request,
    sign_canonical,
    signing_key,
)


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs requests of one access key for one region."""

    access_key: str
    secret: str
    region: str

    def sign(self, request: Signable, payload: str, now: datetime) -> Headers:
        """`request.headers` (with host) and x-amz-date, x-amz-content-sha256 and authorization."""
        at = now.strftime("%Y%m%dT%H%M%SZ")
        headers = (*request.headers, ("x-amz-content-sha256", payload), ("x-amz-date", at))
        names = tuple(sorted({name for name, _ in headers}))
        claim = Claim(self.access_key, at[:8], self.region, at, names, "", payload)
        signature = self._signature(Signable(request.method, request.path, request.query, headers), claim)
        authorization = (
            f"{ALGORITHM} Credential={self.access_key}/{claim.scope}, "
            f"SignedHeaders={';'.join(names)}, Signature={signature}"
        )
        return (*headers, ("authorization", authorization))

    def presign(self, request: Signable, expires_s: int, now: datetime) -> str:
        """The query that lets anyone who holds it send `request` for `expires_s` seconds."""
        at = now.strftime("%Y%m%dT%H%M%SZ")
        names = tuple(sorted({name for name, _ in request.headers}))
        payload = PayloadKind.UNSIGNED.value
        claim = Claim(self.access_key, at[:8], self.region, at, names, "", payload, expires_s)
        fields = {
            "X-Amz-Algorithm": ALGORITHM,
            "X-Amz-Credential": f"{self.access_key}/{claim.scope}",
            "X-Amz-Date": at,
            "X-Amz-Expires": str(expires_s),
            "X-Amz-SignedHeaders": ";".join(names),
        }
        added = "&".join(f"{name}={quote(value, safe=UNRESERVED)}" for name, value in fields.items())
        query = f"{request.query}&{added}" if request.query else added
        signature = self._signature(Signable(request.method, request.path, query, request.headers), claim)
        return f"{query}&X-Amz-Signature={signature}"

    def _signature(self, request: Signable, claim: Claim) -> str:
        key = signing_key(self.secret, claim.date, self.region)
        return sign_canonical(key, claim, canonical_request(request, claim.signed_headers, claim.payload))
