"""The Grafana dashboard of a fleet, as tables of panels: `python -m deploy.reference` writes it to docs/grafana/.

Its variables are a Prometheus that was told `nearfield config scrape`, and regions of it.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

WIDTH, HEIGHT, COLUMNS = 8, 8, 24
GEN_AI = "gen_ai_server"
REGION = 'region=~"$region"'


class Panel(NamedTuple):
    """A graph: what it asks, and how a line of it is called. `unit` is one of Grafana's."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


def _quantiles(histogram: str, by: str, of: str = "") -> tuple[tuple[str, str], ...]:
    """Half and 99 in 100, by a label."""
    return tuple(
        (
            f"histogram_quantile({share}, sum by (le, {by}) (rate({histogram}_bucket{{{of}}}[$__rate_interval])))",
            f"p{round(share * 100)} {{{{{by}}}}}",
        )
        for share in (0.5, 0.99)
    )


def _rate(counter: str, by: str, of: str = "") -> tuple[tuple[str, str], ...]:
    return ((f"sum by ({by}) (rate({counter}{{{of}}}[$__rate_interval]))", f"{{{{{by}}}}}"),)


def _now(fold: str, gauge: str, by: str, of: str = "", legend: str = "") -> tuple[tuple[str, str], ...]:
    return ((f"{fold} by ({by}) ({gauge}{{{of}}})", f"{legend} {{{{{by}}}}}".strip()),)


def _share(part: str, whole: str, by: str, of: str) -> tuple[tuple[str, str], ...]:
    """Of one counter in another."""
    rates = (f"sum by ({by}) (rate({name}{{{of}}}[$__rate_interval]))" for name in (part, whole))
    return ((" / ".join(rates), f"{{{{{by}}}}}"),)


def _of_each(sums: str, by: str, of: str) -> tuple[tuple[str, str], ...]:
    """Seconds of each start, by phase: what phases took, over how many starts there were."""
    parts = f"sum by ({by}) (rate({sums}_sum{{{of}}}[$__rate_interval]))"
    starts = f"sum (rate(nearfield_gateway_wake_seconds_count{{{of}}}[$__rate_interval]))"
    return ((f"{parts} / ignoring ({by}) group_left {starts}", f"{{{{{by}}}}}"),)


