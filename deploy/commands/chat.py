"""`nearfield chat`: one question, or a conversation; after each answer, where the time went."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from deploy import chat
from deploy.client import Client
from deploy.faults import NotLive
from deploy.terminal import show, streams
from deploy.trust.credentials import Credentials

MAX_TURNS = 64


def run(
    credentials: Credentials,
    model: str,
    prompt: str | None,
    region: str | None,
    max_tokens: int,
    *,
    as_json: bool,
) -> None:
    """Ask `prompt`, or read questions from the terminal until it closes."""
    if region is not None and region not in credentials.regions:
        known = ", ".join(credentials.regions)
        raise NotLive("unknown_region", f"no region {region!r}", f"There are: {known}.")
    client = Client(credentials)
    if prompt is not None:
        told = _turn(client, model, [{"role": "user", "content": prompt}], region, max_tokens, quiet=as_json)
        if as_json:
            show.emit_json(
                {"text": told.text, "headers": told.headers, "usage": told.usage, "receipts": told.receipts}
            )
        return
    messages: list[Mapping[str, str]] = []
    for _ in range(MAX_TURNS):
        sys.stdout.write("> ")
        sys.stdout.flush()
        line = sys.stdin.readline()
        if not line.strip():
            return
        messages.append({"role": "user", "content": line.strip()})
        told = _turn(client, model, messages, region, max_tokens, quiet=False)
        messages.append({"role": "assistant", "content": told.text})


class Firsts:
    """When the first token and the first text came, in ms from now on; token 0 and text 0 while they have not."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._started = clock, clock()
        self.token_ms = self.text_ms = 0.0

    def token(self) -> None:
        """The answer opens."""
        self.token_ms = 1000 * (self._clock() - self._started)

    def text(self, _piece: str) -> None:
        """Some of it shows."""
        self.text_ms = self.text_ms or 1000 * (self._clock() - self._started)


def _turn(
    client: Client,
    model: str,
    messages: list[Mapping[str, str]],
    region: str | None,
    max_tokens: int,
    *,
    quiet: bool,
) -> chat.Told:
    console, firsts, said = show.problems(), Firsts(), [""]

    def text(piece: str) -> None:
        firsts.text(piece)
        if not quiet:
            sys.stdout.write(streams.harmless(piece))
            sys.stdout.flush()

    def waiting(note: Mapping[str, Any]) -> None:
        eta = "" if note.get("eta_s") is None else f", {note['eta_s']:.1f} s to go"
        percent = "" if note.get("percent") is None else f" {note['percent']:.0f}%"
        line = f"waking: {note.get('phase')}{percent}{eta}"
        if not quiet and line != said[0]:
            console.print(f"[dim]{line}[/]")
        said[0] = line

    told = chat.ask(
        client,
        model,
        messages,
        max_tokens=max_tokens,
        region=region,
        on_token=firsts.token,
        on_text=text,
        on_wait=waiting,
    )
    if not quiet:
        sys.stdout.write("\n")
        sys.stdout.flush()
        console.print(f"[dim]{where_time_went(told, firsts)}[/]")
    return told


BEFORE_FIRST = {
    "edge": ("read", "route", "send"),
    "gateway": ("read", "pick", "wake", "heard", "send"),
    "node": ("read", "template", "tokenize", "queue", "weights", "prefill"),
}
"""The phases of each hop that end before the first token; `report` has them all, with their parts."""


SEEN_LATER_MS = 1.0
"""The first token's event and that of its text leave together: between them lies what a terminal takes, or tokens."""


def where_time_went(told: chat.Told, firsts: Firsts) -> str:
    """One line: region, start state, the first token's time and what it was spent on, bytes from afar.

    The first text's time stands beside it where tokens that show none (of thinking, white space, half a character) came
    before it: they are decoding, and no network.
    """
    first_token_ms, first_text_ms = firsts.token_ms, firsts.text_ms
    spent: dict[str, float] = {}
    for hop, names in BEFORE_FIRST.items():
        phases = told.receipt(hop).get("phases") or {}
        for name in names:
            spent[name] = spent.get(name, 0.0) + float(phases.get(name, 0.0))
    spent["network"] = max(0.0, first_token_ms - sum(spent.values()))
    parts = ", ".join(f"{name} {show.millis(ms)}" for name, ms in spent.items() if ms >= 0.1)
    headers, node = told.headers, told.receipt("node")
    if first_text_ms - first_token_ms >= SEEN_LATER_MS:
        parts += f" · first text {show.millis(first_text_ms)}, after tokens that show none"
    return (
        f"{headers.get('x-nearfield-region')} · {headers.get('x-nearfield-start')} start · "
        f"first token {show.millis(first_token_ms)}: {parts} · "
        f"{node.get('remote_bytes', headers.get('x-nearfield-remote-bytes'))} B from afar"
    )
