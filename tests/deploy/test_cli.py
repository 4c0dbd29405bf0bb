"""The command line's manners: help for everything, errors with cause and next step, documented exit statuses."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer import Context
from typer._coercion import build_runtime_param
from typer.main import get_command
from typer.testing import CliRunner

from bench.cli_edge import MODEL, StatusEdge
from deploy import cli, lock
from deploy.cli import app
from deploy.lock import hold
from deploy.schemas.outputs import OUTPUTS
from deploy.terminal.exits import Exit
from deploy.terminal.failing import CAUSES, cause_of, told
from deploy.trust.credentials import Credentials
from deploy.words.quick import Quick
from tests.deploy.conforms import breaches

COMMANDS = [
    "up",
    "run",
    "push",
    "promote",
    "rollback",
    "revisions",
    "ls",
    "status",
    "policy",
    "console",
    "chat",
    "report",
    "usage",
    "stop",
    "rm",
    "env",
    "s3",
    "doctor",
    "demo",
    "keys",
    "logs",
    "config",
    "schema",
    "completion",
]
ROOT = Path(__file__).resolve().parents[2]
runner = CliRunner()


@pytest.fixture
def dead(tmp_path):
    """A state folder whose platform is gone: its credentials are there, nobody listens."""
    (tmp_path / "tls").mkdir()
    import datetime as dt

    from deploy.trust import pki

    authority = pki.ensure(tmp_path / "tls", dt.datetime.now(dt.UTC))
    Credentials(
        base_url="https://localhost:9/v1",
        api_key="nf-x",
        admin_url="https://localhost:9",
        admin_key="nf-y",
        s3_url="https://localhost:9",
        s3_access_key="NFX",
        s3_secret_key="secret",
        ca=str(authority.ca),
        s3_ca=str(authority.ca),
        state=str(tmp_path),
        regions={"iad": "https://localhost:9/v1"},
    ).save(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def answering(tmp_path_factory):
    """A state folder whose edge answers for its status, with one model in two regions."""
    with StatusEdge(tmp_path_factory.mktemp("answering")) as edge:
        yield edge.state


def test_every_command_that_a_message_names_is_there():
    """A next step that does not exist is worse than none: `nearfield keys` was told to all without a key."""
    rooms = ("deploy", "edge", "inference", "regions", "storage", "weights_cache", "wire")
    sources = [path.read_text() for room in rooms for path in (ROOT / room).rglob("*.py")]
    named = {word for source in sources for word in re.findall(r"`nearfield ([a-z]+)", source)}

    assert "env" in named
    assert named <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    """`--help` works everywhere and has a sentence to say."""
    result = runner.invoke(app, [command, "--help"])

    assert result.exit_code == 0
    assert len(result.output.split()) > 10


def test_a_demo_looks_before_it_wipes_or_starts_anything(tmp_path, dead):
    model = ROOT / "examples" / "tinychat" / "model"
    told = runner.invoke(app, ["demo", "--state", str(tmp_path / "new"), "--model", str(tmp_path / "none")])
    kept = runner.invoke(app, ["demo", "--state", str(dead), "--model", str(model)])

    assert "is not a folder" in " ".join(told.output.split())
    assert not (tmp_path / "new").exists()
    assert "no demo's folder" in " ".join(kept.output.split())
    assert (dead / "tls").is_dir()
    assert told.exit_code
    assert kept.exit_code


def test_a_demo_leaves_one_that_runs_in_the_same_folder_alone(tmp_path):
    """It was wiped under its processes, which then knew no key any more."""
    state = tmp_path / "demo"
    with hold(state) as running:
        (state / "demo").touch()
        told = runner.invoke(app, ["demo", "--state", str(state)])
        assert (state / "demo").exists()
        assert not running.closed

    assert told.exit_code == Exit.NOT_READY
    assert "is in use by process" in " ".join(told.output.split())


GROUPS = {
    "report": ("run", "diff"),
    "keys": ("ls", "make", "rotate", "revoke"),
    "config": ("show", "check", "scrape"),
}
HEAVY = {
    "torch",
    "transformers",
    "boto3",
    "botocore",
    "aiobotocore",
    "fastapi",
    "openai",
    "uvloop",
    "cryptography",
}


def test_the_list_above_is_all_there_is():
    known = get_command(app).commands

    assert set(known) == set(COMMANDS)
    assert {name: tuple(each.commands) for name, each in known.items() if hasattr(each, "commands")} == GROUPS


def _loaded(*words, expected):
    """What a command of its own process has loaded when it ends."""
    code = "import atexit, json, sys; from deploy.cli import main\n"
    code += "atexit.register(lambda: sys.stderr.write('\\n' + json.dumps(sorted(sys.modules)))); main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == expected, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}


def test_help_loads_nothing_of_the_platform():
    """Nothing that computes, speaks S3 or serves, and no drawing: what a shell waits for at each Tab."""
    loaded = _loaded("--help", expected=0)

    assert loaded & (HEAVY | {"rich", "ssl", "asyncio", "storage", "inference", "edge", "regions"}) == set()


def test_ls_loads_what_it_asks_with(answering):
    """Against an edge that answers; and neither what draws boxes nor what makes typer's values is among it."""
    drawn = _loaded("ls", "--state", str(answering), expected=0)
    as_json = _loaded("ls", "--json", "--state", str(answering), expected=0)

    assert (drawn | as_json) & HEAVY == set()
    assert (drawn | as_json) & {"rich", "pydantic"} == set()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("report acme/m --cold many", "'--cold'"),
        ("push . acme/m --timeout-s soon", "'--timeout-s'"),
        ("completion tcsh", "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
        ("ls --stat", "No such option: --stat (Possible options: --state)"),
        ("chat", "Missing argument 'ORG/NAME'"),
        ("config show --config", "'--config' requires an argument"),
    ],
)
def test_what_cannot_be_a_value_is_said_in_typers_words(words, said):
    """Those that typer makes itself too, which load what the others do without."""
    result = runner.invoke(app, words.split())

    assert result.exit_code == Exit.USAGE
    assert said in " ".join(result.stderr.split())


