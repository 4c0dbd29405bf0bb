"""What a role says of requests that it refused: their id and why, never their words, and no faster than is bearable."""

import logging

from wire.figures.metrics import Metrics
from wire.refused.refusal import Refusal
from wire.refused.refusals import Refusals
from wire.refused.sparing import BURST, PER_S

log = logging.getLogger("nearfield.test")


def refusals(now=lambda: 0.0):
    metrics = Metrics()
    counter = metrics.counter("nf_refusals_total", "Refused.", "code", "status")
    return metrics, Refusals(log, counter, now)


def test_a_line_has_the_id_the_code_and_the_field_and_nothing_of_the_request(caplog):
    metrics, refused = refusals()
    secret = "my prompt sk-123"
    with caplog.at_level(logging.INFO, "nearfield.test"):
        refused.note(
            Refusal(400, "invalid_value", f"{secret!r} is no number.", param="top_p"), "req_1", "/v1/x", "a/b"
        )
        refused.note(Refusal(400, "unknown_field", "No.", param=f"{secret}"), "req_2", "/v1/x")

    one, two = caplog.records
    assert (one.getMessage(), one.request_id, one.model) == (
        "refused /v1/x: 400 invalid_value (top_p)",
        "req_1",
        "a/b",
    )
    assert (two.getMessage(), two.request_id) == ("refused /v1/x: 400 unknown_field", "req_2")
    assert not hasattr(two, "model")
    assert b'nf_refusals_total{code="invalid_value",status="400"} 1' in metrics.page()


def test_a_flood_is_counted_whole_and_said_in_part(caplog):
    now = [0.0]
    metrics, refused = refusals(lambda: now[0])
    refusal = Refusal(429, "rate_limit_exceeded", "Wait.")
    with caplog.at_level(logging.INFO, "nearfield.test"):
        for number in range(1000):
            refused.note(refusal, f"req_{number}", "/v1/x")
        assert len(caplog.records) == BURST
        now[0] = 1.0
        for number in range(1000):
            refused.note(refusal, f"req_{number}", "/v1/x")

    assert len(caplog.records) == BURST + PER_S
    assert caplog.records[int(BURST)].getMessage().endswith("; 900 more before it were not said")
    assert b'nf_refusals_total{code="rate_limit_exceeded",status="429"} 2000' in metrics.page()
