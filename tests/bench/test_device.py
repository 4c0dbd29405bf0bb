"""The GPU benchmark's own parts, on a pretended device: every byte goes over, and a row is judged as it should be."""

import pytest

from bench import __main__ as command
from bench import device as bench
from inference.engine.gpu.ring import Ring
from tests.evidence import IS_WHOLE
from tests.inference.late_device import LateDevice
from tests.inference.tiny import landed_model, made


def test_a_landing_goes_over_whole():
    revision, landing, _ = landed_model(made("llama"))
    device = LateDevice()
    copier = bench.copy_model(device, (landing.fd, landing.ready_fd, landing.event_fd), revision, Ring())
    assert copier.num_bytes == device.copied_bytes == sum(tensor.length for tensor in revision.tensors)
    assert copier.h2d_ms > 0


@pytest.mark.skipif(not IS_WHOLE, reason="a store process and four copies of a model: make evidence")
def test_the_whole_of_it_runs_without_a_gpu(monkeypatch):
    """A store process, loads from it and from the host, and both limits: all of it but what a real link gives."""
    monkeypatch.setattr(bench, "LIMIT_BYTES", 4096)
    said = []
    device = LateDevice()
    runs = bench.measure_on(device, 64, 1, said.append)

    assert (len(runs), len(said)) == (1, 2)
    assert min(runs[0].store_s, runs[0].host_s, runs[0].link_s, runs[0].fastest_s, runs[0].copy_s) > 0
    assert device.copied_bytes > 8 * bench.TENSOR_BYTES, "each of two runs copied all of it twice"
    assert [row.unit for row in bench.rows_of(runs, 64 << 20)] == 3 * ["GB/s"]


def test_the_limit_counts_its_copies(monkeypatch):
    monkeypatch.setattr(bench, "LIMIT_BYTES", 4096)
    device = LateDevice()
    assert bench.copy_bytes_per_s(device, 3) > 0
    assert device.copied_bytes == 4 * 4096  # one to begin with, that is not timed


@pytest.mark.parametrize(
    ("run", "holds"),
    [
        (bench.Run(store_s=1.19, host_s=1.24, link_s=1.0, fastest_s=0.9, copy_s=1.0), [True, True, True]),
        (bench.Run(store_s=1.19, host_s=0.5, link_s=1.0, fastest_s=0.9, copy_s=0.5), [True, True, False]),
        (bench.Run(store_s=1.3, host_s=1.0, link_s=1.0, fastest_s=1.0, copy_s=0.5), [False, False, False]),
        (bench.Run(store_s=1.3, host_s=1.3, link_s=0.5, fastest_s=0.5, copy_s=1.0), [False, False, False]),
    ],
)
def test_rows_are_judged_against_what_the_links_can_do(run, holds):
    assert [row.holds for row in bench.rows_of([run], 1 << 30)] == holds


@pytest.mark.parametrize(("name", "words"), [("cuda:63", "CUDA device"), ("cpu", "nothing to copy")])
def test_without_a_gpu_it_says_so(name, words):
    with pytest.raises(SystemExit, match=words):
        command.main(["device", "--device", name])
