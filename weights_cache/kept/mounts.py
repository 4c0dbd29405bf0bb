"""What kind of file system a folder lies on."""

import os
from pathlib import Path

IN_MEMORY = frozenset({"tmpfs", "ramfs", "hugetlbfs"})
MOUNTS = Path("/proc/self/mountinfo")


def lies_in_memory(path: Path) -> bool:
    """True if the files of a folder are memory and not a disk's; False where that cannot be told."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    return file_system(number, MOUNTS.read_text()) in IN_MEMORY


def file_system(number: str, mounts: str) -> str | None:
    """The type of the file system with this device number (`major:minor`) in the text of a mountinfo file."""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if before.split(" ")[2:3] == [number]:
            return after.split(" ")[0]
    return None
