"""The development authority: clients that trust its certificate get a verified connection, others none."""

import datetime as dt
import socket
import ssl
import threading

import pytest

from deploy.trust import pki

NOW = dt.datetime.now(dt.UTC)


def _handshake(authority: pki.LocalAuthority, context: ssl.SSLContext, name: str) -> str | None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority.cert, authority.key)
    here, there = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(there, server_side=True).close()
        except (ssl.SSLError, OSError):
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with context.wrap_socket(here, server_hostname=name) as client:
            return client.version()
    finally:
        here.close()
        thread.join(timeout=10)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_client_with_the_authority_connects(tmp_path, name):
    """Every address that is printed is in the certificate."""
    authority = pki.ensure(tmp_path, NOW)
    context = ssl.create_default_context(cafile=authority.ca)

    assert _handshake(authority, context, name) == "TLSv1.3"


def test_a_client_without_it_refuses(tmp_path):
    """The certificate proves something: a stranger does not accept it."""
    authority = pki.ensure(tmp_path, NOW)

    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(authority, ssl.create_default_context(), "localhost")


def test_it_is_made_once_and_renewed_before_it_ends(tmp_path):
    """Clients keep trusting the same authority; an old server certificate is replaced under it."""
    first = pki.ensure(tmp_path, NOW)
    ca, cert = first.ca.read_bytes(), first.cert.read_bytes()

    again = pki.ensure(tmp_path, NOW + dt.timedelta(days=1))
    assert (again.ca.read_bytes(), again.cert.read_bytes()) == (ca, cert)

    later = pki.ensure(tmp_path, NOW + dt.timedelta(days=pki.SERVER_DAYS))
    assert later.ca.read_bytes() == ca
    assert later.cert.read_bytes() != cert


def test_private_keys_are_private(tmp_path):
    """Nobody else on the host reads them."""
    pki.ensure(tmp_path, NOW)

    for name in ("ca.key", "server.key"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
