"""`python -m tests.storage.anypart DIR`: a store of its own process, with parts of any size and one thread for files.

strace counts calls for each thread.
"""

import sys
from dataclasses import replace
from pathlib import Path

import uvloop

from storage import store
from storage.__main__ import _serve, prepare


def main() -> None:
    settings, credentials = prepare(Path(sys.argv[1]), "127.0.0.1", 0)
    store.NUM_THREADS = 1
    uvloop.run(_serve(replace(settings, min_part_bytes=1), credentials))


if __name__ == "__main__":
    main()
