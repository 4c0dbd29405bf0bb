"""Roles run on uvloop, and so do the tests of what they are made from."""

import uvloop


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}