GATEWAYS = f'role="region",{REGION}'
MODEL = "model_name"
SEEN = (
    Panel(
        "Requests by region", "reqps", _rate(f"{GEN_AI}_request_duration_seconds_count", "region", GATEWAYS)
    ),
    Panel(
        "Time to first token, starts included",
        "s",
        _quantiles(f"{GEN_AI}_time_to_first_token_seconds", "region", GATEWAYS),
    ),
    Panel("Requests at the edge", "s", _quantiles("nearfield_edge_request_seconds", "name")),
    Panel(
        "Refused, by code",
        "reqps",
        (
            *_rate("nearfield_edge_refusals_total", "code"),
            *_rate("nearfield_gateway_refusals_total", "code", REGION),
            *_rate("nearfield_node_refusals_total", "code", REGION),
        ),
    ),
    Panel(
        "First byte, by what a request found",
        "s",
        _quantiles("nearfield_gateway_first_byte_seconds", "start", REGION),
    ),
    Panel("Held for a start", "short", _now("sum", "nearfield_gateway_held_requests", "region", REGION)),
)
STARTS = (
    Panel("Starts", "s", _quantiles("nearfield_gateway_wake_seconds", "start", REGION)),
    Panel("Where their time goes", "s", _of_each("nearfield_gateway_wake_phase_seconds", "phase", REGION)),
    Panel(
        "Bytes by source (remote: another region)",
        "Bps",
        _rate("nearfield_gateway_wake_bytes_total", "source", REGION),
    ),
    Panel(
        "How far estimates were off",
        "percentunit",
        _quantiles("nearfield_gateway_wake_eta_error_ratio", "start", REGION),
    ),
    Panel("Wakes", "ops", _rate("nearfield_gateway_wakes_total", "outcome", REGION)),
    Panel("Weights on hosts", "bytes", _now("sum", "nearfield_node_cache_bytes", "region", REGION)),
)
ENGINES = (
    Panel("Tokens made", "short", _rate("nearfield_generation_tokens_total", MODEL, REGION)),
    Panel("Between two tokens", "s", _quantiles("nearfield_inter_token_latency_seconds", MODEL, REGION)),
    Panel("In the engine's queue", "s", _quantiles("nearfield_request_queue_time_seconds", MODEL, REGION)),
    Panel(
        "Running and waiting",
        "short",
        (
            *_now("sum", "nearfield_num_requests_running", "region", REGION, "running"),
            *_now("sum", "nearfield_num_requests_waiting", "region", REGION, "waiting"),
        ),
    ),
    Panel(
        "Room for keys and values", "percentunit", _now("max", "nearfield_kv_cache_usage_perc", MODEL, REGION)
    ),
    Panel(
        "Prompt tokens that were kept",
        "percentunit",
        _share("nearfield_prefix_cache_hits_total", "nearfield_prefix_cache_queries_total", MODEL, REGION),
    ),
)
PLATFORM = (
    Panel("Regions as edges reach them", "short", _now("min", "nearfield_edge_region_up", "region")),
    Panel("Set back and sent elsewhere", "reqps", _rate("nearfield_edge_setbacks_total", "cause")),
    Panel("Age of the rows", "s", _now("max", "nearfield_edge_row_age_seconds", "region")),
    Panel("Store: requests", "reqps", _rate("nearfield_store_requests_total", "operation", REGION)),
    Panel(
        "Store: disk that is left", "bytes", _now("min", "nearfield_store_disk_free_bytes", "region", REGION)
    ),
    Panel("Memory of roles", "bytes", _now("sum", "process_resident_memory_bytes", "role")),
    Panel("Processors of roles", "short", _rate("process_cpu_seconds_total", "role")),
    Panel("Spans", "ops", _rate("nearfield_trace_spans_total", "outcome")),
    Panel(
        "Roles that do not answer",
        "short",
        (('count by (role) (up{job=~"nearfield.*"} == 0)', "{{role}}"),),
    ),
)
ROWS = (
    ("What clients see", SEEN),
    ("Cold starts", STARTS),
    ("Engines", ENGINES),
    ("The platform", PLATFORM),
)


def queries() -> Iterator[tuple[str, str]]:
    """(title of the panel, expression) of each, with Grafana's variables in them."""
    for _, panels in ROWS:
        for panel in panels:
            yield from ((panel.title, expression) for expression, _ in panel.queries)


def page() -> str:
    """The whole file."""
    return json.dumps(_dashboard(), indent=1) + "\n"


def _dashboard() -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${prometheus}"}
    regions = "label_values(nearfield_role_info, region)"
    return {
        "title": "Nearfield",
        "uid": "nearfield",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "prometheus", "type": "datasource", "query": "prometheus"},
                {
                    "name": "region",
                    "type": "query",
                    "datasource": source,
                    "query": {"query": regions, "refId": "regions"},
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": list(_panels(source)),
    }


def _panels(source: dict[str, str]) -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for title, panels in ROWS:
        number += 1
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": title, "gridPos": place, "panels": []}
        top += 1
        for index, panel in enumerate(panels):
            number += 1
            yield _panel(number, panel, index, top, source)
        top += HEIGHT * -(-len(panels) * WIDTH // COLUMNS)


def _panel(number: int, panel: Panel, index: int, top: int, source: dict[str, str]) -> dict[str, Any]:
    per_line = COLUMNS // WIDTH
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": {
            "x": index % per_line * WIDTH,
            "y": top + index // per_line * HEIGHT,
            "w": WIDTH,
            "h": HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": source, "expr": expression, "legendFormat": legend}
            for at, (expression, legend) in enumerate(panel.queries)
        ],
    }
