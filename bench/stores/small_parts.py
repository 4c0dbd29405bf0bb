"""`python -m bench.stores.small_parts DIR --port N`: the store as it is, but parts may be small.

Ten thousand parts of S3's least size are 49 GiB; what completing them costs is in their number, not their bytes.
"""

import sys
from dataclasses import replace
from pathlib import Path

from storage import __main__ as command
from storage.run import StoreSettings


def main() -> int:
    """Run `python -m storage` with one setting changed."""
    original = command.prepare

    def prepare(folder: Path, host: str, port: int) -> tuple[StoreSettings, Path]:
        settings, credentials = original(folder, host, port)
        return replace(settings, min_part_bytes=1), credentials

    command.prepare = prepare
    return command.main()


if __name__ == "__main__":
    sys.exit(main())
