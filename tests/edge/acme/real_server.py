"""acme2certifier as a process on one port with TLS: `real_server.py PORT DNS_PORT CERT KEY`, its folder on the path.

It asks name servers on port 53 and nowhere else, so the port is changed here; nothing else of it is.
"""

import socketserver
import ssl
import sys
from wsgiref.simple_server import WSGIServer, make_server

port, dns_port, cert, key = sys.argv[1:]
sys.argv = sys.argv[:1]

import dns.resolver  # noqa: E402

reset = dns.resolver.BaseResolver.reset


def reset_with_port(self):
    reset(self)
    self.port = int(dns_port)


dns.resolver.BaseResolver.reset = reset_with_port

import acme2certifier.share.acme2certifier_wsgi as served  # noqa: E402


class Threaded(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def setup_environ(self):
        super().setup_environ()
        self.base_environ["HTTPS"] = "on"


server = make_server("127.0.0.1", int(port), served.application, Threaded, served.get_handler_cls())
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
