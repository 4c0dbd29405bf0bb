"""A receipt as an operator is shown it: what the hops said is read here, and only when somebody looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regions.map.headers import REMOTE_BYTES, START, TOKENS
from wire.timing import parse_receipt, parse_server_timing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.receipts.receipt import Receipt


def shown(receipt: Receipt) -> dict[str, Any]:
    """As JSON-ready values: `hops` from the edge inwards, each with the phases that it measured itself."""
    said, told = _said(receipt.head), _told(receipt.told)
    node = next((each for each in told if each.get("hop") == "node"), {})
    hops = [_hop("edge", receipt.total_ms, receipt.phases)]
    hops += [_of_receipt(each) for each in reversed(told)] or _of_timing(said.get("server-timing", ""))
    woken: dict[str, Any] = next((each for each in told if "start_phases" in each), {})
    return {
        "id": receipt.number,
        "at": round(receipt.at, 3),
        "model": receipt.model,
        "tenant": receipt.tenant,
        "key": receipt.key,
        "path": receipt.path,
        "region": receipt.region,
        "status": receipt.status,
        "streamed": receipt.is_streamed,
        "start": said.get(START) or node.get("start"),
        "total_ms": round(receipt.total_ms, 3),
        "ttft_ms": node.get("time_to_first_token_ms"),
        "tokens": _tokens(said, node),
        "remote_bytes": _number(said.get(REMOTE_BYTES)),
        "bytes": woken.get("bytes") or node.get("bytes") or {},
        "start_phases": woken.get("start_phases") or {},
        "hops": hops,
        "replayed": list(receipt.replayed),
        "code": receipt.code,
    }


def _said(head: bytes) -> dict[str, str]:
    pairs = (line.partition(b":") for line in head.replace(b"\r", b"\n").split(b"\n"))
    return {
        name.strip().lower().decode("latin-1"): value.strip().decode("latin-1")
        for name, _, value in pairs
        if name
    }


def _told(lines: bytes) -> list[dict[str, Any]]:
    found = (parse_receipt(line) for line in lines.split(b"\n"))
    return [each for each in found if each is not None and each.get("hop") in {"gateway", "node"}]


def _hop(name: str, total_ms: float, phases: Mapping[str, float]) -> dict[str, Any]:
    return {
        "hop": name,
        "total_ms": round(total_ms, 3),
        "phases": {phase: round(ms, 3) for phase, ms in phases.items()},
    }


def _of_receipt(told: Mapping[str, Any]) -> dict[str, Any]:
    phases = told.get("phases")
    total = told.get("total_ms")
    return _hop(
        str(told["hop"]),
        total if isinstance(total, int | float) else 0.0,
        {str(name): ms for name, ms in phases.items() if isinstance(ms, int | float)}
        if isinstance(phases, dict)
        else {},
    )


def _of_timing(value: str) -> list[dict[str, Any]]:
    """The hops of a `Server-Timing`, which names a hop's total, and its phases as `hop.phase`."""
    timing = parse_server_timing(value)
    return [
        _hop(
            hop,
            timing[hop],
            {name.removeprefix(f"{hop}."): ms for name, ms in timing.items() if name.startswith(f"{hop}.")},
        )
        for hop in ("gateway", "node")
        if hop in timing
    ]


def _tokens(said: Mapping[str, str], node: Mapping[str, Any]) -> int | None:
    if "completion_tokens" in node:
        return _number(node["completion_tokens"])
    return _number(said.get(TOKENS, "").partition(" ")[2])


def _number(value: object) -> int | None:
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isdigit() else None
