"""The `maskmill` command. Nothing heavy is imported before it is needed."""

from typing import Annotated, Any, Literal

import typer

from tasks.cli_models import app as models
from tasks.cli_options import (
    DelegateName,
    DelegateOptions,
    Inputs,
    JsonFlag,
    Memory,
    ModelName,
    Output,
    ReplaceEdited,
    Runtime,
    asking,
    end,
    option,
)
from tasks.cli_schedule import app as schedule

JobFolder = Annotated[str, typer.Argument(metavar="OUT", help="A job folder.", show_default=False)]

app = typer.Typer(
    name="maskmill",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="A message-queue batch worker for instance segmentation: image URIs in, COCO JSON out.",
)


_ANNOTATE_EPILOG = (
    "Examples:\n\n  maskmill annotate photos/ -m shapes -o out\n\n"
    "  maskmill annotate 's3://bucket/2024/**/*.jpg' -m my-model.toml -o s3://results/run-1\n\n"
    "  maskmill annotate coco.json --images-root photos -m shapes -o out --classes disc,star\n\n"
    "Exit codes: 0 all well, 2 wrong usage, 3 more failures than --max-failures, 4 stopped,"
    " 5 --gate-parity found the model not at parity."
)


@app.command(epilog=_ANNOTATE_EPILOG)
@asking
def annotate(
    selection: Any,
    wishes: dict[str, Any],
    inputs: Inputs,
    model: ModelName,
    output: Output,
    max_failures: Annotated[int, typer.Option(min=0, help="More failures than this: exit 3.")] = 0,
    replace_edited: ReplaceEdited = False,
    delegate: DelegateName = "",
    delegate_option: DelegateOptions = None,
    memory: Memory = "",
    as_json: JsonFlag = False,
) -> None:
    """Annotate images on this machine, with no broker: a COCO dataset in the output folder."""
    from tasks.wishes import Wishes

    wishes |= {"max_failures": max_failures, "replace_edited": replace_edited}
    wished = Wishes(model=model, output=output, **wishes)
    end("tasks.annotate:annotate", inputs, selection, wished, as_json)


