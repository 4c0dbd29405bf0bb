"""`make demo`: everything once, from nothing, and nothing left behind but the report."""

import asyncio
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.console import Console

from deploy import chat
from deploy.client import Client
from deploy.commands import chat as chat_command
from deploy.commands import report as report_command
from deploy.commands.up import addresses
from deploy.faults import NotLive, StateInUse
from deploy.fleet import FleetPlan
from deploy.lock import demand_free
from deploy.models import push, watch
from deploy.models.push import PushRefused
from deploy.terminal import show
from deploy.terminal.exits import Exit
from deploy.trust.credentials import Credentials
from deploy.up import Platform
from examples import minilm
from wire.counted import counted

CHAT_MODEL = "examples/tinychat"
EMBEDDING_MODEL = "examples/minilm"
LIVE_DEADLINE_S = 120.0
QUESTIONS = "questions.json"
MARK = "demo"
"""A file in the folder of a demo: it may be wiped."""
NUM_COLD, NUM_WARM = 2, 20  # a p50 needs twenty
HTML, JSON = Path("report.html"), Path("report.json")
SENTENCES = (
    "The bucket sits beside the compute.",
    "A cat sleeps on the warm windowsill.",
    "Paris is the capital of France.",
)
QUERY = "Where does a kitten like to nap?"
NEAREST = 1


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the demo with the answer it must get."""

    prompt: str
    answer: str


def run(state: Path, folder: Path) -> int:
    """Run the demo in `state` (wiped before and after, if it is a demo's); returns the exit status."""
    state = state.absolute()
    _check(state, folder)
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(mode=0o700, parents=True)
    (state / MARK).touch()
    return uvloop.run(_demo(state, folder, show.console()))


def _check(state: Path, folder: Path) -> None:
    """Before anything starts or is wiped. Raises: PushRefused, NotLive, StateInUse."""
    push.plan(folder, CHAT_MODEL, ())
    if not (folder.parent / QUESTIONS).is_file():
        cause = f"there are no questions with known answers for {folder}: no {folder.parent / QUESTIONS}"
        raise PushRefused("no_questions", cause, "nearfield up, then nearfield push")
    if state.exists() and any(state.iterdir()) and not (state / MARK).exists():
        cause = f"{state} is no demo's folder, and a demo wipes its own"
        raise NotLive("not_a_demo", cause, "nearfield demo --state NEW_FOLDER")
    demand_free(state)


async def _demo(state: Path, folder: Path, console: Console) -> int:
    started = time.perf_counter()
    platform = Platform(FleetPlan(state), lambda text: console.print(f"[dim]{text}[/]"))
    is_ours = True
    try:
        running = await platform.start()
        addresses(console, running.credentials)
        console.print("\nAll of this ends with the demo, within a minute; `nearfield up` leaves it running.")
        _title(console, "push")
        await asyncio.to_thread(_push, console, running.credentials, folder)
        _title(console, "three questions, over HTTPS, through the edge")
        right = await asyncio.to_thread(_ask, console, running.credentials, folder)
        right &= await asyncio.to_thread(_embed, console, running.credentials)
        _title(console, "cold against warm")
        await _report(console, running.credentials)
    except StateInUse:
        is_ours = False  # another demo began at the same moment
        raise
    finally:
        await platform.stop()
        if is_ours:
            shutil.rmtree(state, ignore_errors=True)
    _farewell(console, time.perf_counter() - started, len(platform.roles))
    return Exit.OK if right else Exit.FAILED


def _title(console: Console, words: str) -> None:
    console.print(f"\n[bold]── {words} ──[/]")


def _push(console: Console, credentials: Credentials, folder: Path) -> None:
    for model, source in ((CHAT_MODEL, folder), (EMBEDDING_MODEL, minilm.model_folder())):
        planned = push.plan(source, model, tuple(credentials.regions))
        push.upload(planned, credentials, None, lambda _: None)
        console.print(
            f"pushed [bold]{model}[/]: {counted(len(planned.files), 'file')}, {show.size(planned.num_bytes)}"
        )
    client = Client(credentials, admin=True)
    for model in (CHAT_MODEL, EMBEDDING_MODEL):
        move = asyncio.run(watch.committed(credentials, model, LIVE_DEADLINE_S))
        where = watch.until_live(client, model, move, None, lambda _: None, LIVE_DEADLINE_S)
        console.print(f"[green]live[/] in {', '.join(where)}: {model} (revision {move.revision[:16]})")


def questions(folder: Path) -> Sequence[Question]:
    """The example's verified questions, kept beside the model."""
    listed = json.loads((folder.parent / QUESTIONS).read_text())
    return [Question(entry["question"], entry["answer"]) for entry in listed]


def _ask(console: Console, credentials: Credentials, folder: Path) -> bool:
    client, right = Client(credentials), True
    for question in questions(folder)[:3]:
        firsts = chat_command.Firsts()
        told = chat.ask(
            client,
            CHAT_MODEL,
            [{"role": "user", "content": question.prompt}],
            on_token=firsts.token,
            on_text=firsts.text,
        )
        ok = told.text.strip() == question.answer
        right &= ok
        console.print(
            f"[bold]{question.prompt}[/]\n  {told.text.strip()} {'[green]✓[/]' if ok else '[red]✗[/]'}"
        )
        console.print(f"  [dim]{chat_command.where_time_went(told, firsts)}[/]")
    return right


def _embed(console: Console, credentials: Credentials) -> bool:
    body = {"model": EMBEDDING_MODEL, "input": [QUERY, *SENTENCES], "encoding_format": "float"}
    reply = Client(credentials).post("/v1/embeddings", body)
    query, *rest = [entry["embedding"] for entry in reply.body["data"]]
    scores = [_dot(query, vector) for vector in rest]
    best = max(range(len(rest)), key=scores.__getitem__)
    ok = best == NEAREST
    console.print(f"[bold]{QUERY}[/] (nearest of {len(SENTENCES)} sentences)")
    console.print(f"  {SENTENCES[best]} (cosine {scores[best]:.2f}) {'[green]✓[/]' if ok else '[red]✗[/]'}")
    return ok


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


async def _report(console: Console, credentials: Credentials) -> None:
    order = report_command.Order(
        CHAT_MODEL, None, NUM_COLD, NUM_WARM, 0, report_command.Outputs(html=HTML, json=JSON)
    )
    await report_command.measured(console, credentials, order, is_shelved=False)  # its console ends with us


def _farewell(console: Console, seconds: float, num_processes: int) -> None:
    console.print()
    console.print(
        f"done in {seconds:.0f} s; {counted(num_processes, 'process')} started, all stopped. Try next:\n"
    )
    console.print("  . .venv/bin/activate")
    console.print("  nearfield up                                  # the same platform, left running")
    console.print("  nearfield push examples/tinychat/model acme/tinychat       # in another terminal")
    console.print("  nearfield chat acme/tinychat 'What is the capital of France?'")
    console.print(
        "  nearfield console --open                      # the live page of that platform, logged in"
    )
    console.print("  nearfield report acme/tinychat --html report.html")
