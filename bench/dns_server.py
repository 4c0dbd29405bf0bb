"""A peer: the shortest name server that one writes with dnspython, or with dnslib, for the same name. Run as a process.

`python -m bench.dns_server dnspython|dnslib PORT [FOLDER]`; FOLDER has dnslib.
"""

import socket
import sys
from collections.abc import Callable

NAME = "api.nf.example."
ADDRESS = "192.0.2.1"


def with_dnspython(data: bytes) -> bytes:
    """Parse, look up, echo the subnet, write."""
    import dns.edns
    import dns.flags
    import dns.message
    import dns.rcode
    import dns.rrset

    query = dns.message.from_wire(data)
    question = query.question[0]
    reply = dns.message.make_response(query, our_payload=1232)
    reply.flags |= dns.flags.AA
    if question.name.to_text().lower() != NAME:
        reply.set_rcode(dns.rcode.NXDOMAIN)
    else:
        reply.answer.append(dns.rrset.from_text(question.name, 20, "IN", "A", ADDRESS))
    subnets = [option for option in query.options if isinstance(option, dns.edns.ECSOption)]
    echoed = [dns.edns.ECSOption(each.address, each.srclen, 24) for each in subnets]
    reply.use_edns(0, payload=1232, options=list[dns.edns.Option](echoed))
    return reply.to_wire()


def with_dnslib() -> Callable[[bytes], bytes]:
    """The zone resolver that dnslib brings, without its threads."""
    import importlib

    record = importlib.import_module("dnslib").DNSRecord  # in a folder of its own
    resolver = importlib.import_module("dnslib.zoneresolver").ZoneResolver(f"{NAME} 20 IN A {ADDRESS}\n")

    def answer(data: bytes) -> bytes:
        packed: bytes = resolver.resolve(record.parse(data), None).pack()
        return packed

    return answer


def main() -> None:
    """Answer datagrams one after another until it is ended."""
    kind, port, *folder = sys.argv[1:]
    sys.path[:0] = folder
    answer = with_dnspython if kind == "dnspython" else with_dnslib()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(("127.0.0.1", int(port)))
        while True:
            data, peer = sock.recvfrom(4096)
            sock.sendto(answer(data), peer)


if __name__ == "__main__":
    main()
