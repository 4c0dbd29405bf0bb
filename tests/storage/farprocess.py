"""`python -m tests.storage.farprocess FOLDER HOME_URL`: a store far from the home of `models`, to be killed."""

import asyncio
import sys
from pathlib import Path

from storage.client.sdk import Endpoint
from storage.run import StoreSettings, run
from tests.storage.stores import ADMIN, KEYS, ROOT_KEY


async def main() -> None:
    folder, home = Path(sys.argv[1]), Endpoint(sys.argv[2], ADMIN.id, ADMIN.secret(ROOT_KEY))
    settings = StoreSettings("127.0.0.1", 0, folder, ROOT_KEY, KEYS, homes={"models": home})
    await run(settings, lambda port: print(f"http://127.0.0.1:{port}", flush=True), asyncio.Event())


asyncio.run(main())
