"""The `maskmill` command. Nothing heavy is imported before it is needed."""

import inspect
from functools import partial
from typing import Annotated, Literal

import typer

from tasks.cli_options import SETTINGS, JsonFlag, command, option, options_of
from tasks.records import Routing, Selection, Wishes

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT…",
        help="A file, folder, glob, s3:// prefix or glob, http(s):// URL, .txt or .jsonl list,"
        " - for a list on standard input, or a COCO JSON (its images). A video stands for its"
        " frames; clip.mp4#t=12.48, #t=10,20 and #frame=374 for some (%23 is a # of a name).",
        show_default=False,
    ),
]
JobFolder = Annotated[str, typer.Argument(metavar="OUT", help="A job folder.", show_default=False)]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N inputs.")]

_verbs = partial(typer.Typer, no_args_is_help=True, rich_markup_mode="rich")
_ABOUT = "A message-queue batch worker for instance segmentation: image URIs in, COCO JSON out."
app = _verbs(name="maskmill", add_completion=False, pretty_exceptions_enable=False, help=_ABOUT)
models = _verbs(name="models", help="The zoo: what models there are, and what each one needs.")
_SCHEDULED = "Jobs that run by themselves, from a file of schedules in the state folder."
schedule = _verbs(name="schedule", help=_SCHEDULED)

_MODEL = "A card's name, a card, or a network beside one."
_PLACE = "The job folder: a path, file:// or s3:// URI."
REPLACE = option("replace_edited", bool, False, "Replace an instances.json edited by hand.")
ASKED = (
    option("model", str, inspect.Parameter.empty, _MODEL, "--model", "-m"),
    option("output", str, inspect.Parameter.empty, _PLACE, "--output", "-o"),
    *options_of(Selection),
    *options_of(Wishes),
    option("full_decode", bool, False, "Never decode large JPEGs at reduced scale."),
    option("gate_parity", bool, False, "First compare 16 inputs with the card's first build."),
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
      maskmill annotate theirs.json --only-unannotated -m shapes -o out

    Exit codes: 0 all well, 2 wrong usage, 3 more failures than --max-failures,
    4 stopped, 5 --gate-parity found the model not at parity.
    """


_TRIED = option("model", str, "", "Try its builds, and say how fast they are.", "--model", "-m")


@command(app, "tasks.doctor:doctor", _TRIED)
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


@command(app, "tasks.supervisor:serve", *_SERVED, *SETTINGS, reports=False)
def worker() -> None:
    """Work for a fleet: one process with one model, watched by another, until told to stop.

    \b
    Examples:
      maskmill worker -m shapes
      export MASKMILL_BROKER_URL=redis://broker:6379/0 MASKMILL_STATE=s3://bucket/state
      maskmill worker
    """


_STAY = "Stay until they end; send again what was lost."
_WATCH = option("watching", bool, False, _STAY, "--watch")


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


Model = Annotated[str, typer.Argument(metavar="NAME", help="A card's name, a card, or a network.")]


@command(models, "tasks.zoo_table:list_models", name="list")
def list_models() -> None:
    """Every card at hand: accuracy, cost, where it runs, and whether its weights are here."""


@command(models, "tasks.zoo_table:show_model")
def show(name: Model) -> None:
    """All of one card: builds, downloads, checksums, where its files are, licence and source."""


@command(models, "tasks.pull:pull")
def pull(
    name: Model,
    precision: Annotated[str, typer.Option(help="fp32, int8, … (default: the card's first).")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Download a build from where it is published, and verify it."""


@command(models, "worker.evaluate:reproduce")
def reproduce(
    name: Model,
    coco: Annotated[str, typer.Option(help="COCO's folder, or images with an instances.json.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Default: reproduce-NAME.")] = "",
    limit: Limit = None,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="How far from the card's AP is still the same.")
    ] = 0.005,
    as_json: JsonFlag = False,
) -> None:
    """Run a model over COCO's val2017 and print measured beside published AP.

    Example: maskmill models reproduce shapes --coco held-out

    Exit codes: 0 as published, 2 wrong usage, 5 further from it than --tolerance.
    """


@command(models, "worker.add_model:add")
def add(
    file: Annotated[str, typer.Argument(metavar="FILE", help="An .onnx, or an OpenVINO .xml.")],
    name: Annotated[str, typer.Option(help="What it is called (default: as the file).")] = "",
    categories: Annotated[str, typer.Option(help="coco80, a,b,c or a JSON file of them.")] = "",
    color: Annotated[str, typer.Option(help="rgb or bgr.")] = "",
    mean: Annotated[str, typer.Option(help="Of levels 0…255, in that order: a,b,c.")] = "",
    std: Annotated[str, typer.Option(help="As --mean.")] = "",
    fit: Annotated[str, typer.Option(help="stretch, pad, letterbox, sides or native.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="The model of that name.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a card by looking at a network, and show what it finds on a picture.

    \b
    Examples:
      maskmill models add best.onnx
      maskmill models add mask-rcnn.onnx --name mine --categories cat,dog
    """


@command(models, "worker.check:check")
def check(
    name: Model,
    image: Annotated[str, typer.Argument(help="A picture.", show_default=False)] = "",
    output: Annotated[str, typer.Option("--output", "-o", help="For drawings.")] = "maskmill-check",
) -> None:
    """Load every build with every engine that is here, run a picture and draw what is found.

    Exit codes: 0 all that is here fits, 2 it cannot be used.
    """


File = Annotated[str, typer.Argument(help="A schedules.toml; unless given, the fleet's.")]
Schedule = Annotated[str, typer.Argument(help="Of the schedule.")]


@command(schedule, "tasks.scheduling:check", name="check")
def check_schedules(file: File = "", as_json: JsonFlag = False) -> None:
    """Whether a file of schedules can be used, and the next five times of each.

    Example: maskmill schedule check schedules.toml

    Exit codes: 0 all well, 2 something is wrong, with its line and field.
    """


@command(schedule, "tasks.scheduling:list_schedules", name="list")
def list_schedules(as_json: JsonFlag = False) -> None:
    """The fleet's schedules: the last run, how it ended, and the next.

    Example: maskmill schedule list --json
    """


@command(schedule, "tasks.scheduling:run_schedule", name="run")
def run_schedule(name: Schedule, as_json: JsonFlag = False) -> None:
    """Have one of the fleet's schedules run now, on top of its times.

    Example: maskmill schedule run nightly
    """


@command(schedule, "tasks.scheduling:serve")
def serve(file: File = "", as_json: JsonFlag = False) -> None:
    """Check a file, make it the fleet's, and run Celery's beat, which has workers look at it.

    Example: maskmill schedule serve schedules.toml

    Plain celery -A worker.app beat goes on with the file that was served last.
    """


app.add_typer(models)
app.add_typer(schedule)


def main() -> None:
    app()
