"""What /metrics says of answers: vLLM's and OpenTelemetry's figures, equal to usage and to the client's own clock."""

import asyncio
import json
import time
from typing import Any

import httpx2 as httpx
import pytest

from inference.workers.counts.answers import TIMES, AnswerFigures
from inference.workers.counts.totals import TOTALS
from tests.evidence import IS_WHOLE
from tests.inference.fake_engine import ANSWER, RunningNode, Script, revision, running_node
from tests.inference.test_node_life import until
from tests.inference.test_node_receipt import figures
from tests.inference.test_node_serving import AUTH, HI, load, post
from wire.figures.metrics import Metrics

MODEL = 'model_name="acme/m"'


def of(name: str, model: str = "acme/m", **labels: str) -> str:
    """The series of a figure for one model."""
    more = "".join(f',{key}="{value}"' for key, value in labels.items())
    return f'nearfield_{name}{{model_name="{model}"{more}}}'


def gen_ai(name: str, operation: str = "chat", **labels: str) -> str:
    more = "".join(f',{key}="{value}"' for key, value in labels.items())
    return (
        f'gen_ai_{name}{{gen_ai_operation_name="{operation}",gen_ai_provider_name="nearfield",'
        f'gen_ai_request_model="acme/m"{more}}}'
    )


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def values(metrics: Metrics) -> dict[str, float]:
    lines = (line.rsplit(" ", 1) for line in metrics.page().decode().splitlines() if line[0] != "#")
    return {series: float(value) for series, value in lines}


def test_each_time_is_measured_between_its_own_two_moments() -> None:
    """A choice of three tokens and an end token; one that its first token ends; one that is left."""
    metrics, clock = Metrics(), Clock()
    answers = AnswerFigures(metrics, clock)
    with answers.begin("acme/m", "chat", 90.0, [[1] * 7], 3) as tally:
        tally.take(0, 1, 2000.0, 3000.0)
        clock.now_s = 100.5
        tally.take(0, 2, None, None)
        clock.now_s = 102.0
        tally.take(0, 4, None, None)
        tally.end(0, "stop", 4)
        tally.take(1, 1, 1000.0, 1000.0)
        tally.end(1, "length", 1)
    told = values(metrics)

    assert told[of("time_to_first_token_seconds_sum")] == 10.0 + 12.0
    assert told[of("time_to_first_token_seconds_count")] == 2
    assert told[of("inter_token_latency_seconds_sum")] == 0.5 + 1.5
    assert told[of("inter_token_latency_seconds_count")] == 2
    assert told[of("e2e_request_latency_seconds_sum")] == 3 * 12.0
    assert told[of("request_queue_time_seconds_sum")] == 2.0 + 1.0
    assert told[of("request_prefill_time_seconds_sum")] == 3.0 + 1.0
    assert told[of("request_decode_time_seconds_sum")] == 2.0
    assert told[of("request_time_per_output_token_seconds_sum")] == pytest.approx(2.0 / 3)
    assert told[of("request_time_per_output_token_seconds_count")] == 1
    assert told[of("prompt_tokens_total")] == 7, "the prompt of three choices counts once"
    assert told[of("generation_tokens_total")] == 5
    ends = {
        reason: told[of("request_success_total", finished_reason=reason)]
        for reason in ("stop", "length", "abort")
    }
    assert ends == {"stop": 1, "length": 1, "abort": 1}
    assert told[gen_ai("server_time_to_first_token_seconds_sum")] == 10.0
    assert told[gen_ai("server_time_per_output_token_seconds_count")] == 1


def test_a_cold_start_of_minutes_has_a_bucket_of_its_own() -> None:
    metrics, clock = Metrics(), Clock()
    answers = AnswerFigures(metrics, clock)
    for waited_s in (0.004, 90.0, 400.0):
        with answers.begin("acme/m", "chat", 100.0 - waited_s, [[1]], 1) as tally:
            tally.take(0, 1, None, None)
    told = values(metrics)
    bucket = "time_to_first_token_seconds_bucket"

    assert [told[of(bucket, le=bound)] for bound in ("0.005", "60", "120", "300", "600")] == [1, 1, 2, 2, 3]


def test_what_ends_by_our_fault_is_an_error_and_by_the_clients_leaving_an_abort() -> None:
    metrics = Metrics()
    answers = AnswerFigures(metrics)
    for fault in (RuntimeError(), asyncio.CancelledError()):
        with pytest.raises(type(fault)), answers.begin("acme/m", "chat", 0.0, [[1]], 2):
            raise fault
    told = values(metrics)

    assert told[of("request_success_total", finished_reason="error")] == 2
    assert told[of("request_success_total", finished_reason="abort")] == 2


