"""A process with one edge and one region: `python -m tests.attack.http.standing FOLDER` says its port and lives until
its input ends. An ask for embeddings gets LARGE_BYTES, which no slow reader takes. To each line of input it says
how late its loop was since the last one: what a request waited for before anybody looked at it."""

import asyncio
import json
import sys
from pathlib import Path

import uvloop

from deploy.roles.life import settle_collector
from tests.attack.http.lateness import Lateness
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
    _say({"port": world.pools[""].port})
    async with Lateness.watched() as lateness:
        while await asyncio.to_thread(sys.stdin.readline):
            _say({"late_p99_ms": lateness.take_p99_ms()})
    await world.stop()


def _say(what: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
