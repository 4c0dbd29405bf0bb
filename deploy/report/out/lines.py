"""Every request as a line of JSON, and the rows as CSV. Pure."""

import csv
import io
import json
from collections.abc import Iterator

from deploy.report.document import Report, Row
from deploy.report.out.values import sample_value
from deploy.report.sample import SOURCES, Sample
from deploy.report.stats import Summary

COLUMNS = (
    "region",
    "start",
    "asked",
    "failed",
    *(
        f"ttft_ms_{figure}"
        for figure in ("n", "least", "p50", "p50_low", "p50_high", "p90", "p95", "p99", "most")
    ),
    *(f"{name}_{figure}" for name in ("e2e_ms", "tokens_per_s") for figure in ("p50", "least", "most")),
    "unattributed_share",
    *(f"bytes_{source}" for source in SOURCES),
    "most_remote_bytes",
    "bytes_over_bandwidth_ms",
    "bytes_moving_ms",
    "predicted_ms",
    "took_ms",
    "eta_error",
)


def requests(report: Report) -> Iterator[str]:
    """A line for each request, of the rows first and of the further arms after; `arm` says which."""
    groups: dict[str, tuple[Sample, ...]] = {"rows": report.samples, **_further(report)}
    for arm, samples in groups.items():
        for sample in samples:
            yield json.dumps({"arm": arm, **sample_value(sample)}, ensure_ascii=False) + "\n"


def _further(report: Report) -> dict[str, tuple[Sample, ...]]:
    more = report.more
    found = {f"places.{place.client}.{place.region}": place.samples for place in more.places}
    if more.herd is not None:
        found["herd"] = more.herd.samples
    found |= {f"gaps.{gap.gap_s:g}": gap.samples for gap in more.gaps}
    found |= {f"sizes.{load.model}": load.samples for load in more.loads}
    if more.split is not None:
        found |= {f"split.{side.name}": side.samples for side in (more.split.together, more.split.apart)}
    return found


def rows_csv(report: Report) -> str:
    """The rows, a line each, under a line of names; an empty cell is a figure that is not known."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_cells(row) for row in report.rows)
    return written.getvalue()


def _cells(row: Row) -> tuple[object, ...]:
    num_bytes = row.typical.num_bytes if row.typical else {}
    low, high = row.ttft_ms.interval or (None, None)
    ttft = row.ttft_ms
    return (
        row.region,
        row.start.value,
        row.num_asked,
        row.num_failed,
        *(ttft.n, ttft.least, ttft.p50, low, high, ttft.p90, ttft.p95, ttft.p99, ttft.most),
        *_three(row.e2e_ms),
        *_three(row.tokens_per_s),
        row.unattributed_share,
        *(num_bytes.get(source) for source in SOURCES),
        row.most_remote_bytes,
        row.floor_ms,
        row.moving_ms,
        row.predicted_ms,
        row.took_ms,
        row.eta_error,
    )


def _three(figure: Summary) -> tuple[float | None, float | None, float | None]:
    return figure.p50, figure.least, figure.most