@app.command()
def doctor(
    output: Annotated[
        str | None, typer.Argument(help="A job folder to check.", show_default=False)
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Try its builds, and say how fast they are.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """What this machine can run; or whether a job folder is sound."""
    if output:
        end("worker.audit:check_folder", output, as_json)
    end("tasks.doctor:check_machine", model, as_json)


@app.command("eval", epilog="Example:\n\n  maskmill eval out --gt instances_val.json")
def evaluate(
    output: Annotated[str, typer.Argument(help="A merged job folder.", show_default=False)],
    truth: Annotated[str, typer.Option("--gt", help="The ground truth, a COCO dataset.")],
    as_json: JsonFlag = False,
) -> None:
    """COCO box AP, mask AP and their mean, by size and by class."""
    end("worker.evaluate:evaluate", output, truth, as_json)


_PARITY_EPILOG = (
    "Instances that score at least the threshold in either are matched by mask IoU 0.5. Bounds for"
    " --require: matched and mask_iou (at least), score_drift, class_flips and, with --gt, ap_loss"
    " (at most).\n\n"
    "Examples:\n\n  maskmill parity shapes photos/\n\n"
    "  maskmill parity shapes val.json --gt val.json --only 'fp32 onnx,int8 litert'"
    " --require matched=0.95,ap_loss=0.03\n\n"
    "Exit codes: 0 all well, 2 wrong usage, 4 stopped, 5 one way is outside a bound."
)


@app.command(epilog=_PARITY_EPILOG)
def parity(
    model: Annotated[str, typer.Argument(help="A card's name, or a card.", show_default=False)],
    inputs: Inputs,
    only: Annotated[str, typer.Option(help="These alone, each against the first.")] = "",
    truth: Annotated[str, typer.Option("--gt", help="A COCO dataset, to compare AP as well.")] = "",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="The score that counts.")] = 0.3,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N inputs.")] = None,
    require: Annotated[
        str, typer.Option(help="Exit 5 outside these bounds; none only reports.")
    ] = "matched=0.98,mask_iou=0.95",
    output: Annotated[str, typer.Option("--output", "-o", help="Keep each one's job here.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Compare one model's builds, runtimes and precisions on the same inputs."""
    asked = {"inputs": inputs, "threshold": threshold, "truth": truth, "output": output}
    end("worker.parity:parity", model, limit, only, require, asked, as_json)


@app.command()
def demo(output: Output = "maskmill-demo", as_json: JsonFlag = False) -> None:
    """The whole way on the bundled model and images: annotate, draw, judge."""
    end("tasks.demo:demo", output, as_json)


_SUBMIT_EPILOG = (
    "Examples:\n\n  maskmill submit s3://bucket/photos/ -m shapes -o s3://bucket/out --wait\n\n"
    "  maskmill submit photos/ -m shapes -o s3://bucket/out --upload --priority high\n\n"
    "MASKMILL_BROKER_URL and MASKMILL_STATE say which fleet. Exit codes: 0 all well, 2 wrong usage,"
    " 3 (with --wait) more failures than --max-failures, 4 stopped, cancelled or no broker."
)
_STATUS = "Examples:\n\n  maskmill status s3://bucket/out --watch\n\n  maskmill status s3://bucket/"
_WORKER_EPILOG = (
    "Examples:\n\n  maskmill worker -m shapes\n\n"
    "  MASKMILL_BROKER_URL=redis://broker:6379/0 MASKMILL_STATE=s3://bucket/state maskmill worker"
)
_HOW = (
    option("wait", bool, False, "Follow the job to its end."),
    option("dry_run", bool, False, "Say what would be done; plan and send nothing."),
    option("priority", Literal["high", "normal", "low"], "normal", "Which queue the shards go to."),
    option("target", str, "any", "any, cloud, edge, imx8mp, imx93, imx95 or a worker's label."),
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
    from tasks.records import Routing
    from tasks.submit import Sharing

    sharing = Sharing(upload=how["upload"], shared_paths=how["shared_paths"])
    routing = Routing(**{name: how[name] for name in ("priority", "target", "per_image")})
    wishes |= {"model": model, "output": output, "routing": routing, "sharing": sharing}
    wishes["mixed"] = how["mixed"]
    if how["dry_run"]:
        end("tasks.following:dry", inputs, selection, wishes, how["append"], as_json)
    follow = how["max_failures"] if how["wait"] else None
    end("tasks.following:send", inputs, selection, wishes, follow, how["append"], as_json)


app.command(epilog=_SUBMIT_EPILOG)(asking(submit, *_HOW))


@app.command(epilog=_WORKER_EPILOG)
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
        typer.Option(envvar="MASKMILL_TARGET", help="A label to serve; cloud or edge: be that."),
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

    raise typer.Exit(serve(model or [], runtime or "", target or [], grace))


@app.command(epilog=_STATUS)
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
    end("tasks.following:status", output, watching, as_json)


@app.command()
def cancel(output: JobFolder, as_json: JsonFlag = False) -> None:
    """Have a job stop within seconds, for good until it is resumed."""
    end("tasks.following:cancel_job", output, as_json)


@app.command()
def resume(output: JobFolder, as_json: JsonFlag = False) -> None:
    """Let a cancelled or stopped job go on, and send what is missing of any job."""
    end("tasks.following:resume_job", output, as_json)


@app.command(epilog="Example:\n\n  maskmill retry s3://bucket/out --only fetch,decode")
def retry(
    output: JobFolder,
    only: Annotated[
        str, typer.Option(help="Only failures of these stages: fetch, decode, model, worker.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Try the failed inputs of a finished job again."""
    stages = [word.strip() for word in only.split(",") if word.strip()]
    end("tasks.following:retry_job", output, stages, as_json)


@app.command()
def merge(
    output: JobFolder, replace_edited: ReplaceEdited = False, as_json: JsonFlag = False
) -> None:
    """Merge a job here and now; what is there of an unfinished one goes to partial/."""
    end("tasks.following:merge_job", output, replace_edited, as_json)


@app.command(epilog="Example:\n\n  maskmill report out --clip --video a.mp4")
def report(
    output: JobFolder,
    clip: Annotated[
        bool, typer.Option("--clip", help="Draw its videos, with masks, into OUT/clips.")
    ] = False,
    video: Annotated[str, typer.Option(help="With --clip: only the video of this name.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """What came of a merged job; or clips of its videos with what was found on them."""
    end("tasks.annotate:report", output, clip, video, as_json)


app.add_typer(models)
app.add_typer(schedule)


def main() -> None:
    app()
