"""How the report measures, in the words that are printed with every report."""

from deploy.report.stats import MIN_SAMPLES_P50, MIN_SAMPLES_P90, MIN_SAMPLES_P95, MIN_SAMPLES_P99

METHOD = (
    (
        "The clock is the client's, from the request's first byte sent to its first token received. "
        "TCP and TLS are up before."
    ),
    (
        "Cold requests are made one at a time, in an order shuffled by the seed. Warm ones come in an open loop: at "
        "times drawn beforehand (Poisson), whatever became of those before, and their clock starts when they were due. "
        "So a slow answer delays no later question, and cannot hide behind its own slowness."
    ),
    (
        "Each cold request has its start state set before it, and counts under the state that the platform "
        "says it found."
    ),
    (
        "Each hop reports its own wall time and phases on its own clock. A network share is one hop's time "
        "upstream minus the next hop's own, there and back: the wire, and waiting for a processor on either side. "
        "What no hop accounts for is shown as unattributed."
    ),
    (
        f"Quantiles are by nearest rank on raw samples: p50 from n = {MIN_SAMPLES_P50}, p90 from "
        f"{MIN_SAMPLES_P90}, p95 from {MIN_SAMPLES_P95}, p99 from {MIN_SAMPLES_P99}; with fewer, the range is shown, "
        "and the slowest stands where a median would. Intervals are a 95 % bootstrap of the median; "
        "requests that met in one block share their minute, so an interval speaks of the minutes of this run."
    ),
    (
        "Phases are those of a row's middle request (of two, the slower), so they sum to a time that was measured."
    ),
    (
        "Before a region's first warm requests six are made that do not count: one wakes the model, the middle of "
        "five sets the pace."
    ),
    (
        "A request that failed is counted and listed, and in every percentile it is slower than any that was answered: "
        "a percentile that falls among failures is not said."
    ),
)
