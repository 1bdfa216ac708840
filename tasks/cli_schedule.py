"""`maskmill schedule …`: what runs by itself. Nothing heavy is imported before it is needed."""

from typing import Annotated

import typer

from tasks.cli_options import JsonFlag, command

_ABOUT = "Jobs that run by themselves, from a file of schedules in the state folder."
app = typer.Typer(name="schedule", no_args_is_help=True, rich_markup_mode="rich", help=_ABOUT)
File = Annotated[str, typer.Argument(help="A schedules.toml; unless given, the fleet's.")]
Name = Annotated[str, typer.Argument(help="Of the schedule.")]


@command(app, "tasks.scheduling:check")
def check(file: File = "", as_json: JsonFlag = False) -> None:
    """Whether a file of schedules can be used, and the next five times of each.

    Example: maskmill schedule check schedules.toml

    Exit codes: 0 all well, 2 something is wrong, with its line and field.
    """


@command(app, "tasks.scheduling:list_schedules", name="list")
def list_schedules(as_json: JsonFlag = False) -> None:
    """The fleet's schedules: the last run, how it ended, and the next.

    Example: maskmill schedule list --json
    """


@command(app, "tasks.scheduling:run_schedule")
def run(name: Name, as_json: JsonFlag = False) -> None:
    """Have one of the fleet's schedules run now, on top of its times.

    Example: maskmill schedule run nightly
    """


@command(app, "tasks.scheduling:serve")
def serve(file: File = "", as_json: JsonFlag = False) -> None:
    """Check a file, make it the fleet's, and run Celery's beat, which has workers look at it.

    Example: maskmill schedule serve schedules.toml

    Plain celery -A worker.app beat goes on with the file that was served last.
    """
