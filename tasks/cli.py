"""The `maskmill` command. Nothing heavy is imported before it is needed."""

from typing import Annotated, Literal

import typer

from tasks.cli_models import app as models
from tasks.cli_options import (
    ASKED,
    REPLACE,
    SETTINGS,
    Inputs,
    JobFolder,
    JsonFlag,
    Limit,
    command,
    option,
    options_of,
)
from tasks.cli_schedule import app as schedule
from tasks.records import Routing

app = typer.Typer(
    name="maskmill",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="A message-queue batch worker for instance segmentation: image URIs in, COCO JSON out.",
)


@command(app, "tasks.annotate:annotate_typed", REPLACE, *SETTINGS, *ASKED)
def annotate(inputs: Inputs, as_json: JsonFlag = False) -> None:
    """Annotate images on this machine, with no broker: a COCO dataset in the output folder.

    \b
    Examples:
      maskmill annotate photos/ -m shapes -o out
      maskmill annotate 's3://bucket/2024/**/*.jpg' -m my-model.toml -o s3://results/run-1
      maskmill annotate coco.json --images-root photos -m shapes -o out --classes disc,star
      maskmill annotate clip.mp4 -m shapes -o out --every 10 --save-frames

    Exit codes: 0 all well, 2 wrong usage, 3 more failures than --max-failures,
    4 stopped, 5 --gate-parity found the model not at parity.
    """


@command(app, "tasks.doctor:doctor")
def doctor(
    output: Annotated[str, typer.Argument(help="A job folder to check.", show_default=False)] = "",
) -> None:
    """What this machine can run; or whether a job folder is sound."""


@command(app, "worker.evaluate:evaluate", name="eval")
def evaluate(
    output: JobFolder,
    truth: Annotated[str, typer.Option("--gt", help="The ground truth, a COCO dataset.")],
) -> None:
    """COCO box AP, mask AP and their mean, by size and by class, of a merged job.

    Example: maskmill eval out --gt instances_val.json
    """


_BOUNDS = "matched=0.98,mask_iou=0.95"
_REQUIRED = option("require", str, _BOUNDS, "Exit 5 outside these bounds; none only reports.")


@command(app, "worker.parity:parity", _REQUIRED)
def parity(
    model: Annotated[str, typer.Argument(help="A card's name, or a card.", show_default=False)],
    inputs: Inputs,
    only: Annotated[str, typer.Option(help="These alone, each against the first.")] = "",
    truth: Annotated[str, typer.Option("--gt", help="A COCO dataset, to compare AP as well.")] = "",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="The score that counts.")] = 0.3,
    limit: Limit = None,
) -> None:
    """Compare one model's builds, runtimes and precisions on the same inputs.

    Instances that score at least the threshold in either are matched by mask IoU
    0.5. Bounds for --require: matched and mask_iou (at least), score_drift,
    class_flips and, with --gt, ap_loss (at most).

    \b
    Examples:
      maskmill parity shapes photos/
      maskmill parity shapes photos/ --only 'fp32 onnx,int8 litert' --require matched=0.95
      maskmill parity shapes val.json --gt val.json --require matched=0.95,ap_loss=0.03

    Exit codes: 0 all well, 2 wrong usage, 4 stopped, 5 one way is outside a bound.
    """


_DEMO = option("output", str, "maskmill-demo", "The job folder.", "--output", "-o")


@command(app, "tasks.annotate:demo", _DEMO)
def demo(as_json: JsonFlag = False) -> None:
    """The whole way on the bundled model and images: annotate, draw, judge."""


_HOW = (
    option("wait", bool, False, "Follow the job to its end."),
    option("dry_run", bool, False, "Say what would be done; plan and send nothing."),
    option("mixed", bool, False, "Other builds and engines of the model may share the job."),
    *options_of(Routing),
    option("upload", bool, False, "Copy local inputs to the output's store first."),
    option("shared_paths", bool, False, "Workers see local paths as this machine does."),
    option("append", bool, False, "Add the inputs to an open job, made if need be."),
)


@command(app, "tasks.following:submit_typed", *_HOW, *ASKED)
def submit(inputs: Inputs, as_json: JsonFlag = False) -> None:
    """Plan a job and hand it to the fleet that MASKMILL_BROKER_URL and MASKMILL_STATE name.

    \b
    Examples:
      maskmill submit s3://bucket/photos/ -m shapes -o s3://bucket/out --wait
      maskmill submit photos/ -m shapes -o s3://bucket/out --upload --priority high

    Exit codes: 0 all well, 2 wrong usage, 3 (with --wait) more failures than
    --max-failures, 4 stopped, cancelled or no broker.
    """


_ENGINE = Literal["onnx", "openvino", "tflite"] | None
_LABEL = "A label to serve; cloud or edge: be that."
_SERVED = (
    option("model", list[str], [], "Load and warm this before taking work.", "--model", "-m"),
    option("runtime", _ENGINE, None, "Take work of this engine only (default: all here)."),
    option("target", list[str], [], _LABEL, envvar="MASKMILL_TARGET"),
    option("grace", float, 20.0, "Seconds to finish the shard in hand when told to stop.", min=0),
)


@command(app, "tasks.fleet_worker:serve", *_SERVED, *SETTINGS, reports=False)
def worker() -> None:
    """Work for a fleet: one process with one model, watched by another, until told to stop.

    \b
    Examples:
      maskmill worker -m shapes
      export MASKMILL_BROKER_URL=redis://broker:6379/0 MASKMILL_STATE=s3://bucket/state
      maskmill worker
    """


_WATCH = option(
    "watching", bool, False, "Stay until they end; send again what was lost.", "--watch"
)


@command(app, "tasks.following:status", _WATCH)
def status(output: JobFolder, as_json: JsonFlag = False) -> None:
    """Where jobs stand, from storage: it needs no broker.

    OUT may also be a prefix, which stands for the jobs below it.

    \b
    Examples:
      maskmill status s3://bucket/out --watch
      maskmill status s3://bucket/
    """


@command(app, "tasks.following:cancel_job")
def cancel(output: JobFolder) -> None:
    """Have a job stop within seconds, for good until it is resumed."""


@command(app, "tasks.following:resume_job")
def resume(output: JobFolder) -> None:
    """Let a cancelled or stopped job go on, and send what is missing of any job."""


_ONLY = option("only", str, "", "Only failures of these stages: fetch, decode, model, worker.")


@command(app, "tasks.following:retry_job", _ONLY)
def retry(output: JobFolder) -> None:
    """Try the failed inputs of a finished job again.

    Example: maskmill retry s3://bucket/out --only fetch,decode
    """


@command(app, "tasks.following:merge_job", REPLACE)
def merge(output: JobFolder) -> None:
    """Merge a job here and now; what is there of an unfinished one goes to partial/."""


_CLIP = option("clip", bool, False, "Draw its videos, with masks, into OUT/clips.")


@command(app, "tasks.annotate:report", _CLIP)
def report(output: JobFolder, as_json: JsonFlag = False) -> None:
    """What came of a merged job; or clips of its videos with what was found on them.

    Example: maskmill report out --clip
    """


app.add_typer(models)
app.add_typer(schedule)


def main() -> None:
    app()
