"""Standard streams as commands may find them: a full disk, a reader that has gone, closed, plain letters only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.terminal import streams

FULL = Path("/dev/full")
WORDS = "a\x1b]52;c;eA==\x07\n\tb\x9b31m\r é"

SCRIPT = """
import sys
from deploy.terminal import streams
with streams.ready():
    {body}
    sys.exit({status})
"""


def _run(body, *, status=0, **given):
    program = [sys.executable, "-c", SCRIPT.format(body=body, status=status)]
    return subprocess.run(program, stderr=subprocess.PIPE, text=True, check=False, **given)


@pytest.mark.parametrize("length", [1, 100_000])
@pytest.mark.skipif(not FULL.exists(), reason="no disk that is always full")
def test_a_full_disk_is_said_in_a_line(length):
    """Met while writing, or not before the end, when Python flushes."""
    with FULL.open("w") as full:
        done = _run(f"sys.stdout.write('x' * {length})", stdout=full)

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "output_lost: standard output cannot be written: No space left on device",
        "next: the same command again, with its output where there is room",
    ]


def test_what_python_is_not_to_buffer_is_written_at_once():
    body = "sys.stdout.write('one '); sys.stderr.write('two '); sys.stdout.write('three')"
    program = [sys.executable, "-u", "-c", SCRIPT.format(body=body, status=0)]
    done = subprocess.run(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)

    assert done.stdout == "one two three"


def test_another_files_error_is_not_taken_for_it():
    done = _run("open('/nowhere/at/all')", stdout=subprocess.DEVNULL)

    assert "FileNotFoundError" in done.stderr
    assert "output_lost" not in done.stderr


def test_a_reader_that_has_gone_is_not_worth_a_word():
    reader, writer = os.pipe()
    os.close(reader)
    done = _run("sys.stdout.write('x')", stdout=writer)
    os.close(writer)

    assert (done.returncode, done.stderr) == (1, "")


def test_what_is_closed_is_nowhere_and_its_number_nobody_elses(tmp_path):
    """A file that is opened after it must not get what was meant for standard output."""
    kept = tmp_path / "kept"
    body = f"kept = open({str(kept)!r}, 'w'); print('words'); assert kept.fileno() > 2; assert not sys.stdin.read()"
    done = _run(body, status=3, preexec_fn=lambda: [os.close(number) for number in (0, 1)])

    assert (done.returncode, done.stderr) == (3, "")
    assert kept.read_text() == ""


def test_signs_that_the_readers_letters_lack_have_plain_ones():
    plain = dict(os.environ, PYTHONIOENCODING="ascii")
    done = _run(r"print('\u2713 a \u2192 b 0.4\u20132.0 s \u65e5')", stdout=subprocess.PIPE, env=plain)

    assert (done.returncode, done.stdout) == (0, "+ a > b 0.4-2.0 s ?\n")


@pytest.mark.parametrize(
    ("is_terminal", "said"), [(True, "a\ufffd]52;c;eA==\ufffd\n\tb\ufffd31m\ufffd é"), (False, WORDS)]
)
def test_a_model_drives_nobodys_terminal(monkeypatch, is_terminal, said):
    """Whoever may push may have one say what sets a title, a colour, or the clipboard."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)

    assert streams.harmless(WORDS) == said
