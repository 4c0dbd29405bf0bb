"""A throw-away certificate for localhost and 127.0.0.1, and the authority that signed it."""

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: str, issuer: str, public_key, days: float = 1) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=days))
    )


def make_certificate(
    folder: Path, names: tuple[str, ...] = ("localhost",), *, days: float = 1
) -> tuple[Path, Path, Path]:
    """(certificate, key, authority) as PEM files in `folder`; good for `names` and 127.0.0.1."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = (
        _builder("test authority", "test authority", authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    good_for = [*map(x509.DNSName, names), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    cert = (
        _builder(names[0] if names else "nobody", "test authority", key.public_key(), days)
        .add_extension(x509.SubjectAlternativeName(good_for), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
    pem = serialization.Encoding.PEM
    paths[0].write_bytes(cert.public_bytes(pem))
    paths[1].write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    paths[1].chmod(0o600)
    paths[2].write_bytes(authority.public_bytes(pem))
    return paths
