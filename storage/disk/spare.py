"""Room that a store leaves free on its disk, so that a full one can be emptied: a delete writes to the index, too.

Without it the last upload takes the last byte, and from then on deletes are refused with everything else (seen on a
small tmpfs): only somebody with a shell on the host could help.
"""

import errno
import os
from pathlib import Path

FILES_LEAVE_BYTES = (
    16 * 1024 * 1024
)  # a few stores' journals (4 MiB each at most) and what comes on top of them
ROWS_LEAVE_BYTES = (
    8 * 1024 * 1024
)  # small objects go on for longer: they are what keys and rules are changed by

ADDING = ("Complete", "Copy", "Create", "Put", "Upload")
"""So begin the names of operations that write and take nothing away; deletes and aborts write to the index as well."""


def demand_room_for(operation: str, root: Path) -> None:
    """Rows take room as objects do: uploads begun and tags put in a loop took the last of it. Raises OSError ENOSPC."""
    if operation.startswith(ADDING):
        demand_room(root, 0, ROWS_LEAVE_BYTES)


def demand_room(root: Path, num_bytes: int, leave_bytes: int) -> None:
    """Raises OSError ENOSPC: with `num_bytes` more the disk of `root` would have less than `leave_bytes` free."""
    disk = os.statvfs(root)
    if disk.f_bavail * disk.f_frsize < num_bytes + leave_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root))
