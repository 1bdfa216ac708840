"""`maskmill schedule …`: what runs by itself. Nothing heavy is imported before it is needed."""

from typing import Annotated

import typer

from tasks.cli_options import JsonFlag, end

_ABOUT = "Jobs that run by themselves, from a file of schedules in the state folder."
app = typer.Typer(name="schedule", no_args_is_help=True, rich_markup_mode="rich", help=_ABOUT)
_FILE = "A schedules.toml."


@app.command(
    epilog="Example:\n\n  maskmill schedule check schedules.toml\n\n"
    "Exit codes: 0 all well, 2 something is wrong, with its line and field."
)
def check(
    file: Annotated[str, typer.Argument(help=f"{_FILE} Default: the fleet's.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Whether a file of schedules can be used, and the next five times of each."""
    end("tasks.scheduling:check", file, as_json)


@app.command("list", epilog="Example:\n\n  maskmill schedule list --json")
def list_schedules(as_json: JsonFlag = False) -> None:
    """The fleet's schedules: the last run, how it ended, the next, and what that waits for."""
    end("tasks.scheduling:list_schedules", as_json)


@app.command(epilog="Example:\n\n  maskmill schedule run nightly")
def run(
    name: Annotated[str, typer.Argument(help="Of the schedule.")], as_json: JsonFlag = False
) -> None:
    """Have one of the fleet's schedules run now, on top of its times."""
    end("tasks.scheduling:run_schedule", name, as_json)


@app.command(
    epilog="Example:\n\n  maskmill schedule serve schedules.toml\n\n"
    "Plain celery -A worker.app beat goes on with the file that was served last."
)
def serve(file: Annotated[str, typer.Argument(help=_FILE)], as_json: JsonFlag = False) -> None:
    """Check a file, make it the fleet's, and run Celery's beat, which has workers look at it."""
    end("tasks.scheduling:serve", file, as_json)
