"""One real shell for the tests that fork from it: it imports for seconds what a fork has at once."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest_asyncio

from inference.workers.shell.link import ShellLink
from tests import zygote

LivingShell = Callable[[], Awaitable[ShellLink]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def living_shell() -> AsyncIterator[LivingShell]:
    """Gives the shell that all share, and another one when a test has killed it."""
    started: list[ShellLink] = []

    async def living() -> ShellLink:
        if not started or started[-1].gone.done():
            started.append(await ShellLink.start(zygote.folder()))
        return started[-1]

    yield living
    for shell in started:
        await shell.close()


@pytest_asyncio.fixture(loop_scope="session")
async def shell(living_shell: LivingShell) -> ShellLink:
    return await living_shell()
