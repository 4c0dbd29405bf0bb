"""The pages: links lead somewhere, configuration is what the parser takes, commands and their options are there."""

import re
import shlex
import tomllib
from functools import cache
from pathlib import Path

import pytest
from typer.main import get_command

from deploy.cli import app
from deploy.schemas.published import schema_of
from tests.deploy.conforms import breaches

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
HANDWRITTEN = [
    page for page in PAGES if page.name not in {"cli.md", "http-api.md", "config.md", "evidence.md"}
]
ROOMS = ("edge", "inference", "regions", "storage", "wire")
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^(?: {4,}\S.*)?\n)+", re.MULTILINE)


def named(page):
    return str(page.relative_to(ROOT))


def slug(title):
    """The anchor of a heading, as GitHub and mkdocs make it."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title.replace("`", "")).strip().lower())


@cache
def anchors(page):
    text = FENCED.sub("", page.read_text())
    return {slug(title) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page):
    """Also in a clone without the tool that builds the site."""
    text, broken = FENCED.sub("", page.read_text()), []
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        found = page if not path else (page.parent / path).resolve()
        if not found.exists() or (anchor and found.suffix == ".md" and anchor not in anchors(found)):
            broken.append(target)

    assert broken == []


def test_the_table_of_contents_names_pages_that_there_are():
    listed = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    there = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.name != "README.md"}

    assert set(listed) <= there
    assert len(listed) == len(set(listed))


FOLDERS = "bench|deploy|edge|examples|inference|regions|storage|tests|weights_cache|wire"
NAMED_FILE = re.compile(rf"`((?:{FOLDERS})/[\w/.-]+\.(?:py|md|txt|toml|json|conf))\b")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_file_that_a_page_names_is_there(page):
    """By its path from the root; a file that moved takes its mentions along."""
    assert [name for name in NAMED_FILE.findall(page.read_text()) if not (ROOT / name).exists()] == []


def blocks(page, kind):
    """Fenced blocks of a language, and indented ones that look like it."""
    text = page.read_text()
    found = [body for language, body in FENCED.findall(text) if language == kind]
    for indented in INDENTED.findall(FENCED.sub("", text)):
        lines = [line.strip() for line in indented.splitlines() if line.strip()]
        is_toml = any(re.fullmatch(r"\[+[\w.-]+\]+", line) for line in lines)
        if lines and kind == ("toml" if is_toml else "sh"):
            found.append("\n".join(lines))
    return found


NOT_OURS = {"default", "devices"}
"""Of AWS' own file, and of a price file."""


def unrequired(schema):
    """The schema without what must be there: a page shows what it is about, and no more."""
    if isinstance(schema, list):
        return [unrequired(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {k: unrequired(v) for k, v in schema.items() if not (k == "required" and isinstance(v, list))}


@pytest.mark.parametrize("page", HANDWRITTEN, ids=named)
def test_every_table_of_nearfield_toml_has_keys_that_there_are(page):
    schema = unrequired(schema_of("toml"))
    for text in blocks(page, "toml"):
        if any(f"[{name}]" in text for name in NOT_OURS):
            continue
        tree = tomllib.loads(text)
        if any(isinstance(value, dict) for value in tree.values()):  # else it is a model.toml
            assert breaches(tree, schema) == [], text


def commands(page):
    """Each `nearfield ...` of a page that is typed as a command, its words."""
    for text in [*blocks(page, "sh"), *blocks(page, "")]:
        for line in text.replace("\\\n", " ").splitlines():
            typed = line.removeprefix("$ ")
            if typed.startswith("nearfield "):
                yield shlex.split(typed, comments=True)[1:]


@pytest.mark.parametrize("page", HANDWRITTEN, ids=named)
def test_every_command_and_option_is_there(page):
    known = get_command(app).commands
    for words in commands(page):
        command = known[words[0]]
        if hasattr(command, "commands"):
            command = command.commands.get(
                words[1] if words[1:] else "", command.commands.get("run", command)
            )
        options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
        said = {word.partition("=")[0] for word in words if word.startswith("-") and len(word) > 1}

        assert said <= options | {"--help"}, f"nearfield {' '.join(words)}"


def test_every_header_of_ours_is_on_its_page():
    """Of headers, or of what it is a part of; those between our own hops are named as such."""
    sources = [path.read_text() for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    sent = {name for source in sources for name in re.findall(r"\"x-nearfield-([a-z-]+[a-z])\"", source)}
    page = (ROOT / "docs/reference/headers.md").read_text()
    elsewhere = "".join(each.read_text() for each in PAGES)  # those of webhooks, of handing bytes over
    unsaid = {name for name in sent if not re.search(rf"`(x-nearfield)?-{name}\b", page)}

    assert len(sent) > 20
    assert {name for name in unsaid if f"x-nearfield-{name}" not in elsewhere} == set()
