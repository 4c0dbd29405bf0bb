"""Commands on a real pseudo-terminal, wide and narrow: bars, tables, colours, resizing, Ctrl-C."""

import pytest

from tests.e2e.platform import CHAT, TINYCHAT, RunningPlatform
from tests.e2e.terminal import COLOURS, Terminal

PUSHED = "examples/on-a-terminal"
CTRL_C = "\x03"
INTERRUPTED = 130


@pytest.fixture
def gone(platform: RunningPlatform):
    yield
    platform.nearfield("rm", PUSHED, "--yes", check=False)


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize(
    "words", [("status",), ("keys", "ls"), ("ls",), ("push", str(TINYCHAT), CHAT, "--dry-run")]
)
def test_no_word_is_broken_at_any_width(platform: RunningPlatform, words, columns):
    screen = Terminal(platform.state, *words, columns=columns)

    assert screen.end() == 0
    told = " ".join(screen.lines)
    keys = [each["id"] for each in platform.admin.get("/nearfield/keys").body["keys"]]
    for word in {"keys": keys, "push": ["iad", "fra"]}.get(words[0], [CHAT]):
        assert word in told
    tabled = [
        line
        for line in screen.lines
        if " · " in line or line.startswith(("iad", "fra", "region", "model", "id"))
    ]
    assert tabled
    assert [line for line in tabled if len(line.rstrip()) > columns] == []
    assert screen.has_cursor


@pytest.mark.parametrize("columns", [60, 80])
def test_a_push_shows_each_bar_on_one_line(platform: RunningPlatform, gone, columns):
    screen = Terminal(platform.state, "push", str(TINYCHAT), PUSHED, "--yes", columns=columns)

    assert screen.end() == 0
    bars = [
        line for line in screen.lines if line.startswith(("  upload ", "  iad ", "  fra ")) and "MB" in line
    ]
    assert {line.split()[0] for line in bars} == {"upload", "iad", "fra"}
    assert all(len(line.rstrip()) <= columns for line in bars)
    assert any("disk → bucket" in line for line in bars)
    assert any("━" in line for line in bars) is (columns == 80), "a narrow terminal has figures alone"
    assert COLOURS.search(screen.text)
    assert screen.has_cursor


def test_no_color_is_obeyed_where_bars_are_drawn(platform: RunningPlatform, gone):
    screen = Terminal(platform.state, "push", str(TINYCHAT), PUSHED, "--yes", NO_COLOR="1")

    assert screen.end() == 0
    assert any("disk → bucket" in line for line in screen.lines)
    assert not COLOURS.search(screen.text)


def test_ctrl_c_among_the_bars_brings_the_cursor_back(platform: RunningPlatform, gone):
    screen = Terminal(platform.state, "push", str(TINYCHAT), PUSHED, "--yes")
    screen.until("disk → bucket")
    screen.press(CTRL_C)

    assert screen.end() == INTERRUPTED
    assert screen.has_cursor
    assert "Traceback" not in screen.text


@pytest.mark.parametrize("words", [("push", str(TINYCHAT), PUSHED), ("rm", CHAT)])
def test_ctrl_c_at_a_question_is_no_answer(platform: RunningPlatform, words):
    screen = Terminal(platform.state, *words)
    screen.until(r"\[[yY]/[nN]\]")
    screen.press(CTRL_C)

    assert screen.end(again=CTRL_C) == INTERRUPTED
    assert "Traceback" not in screen.text
    assert CHAT in platform.nearfield("ls").stdout


def test_a_watched_status_follows_the_terminals_width_and_leaves_it_as_it_was(platform: RunningPlatform):
    screen = Terminal(platform.state, "status", "--watch", columns=160, rows=40)
    screen.until(r"region\s+rtt")
    screen.resize(60, 40)
    screen.until(r"rtt [0-9.]+ ms · heard")
    screen.press(CTRL_C)

    assert screen.end() == 0
    assert screen.text.count("\x1b[?1049h") == screen.text.count("\x1b[?1049l") == 1
    assert screen.has_cursor


@pytest.mark.parametrize(("words", "seen"), [(("chat", CHAT), "> "), (("logs", "-f"), r"\d:\d\d")])
def test_ctrl_c_ends_what_waits(platform: RunningPlatform, words, seen):
    screen = Terminal(platform.state, *words)
    screen.until(seen)
    screen.press(CTRL_C)

    assert screen.end(again=CTRL_C) in {0, INTERRUPTED}
    assert "Traceback" not in screen.text
    assert screen.has_cursor


def test_a_question_on_a_terminal_is_answered_as_it_comes(platform: RunningPlatform):
    screen = Terminal(platform.state, "chat", CHAT)
    screen.until("> ")
    screen.press("What is the capital of France?\r")
    screen.until("first token")
    screen.press("\x04")

    assert screen.end() == 0
    assert "Paris" in screen.text
