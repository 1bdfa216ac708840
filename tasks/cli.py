"""The `maskmill` command. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

MOST = 10**12  # what the scratch database can count

app = typer.Typer(
    name="maskmill",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="A message-queue batch worker for instance segmentation: image URIs in, COCO JSON out.",
)


class MaskFormat(str, Enum):
    rle = "rle"
    polygon = "polygon"


class Runtime(str, Enum):
    onnx = "onnx"
    openvino = "openvino"


class Precision(str, Enum):
    f32 = "f32"
    bf16 = "bf16"


Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT…",
        help="A file, folder, glob, s3:// prefix or glob, http(s):// URL, .txt or .jsonl list,"
        " - for a list on standard input, or a COCO JSON (its images).",
        show_default=False,
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="JSON lines instead of text.")]

_ANNOTATE_EPILOG = (
    "Examples:\n\n"
    "  maskmill annotate photos/ -m shapes -o out\n\n"
    "  maskmill annotate 's3://bucket/2024/**/*.jpg' -m my-model.toml -o s3://results/run-1\n\n"
    "  maskmill annotate coco.json --images-root photos -m shapes -o out --classes disc,star\n\n"
    "Exit codes: 0 all well, 2 wrong usage, 3 more failures than --max-failures, 4 stopped."
)


@app.command(epilog=_ANNOTATE_EPILOG)
def annotate(
    inputs: Inputs,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A card's name, a card, or a network beside one.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="The job folder: a path, file:// or s3:// URI.")
    ],
    limit: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Only the first N inputs.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="A random choice of N inputs.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of --sample.")] = 0,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lowest score kept (default: the card's).")
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, help="Most detections an image (default: the card's)."),
    ] = None,
    classes: Annotated[
        str, typer.Option(help="Only these: names or ids, separated by commas.")
    ] = "",
    category_ids: Annotated[
        str,
        typer.Option(
            help="coco91, contiguous, or a JSON file of ids by name (default: the card's)."
        ),
    ] = "",
    category_map: Annotated[
        str,
        typer.Option(help="A JSON file of category names or ids by class; other classes drop out."),
    ] = "",
    allow_unmatched: Annotated[
        bool,
        typer.Option("--allow-unmatched", help="--category-map may name classes not in the model."),
    ] = False,
    runtime: Annotated[
        Runtime | None, typer.Option(help="What runs the model (default: the build's usual one).")
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="In what openvino computes a float model.")
    ] = Precision.f32,
    min_area: Annotated[int, typer.Option(min=0, max=MOST, help="Drop masks of fewer pixels.")] = 0,
    fill_holes: Annotated[
        int, typer.Option(min=0, max=MOST, help="Fill holes of fewer pixels.")
    ] = 0,
    drop_specks: Annotated[
        int, typer.Option(min=0, max=MOST, help="Drop parts of a mask of fewer pixels.")
    ] = 0,
    mask_format: Annotated[
        MaskFormat, typer.Option(help="How masks are written.")
    ] = MaskFormat.rle,
    images_root: Annotated[
        str, typer.Option(help="Where the images of a COCO INPUT lie (default: beside it).")
    ] = "",
    images_from: Annotated[
        str, typer.Option(help="A COCO file whose image ids are kept, by file name.")
    ] = "",
    extra_images: Annotated[
        bool, typer.Option("--extra-images", help="Number inputs unknown to --images-from, too.")
    ] = False,
    full_decode: Annotated[
        bool, typer.Option("--full-decode", help="Never decode large JPEGs at reduced scale.")
    ] = False,
    shard_size: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Images a shard (default: 64).")
    ] = None,
    max_failures: Annotated[int, typer.Option(min=0, help="More failures than this: exit 3.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew where the output holds a job.")
    ] = False,
    replace_edited: Annotated[
        bool, typer.Option("--replace-edited", help="Replace an instances.json edited by hand.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Annotate images on this machine, with no broker: a COCO dataset in the output folder."""
    from tasks.annotate import Wishes
    from tasks.annotate import annotate as run
    from tasks.records import Selection

    selection = Selection(
        limit=limit,
        sample=sample,
        seed=seed,
        images_root=images_root,
        images_from=images_from,
        extra_images=extra_images,
    )
    wishes = Wishes(
        model=model,
        output=output,
        threshold=threshold,
        max_detections=max_detections,
        classes=[word for word in classes.split(",") if word.strip()],
        category_ids=category_ids,
        category_map=category_map,
        allow_unmatched=allow_unmatched,
        runtime=runtime.value if runtime else "",
        precision=precision.value,
        min_area=min_area,
        fill_holes=fill_holes,
        drop_specks=drop_specks,
        mask_format=mask_format.value,
        reduced_decode=not full_decode,
        shard_size=shard_size,
        max_failures=max_failures,
        overwrite=overwrite,
        replace_edited=replace_edited,
    )
    raise typer.Exit(run(inputs, selection, wishes, as_json))


@app.command()
def doctor(
    output: Annotated[
        str | None, typer.Argument(help="A job folder to check.", show_default=False)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """What this machine can run; or whether a job folder is sound."""
    from tasks.doctor import check_folder, check_machine

    raise typer.Exit(check_folder(output, as_json) if output else check_machine(as_json))


@app.command("eval", epilog="Example:\n\n  maskmill eval out --gt instances_val.json")
def evaluate(
    output: Annotated[str, typer.Argument(help="A merged job folder.", show_default=False)],
    truth: Annotated[str, typer.Option("--gt", help="The ground truth, a COCO dataset.")],
    as_json: JsonFlag = False,
) -> None:
    """COCO box AP, mask AP and their mean, by size and by class."""
    from tasks.evaluate import evaluate as run

    raise typer.Exit(run(output, truth, as_json))


@app.command()
def demo(
    output: Annotated[
        str, typer.Option("--output", "-o", help="The job folder.")
    ] = "maskmill-demo",
    as_json: JsonFlag = False,
) -> None:
    """The whole way on the bundled model and images: annotate, draw, judge."""
    from tasks.demo import demo as run

    raise typer.Exit(run(output, as_json))


def main() -> None:
    app()
