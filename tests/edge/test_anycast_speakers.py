"""The gate's ways to BGP daemons: BIRD's control protocol, scripted and real, and ExaBGP's pipe."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edge.anycast import run as gate_run
from edge.anycast.bird import COMMANDS, MAX_REPLY_LINES, Bird, Reply, standing_of
from edge.anycast.exabgp import ExaBgp
from edge.anycast.gate import RISE, Checks, Standing
from edge.anycast.run import AnycastSettings, Gate
from edge.anycast.speaker import SpeakerError
from edge.anycast.tie import Tie, TieError
from tests.lab.netns import Namespace

PACKAGING = Path(__file__).resolve().parents[2] / "deploy" / "packaging"
GOOD, DEAF = Checks(True, 1), Checks(False, 1)
needs_bird = pytest.mark.skipif(shutil.which("bird") is None, reason="BIRD is not installed (Debian: bird2)")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a network device needs root")

PROTOCOLS = b"""2002-Name       Proto      Table      State  Since         Info
1002-device1    Device     ---        up     13:07:03.200
 anycast    Static     master4    up     13:07:03.435
 anycast_drain Static     master4    down   13:07:03.438
 upstream   BGP        master4    up     13:07:04.001  Established
"""


@pytest.mark.parametrize(
    ("plain", "drain", "standing"),
    [
        ("up", "up", Standing.ANNOUNCED),
        ("up", "down", Standing.ANNOUNCED),
        ("down", "up", Standing.DRAINING),
        ("down", "down", Standing.WITHDRAWN),
    ],
)
def test_what_bird_says_of_the_two_protocols(plain, drain, standing):
    text = PROTOCOLS.decode().replace(
        "master4    up     13:07:03.435", f"master4    {plain}     13:07:03.435"
    )

    assert standing_of(text.replace("down   13:07:03.438", f"{drain}   13:07:03.438")) is standing


def test_a_bird_without_the_protocols_is_told_what_to_do():
    with pytest.raises(SpeakerError, match=r"anycast_drain.*bird\.conf"):
        standing_of(PROTOCOLS.decode().replace("anycast_drain", "other"))


def read(text):
    reply = Reply()
    return reply, [reply.feed(line) for line in text.splitlines(keepends=True)]


def test_a_reply_ends_with_its_last_line():
    reply, ended = read(PROTOCOLS + b"0000 \n")

    assert ended == [False] * 5 + [True]
    assert standing_of(reply.text) is Standing.ANNOUNCED


@pytest.mark.parametrize("line", [b"\n", b"hello\n", b"12-x\n", b"\xff\xfe\n", b"0001:x\n"])
def test_what_is_no_reply_is_refused(line):
    with pytest.raises(SpeakerError, match="no reply"):
        Reply().feed(line)


def test_a_reply_without_an_end_is_refused():
    with pytest.raises(SpeakerError, match="no end"):
        read(b" more\n" * (MAX_REPLY_LINES + 1))


class ScriptedBird:
    """Answers each command by `script`; `said` are the commands of all connections."""

    def __init__(self, path, script=lambda command: b"0009 done\n"):
        self.path, self.script, self.said, self.num_connections = path, script, [], 0

    async def __aenter__(self):
        self.server = await asyncio.start_unix_server(self._serve, str(self.path))
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def _serve(self, reader, writer):
        self.num_connections += 1
        writer.write(b"0001 BIRD 2.0.12 ready.\n")
        while line := await reader.readline():
            self.said.append(line.decode().strip())
            answer = self.script(self.said[-1])
            if answer is None:
                break
            writer.write(answer)
        writer.close()


class NoDevice:
    def close(self):
        pass


async def test_every_standing_is_two_commands_on_one_connection(tmp_path, monkeypatch):
    monkeypatch.setattr("edge.anycast.bird.Tie", lambda _name: NoDevice())
    async with ScriptedBird(tmp_path / "b") as scripted:
        bird = Bird(scripted.path, "nf")
        for standing in (Standing.ANNOUNCED, Standing.DRAINING, Standing.WITHDRAWN):
            await bird.show(standing)
        await bird.close()

    assert scripted.said == [each for commands in COMMANDS.values() for each in commands]
    assert scripted.num_connections == 1


@pytest.mark.parametrize(
    "answer", [b"9001 syntax error\n", b"8003 No protocols match\n", None, b"garbage\n"], ids=str
)
async def test_a_bird_that_fails_is_said_and_connected_to_again(tmp_path, answer):
    answers = [answer, *[b"0009 done\n"] * 2]
    async with ScriptedBird(tmp_path / "b", lambda _command: answers.pop(0)) as scripted:
        bird = Bird(scripted.path, "nf")
        with pytest.raises(SpeakerError):
            await bird.show(Standing.WITHDRAWN)
        await bird.show(Standing.WITHDRAWN)
        await bird.close()

    assert scripted.num_connections == 2


async def test_no_bird_at_all_is_an_error_of_ours(tmp_path):
    with pytest.raises(SpeakerError, match="nothing-here"):
        await Bird(tmp_path / "nothing-here", "nf").show(Standing.WITHDRAWN)


async def test_a_frozen_bird_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("edge.anycast.bird.REPLY_S", 0.05)
    async with ScriptedBird(tmp_path / "b", lambda _command: b""):
        bird = Bird(tmp_path / "b", "nf")
        with pytest.raises(SpeakerError, match="no reply"):
            await bird.shows()
        await bird.close()


class Heard:
    """A speaker that remembers; `says` is what it answers when it is asked, `fails` raises once."""

    def __init__(self):
        self.told, self.says, self.fails = [], None, False

    async def show(self, standing):
        if self.fails:
            self.fails = False
            raise SpeakerError("no")
        self.told.append(standing)

    async def shows(self):
        return self.says

    async def close(self):
        pass


@pytest.fixture
def gate(tmp_path):
    settings = AnycastSettings(("127.0.0.1", 1), None, "x", {}, tmp_path / "drain", drain_s=1.0)
    made = Gate(settings, None, Heard())
    made.heard, made.drain, made.now = made._speaker, settings.drain, 0.0
    return made


async def see(gate, checks, times=1):
    for _ in range(times):
        await gate.step(checks, gate.now)
        gate.now += 0.2


async def test_a_gate_withdraws_first_whatever_was_said_before_it_came(gate):
    await see(gate, GOOD, RISE + 5)

    assert gate.heard.told == [Standing.WITHDRAWN, Standing.ANNOUNCED]


async def test_a_speaker_that_was_restarted_is_told_again(gate):
    await see(gate, GOOD, RISE)
    gate.heard.says = Standing.WITHDRAWN
    await see(gate, GOOD)

    assert gate.heard.told[-2:] == [Standing.ANNOUNCED, Standing.ANNOUNCED]


async def test_a_speaker_that_failed_is_told_with_the_next_check(gate):
    await see(gate, GOOD, RISE - 1)
    gate.heard.fails = True
    await see(gate, GOOD, 2)

    assert gate.heard.told == [Standing.WITHDRAWN, Standing.ANNOUNCED]


async def test_the_file_drains_the_pop_and_its_removal_brings_it_back(gate):
    await see(gate, GOOD, RISE)
    gate.drain.touch()
    await see(gate, GOOD, 8)
    gate.drain.unlink()
    await see(gate, GOOD)

    wanted = [
        Standing.WITHDRAWN,
        Standing.ANNOUNCED,
        Standing.DRAINING,
        Standing.WITHDRAWN,
        Standing.ANNOUNCED,
    ]
    assert gate.heard.told == wanted


async def test_a_gate_that_is_told_to_stop_de_prefers_before_it_withdraws(gate, monkeypatch):
    monkeypatch.setattr(gate_run, "FAREWELL_S", 0.0)
    await see(gate, GOOD, RISE)
    await gate.leave()

    assert gate.heard.told[-2:] == [Standing.DRAINING, Standing.WITHDRAWN]


async def test_exabgp_is_told_by_its_pipe():
    reader, writer = os.pipe()
    speaker = ExaBgp("203.0.113.10/32", writer)
    for standing in (Standing.WITHDRAWN, Standing.ANNOUNCED, Standing.DRAINING):
        await speaker.show(standing)
    await speaker.close()

    with os.fdopen(reader) as file:
        assert file.read().splitlines() == [
            "withdraw route 203.0.113.10/32 next-hop self",
            "announce route 203.0.113.10/32 next-hop self",
            "announce route 203.0.113.10/32 next-hop self community [65535:0]",
        ]


async def test_an_exabgp_that_is_gone_is_an_error_of_ours():
    reader, writer = os.pipe()
    os.close(reader)
    speaker = ExaBgp("203.0.113.10/32", writer)
    with pytest.raises(SpeakerError):
        await speaker.show(Standing.ANNOUNCED)
    await speaker.close()


@pytest.mark.parametrize("name", ["", "much-too-long-a-name"])
def test_a_device_has_a_name_that_the_kernel_takes(name):
    with pytest.raises(TieError, match="1 to 15"):
        Tie(name)


@needs_bird
def test_the_configuration_that_we_ship_is_one_that_bird_takes():
    done = subprocess.run(
        ["bird", "-p", "-c", str(PACKAGING / "bird.conf")], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


STATIC = """
log stderr all; router id 192.0.2.2; protocol device {{ }}
{static}
"""


@needs_bird
@needs_root
async def test_a_real_bird_has_the_route_while_the_gate_holds_it(tmp_path):
    """Announced, drained with the community, withdrawn; and gone with the device, whatever BIRD was told."""
    text = (PACKAGING / "bird.conf").read_text()
    static = text[text.index("protocol static anycast {") : text.index("# A frozen POP")]
    config, control = tmp_path / "bird.conf", tmp_path / "bird.ctl"
    config.write_text(STATIC.format(static=static))
    space = Namespace("bird")
    with space.entered():
        process = subprocess.Popen(  # noqa: ASYNC220 - a thread would not be in the namespace
            ["bird", "-f", "-c", config, "-s", control, "-P", tmp_path / "pid"], stderr=subprocess.DEVNULL
        )

    async def route():
        said = await asyncio.to_thread(
            subprocess.run,
            ["birdc", "-s", control, "show", "route", "primary", "all"],
            capture_output=True,
            text=True,
        )
        return said.stdout

    async def until(true):
        async with asyncio.timeout(60):
            while not true(await route()):  # noqa: ASYNC110 - BIRD sends no event
                await asyncio.sleep(0.02)

    bird = Bird(control, "nf-anycast")
    try:
        async with asyncio.timeout(60):
            while not control.exists():  # noqa: ASYNC110 - BIRD sends no event when it listens
                await asyncio.sleep(0.01)
        assert await bird.shows() is Standing.WITHDRAWN
        with space.entered():
            await bird.show(Standing.ANNOUNCED)
        await until(lambda text: "203.0.113.10/32" in text and "(65535,0)" not in text)
        await bird.show(Standing.DRAINING)
        await until(lambda text: "(65535,0)" in text)
        await bird.show(Standing.WITHDRAWN)
        await until(lambda text: "203.0.113.10" not in text)
        with space.entered():
            await bird.show(Standing.ANNOUNCED)
        await until(lambda text: "203.0.113.10/32" in text)
        await bird.close()  # as the kernel does it when the gate is killed
        await until(lambda text: "203.0.113.10" not in text)
        another = Bird(control, "nf-anycast")
        assert await another.shows() is Standing.ANNOUNCED  # nobody told BIRD anything
        await another.close()
    finally:
        process.kill()
        process.wait(30)
        space.close()
