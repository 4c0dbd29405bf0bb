"""kill -9 at every point at which a landing writes: what is left is a whole entry, part of one, or none; never wrong.

A child lands three revisions under a cap that holds two, and kills itself at its n-th write: of a file, of a name, of
a byte in the middle of an extent. Then the folder is looked at as a restarted node would.
"""

import os
import signal
import tempfile
from pathlib import Path

from tests.evidence import count
from weights_cache.kept.folder import CacheFolder

from .kept import CAP, FILES, REVISIONS, WHOLE, MemoryReader, contents, entry_bytes, tier_on, used_bytes

ASKED = (0, 1, 2, 0)
WRITES = ("ftruncate", "write", "rename", "unlink", "utime", "posix_fallocate", "pwrite")
STRIDE = count(7, 1)
ALL_WHOLE, OVER_CAP = 0, 3


class Countdown:
    """Kills this process at write number `at`, before it is done; each is also a look at the cap."""

    def __init__(self, at, path, cap):
        self.left, self.path, self.cap = at, path, cap

    def tick(self):
        if used_bytes(self.path) > self.cap:
            os._exit(OVER_CAP)
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def arm(self):
        for name in WRITES:
            setattr(os, name, self.counted(getattr(os, name)))
        create = os.open
        os.open = lambda name, flags, *rest, **more: self.created(create, name, flags, *rest, **more)

    def counted(self, call):
        def counting(*given, **more):
            self.tick()
            return call(*given, **more)

        return counting

    def created(self, create, name, flags, *rest, **more):
        if flags & os.O_CREAT:
            self.tick()
        return create(name, flags, *rest, **more)

    def before_read(self, extent_path, offset, view):
        view[: len(view) // 2] = b"?" * (len(view) // 2)
        self.tick()


def die_at(at, path, cap):
    """The child's end: its exit status, or minus the signal that killed it."""
    pid = os.fork()
    if not pid:
        countdown = Countdown(at, path, cap)
        countdown.arm()
        tier = tier_on(path, MemoryReader(countdown.before_read), cap)
        for number in ASKED:
            tier.land(REVISIONS[number]).wait(60)
            tier.small_files(REVISIONS[number])
        tier.close()
        os._exit(ALL_WHOLE)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check(path, cap):
    """A restart: nothing is over the cap, nothing that calls itself whole is wrong, and all can be landed."""
    folder = CacheFolder(path, cap)
    for rested in folder.rested():
        number = next(n for n, revision in enumerate(REVISIONS) if revision.id == rested.revision_id)
        data = (path / f"{rested.revision_id}.weights").read_bytes()
        for n, extent in enumerate(REVISIONS[number].extents):
            place = rested.file.extents[n][0]
            is_there = (path / f"{rested.revision_id}.landed").read_bytes()[n]
            assert (
                not is_there or data[place : place + extent.length] == WHOLE[number][place:][: extent.length]
            )
    folder.close()
    assert used_bytes(path) <= cap
    reader = MemoryReader()
    tier = tier_on(path, reader, cap)
    kept_bytes = sum(entry.done_bytes for entry in tier.entries() if entry.model == "acme/k1")
    for number in (1, 2, 0):
        landing = tier.land(REVISIONS[number])
        assert landing.wait(60)
        assert contents(landing, number) == WHOLE[number]
        assert tier.small_files(REVISIONS[number]).items() <= FILES[number].items()
        assert number != 1 or landing.host_bytes == kept_bytes
    tier.close()


def test_killed_at_any_write(cache_path):
    cap = entry_bytes(cache_path / "m", 1) + entry_bytes(cache_path / "m", 2)
    num_kills = 0
    for at in range(0, 10_000, STRIDE):
        with tempfile.TemporaryDirectory(dir=cache_path) as name:
            ended = die_at(at, Path(name), cap)
            assert ended in {-signal.SIGKILL, ALL_WHOLE}
            check(Path(name), cap)
        if ended == ALL_WHOLE:
            break
        num_kills += 1

    assert num_kills * STRIDE > 100


def test_killed_again_and_again_the_load_still_ends(cache_path):
    """Each life lands a little more: after enough of them all is whole, and no life was over the cap."""
    num_lives = 1
    while die_at(20, cache_path, CAP) != ALL_WHOLE:
        num_lives += 1
        assert num_lives < 200

    assert num_lives > 3
    check(cache_path, CAP)
