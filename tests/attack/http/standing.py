"""A process with one edge and one region: `python -m tests.attack.http.standing FOLDER` says its port and lives until
its input ends. An ask for embeddings gets LARGE_BYTES, which no slow reader takes."""

import asyncio
import json
import sys
from pathlib import Path

import uvloop

from deploy.life import settle_collector
from tests.edge.world import World, answers
from tests.wire.certs import make_certificate

LARGE_BYTES = 400_000


async def script(exchange, region):
    """Large answers at /v1/embeddings, short ones elsewhere."""
    if exchange.head.path != "/v1/embeddings":
        await answers(exchange, region)
        region.requests.clear()
        return
    await exchange.read_body(2**20)
    await exchange.respond(
        200, (("content-type", "application/json"),), b'{"x": "' + b"x" * LARGE_BYTES + b'"}'
    )


async def main(folder: Path) -> None:
    """Stand until stdin ends."""
    world = World(
        folder / "state",
        make_certificate(folder),
        names=("iad",),
        rate_per_s=1e6,
        burst=1e6,
        served_hosts=frozenset({"*"}),
    )
    world.regions["iad"].script = script
    await world.start()
    settle_collector()  # as every role does once it is ready
    sys.stdout.write(json.dumps({"port": world.pools[""].port}) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await world.stop()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
