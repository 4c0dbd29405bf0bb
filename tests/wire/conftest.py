"""Every asynchronous test of the ground floor runs on both event loops."""

import asyncio
import ssl

import pytest
import uvloop

from tests.wire.certs import make_certificate
from wire.secured.tls import client_context, server_context


def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def tls(tmp_path_factory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server, client) contexts of one throw-away authority."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key, ca = make_certificate(folder)
    return server_context(cert, key), client_context(ca)
