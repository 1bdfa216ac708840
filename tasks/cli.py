"""The `maskmill` command. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tasks.cli_delegate import DelegateName, DelegateOptions, Memory, use_delegate, use_memory
from tasks.cli_fleet import add_fleet_commands
from tasks.cli_models import app as models
from tasks.cli_options import Inputs, JsonFlag, ModelName, Output, ReplaceEdited, asking, end

app = typer.Typer(
    name="maskmill",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="A message-queue batch worker for instance segmentation: image URIs in, COCO JSON out.",
)


_ANNOTATE_EPILOG = (
    "Examples:\n\n"
    "  maskmill annotate photos/ -m shapes -o out\n\n"
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
    from tasks.annotate import annotate as run
    from tasks.wishes import Wishes

    use_memory(memory)
    use_delegate(delegate, delegate_option)
    wishes |= {"max_failures": max_failures, "replace_edited": replace_edited}
    end(run, inputs, selection, Wishes(model=model, output=output, **wishes), as_json)


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
    from tasks.doctor import check_folder, check_machine

    if output:
        end(check_folder, output, as_json)
    end(check_machine, model, as_json)


@app.command("eval", epilog="Example:\n\n  maskmill eval out --gt instances_val.json")
def evaluate(
    output: Annotated[str, typer.Argument(help="A merged job folder.", show_default=False)],
    truth: Annotated[str, typer.Option("--gt", help="The ground truth, a COCO dataset.")],
    as_json: JsonFlag = False,
) -> None:
    """COCO box AP, mask AP and their mean, by size and by class."""
    from tasks.evaluate import evaluate as run

    end(run, output, truth, as_json)


_PARITY_EPILOG = (
    "Instances that score at least the threshold in either are matched by mask IoU 0.5. Bounds for"
    " --require: matched and mask_iou (at least), score_drift, class_flips and, with --gt, ap_loss"
    " (at most).\n\n"
    "Examples:\n\n"
    "  maskmill parity shapes photos/\n\n"
    "  maskmill parity shapes val.json --gt val.json --only 'fp32 onnx,int8 litert'"
    " --require matched=0.95,ap_loss=0.03\n\n"
    "Exit codes: 0 all well, 2 wrong usage, 4 stopped, 5 one way is outside a bound."
)


@app.command(epilog=_PARITY_EPILOG)
def parity(
    model: Annotated[str, typer.Argument(help="A card's name, or a card.", show_default=False)],
    inputs: Inputs,
    only: Annotated[
        str, typer.Option(help="Compare these, the others with the first; all that run here.")
    ] = "",
    truth: Annotated[str, typer.Option("--gt", help="A COCO dataset, to compare AP as well.")] = "",
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Instances that score this count.")
    ] = 0.3,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N inputs.")] = None,
    require: Annotated[
        str, typer.Option(help="Exit 5 outside these bounds; none only reports.")
    ] = "matched=0.98,mask_iou=0.95",
    output: Annotated[str, typer.Option("--output", "-o", help="Keep each one's job here.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Compare one model's builds, runtimes and precisions on the same inputs."""
    from tasks.parity import Question
    from tasks.parity import parity as run
    from tasks.records import Selection

    question = Question(inputs, Selection(limit=limit), threshold, truth, output)
    end(run, model, question, only, require, as_json)


@app.command()
def demo(
    output: Annotated[
        str, typer.Option("--output", "-o", help="The job folder.")
    ] = "maskmill-demo",
    as_json: JsonFlag = False,
) -> None:
    """The whole way on the bundled model and images: annotate, draw, judge."""
    from tasks.demo import demo as run

    end(run, output, as_json)


app.add_typer(models)
add_fleet_commands(app)


def main() -> None:
    app()