TYPED = {"int": "7", "float": "2.5", "bool": "true", "Shell": "zsh", "Path": "."}
"""A word for each type that a parameter of ours has; any other is text."""


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in GROUPS])
def test_values_are_those_that_typer_makes(name):
    """Of each parameter, as it is typed: what our way to it gives is what pydantic gives."""
    command = get_command(app).commands[name]
    ctx = Context(command)
    for param in command.get_params(ctx):
        kind = param.type_descriptor
        word = TYPED.get(getattr(kind.annotation, "__name__", ""), "words")
        ours, theirs = (each.coerce(word, param, ctx) for each in (Quick(), build_runtime_param(kind)))

        assert (ours, type(ours)) == (theirs, type(theirs)), param.name


def test_help_documents_the_exit_statuses():
    """Scripts need to know them."""
    words = runner.invoke(app, ["--help"]).output

    for status in Exit:
        if status is not Exit.OK:
            assert str(int(status)) in words


@pytest.mark.parametrize(
    "command", ["ls", "status", "chat acme/m hi", "report acme/m", "push . acme/m", "env", "stop acme/m"]
)
def test_without_a_platform_the_next_step_is_told(tmp_path, command):
    """The first thing a new user does in the wrong folder."""
    result = runner.invoke(app, [*command.split(), "--state", str(tmp_path)])

    assert result.exit_code == Exit.NOT_READY
    assert "nearfield up" in result.output


@pytest.mark.parametrize("command", ["ls", "status", "chat acme/m hi", "stop acme/m"])
def test_a_platform_that_is_gone_is_told_apart(dead, command):
    """Nobody listens: exit status 4, the address, and the command to start."""
    result = runner.invoke(app, [*command.split(), "--state", str(dead), "--json"])

    assert result.exit_code == Exit.NOT_READY
    assert json.loads(result.stdout)["error"]["code"] == "unreachable"


def test_a_bad_name_is_refused_before_anything_moves(dead):
    """Names become bucket prefixes: two parts, plain characters."""
    result = runner.invoke(app, ["push", str(dead), "no-slash", "--state", str(dead), "--json"])

    assert result.exit_code == Exit.REFUSED
    assert json.loads(result.stdout)["error"]["code"] == "bad_name"


