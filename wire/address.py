"""Addresses as people write them."""


def split_address(address: str) -> tuple[str, int]:
    """`"127.0.0.1:8080"` or `"[::1]:8080"` as (host, port). Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"not host:port: {address!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)
