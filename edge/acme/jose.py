"""Requests that an ACME account signs: JWS with ES256 (RFC 7515, RFC 8555 section 6.2); pure."""

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

COORDINATE_BYTES: Final = 32


class KeyFileError(ValueError):
    """The account's key cannot be used."""


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class AccountKey:
    """A P-256 key, and all that is derived from it."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        numbers = key.public_key().public_numbers()
        x, y = (b64(each.to_bytes(COORDINATE_BYTES)) for each in (numbers.x, numbers.y))
        self.jwk: Mapping[str, str] = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
        canonical = json.dumps(self.jwk, sort_keys=True, separators=(",", ":")).encode()
        self.thumbprint = b64(hashlib.sha256(canonical).digest())  # RFC 7638

    @classmethod
    def fresh(cls) -> "AccountKey":
        """A new one."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes) -> "AccountKey":
        """Raises KeyFileError."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise KeyFileError(f"the account's key is not PEM: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise KeyFileError("the account's key is not a P-256 key")
        return cls(key)

    def pem(self) -> bytes:
        """For a file that nobody else may read."""
        form = serialization.PrivateFormat.PKCS8
        return self._key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())

    def txt_value(self, token: str) -> str:
        """What a dns-01 challenge wants to see in the TXT record (RFC 8555, 8.4)."""
        return b64(hashlib.sha256(f"{token}.{self.thumbprint}".encode()).digest())

    def sign(self, url: str, nonce: str, payload: Mapping[str, Any] | None, account: str | None) -> bytes:
        """The body of a POST to `url`; payload None is a POST-as-GET, account None sends the key itself."""
        who: dict[str, Any] = {"jwk": self.jwk} if account is None else {"kid": account}
        protected = b64(json.dumps({"alg": "ES256", "nonce": nonce, "url": url, **who}).encode())
        body = "" if payload is None else b64(json.dumps(payload).encode())
        der = self._key.sign(f"{protected}.{body}".encode(), ec.ECDSA(hashes.SHA256()))
        signature = b"".join(each.to_bytes(COORDINATE_BYTES) for each in decode_dss_signature(der))
        return json.dumps({"protected": protected, "payload": body, "signature": b64(signature)}).encode()
