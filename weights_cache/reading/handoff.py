"""What the store of this host hands over for one revision: files to map, files to copy from, or nothing.

A weight file is mapped where its whole data section is one run of one blob, its tensors are aligned there, and the
host lets us lock it in memory. What is handed over but cannot be mapped is copied from its files, without a socket
between; all else is read over HTTP. Handing over is only ever a gain, so whatever fails here is logged and read.
"""

import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from storage.client.sdk import Endpoint
from weights_cache.memory.file_map import FileMap, lift_lock_limit
from weights_cache.model.plan import MappedFile, fits_a_mapping, layout
from weights_cache.model.revision import Revision
from weights_cache.reading.fetch import ReadError, blob_path
from weights_cache.reading.patience import STALL_S
from weights_cache.reading.store_socket import OpenObject, StoreSocket
from wire.listener.descriptors import close_all

MAX_MAPPED = (
    192  # files of a revision that are mapped; one message to the shell carries at most 253 descriptors
)
MAX_COPIED_FDS = 64  # descriptors of an object to copy from; one in more pieces is read over HTTP

log = logging.getLogger("nearfield.weights")


@dataclass(slots=True)
class Given:
    """One revision's files, by their number. Empty if there is no store on this host.

    `mapped` and `fds` go together: what an engine maps. `let_go` unmaps and ends the lease, `close` closes `fds`.
    """

    mapped: tuple[MappedFile, ...] = ()
    fds: tuple[int, ...] = ()
    maps: dict[int, FileMap] = field(default_factory=dict)
    objects: dict[int, OpenObject] = field(default_factory=dict)
    lease: StoreSocket | None = None

    def num_bytes(self, revision: Revision) -> tuple[int, int]:
        """How many bytes of weights are (mapped, copied from the store's files)."""
        sums = [
            sum(extent.length for extent in revision.extents if extent.file in files)
            for files in (self.maps, self.objects)
        ]
        return sums[0], sums[1]

    def let_go(self) -> None:
        """Unmap and end the lease: the weights are not wanted any more. May be called twice."""
        for each in self.maps.values():
            each.close()
        if self.lease is not None:
            self.lease.close()

    def close_copied(self) -> None:
        """All is copied: close the files that were copied from. Once."""
        objects, self.objects = self.objects, {}
        for each in objects.values():
            each.close()

    def give_back(self) -> None:
        """All of it: no load was begun with it. Once."""
        self.let_go()
        self.close()

    def close(self) -> None:
        """Close the descriptors; mappings stay. Once."""
        close_all(self.fds)
        self.close_copied()


class Handoff(Protocol):
    """Whoever may have a revision's files on this host."""

    def give(self, revision: Revision) -> Given:
        """What there is of the revision; may block while the store checks an old file. Raises nothing."""
        ...


class NoHandoff:
    """The store is on another host: everything is read."""

    def give(self, revision: Revision) -> Given:
        """Nothing."""
        del revision
        return Given()


class StoreHandoff:
    """The store whose socket is at `path`, if it runs. `answer_s`: how long it may take to say something."""

    def __init__(self, path: Path, store: Endpoint, *, answer_s: float = STALL_S) -> None:
        self._connect = partial(StoreSocket, path, store, answer_s=answer_s)
        lift_lock_limit()

    def give(self, revision: Revision) -> Given:
        """See `Handoff`."""
        try:
            given = Given(lease=self._connect())
        except OSError as error:
            log.info("no store on this host to hand over files: %s", error)
            return Given()
        for number in revision.weight_files:
            found = _open(given.lease, revision, number)
            if found is not None:
                _keep(given, revision, number, found)
        if not given.maps and not given.objects:
            given.let_go()
        return given


def _keep(given: Given, revision: Revision, number: int, found: OpenObject) -> None:
    """Map the object if it can be, else keep its files to copy from."""
    place = _place(revision, number, found) if len(given.maps) < MAX_MAPPED else None
    file_map = None if place is None else _map(revision, found, place)
    if place is not None and file_map is not None:
        given.maps[number] = file_map
        given.mapped, given.fds = (*given.mapped, place), (*given.fds, *found.fds)
    elif len(found.fds) <= MAX_COPIED_FDS:
        given.objects[number] = found
    else:
        found.close()


def _open(lease: StoreSocket | None, revision: Revision, number: int) -> OpenObject | None:
    entry = revision.files[number]
    if lease is None:
        return None
    try:
        found = lease.open_object(blob_path(entry.blake3))
    except ReadError as error:
        log.warning("%s was not handed over and is read instead: %s", entry.path, error)
        return None
    if found is not None and found.size != entry.size:
        found.close()
        return None
    return found


def _place(revision: Revision, number: int, found: OpenObject) -> MappedFile | None:
    """Where the file's data section can be mapped; None if it is in pieces or its tensors are not aligned there."""
    data_start = layout(revision.files, revision.tensors).data_starts[number]
    last = found.runs[-1]
    if last.start > data_start or len(found.fds) > 1:
        return None
    data_at = last.at + data_start - last.start
    return MappedFile(number, data_at) if fits_a_mapping(revision.tensors, number, data_at) else None


def _map(revision: Revision, found: OpenObject, place: MappedFile) -> FileMap | None:
    last = found.runs[-1]
    try:
        return FileMap(last.fd, place.data_at, last.at + last.length - place.data_at)
    except OSError as error:
        path = revision.files[place.file].path
        log.warning("%s is copied: this host does not let the node lock it in memory: %s", path, error)
        return None
