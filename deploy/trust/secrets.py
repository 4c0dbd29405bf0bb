"""What a host keeps secret: the cluster's root key, its region's signing key, and what derives from them."""

import configparser
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from deploy.faults import NOT_YOURS

ROOT_KEY_BYTES = 32
PRIVATE_FILE_MODE = 0o600


class SecretsError(Exception):
    """A secret is missing or is readable by others; the message says which file."""

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step


def make_root_key(folder: Path) -> bytes:
    """The cluster's root key, made at first start; a 0600 file on each host, never sent anywhere."""
    path = folder / "root.key"
    if not path.exists():
        write_private(path, secrets.token_hex(ROOT_KEY_BYTES).encode())
    return root_key(folder)


def root_key(folder: Path) -> bytes:
    """Read the root key.

    Raises:
        SecretsError: no such file, a wrong mode, or not 32 bytes of hex.
    """
    return _read_hex(folder / "root.key", ROOT_KEY_BYTES)


def make_signing_key(folder: Path, region: str) -> str:
    """Make the Ed25519 key that signs a region's rows, unless it exists; returns its public half in hex."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - 30 ms

    path = folder / f"region-{region}.key"
    if not path.exists():
        write_private(path, Ed25519PrivateKey.generate().private_bytes_raw().hex().encode())
    private = Ed25519PrivateKey.from_private_bytes(signing_key(folder, region))
    return private.public_key().public_bytes_raw().hex()


def signing_key(folder: Path, region: str) -> bytes:
    """The raw 32-byte private key of a region (only that region's host has the file)."""
    return _read_hex(folder / f"region-{region}.key", ROOT_KEY_BYTES)


def hop_token(root: bytes) -> str:
    """What edge, gateway and node show each other on the private network; derived, so no file holds it."""
    return hmac.new(root, b"nearfield hop 1", hashlib.sha256).hexdigest()


def metrics_key(root: bytes) -> str:
    """What a reader of figures shows where they are not on a loopback address; derived too, and opens nothing else."""
    return hmac.new(root, b"nearfield metrics 1", hashlib.sha256).hexdigest()


def dns_key(root: bytes) -> bytes:
    """What seals the datagrams to the name servers; derived too."""
    return hmac.digest(root, b"nearfield dns 1", hashlib.sha256)


def new_access_key_id() -> str:
    """A fresh S3 access key id: 20 characters, as clients expect."""
    return "NF" + "".join(secrets.choice("ABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(18))


def write_private(path: Path, data: bytes) -> None:
    """Write `data` to a file that nobody else can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_private(path: Path) -> bytes:
    """Read a secret file, refusing one that others may read.

    Raises:
        SecretsError: missing, or its mode lets group or others in.
    """
    try:
        mode = path.stat().st_mode & 0o777
        data = path.read_bytes()
    except PermissionError as error:
        raise SecretsError(f"{path} is another user's: {error.strerror}", NOT_YOURS) from error
    except OSError as error:
        raise SecretsError(f"cannot read {path}: {error.strerror}", "nearfield up") from error
    if mode & 0o077:
        raise SecretsError(
            f"{path} has mode {mode:o}; others can read it. Run: chmod 600 {path}", f"chmod 600 {path}"
        )
    return data


def access_pair(path: Path) -> tuple[str, str]:
    """(access key id, secret) of a file in the form that AWS tools read, section `[default]`.

    Raises:
        SecretsError: missing, readable by others, or not of that form.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_private(path).decode())
        return parser["default"]["aws_access_key_id"], parser["default"]["aws_secret_access_key"]
    except (configparser.Error, KeyError, UnicodeDecodeError) as error:
        raise SecretsError(
            f"{path} needs a section [default] with aws_access_key_id and aws_secret_access_key: {error}"
        ) from error


def _read_hex(path: Path, length: int) -> bytes:
    try:
        value = bytes.fromhex(read_private(path).decode())
    except ValueError as error:
        raise SecretsError(f"{path} is not hex: {error}") from error
    if len(value) != length:
        raise SecretsError(f"{path} holds {len(value)} bytes, not {length}")
    return value
