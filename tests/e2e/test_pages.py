"""What a newcomer types: the README and the tutorial, command by command, against a platform that runs."""

import asyncio
import io
import shutil

import httpx2
import pytest
from rich.console import Console

from deploy.client import Client
from deploy.commands import demo
from deploy.openapi import answers
from deploy.openapi.routes import ROUTES
from examples import minilm
from tests.deploy.conforms import breaches
from tests.e2e import pages
from tests.e2e.conftest import EMBED
from tests.e2e.pages import ROOT, Shell, is_as_said, steps
from tests.e2e.platform import CHAT, TINYCHAT, RunningPlatform, tls

PAGES = ("README.md", "docs/tutorial.md")
LEFT = ("acme/tinychat", "acme/by-aws")


@pytest.fixture
def shell(platform: RunningPlatform, tmp_path):
    made = Shell(tmp_path, platform.state, platform.state.parent / f"{platform.state.name}.log")
    yield made
    made.close()
    for model in LEFT:
        platform.nearfield("rm", model, "--yes", check=False)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_is_what_happens(shell: Shell, page):
    if "aws " in (ROOT / page).read_text() and not shutil.which("aws"):
        pytest.skip("the page uses the aws command, which this machine lacks")
    for step in steps(ROOT / page):
        printed, status = shell.run(step.commands)

        assert status == 0, f"{page}:{step.line} ended with {status}:\n{printed}"
        said = step.prints
        assert said is None or is_as_said(printed, said), (
            f"{page}:{step.line} prints\n{pages.masked(printed)}\nand the page says\n{pages.masked(said)}"
        )


def test_the_demo_prints_what_the_readme_shows(platform: RunningPlatform, monkeypatch, tmp_path):
    """The parts of `make demo` after its start, one after another, with fewer requests for the report."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "NUM_COLD", 1)
    monkeypatch.setattr(demo, "NUM_WARM", 2)
    said = next(m[2] for m in pages.BLOCK.finditer((ROOT / "README.md").read_text()) if "── push ──" in m[2])
    told = io.StringIO()
    console = Console(file=told, width=160, highlight=False, soft_wrap=True)
    demo._title(console, "push")
    demo._push(console, platform.credentials, TINYCHAT)
    demo._title(console, "three questions, over HTTPS, through the edge")
    assert demo._ask(console, platform.credentials, TINYCHAT)
    assert demo._embed(console, platform.credentials)
    demo._title(console, "cold against warm")
    asyncio.run(demo._report(console, platform.credentials))
    demo._farewell(console, 39.0, 10)

    assert is_as_said(told.getvalue(), f"{said}…"), pages.masked(told.getvalue())


ASKED = {
    "chat": {"messages": [{"role": "user", "content": "hi"}], "logprobs": True, "max_tokens": 2},
    "completion": {"prompt": "hi", "max_tokens": 2},
    "embeddings": {"input": ["hi"]},
    "response": {"input": "hi", "max_output_tokens": 2},
    "countInput": {"input": "hi"},
    "messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
    "countTokens": {"messages": [{"role": "user", "content": "hi"}]},
    "rerank": {"query": "cat", "documents": ["a dog", "a cat"], "top_n": 1},
    "tokenize": {"prompt": "hi", "return_token_strs": True},
    "detokenize": {"tokens": [5, 6]},
}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_answers_are_as_the_openapi_document_says(platform: RunningPlatform, route):
    model = EMBED if route.name in {"embeddings", "rerank"} else CHAT
    client = Client(platform.credentials)
    for path in (route.path, *route.also):
        assert breaches(client.post(path, {"model": model, **ASKED[route.name]}).body, route.answer) == []


def test_the_list_of_models_is_as_the_openapi_document_says(platform: RunningPlatform):
    listed = Client(platform.credentials).get("/v1/models").body

    assert breaches(listed, answers.MODELS) == []
    assert {each["id"] for each in listed["data"]} >= {CHAT, EMBED}


def test_anthropics_list_of_models_is_as_the_openapi_document_says(platform: RunningPlatform):
    c = platform.credentials
    heads = {"x-api-key": c.api_key, "anthropic-version": "2023-06-01"}
    with httpx2.Client(base_url=c.base_url, headers=heads, verify=tls(c.ca), timeout=60) as http:
        listed = http.get("models").json()
        one = http.get(f"models/{CHAT.replace('/', '%2F')}").json()

    assert breaches(listed, answers.THEIR_MODELS) == []
    assert one in listed["data"]
    assert {each["id"] for each in listed["data"]} >= {CHAT, EMBED}


def test_the_masks_take_numbers_and_leave_words():
    """Else a page could say anything."""
    said = "3 models, 7.0 MB in iad · warm start"

    assert is_as_said("12 models, 812 kB in fra · host start", said)
    assert not is_as_said("12 models, 812 kB in fra · host stop", said)
    assert not is_as_said("12 models in fra · host start, and more", said)
    assert is_as_said("a b c", "a …")
    assert not is_as_said("b a", "a …")
    assert is_as_said("stopped\nwaking: fork 0%, 0.6 s to go\n4.\n", "stopped\n4.\n")
    assert not is_as_said("stopped\nasleep: fork\n4.\n", "stopped\n4.\n")
    assert minilm.model_folder().is_dir()
