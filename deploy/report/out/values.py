"""The report as plain JSON values, `nearfield.report/2`; `report.schema.json` beside this file is its schema. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from deploy.report.arms import MEANING, STARTS
from deploy.report.document import Report, Row
from deploy.report.method import METHOD
from deploy.report.more.found import Found, Split
from deploy.report.more.money import Bill, comparisons, tokens_per_s
from deploy.report.more.terms import Terms
from deploy.report.phases import TOLERANCE, Breakdown
from deploy.report.sample import SOURCES, Sample

SCHEMA = "nearfield.report/2"


def as_json_document(report: Report) -> dict[str, Any]:
    """The report as plain JSON values."""
    return {
        "schema": SCHEMA,
        **asdict(report.settings),
        "revision": report.revision,
        "method": list(METHOD),
        "start_states": {start.value: MEANING[start] for start in STARTS},
        "checks": {
            "phases_sum_to_wall": report.sums,
            "tolerance": TOLERANCE,
            "worst_unattributed_share": report.worst_share,
            "num_failed": report.num_failed,
        },
        "estimates": {"num": report.num_estimates, "median_error": report.eta_error},
        "regions": {region: asdict(tiers) for region, tiers in report.tiers.items()},
        "rows": [row_value(row) for row in report.rows],
        "more": _more(report.more, report.terms),
        "requests": [sample_value(sample) for sample in report.samples],
    }


def row_value(row: Row) -> dict[str, Any]:
    """One region in one start state."""
    typical = row.typical
    return {
        "region": row.region,
        "start": row.start.value,
        "num_asked": row.num_asked,
        "num_failed": row.num_failed,
        "failures": dict(row.failures),
        "ttft_ms": asdict(row.ttft_ms),
        "e2e_ms": asdict(row.e2e_ms),
        "tokens_per_s": asdict(row.tokens_per_s),
        "unattributed_share": row.unattributed_share,
        "typical_before_first_token": _breakdown(typical.before_first if typical else None),
        "typical_whole": _breakdown(typical.whole if typical else None),
        "bytes": {source: typical.num_bytes.get(source) if typical else None for source in SOURCES},
        "most_remote_bytes": row.most_remote_bytes,
        "bytes_over_bandwidth_ms": row.floor_ms,
        "bytes_moving_ms": row.moving_ms,
        "predicted_ms": row.predicted_ms,
        "took_ms": row.took_ms,
        "eta_error": row.eta_error,
    }


def _breakdown(breakdown: Breakdown | None) -> dict[str, Any] | None:
    if breakdown is None:
        return None
    phases = {name: round(ms, 3) for name, ms in breakdown.phases_ms.items()}
    return {
        "wall_ms": round(breakdown.wall_ms, 3),
        "phases_ms": phases,
        "unattributed_share": round(breakdown.unattributed_share, 5),
        "overlap_scaled": breakdown.scaled,
    }


def sample_value(sample: Sample) -> dict[str, Any]:
    """One request; a line of `requests.jsonl`."""
    return {
        "region": sample.region,
        "wanted": sample.wanted.value,
        "found": sample.found.value if sample.found else None,
        "failure": sample.failure,
        "ttft_ms": sample.ttft_ms,
        "e2e_ms": sample.e2e_ms,
        "late_ms": sample.late_ms,
        "prompt_tokens": sample.num_prompt_tokens,
        "completion_tokens": sample.num_tokens,
        "tokens_per_s": sample.tokens_per_s,
        "bytes": dict(sample.num_bytes),
        "eta_ms": None if sample.eta is None else asdict(sample.eta),
        "revision": sample.revision,
        "request_id": sample.request_id,
        "before_first_token": _breakdown(sample.before_first),
    }


def _samples(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    return [sample_value(sample) for sample in samples]


def _more(found: Found, terms: Terms | None) -> dict[str, Any]:
    herd = found.herd
    return {
        "failures": dict(found.failures),
        "places": [
            {
                "client": place.client,
                "region": place.region,
                "added_ms_simulated": place.added_ms,
                "ttft_ms": place.ttft_ms,
                "requests": _samples(place.samples),
            }
            for place in found.places
        ],
        "herd": herd
        and {
            "region": herd.region,
            "num": len(herd.samples),
            "num_starts": len(herd.starts),
            "bytes": dict(herd.num_bytes),
            "requests": _samples(herd.samples),
        },
        "gaps": [
            {"region": gap.region, "gap_s": gap.gap_s, "requests": _samples(gap.samples)}
            for gap in found.gaps
        ],
        "loads": [
            {
                "model": load.model,
                "region": load.region,
                "weight_bytes": load.num_bytes,
                "took_ms": load.took_ms,
                "requests": _samples(load.samples),
            }
            for load in found.loads
        ],
        "ceilings": [asdict(ceiling) for ceiling in found.ceilings],
        "split": _split(found.split, terms) if found.split and terms else None,
    }


def _split(split: Split, terms: Terms) -> dict[str, Any]:
    return {
        "simulated": True,
        "rtt_ms": split.rtt_ms,
        "link_bytes_per_s": split.bytes_per_s,
        "near_bytes_per_s": split.near_bytes_per_s,
        "weight_bytes": split.weight_bytes,
        "tokens_per_s": {side.name: tokens_per_s(side) for side in (split.together, split.apart)},
        "currency": terms.currency,
        "price_sources": list(terms.sources),
        "comparisons": [
            {"weights": each.weights, "together": _bill(each.together), "apart": _bill(each.apart)}
            for each in comparisons(split, terms)
        ],
        "requests": {side.name: _samples(side.samples) for side in (split.together, split.apart)},
    }


def _bill(bill: Bill) -> Mapping[str, Any]:
    return {
        "measured": bill.is_measured,
        "cold_starts": bill.num_starts,
        "remote_bytes_each": bill.remote_bytes,
        "cold_s_each": bill.cold_s,
        "cost": bill.cost,
    }
