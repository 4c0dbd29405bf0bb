"""Start time against bytes: every live model of one region, started from that region's own store."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deploy.report.more.bench import Bench, cold, said
from deploy.report.more.found import Load
from deploy.report.probe import PATHS, Question, model_row, region_body

if TYPE_CHECKING:
    from deploy.report.sample import Sample


async def measure_sizes(bench: Bench, num_each: int) -> tuple[Load, ...]:
    """`num_each` starts of each live model, in random order. Raises: NotSetError, StatusError."""
    region = bench.home or bench.far
    sizes = live_sizes(await bench.admin.status(), region)
    order = list(sizes) * num_each
    bench.rng.shuffle(order)
    found: dict[str, list[Sample]] = {model: [] for model in sizes}
    questions = {model: asked(bench.question, model, kind) for model, (_, kind) in sizes.items()}
    for model in order:
        async with bench.probe(region, question=questions[model]) as probe:
            sample = await cold(bench, probe, model)
        bench.say(f"{region} starts {model}: {said(sample)}")
        found[model].append(sample)
    return tuple(Load(model, region, sizes[model][0], tuple(found[model])) for model in sizes)


def asked(question: Question, model: str, kind: Any) -> Question:
    """The report's own question, put to another model."""
    return replace(question, model=model, kind=kind if kind in PATHS else "generate")


def live_sizes(status: Mapping[str, Any], region: str) -> dict[str, tuple[int, Any]]:
    """(bytes of weights, kind) of each model that the region serves."""
    rows = {name: model_row(status, region, name) for name in region_body(status, region).get("models", {})}
    return {
        name: (row["bytes"], row.get("kind"))
        for name, row in rows.items()
        if row.get("state", "live") == "live" and isinstance(row.get("bytes"), int) and row["bytes"] > 0
    }
