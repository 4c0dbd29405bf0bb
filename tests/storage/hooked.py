"""`python -m tests.storage.hooked DIR URL`: a store with one webhook, for tests that kill it."""

import asyncio
import sys
from pathlib import Path

from storage.notify.webhook import Webhook
from storage.run import StoreSettings, run
from tests.storage.stores import ADMIN, ROOT_KEY


def main() -> None:
    root, url = sys.argv[1:]
    webhook = Webhook("a", url, b"a secret of the receiver's")
    settings = StoreSettings("127.0.0.1", 0, Path(root), ROOT_KEY, (ADMIN,), webhooks=(webhook,))

    def announce(port: int) -> None:
        sys.stdout.write(f"{port} {ADMIN.id} {ADMIN.secret(ROOT_KEY)}\n")
        sys.stdout.flush()

    asyncio.run(run(settings, announce, asyncio.Event()))


main()