def test_env_prints_what_clients_read(dead):
    """Pasteable, and the secret is in it because that is its purpose; the file stays 0600."""
    lines = runner.invoke(app, ["env", "--state", str(dead)]).output.splitlines()

    assert "export OPENAI_BASE_URL='https://localhost:9/v1'" in lines
    assert any(line.startswith("export AWS_CA_BUNDLE=") for line in lines)
    assert (dead / "credentials.toml").stat().st_mode & 0o777 == 0o600


def test_s3_prints_settings_that_can_be_pasted(dead):
    """Each tool's own words, with the endpoint, the key and the authority in them; one alone for a pipe."""
    told = json.loads(runner.invoke(app, ["s3", "--state", str(dead), "--json"]).output)
    python = runner.invoke(app, ["s3", "boto3", "--state", str(dead)]).output

    assert set(told) == {"aws", "boto3", "rclone", "s5cmd"}
    assert all("https://localhost:9" in text and "NFX" in text and "ca.pem" in text for text in told.values())
    compile(python, "pasted", "exec")
    assert runner.invoke(app, ["s3", "ftp", "--state", str(dead)]).exit_code == Exit.USAGE


def test_doctor_says_what_is_wrong_and_what_to_do(tmp_path):
    """On a machine without a platform: everything else is well, and the way to start is told."""
    result = runner.invoke(app, ["doctor", "--state", str(tmp_path), "--json"])
    findings = {f["name"]: f for f in json.loads(result.stdout)}

    assert result.exit_code == Exit.NOT_READY
    assert findings["python"]["well"]
    assert findings["torch"]["well"]
    assert not findings["platform"]["well"]
    assert "nearfield up" in findings["platform"]["fix"]


def test_an_unknown_profile_is_a_usage_error(tmp_path):
    """With the profiles that there are."""
    result = runner.invoke(app, ["up", "--profile", "mars", "--state", str(tmp_path / "s")])

    assert result.exit_code == Exit.USAGE
    assert "us-eu-jp" in result.output
    assert result.stderr.splitlines()[-1] == "next: nearfield up --help"


@pytest.mark.parametrize("name", CAUSES)
def test_every_error_of_the_table_is_a_class(name):
    """It is known by its name, so that nothing need be loaded; a class that moved would be forgotten."""
    module, _, kind = name.rpartition(".")
    found = getattr(import_module(module), kind)

    assert issubclass(found, Exception)
    assert cause_of(found) is CAUSES[name]
    assert cause_of(type("Narrower", (found,), {})) is CAUSES[name]


def test_an_error_that_knows_better_says_so_itself():
    from deploy.client import ApiError
    from deploy.faults import NotLive

    asked = told(cause_of(ApiError), ApiError(404, "model_not_found", "none"))
    late = told(cause_of(NotLive), NotLive("timeout", "late", "nearfield status"))

    assert asked == ("model_not_found", Exit.NOT_FOUND, "nearfield ls")
    assert late == ("timeout", Exit.TIMEOUT, "nearfield status")
    assert told(cause_of(ApiError), ApiError(500, "x", "y")).next_step == "nearfield doctor"
    assert cause_of(KeyError) is None


def test_an_error_is_its_cause_and_the_next_command(tmp_path):
    told = runner.invoke(app, ["ls", "--state", str(tmp_path)])
    as_json = json.loads(runner.invoke(app, ["ls", "--state", str(tmp_path), "--json"]).stdout)

    assert told.stderr.splitlines()[0].startswith("no_platform: no platform in ")
    assert told.stderr.splitlines()[-1] == f"next: nearfield up --state {tmp_path}", (
        "the folder that was named"
    )
    assert breaches(as_json, OUTPUTS["error"]) == []


@pytest.mark.parametrize(
    "command", ["chat acme/m hi", "status", "ls", "revisions acme/m", "keys ls", "rm acme/m -y"]
)
def test_a_platform_of_this_machine_that_does_not_run_is_to_be_started(dead, command):
    """Its file is in the folder and nobody holds that; a platform that is held, or elsewhere, is for the doctor."""
    (dead / "nearfield.toml").touch()
    stopped = runner.invoke(app, [*command.split(), "--state", str(dead)])
    with lock.hold(dead):
        ill = runner.invoke(app, [*command.split(), "--state", str(dead)])

    assert (stopped.exit_code, ill.exit_code) == (Exit.NOT_READY, Exit.NOT_READY)
    *_notices, cause, _next = (
        stopped.stderr.splitlines()
    )  # on a busy machine the SDK's tries outlast the patience
    assert cause.startswith("unreachable: ")
    assert "localhost:9" in cause
    assert stopped.stderr.splitlines()[-1] == f"next: nearfield up --state {dead}"
    assert ill.stderr.splitlines()[-1] == f"next: nearfield doctor --state {dead}"


