"""Who asks, as coarse as the DNS may know it (RFC 7871, 11.1): an IPv4 /24 or an IPv6 /56.

A `Client` is bytes: 3 (IPv4) or 7 (IPv6) of the address, then how many bits of them are known. Both kinds differ in
length, so one dict holds both, and making one costs no object of ours for each packet.
"""

import ipaddress
import socket
from typing import Final

Client = bytes
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

V4_BITS: Final = 24
V6_BITS: Final = 56
UNKNOWN: Final[Client] = b"\0\0\0\0"
"""A client that shows no bit of its address."""

_V4_END: Final = bytes([V4_BITS])
_V6_END: Final = bytes([V6_BITS])
_MAPPED: Final = "::ffff:"


def of_host(host: str) -> Client:
    """The client at a socket's address. Raises OSError if that is none."""
    if ":" not in host:
        return socket.inet_aton(host)[:3] + _V4_END
    if host.startswith(_MAPPED) and "." in host:
        return of_host(host.removeprefix(_MAPPED))
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:7] + _V6_END


def of_address(packed: bytes, bits: int) -> Client:
    """The client whose address begins with `bits` bits of `packed` (4 or 16 bytes, zero behind those bits)."""
    if len(packed) == 4:
        return packed[:3] + bytes([min(bits, V4_BITS)])
    return packed[:7] + bytes([min(bits, V6_BITS)])


def width(client: Client) -> int:
    """How many bits a client of its family can show."""
    return (len(client) - 1) * 8


def is_whole(client: Client) -> bool:
    """True if all those bits are known: what is learnt of a client holds for it alone."""
    return client[-1] == width(client)


class Networks:
    """Networks with a value each; the longest one that a client is in counts. Bounded by what it was made of."""

    def __init__(self, values: dict[Network, int]) -> None:
        """Raises ValueError for a network that is finer than a client."""
        self._by_length: dict[tuple[int, int], dict[int, int]] = {}
        for network, value in values.items():
            bits = V4_BITS if network.version == 4 else V6_BITS
            if network.prefixlen > bits:
                raise ValueError(
                    f"{network} is finer than /{bits}, which is all that a resolver shows of a client"
                )
            prefix = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
            self._by_length.setdefault((bits, network.prefixlen), {})[prefix] = value
        self._lengths = sorted(self._by_length, key=lambda each: -each[1])

    def find(self, client: Client) -> int | None:
        """The value of the longest network around the client, by the bits that are known."""
        bits, known = width(client), client[-1]
        address = int.from_bytes(client[:-1])
        for family, length in self._lengths:
            if family == bits and length <= known:
                value = self._by_length[family, length].get(address >> (bits - length))
                if value is not None:
                    return value
        return None
