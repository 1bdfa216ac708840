"""Options that several commands have: what is asked of a run, declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec

import typer

if TYPE_CHECKING:
    from tasks.records import Selection

P = ParamSpec("P")
MOST = 10**12  # what the scratch database can count


class MaskFormat(str, Enum):
    rle = "rle"
    polygon = "polygon"


class Runtime(str, Enum):
    onnx = "onnx"
    openvino = "openvino"
    tflite = "tflite"


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
ModelName = Annotated[
    str, typer.Option("--model", "-m", help="A card's name, a card, or a network beside one.")
]
Output = Annotated[
    str, typer.Option("--output", "-o", help="The job folder: a path, file:// or s3:// URI.")
]


def end(command: Callable[P, int], *told: P.args, **named: P.kwargs) -> NoReturn:
    """Run a command, whose last argument is whether JSON is asked for, and leave as it ends."""
    from tasks.exits import ended

    raise typer.Exit(ended(lambda: command(*told, **named), bool(told[-1])))


@dataclass(frozen=True)
class Asked:
    """The common options as typed: how inputs are chosen, and the fields of `Wishes`."""

    selection: Selection
    wishes: dict[str, Any]


def _common(
    *,
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew where the output holds a job.")
    ] = False,
) -> None:
    """The declarations only; `asking` makes a command have them."""


def asking(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the common options; it takes them together, as `asked`."""
    own = inspect.signature(command, eval_str=True).parameters
    common = inspect.signature(_common, eval_str=True).parameters

    def run(**values: Any) -> None:
        typed = {name: values.pop(name) for name in common}
        command(asked=_asked(typed), **values)

    merged = [each for name, each in own.items() if name != "asked"] + list(common.values())
    merged.sort(key=lambda each: each.default is not inspect.Parameter.empty)
    named = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in merged]
    run.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in named}
    run.__doc__, run.__name__ = command.__doc__, command.__name__
    return run


def _asked(typed: dict[str, Any]) -> Asked:
    from tasks.records import Selection

    chosen = Selection(**{name: typed.pop(name) for name in Selection.__struct_fields__})
    words = {
        "classes": [word for word in typed["classes"].split(",") if word.strip()],
        "mask_format": typed["mask_format"].value,
        "runtime": typed["runtime"].value if typed["runtime"] else "",
        "precision": typed["precision"].value,
        "reduced_decode": not typed.pop("full_decode"),
    }
    return Asked(chosen, typed | words)
