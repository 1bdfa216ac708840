"""The commands of a fleet. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from tasks.cli_delegate import DelegateName, DelegateOptions, Memory, use_delegate, use_memory
from tasks.cli_options import (
    Inputs,
    JsonFlag,
    ModelName,
    Output,
    ReplaceEdited,
    Runtime,
    asking,
    end,
    option,
)

JobFolder = Annotated[str, typer.Argument(metavar="OUT", help="A job folder.", show_default=False)]


def add_fleet_commands(app: typer.Typer) -> None:
    app.command(epilog=_SUBMIT_EPILOG)(asking(submit, *_HOW))
    app.command(epilog=_WORKER_EPILOG)(worker)
    app.command(epilog=_STATUS_EPILOG)(status)
    app.command()(cancel)
    app.command()(resume)
    app.command(epilog="Example:\n\n  maskmill retry s3://bucket/out --only fetch,decode")(retry)
    app.command()(merge)


_SUBMIT_EPILOG = (
    "Examples:\n\n"
    "  maskmill submit s3://bucket/photos/ -m shapes -o s3://bucket/out --wait\n\n"
    "  maskmill submit photos/ -m shapes -o s3://bucket/out --upload --priority high\n\n"
    "MASKMILL_BROKER_URL and MASKMILL_STATE say which fleet. Exit codes: 0 all well, 2 wrong usage,"
    " 3 (with --wait) more failures than --max-failures, 4 stopped, cancelled or no broker."
)
_STATUS_EPILOG = (
    "Examples:\n\n  maskmill status s3://bucket/out --watch\n\n  maskmill status s3://bucket/"
)
_WORKER_EPILOG = (
    "Examples:\n\n"
    "  maskmill worker -m shapes\n\n"
    "  MASKMILL_BROKER_URL=redis://broker:6379/0 MASKMILL_STATE=s3://bucket/state maskmill worker"
)


_HOW = (
    option("wait", bool, False, "Follow the job to its end."),
    option("dry_run", bool, False, "Say what would be done; plan and send nothing."),
    option("priority", Literal["high", "normal", "low"], "normal", "Which queue the shards go to."),
    option(
        "target", str, "any", "Who takes it: any, cloud, edge, imx8mp, imx93, imx95 or a label."
    ),
    option("mixed", bool, False, "Other builds and engines of the model may share the job."),
    option("upload", bool, False, "Copy local inputs to the output's store first."),
    option("shared_paths", bool, False, "Workers see local paths as this machine does."),
    option("per_image", bool, False, "Also write a file for each input once it is done."),
    option("append", bool, False, "Add the inputs to an open job, made if need be."),
    option("max_failures", int, 0, "With --wait: more failures than this: exit 3.", min=0),
)


def submit(
    selection: Any,
    wishes: dict[str, Any],
    inputs: Inputs,
    model: ModelName,
    output: Output,
    as_json: JsonFlag = False,
    **how: Any,
) -> None:
    """Plan a job and hand it to the fleet."""
    from tasks.following import dry, send
    from tasks.records import Routing
    from tasks.submit import Sharing

    sharing = Sharing(upload=how["upload"], shared_paths=how["shared_paths"])
    routing = Routing(**{name: how[name] for name in ("priority", "target", "per_image")})
    wishes |= {"model": model, "output": output, "routing": routing, "sharing": sharing}
    wishes["mixed"] = how["mixed"]
    if how["dry_run"]:
        end(dry, inputs, selection, wishes, how["append"], as_json)
    follow = how["max_failures"] if how["wait"] else None
    end(send, inputs, selection, wishes, follow, how["append"], as_json)


def worker(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Load and warm this model before taking work."),
    ] = None,
    runtime: Annotated[
        Runtime | None, typer.Option(help="Take work of this engine only (default: all here).")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            envvar="MASKMILL_TARGET",
            help="A label: also take work for it. cloud or edge: what this machine is.",
        ),
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds to finish the shard in hand when told to stop.")
    ] = 20.0,
    delegate: DelegateName = "",
    delegate_option: DelegateOptions = None,
    memory: Memory = "",
) -> None:
    """Work for a fleet: one process with one model, watched by another, until told to stop."""
    from tasks.fleet_worker import serve

    use_delegate(delegate, delegate_option)
    use_memory(memory)
    raise typer.Exit(serve(model or [], runtime or "", target or [], grace))


def status(
    output: Annotated[
        str, typer.Argument(metavar="OUT|PREFIX", help="A job folder, or what jobs lie below.")
    ],
    watching: Annotated[
        bool, typer.Option("--watch", help="Stay until they end; send again what was lost.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Where jobs stand, from storage: it needs no broker."""
    from tasks.following import status as run

    end(run, output, watching, as_json)


def cancel(output: JobFolder, as_json: JsonFlag = False) -> None:
    """Have a job stop within seconds, for good until it is resumed."""
    from tasks.following import cancel_job as run

    end(run, output, as_json)


def resume(output: JobFolder, as_json: JsonFlag = False) -> None:
    """Let a cancelled or stopped job go on, and send what is missing of any job."""
    from tasks.following import resume_job as run

    end(run, output, as_json)


def retry(
    output: JobFolder,
    only: Annotated[
        str, typer.Option(help="Only failures of these stages: fetch, decode, model, worker.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Try the failed inputs of a finished job again."""
    from tasks.following import retry_job as run

    stages = [word.strip() for word in only.split(",") if word.strip()]
    end(run, output, stages, as_json)


def merge(
    output: JobFolder, replace_edited: ReplaceEdited = False, as_json: JsonFlag = False
) -> None:
    """Merge a job here and now; what is there of an unfinished one goes to partial/."""
    from tasks.following import merge_job as run

    end(run, output, replace_edited, as_json)
