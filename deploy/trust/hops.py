"""Mutual TLS between the fleet's own machines: an authority that every host derives, certificates that live a day.

Whoever holds the root key is of the fleet; the authority's key is derived from it, so each host signs for itself and
nothing secret travels. A certificate and its key are in memory only, and are made anew three times in their life.
"""

import asyncio
import datetime as dt
import logging
import os
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wire.secured.tls import ALPN, hop_name

LIFETIME = dt.timedelta(
    hours=24
)  # what a stolen certificate is good for at most; no list of revoked ones is needed
RENEWALS = 3  # in a lifetime: two may fail
SKEW = dt.timedelta(minutes=5)  # by which a peer's clock may be behind
AUTHORITY_LIFE = dt.timedelta(
    days=3650
)  # seen by this process alone: peers have one of their own, of the same key
AUTHORITY = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Nearfield fleet authority")])
# The order of P-256's base point (SEC 2, 2.4.2): private keys are 1 to this less one.
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
DERIVED_BYTES = 48  # 128 bits more than the order has: what is left of it is even (FIPS 186-5, A.2.1)

log = logging.getLogger("nearfield.deploy")


def authority_key(root: bytes) -> ec.EllipticCurvePrivateKey:
    """The fleet authority's key, the same on every host with this root key."""
    wide = HKDF(hashes.SHA256(), DERIVED_BYTES, salt=None, info=b"nearfield hop authority 1").derive(root)
    return ec.derive_private_key(int.from_bytes(wide) % (P256_ORDER - 1) + 1, ec.SECP256R1())


class Hops:
    """The contexts of one role's private connections: `server` to listen with, `client` to dial with."""

    def __init__(self, root: bytes, role: str, name: str) -> None:
        self._key = authority_key(root)
        self._name = hop_name(role, name)
        self.server = _context(ssl.PROTOCOL_TLS_SERVER)
        self.client = _context(ssl.PROTOCOL_TLS_CLIENT)
        now = dt.datetime.now(dt.UTC)
        authority = _authority(self._key, now).public_bytes(serialization.Encoding.PEM)
        for context in (self.server, self.client):
            context.load_verify_locations(cadata=authority.decode())
        self.renew(now)

    def renew(self, now: dt.datetime) -> None:
        """A new certificate for every connection made from here on; those that stand keep theirs."""
        pair = self._pair(now)
        for context in (self.server, self.client):
            _load(context, pair)

    async def keep(self, every: dt.timedelta = LIFETIME / RENEWALS) -> None:
        """Renew until cancelled."""
        while True:
            await asyncio.sleep(every.total_seconds())
            self.renew(dt.datetime.now(dt.UTC))
            log.info("%s has a new certificate", self._name)

    def _pair(self, now: dt.datetime) -> bytes:
        """A certificate and its key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        certificate = (
            _builder(x509.Name([]), key.public_key(), now, LIFETIME)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(self._name)]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        encoding = serialization.Encoding.PEM
        private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return certificate.public_bytes(encoding) + private


def _authority(key: ec.EllipticCurvePrivateKey, now: dt.datetime) -> x509.Certificate:
    return (
        _builder(AUTHORITY, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )


def _context(protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # both ends are ours
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(ALPN)
    return context


def _load(context: ssl.SSLContext, pair: bytes) -> None:
    """The ssl module reads certificates from files alone: this one is memory, and gone when it was read."""
    descriptor = os.memfd_create("nearfield-hop", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pair)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, life: dt.timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(AUTHORITY)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + life)
    )