async def test_the_figures_are_the_usage_of_all_requests(tmp_path: Any) -> None:
    """Chats, completions, streams, several choices, stop strings and limits: tokens and ends to the last one."""
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("chat/completions", {"messages": HI}),
        ("chat/completions", {"messages": HI, "n": 3, "max_tokens": 4}),
        ("chat/completions", {"messages": HI, "stream": True, "stream_options": {"include_usage": True}}),
        ("completions", {"prompt": ["a b", "c"], "n": 2, "max_tokens": 3}),
        ("completions", {"prompt": "x", "stop": "fox"}),
    ]
    async with running_node(tmp_path) as node:
        await load(node)
        usages = [
            usage_of(await post(node, f"/v1/{path}", {"model": "acme/m"} | body)) for path, body in bodies
        ]
        refused = await post(node, "/v1/completions", {"model": "acme/m", "prompt": ""})
        told = await figures(node)

    assert refused.status_code == 400
    assert told[of("prompt_tokens_total")] == sum(usage["prompt_tokens"] for usage in usages)
    assert told[of("generation_tokens_total")] == sum(usage["completion_tokens"] for usage in usages)
    assert told[of("request_success_total", finished_reason="stop")] == 3
    assert told[of("request_success_total", finished_reason="length")] == 3 + 4
    by_operation = {"chat": usages[:3], "text_completion": usages[3:]}
    for operation, some in by_operation.items():
        for kind, name in (("input", "prompt_tokens"), ("output", "completion_tokens")):
            series = gen_ai("client_token_usage_sum", operation, gen_ai_token_type=kind)
            assert told[series] == sum(usage[name] for usage in some)
    duration = "server_request_duration_seconds_count"
    assert told[gen_ai(duration, "text_completion", error_type="")] == 2
    assert told[gen_ai(duration, "text_completion", error_type="invalid_value")] == 1
    assert {of(f"{name}_count") for name in TIMES} <= told.keys()


def usage_of(answer: httpx.Response) -> dict[str, int]:
    """The usage of an answer, streamed or whole."""
    if answer.headers["content-type"] == "application/json":
        return dict(answer.json()["usage"])
    chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    return dict(chunks[-1]["usage"])


async def test_a_client_that_leaves_is_an_abort_with_the_tokens_made_for_it(tmp_path: Any) -> None:
    async with running_node(tmp_path, Script(gap_s=0.02)) as node:
        await load(node)
        body = {"model": "acme/m", "messages": HI, "stream": True}
        async with httpx.AsyncClient(verify=False) as http:
            url = f"{node.url}/v1/chat/completions"
            async with http.stream("POST", url, json=body, headers=AUTH, timeout=60) as answer:
                await anext(answer.aiter_lines())
        await until(lambda: node.shell.engines[0].cancelled)
        told = await figures(node)

    assert told[of("request_success_total", finished_reason="abort")] == 1
    assert 0 < told[of("generation_tokens_total")] < len(ANSWER)
    assert told[gen_ai("server_request_duration_seconds_count", error_type="client_gone")] == 1


async def test_what_engines_count_is_shown_by_model_and_never_falls(tmp_path: Any) -> None:
    async with running_node(tmp_path) as node:
        for number in (1, 2):
            await load(node)
            counts = {"running": 3, "waiting": 2, **dict.fromkeys(TOTALS, 5 * number)}
            await node.shell.engines[-1].link.send({"op": "stats", **counts})
            await until(lambda: all(worker.stats for worker in node.node.host.workers))
            told = await figures(node)
            assert told[of("num_requests_running")] == 3
            assert told[of("num_requests_waiting")] == 2
            assert told[of("kv_cache_usage_perc")] == 3 / 4
            await post(node, "/unload", {"revision": revision().id})
            gone = await figures(node)
            assert {name: gone[of(said)] for name, (said, _) in TOTALS.items()} == dict.fromkeys(
                TOTALS, 5 if number == 1 else 15
            )
            assert of("num_requests_running") not in gone


async def test_the_clients_clock_and_the_figures_agree(tmp_path: Any) -> None:
    """Within 2 % where nothing else runs (`make evidence`); here that they measure the same thing."""
    gap_s, tolerance = (0.1, 0.02) if IS_WHOLE else (0.02, 0.5)
    async with running_node(tmp_path, Script(gap_s=gap_s)) as node:
        await load(node)
        first_s, whole_s = 0.0, 0.0
        for _ in range(3):
            first, whole = await timed(node)
            first_s, whole_s = first_s + first, whole_s + whole
        told = await figures(node)

    measured_s = told[of("time_to_first_token_seconds_sum")], told[of("e2e_request_latency_seconds_sum")]
    assert measured_s[0] <= first_s
    assert measured_s[1] <= whole_s
    assert measured_s[1] == pytest.approx(whole_s, rel=tolerance)
    assert told[of("inter_token_latency_seconds_sum")] == pytest.approx(whole_s - first_s, rel=tolerance)
    rate = told[of("generation_tokens_total")] / measured_s[1]
    assert rate == pytest.approx(3 * (len(ANSWER) + 1) / whole_s, rel=tolerance)


async def timed(node: RunningNode) -> tuple[float, float]:
    """Seconds until the first piece and until the last one, by a client's own clock."""
    body = {"model": "acme/m", "messages": HI, "stream": True}
    async with httpx.AsyncClient(verify=False) as http:
        started = time.perf_counter()
        url = f"{node.url}/v1/chat/completions"
        async with http.stream("POST", url, json=body, headers=AUTH, timeout=60) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            first_s = time.perf_counter() - started
            async for _ in lines:
                pass
        return first_s, time.perf_counter() - started
