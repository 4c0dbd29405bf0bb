"""Pages are mapped beside the making of a model: all of them, and only of weights that are here."""

import mmap
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from inference.engine.attach import ahead
from inference.engine.attach.ahead import map_ahead
from weights_cache.model.plan import Layout

SIZE = 8 << 20


def resident_bytes(buffer):
    """Of a mapping: what is in this process' page tables."""
    start = torch.frombuffer(buffer, dtype=torch.uint8).data_ptr()
    lines = Path("/proc/self/smaps").read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith(f"{start:x}-"))
    return next(1024 * int(line.split()[1]) for line in lines[first:] if line.startswith("Rss"))


@dataclass
class View:
    """As much of a landing's view as is needed."""

    buffer: memoryview
    is_whole: bool = True
    noted: list = field(default_factory=list)

    @property
    def layout(self):
        """So many bytes."""
        return Layout(len(self.buffer), (), (), 0)

    def note_mapped(self):
        """Remembered with what was mapped then."""
        self.noted.append(resident_bytes(self.buffer))


@pytest.fixture
def view(tmp_path, monkeypatch):
    """A file that the page cache has, mapped privately, of a size that is mapped in several turns."""
    monkeypatch.setattr(ahead, "LEAST_BYTES", SIZE)
    monkeypatch.setattr(ahead, "TURN_BYTES", 3 << 20)
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(SIZE))
    with path.open("rb") as file:
        region = mmap.mmap(file.fileno(), SIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    return View(memoryview(region))


def test_all_of_it_is_mapped(view):
    """A page of each 64 KiB at least, whatever a kernel maps around it; it is told once that is so."""
    assert resident_bytes(view.buffer) == 0
    map_ahead(view).join()
    assert len(view.noted) == 1
    assert view.noted[0] >= SIZE // ahead.AROUND_BYTES * mmap.PAGESIZE


@pytest.mark.parametrize("changes", [{"is_whole": False}, {"buffer": memoryview(bytearray(SIZE - 1))}])
def test_weights_that_are_not_here_or_few_are_left_alone(view, changes):
    """Whoever waits for an extent maps it."""
    for name, value in changes.items():
        setattr(view, name, value)
    assert map_ahead(view) is None
