"""What a name server counts: questions, what became of them, and which POPs clients are sent to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wire.figures.metrics import one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.dns.respond import Responder
    from edge.dns.steer import Steering
    from wire.figures.metrics import Metrics, Reading


def add_dns_figures(metrics: Metrics, responder: Responder, steering: Steering, pops: Sequence[str]) -> None:
    """Of one name server, read when they are asked for; `pops` are the names by their index."""

    def questions() -> Reading:
        return ((("udp",), float(responder.num_heard)), (("tcp",), float(responder.num_over_tcp)))

    def withheld() -> Reading:
        limited, cut = responder.num_limited, responder.num_truncated
        return (
            (("limited",), float(limited)),
            (("truncated",), float(cut)),
            (("silent",), float(responder.num_silent)),
        )

    def ups() -> Reading:
        return (((name,), float(index in steering.up)) for index, name in enumerate(pops))

    metrics.total("nearfield_dns_questions_total", "That came, by transport.", questions, "transport")
    metrics.total(
        "nearfield_dns_withheld_total",
        "Questions without a whole answer: too many of one network (limited, truncated), or nothing to answer.",
        withheld,
        "why",
    )
    metrics.total(
        "nearfield_dns_slow_answers_total",
        "Answers that were not made before.",
        lambda: one(responder.num_slow),
    )
    metrics.gauge("nearfield_dns_pop_up", "1 while clients are sent to it.", ups, "pop")
