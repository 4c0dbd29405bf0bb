"""Revisions that this process has read before: a table that was checked once is not checked again.

Reading one strictly takes 15 ms for 300 tensors, and a gateway starts the same one again and again. It says which by
its id alone, once it has sent it whole: writing, sending and digesting that takes 5 ms more.
"""

from collections import OrderedDict

from blake3 import blake3

from weights_cache.model.revision import MAX_TENSORS, Revision, canonical_json

MOST_ENTRIES = 4 * MAX_TENSORS
"""Tensors and extents of all that are remembered: some 100 MB, were there ever so many."""


class KnownRevisions:
    """The revisions read last, by id, which is the digest of their canonical bytes: the same bytes, the same one."""

    def __init__(self, most_entries: int = MOST_ENTRIES) -> None:
        self._most = most_entries
        self._known: OrderedDict[str, Revision] = OrderedDict()
        self._num_entries = 0

    def read(self, value: object) -> Revision:
        """As `Revision.from_value`, of a value parsed from JSON. Raises RevisionError."""
        known = self._known.get(_digest(value))
        if known is not None:
            self._known.move_to_end(known.id)
            return known
        found = Revision.from_value(value)
        if found.id not in self._known:
            self._keep(found)
        return found

    def find(self, revision_id: str) -> Revision | None:
        """The revision of that id, if it was read and is not forgotten."""
        known = self._known.get(revision_id)
        if known is not None:
            self._known.move_to_end(revision_id)
        return known

    def _keep(self, revision: Revision) -> None:
        self._known[revision.id] = revision
        self._num_entries += _num_entries(revision)
        while self._num_entries > self._most:
            _, oldest = self._known.popitem(last=False)
            self._num_entries -= _num_entries(oldest)


def _num_entries(revision: Revision) -> int:
    return 1 + len(revision.tensors) + len(revision.extents)


def _digest(value: object) -> str:
    """Of the canonical bytes; of a value that has none, which is no revision, one that no revision has."""
    try:
        return blake3(canonical_json(value)).hexdigest()
    except (ValueError, RecursionError):
        return ""
