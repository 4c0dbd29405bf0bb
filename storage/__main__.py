"""`python -m storage DIR [--port N]`: one store alone, with one administrator whose credentials it makes."""

import argparse
import asyncio
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import uvloop

from storage.auth.key import AccessKey, Grant
from storage.fault import StoreBroken
from storage.http.virtual import parse_domain
from storage.notify.webhook import Webhook
from storage.run import StoreSettings, run

ROOT_FILE = "root.json"
CREDENTIALS_FILE = "credentials"
EXIT_FAILED = 1


def main() -> int:
    """The exit status: 0 after a signal, 1 if the store cannot start or had to stop."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m storage", description=__doc__)
    parser.add_argument("folder", type=Path, help="where everything is kept; made if it is not there")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback only)")
    parser.add_argument("--port", type=int, default=9000, help="0 picks a free one (default: 9000)")
    parser.add_argument(
        "--anonymous",
        action="store_true",
        help="WARNING: let anybody who reaches the port use, without a key, what an ACL or a policy opens to everybody",
    )
    parser.add_argument(
        "--sigv2",
        action="store_true",
        help="honour presigned URLs and forms of Signature Version 2, the weaker one",
    )
    parser.add_argument(
        "--webhook",
        nargs=3,
        action="append",
        default=[],
        metavar=("ID", "URL", "SECRET_FILE"),
        help="an endpoint that notifications of buckets may name; the file's content signs deliveries",
    )
    parser.add_argument(
        "--domain",
        action="append",
        default=[],
        help="a name whose subdomains are buckets, where they resolve to this store",
    )
    args = parser.parse_args()
    try:
        settings, credentials = prepare(args.folder, args.host, args.port)
        webhooks = tuple(
            Webhook(id_, url, Path(file).read_bytes().strip()) for id_, url, file in args.webhook
        )
        asked = {
            "anonymous": args.anonymous,
            "sigv2": args.sigv2,
            "webhooks": webhooks,
            "domains": tuple(map(parse_domain, args.domain)),
        }
        uvloop.run(_serve(replace(settings, **asked), credentials))
    except BlockingIOError:
        sys.stderr.write(f"another store is using {args.folder}; stop it first\n")
        return EXIT_FAILED
    except (OSError, ValueError, StoreBroken) as error:
        sys.stderr.write(f"the store cannot run: {error}\n")
        return EXIT_FAILED
    return 0


def prepare(folder: Path, host: str, port: int) -> tuple[StoreSettings, Path]:
    """The settings of the store in `folder`, and its credentials file in the form the AWS tools read.

    Both secrets are files of mode 0600. Raises: OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    root_file = folder / ROOT_FILE
    if not root_file.exists():
        fresh = {"root_key": secrets.token_hex(32), "access_key": f"NF{secrets.token_hex(9).upper()}"}
        _write_secret(root_file, json.dumps(fresh))
    root = json.loads(root_file.read_text())
    root_key = bytes.fromhex(root["root_key"])
    key = AccessKey(root["access_key"], 1, (Grant.parse("*::admin"),))
    lines = (
        "[default]",
        f"aws_access_key_id = {key.id}",
        f"aws_secret_access_key = {key.secret(root_key)}",
        "",
    )
    _write_secret(folder / CREDENTIALS_FILE, "\n".join(lines))
    return StoreSettings(host, port, folder / "store", root_key, (key,)), folder / CREDENTIALS_FILE


def _write_secret(path: Path, text: str) -> None:
    """Whole or not at all, and never readable by others."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
    draft.rename(path)


async def _serve(settings: StoreSettings, credentials: Path) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await run(settings, _announcer(settings.host, credentials), stop)


def _announcer(host: str, credentials: Path) -> Callable[[int], None]:
    def announce(port: int) -> None:
        url = f"http://{host}:{port}"
        sys.stdout.write(
            f"endpoint     {url}\n"
            f"credentials  {credentials.resolve()}\n"
            f"try          AWS_SHARED_CREDENTIALS_FILE={credentials.resolve()} AWS_DEFAULT_REGION=us-east-1"
            f" aws --endpoint-url {url} s3 ls\n"
        )
        sys.stdout.flush()

    return announce


if __name__ == "__main__":
    sys.exit(main())
