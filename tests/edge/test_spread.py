"""A change is pushed to every edge, and does not wait for the next beat of the rows; a choice costs what it costs."""

from bench.choice import World, choice_us, chooser_of
from bench.spread import spread
from regions.map.policy import Rules
from regions.map.region import ROW_PERIOD_S
from tests.evidence import count

RTTS_MS = (1.0, 40.0, 120.0)


async def test_a_signed_change_reaches_edges_by_push(tmp_path):
    took = await spread(RTTS_MS, count(3, 40), tmp_path)

    for rtt_ms, ms in zip(RTTS_MS, took, strict=True):
        assert min(ms) >= rtt_ms / 2, "the link is really that long"
        assert min(ms) < rtt_ms + ROW_PERIOD_S * 500, "far sooner than the next row would come of itself"


def test_a_choice_does_not_cost_more_with_more_models():
    """Fifty times the models of a hundred regions; the best of some rounds, so that a busy machine does not count."""
    few, many = (
        choice_us(chooser_of(world, Rules()), world, 5)
        for world in (World(100, 40, 0.1), World(100, 2_000, 0.1))
    )

    assert many < 5 * few  # with one look at each model it would be fifty times