@pytest.mark.parametrize("command", ["usage", "policy", "config show"])
def test_a_command_that_needs_the_file_says_that_there_is_none(tmp_path, monkeypatch, command):
    """Not that its settings should be looked at, which are not there."""
    monkeypatch.setattr(
        "deploy.logs.write.start", lambda *_: None
    )  # it has all that this process logs told, for good
    told = runner.invoke(app, [*command.split(), "--state", str(tmp_path)])

    role = runner.invoke(app, ["run", "store", "--config", str(tmp_path / "none.toml")])
    assert role.stderr.splitlines()[-1] == "next: name the fleet's file: --config FILE"
    assert told.exit_code == Exit.NOT_READY
    assert told.stderr.startswith("no_platform: ")
    assert told.stderr.splitlines()[-1] == f"next: nearfield up --state {tmp_path}"


def test_a_platform_that_can_be_written_nowhere_is_told_to_take_another_folder(tmp_path):
    (tmp_path / "file").write_text("no folder")
    told = [runner.invoke(app, ["up", "--state", str(tmp_path / each)]) for each in ("file", "file/below")]

    assert [each.exit_code for each in told] == [Exit.NOT_READY] * 2
    assert all(each.stderr.startswith("state_unusable: ") for each in told)
    assert told[0].stderr.splitlines()[-1] == "next: nearfield up --state DIR"


def test_a_file_of_keys_that_others_can_read_is_told_how_to_close(dead):
    file = dead / "credentials.toml"
    file.chmod(0o644)
    told = runner.invoke(app, ["ls", "--state", str(dead)])

    assert told.stderr.splitlines()[-1] == f"next: chmod 600 {file}"


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("InsufficientStorage", Exit.FAILED, ("disk_full", "what went up stays")),
        ("RequestTimeTooSkewed", Exit.FAILED, ("wrong_clock", "set the clock that is wrong")),
        ("SignatureDoesNotMatch", Exit.FAILED, ("invalid_s3_key", "doctor")),
        ("Unreachable", Exit.NOT_READY, ("unreachable", "doctor")),
        ("Odd", Exit.FAILED, ("store_error", "doctor")),
    ],
)
def test_what_the_store_refuses_is_told_in_our_words(code, status, said):
    from storage.client.sdk import StoreError

    found = told(cause_of(StoreError), StoreError(code, "so it is", 507))

    assert found.status is status
    assert found.code == said[0]
    assert said[1] in found.next_step


@pytest.mark.parametrize(
    ("words", "schema"),
    [
        ("ls", "ls"),
        ("status", "status"),
        ("env", "env"),
        ("s3", "s3"),
    ],
)
def test_json_is_as_its_schema_says(answering, words, schema):
    done = runner.invoke(app, [*words.split(), "--state", str(answering), "--json"])

    assert done.exit_code == Exit.OK
    assert breaches(json.loads(done.stdout), OUTPUTS[schema]) == []


def test_nothing_is_coloured_and_no_bar_is_drawn_off_a_terminal(answering):
    """And the table has every region."""
    said = runner.invoke(app, ["ls", "--state", str(answering)]).stdout

    assert "\x1b" not in said
    assert [word in said for word in (MODEL, "iad", "fra", "live")] == [True] * 4


