"""The how-tos, command by command, on the platform that the other pages are tried on."""

import re
import shutil

import pytest

from tests.e2e import how_to, pages
from tests.e2e.pages import ROOT, Shell, is_as_said
from tests.e2e.platform import TINYCHAT, RunningPlatform
from tests.e2e.test_pages import PAGES as OTHER_PAGES

HOW_TOS = sorted((ROOT / "docs" / "how-to").glob("*.md"))
ELSEWHERE = {"back-up.md": ROOT / "tests" / "e2e" / "test_back_up.py"}
"""Pages that have a platform of their own, and the tests that run them."""
MODEL = "acme/my-model"
KEY_ID = "1f0c9a52b7de"
"""In the page; the one that was made stands for it."""


@pytest.fixture
def shell(platform: RunningPlatform, tmp_path):
    shutil.copytree(TINYCHAT, tmp_path / "my-model")
    made = Shell(tmp_path, platform.state, platform.state.parent / f"{platform.state.name}.log")
    made.run(". .venv/bin/activate")
    yield made
    made.close()
    for model in (MODEL, f"{MODEL}@next"):
        platform.nearfield("rm", model, "--yes", check=False)


def run_here(page):
    return [block for block in how_to.blocks(page) if block.why_not is None and page.name not in ELSEWHERE]


@pytest.mark.parametrize("page", [page for page in HOW_TOS if run_here(page)], ids=lambda page: page.stem)
def test_what_a_how_to_says_is_what_happens(shell: Shell, page):
    made = KEY_ID
    for block in run_here(page):
        printed, status = shell.run(block.commands.replace(KEY_ID, made))

        assert status == 0, f"{page.name}:{block.line} ended with {status}:\n{printed}"
        assert block.prints is None or is_as_said(printed, block.prints), (
            f"{page.name}:{block.line} prints\n{pages.masked(printed)}"
        )
        made = next(iter(re.findall(r"^id ([0-9a-f]{12});", printed, re.MULTILINE)), made)


@pytest.mark.parametrize("page", HOW_TOS, ids=lambda page: page.stem)
def test_a_command_of_a_how_to_is_run_or_says_why_not(page):
    """In blocks by the test above; in a sentence, if a block that is run anywhere has it."""
    scripts = [block.commands for each in HOW_TOS for block in how_to.blocks(each) if block.why_not is None]
    scripts += [step.commands for each in OTHER_PAGES for step in pages.steps(ROOT / each)]
    why_not = how_to.refused(page)
    own = [line for block in how_to.blocks(page) if block.why_not for line in block.commands.splitlines()]
    said = how_to.said(page)
    unmarked = [each for each in said if each not in why_not and not how_to.covered(each, [*scripts, *own])]

    assert unmarked == [], "run it in a block, or say why it is not run (tests/e2e/how_to.py)"
    assert set(why_not) <= set(said), "a command that the page no longer has"


def test_pages_that_are_run_elsewhere_are_run_there():
    for name, test in ELSEWHERE.items():
        assert name in {page.name for page in HOW_TOS}
        assert f'"{name}"' in test.read_text()


def test_an_unmarked_command_is_found(tmp_path):
    """In a block, a sentence and an indented block; the mark of each takes it out."""
    page = tmp_path / "page.md"
    page.write_text(
        "1. Say `nearfield ls --json` or `nearfield.toml`.\n\n    ```sh\n    nearfield ls\n    ```\n\n"
        "<!-- not run: it takes a rack of machines -->\n\n```sh\nnearfield up\n```\n\n    nearfield rm x --yes\n\n"
        "<!-- not run `nearfield ls --json`: for some good reason -->\n"
    )
    ran, other = how_to.blocks(page)

    assert (ran.commands, ran.why_not, ran.line) == ("nearfield ls\n", None, 4)
    assert other.why_not == "it takes a rack of machines"
    assert how_to.said(page) == ["nearfield ls --json", "nearfield rm x --yes"]
    assert how_to.refused(page) == {"nearfield ls --json": "for some good reason"}
    assert how_to.covered("nearfield keys make x --ttl 1d", ["nearfield keys make acme --ttl 9d --name ci"])
    assert not how_to.covered("nearfield keys make x --scopes infer", ["nearfield keys make acme --ttl 9d"])
    assert not how_to.covered("nearfield keys rotate x", ["nearfield keys make acme"])
