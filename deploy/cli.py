"""The command `nearfield`: its commands in the order of the help; their words are in `deploy/words/`."""

import sys
import warnings
from collections.abc import Callable

import typer
from typer._completion_classes import completion_init

from deploy.terminal import person, streams
from deploy.terminal.exits import Exit
from deploy.words import host, models, operate, settings
from deploy.words.keys import app as keys_app
from deploy.words.quick import QuickCommand, QuickGroup
from deploy.words.report import app as report_app

EPILOG = f"Exit status: {', '.join(f'{int(each)} {each.words}' for each in Exit)}."

app = typer.Typer(
    cls=QuickGroup,
    no_args_is_help=True,
    add_completion=False,  # `nearfield completion SHELL` prints it
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: in half the time, and the same in a pipe
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Push weights to a bucket; get an OpenAI-compatible HTTPS endpoint in every region you named.",
    epilog=EPILOG,
)

COMMANDS: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("up", host.up, "Start the whole platform on this machine."),
    ("push", models.push, "Show the plan, upload a model folder, see it live."),
    ("promote", models.promote, "Serve a preview under the model's own name."),
    ("rollback", models.rollback, "Serve an earlier revision again."),
    ("revisions", models.revisions, "What a model served, and what each proved."),
    ("ls", models.ls, "The models, and where each stands in each region."),
    ("chat", models.chat, "Ask a model; the last line says where the time went."),
    ("status", operate.status, "The regions as the edge hears them; --watch goes on."),
    ("console", operate.console, "A logged-in link to the platform's live page."),
    ("logs", operate.logs, "What roles said, and each request; -f follows."),
    ("doctor", host.doctor, "Look machine and platform over, with a fix for each."),
    ("usage", operate.usage, "What tenants and keys used."),
    ("policy", operate.policy, "Where requests may go, and by which names."),
    ("stop", host.stop, "Stop a model's workers, or the whole platform."),
    ("rm", models.rm, "Take a model out of every region."),
    ("env", settings.env, "Settings for aws, boto3, curl and the openai client."),
    ("s3", settings.s3, "The bucket's settings for aws, boto3, rclone, s5cmd."),
    ("schema", settings.schema, "JSON Schemas: of --json outputs, of nearfield.toml."),
    ("completion", settings.completion, "What completes names at Tab in bash, zsh and fish."),
    ("run", host.run, "One role of a fleet, in this process."),
    ("demo", host.demo, "Everything once, from nothing; then all is stopped."),
)
"""Name, words and the line in the list; the whole help of each is its function's docstring."""

for _name, _command, _line in COMMANDS:
    app.command(_name, short_help=_line, cls=QuickCommand)(_command)
completion_init()  # typer's own, which it leaves out without its two options
app.add_typer(report_app, name="report", short_help="Measure cold starts against warm; compare reports.")
app.add_typer(keys_app, name="keys")
app.add_typer(settings.config_app, name="config")


def main() -> None:
    """The entry point of `nearfield`."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # an interrupted command must not end in a developer's warning
    try:
        with streams.ready():
            app(prog_name="nearfield")  # whatever it is called: completion asks for _NEARFIELD_COMPLETE
    except SystemExit as end:
        if end.code == Exit.INTERRUPTED:
            person.give_cursor_back()
        raise