@pytest.mark.parametrize("command", ["ls", "status"])
def test_no_color_is_honoured_on_a_terminal(answering, monkeypatch, command):
    """On a terminal that is made believe, the same words with and without colours."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    bright = runner.invoke(app, [command, "--state", str(answering)]).stdout
    monkeypatch.setenv("NO_COLOR", "1")
    plain = runner.invoke(app, [command, "--state", str(answering)]).stdout
    colour = re.compile(r"\x1b\[(1;)?3[0-9]m" if command == "ls" else r"\x1b\[1m")

    assert colour.search(bright)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", plain)
    assert MODEL in plain


def _complete(shell, line, state):
    """What a shell's script asks the command, and what it is told."""
    words = line.split(" ")
    variables = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }
    env = {"_NEARFIELD_COMPLETE": f"complete_{shell}", "NEARFIELD_STATE": str(state), **variables[shell]}
    return runner.invoke(app, [], prog_name="nearfield", env=env).output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_names_are_completed_in_every_shell(answering, shell):
    """Commands, models and regions, the last of a list by comma."""
    assert "report" in _complete(shell, "nearfield rep", answering)
    assert MODEL in _complete(shell, "nearfield chat acme/", answering)
    assert MODEL in _complete(shell, "nearfield logs --model a", answering)
    regions = _complete(shell, "nearfield push ./m a/b --regions fra,", answering)
    assert "fra,iad" in regions
    assert "fra,fra" not in regions


def test_completion_is_silent_where_nothing_answers(dead, tmp_path):
    assert _complete("bash", "nearfield chat a", dead).strip() == ""
    assert _complete("bash", "nearfield chat a", tmp_path).strip() == ""
    assert "iad" in _complete("bash", "nearfield chat acme/m x --region i", dead), "credentials name regions"


def test_bash_takes_the_script(answering, tmp_path):
    """The real shell evaluates it, and completes by the command that it finds in its PATH."""
    program = tmp_path / "nearfield"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m deploy "$@"\n')
    program.chmod(0o755)
    lines = (
        'eval "$(nearfield completion bash)"',
        "COMP_WORDS=(nearfield chat acme/); COMP_CWORD=2",
        "_nearfield_completion nearfield",
        'echo "${COMPREPLY[@]}"',
    )
    env = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "NEARFIELD_STATE": str(answering),
    }
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)], capture_output=True, text=True, env=env, timeout=60, check=True
    )

    assert done.stdout.split() == [MODEL]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_every_shell_has_a_script(shell):
    """Of shells that this machine may lack: it asks by the variable that the command listens to."""
    said = runner.invoke(app, ["completion", shell]).stdout

    assert "_NEARFIELD_COMPLETE" in said
    assert f"complete_{shell}" in said


def test_status_goes_on_until_it_is_interrupted(answering, monkeypatch):
    """A JSON document a line off a terminal; an edge that is gone for a while is said and asked again."""
    from deploy.client import Client, Unreachable
    from deploy.commands import status

    answers = iter([None, Unreachable("gone"), None, KeyboardInterrupt()])
    real = Client.get

    def get(self, path):
        answer = next(answers)
        if answer is not None:
            raise answer
        return real(self, path)

    monkeypatch.setattr(Client, "get", get)
    monkeypatch.setattr(status, "EVERY_S", 0.0)
    done = runner.invoke(app, ["status", "--watch", "--json", "--state", str(answering)])
    first, gone, again = (json.loads(line) for line in done.stdout.splitlines())

    assert done.exit_code == Exit.OK
    assert breaches(first, OUTPUTS["status"]) == breaches(again, OUTPUTS["status"]) == []
    assert gone["error"]["message"] == "gone"


@pytest.mark.parametrize(
    ("status", "is_terminal", "said"), [(130, True, "\x1b[?25h"), (130, False, ""), (1, True, "")]
)
def test_whatever_ctrl_c_interrupts_the_cursor_comes_back(monkeypatch, capsys, status, is_terminal, said):
    """Bars hide it first and begin to care for it afterwards; between the two nobody would show it again."""

    def hidden(**_):
        sys.exit(status)

    monkeypatch.setattr(cli, "app", hidden)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    with pytest.raises(SystemExit):
        cli.main()

    assert capsys.readouterr().out == said


def test_a_question_that_nobody_answers_is_said_with_the_way_around_it(dead):
    """A script that lacks `--yes` read `Aborted!` and no more; the question is no part of a document for programs."""
    asked = runner.invoke(app, ["rm", "acme/m", "--json", "--state", str(dead)], input="")
    told = runner.invoke(app, ["rm", "acme/m", "--state", str(dead)], input="")

    assert json.loads(asked.stdout)["error"]["code"] == "not_confirmed"
    assert asked.exit_code == told.exit_code == Exit.USAGE
    assert told.stderr.splitlines()[-1] == "next: the same command with --yes"
