"""Every bound that a listener of ours enforces, with its unit and its reason."""

from collections.abc import Container
from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one listener; the defaults suit an inference API that faces the internet.

    The names say the unit. `encoded_paths` and a larger `target_bytes` are for S3 listeners only, where a key
    may hold any byte and the target is signed exactly as it was sent.
    """

    head_bytes: int = 16 * KIB  # nginx and node allow 8-16 KiB; a cookie-less API needs 2
    num_headers: int = 64  # the openai client sends 20
    target_bytes: int = 4 * KIB  # request line
    encoded_paths: bool = (
        False  # True: %00, %2e, %2f, '//' and '..' pass; the owner of the path decodes it once
    )
    slash_prefixes: tuple[
        str, ...
    ] = ()  # under these paths %2F is a plain '/': openai encodes a model's name
    served_hosts: Container[str] | None = None  # lower-case names without port; None: any well-formed Host
    head_s: float = 10.0  # from the first byte (or the accept) to the blank line: drops slow heads
    idle_s: float = 30.0  # keep-alive between requests
    body_bytes_per_s: float = 16 * KIB  # slower than this while a handler waits is an attack or a dead link
    body_grace_s: float = 5.0  # TCP slow start and one lost packet are forgiven
    write_stall_s: float = 60.0  # a peer that takes no byte of its answer for so long is gone
    write_bytes_per_s: float = (
        4 * KIB
    )  # slower than this for write_stall_s, with answer bytes waiting, is an attack
    total_s: float | None = (
        None  # one request and its answer, whatever happens; whoever serves has its own before
    )
    max_connections: int = 8192  # file descriptors: one client and one upstream each stays under 20k
    max_per_address: int = (
        2048  # of IPv6 each /64; one address may be a whole NAT or the loopback of a test bench
    )
    read_buffer_bytes: int = 256 * KIB  # body bytes held for a handler before the peer is made to wait
    write_buffer_bytes: int = (
        256 * KIB
    )  # answer bytes held for a slow peer before the handler is made to wait
    handshake_s: float = 10.0  # TLS only


DEFAULT_LIMITS = Limits()
