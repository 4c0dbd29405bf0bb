"""The figures of every role, as its /metrics lists them, without a role that runs: for the reference page.

What a figure reads is looked at when a page is asked for; none is asked for here, so there is nothing to read.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edge.admission.room import Room
from edge.anycast.figures import add_gate_figures
from edge.crew.siblings import Siblings
from edge.dns.figures import add_dns_figures
from edge.figures import EdgeFigures
from edge.rows.feed import Feed
from inference.node import Node, NodeSettings
from regions.gateway.figures import GatewayFigures
from regions.rows import Signers
from storage.client.sdk import Endpoint
from storage.figures import StoreFigures
from wire.figures.metrics import Metrics
from wire.figures.process import add_process_figures
from wire.trace.export import add_trace_figures

NOTHING: Any = None
COMMON = "every role"


def registries() -> Mapping[str, Metrics]:
    """Each role's figures by its name; those that all have are under COMMON alone."""
    with TemporaryDirectory(prefix="nearfield-figures-") as name:  # a node makes its folders
        return _registries(Path(name))


def _registries(nowhere: Path) -> Mapping[str, Metrics]:
    made = {role: Metrics() for role in ("edge", "region", "node", "store", "dns", "anycast", COMMON)}
    add_process_figures(made[COMMON], "", "")
    edge = EdgeFigures(made["edge"], Room())
    edge.follow({})
    edge.follow_listeners({})
    Siblings(None, Feed(Signers.of({}, ""), nowhere, "", made["edge"]), made["edge"], NOTHING)
    GatewayFigures(made["region"]).follow(NOTHING, NOTHING, {}, NOTHING, NOTHING)
    StoreFigures(made["store"], nowhere)
    add_dns_figures(made["dns"], NOTHING, NOTHING, ())
    add_gate_figures(made["anycast"], NOTHING, NOTHING)
    made["node"] = _node(nowhere)
    for role in ("edge", "region", "node"):
        add_trace_figures(made[role])
    return made


def _node(nowhere: Path) -> Metrics:
    store = Endpoint("http://127.0.0.1:1", "", "")
    settings = NodeSettings("", "", 0, store, "", nowhere, 0, 0)
    return Node(settings, NOTHING, NOTHING, NOTHING).metrics


def tables() -> Iterator[str]:
    """Each role's table, as lines of Markdown."""
    own = {name for name, *_ in registries()[COMMON].listed()}
    for role, metrics in registries().items():
        yield from (
            f"### {role}",
            "",
            "| figure | kind | labels | what it says |",
            "| --- | --- | --- | --- |",
        )
        for name, kind, labels, about in metrics.listed():
            if role == COMMON or name not in own:
                yield f"| `{name}` | {kind} | {', '.join(f'`{each}`' for each in labels)} | {about} |"
        yield ""
