"""How commands are declared, and the options that several of them have."""

import inspect
import os
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Annotated, Any, Literal

import typer

MOST = 10**12  # what the scratch database can count

Runtime = Literal["onnx", "openvino", "tflite"]

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
JsonFlag = Annotated[bool, typer.Option("--json", help="JSON lines instead of text.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N inputs.")]
ModelName = Annotated[
    str, typer.Option("--model", "-m", help="A card's name, a card, or a network beside one.")
]
Output = Annotated[
    str, typer.Option("--output", "-o", help="The job folder: a path, file:// or s3:// URI.")
]
ReplaceEdited = Annotated[
    bool, typer.Option("--replace-edited", help="Replace an instances.json edited by hand.")
]


def _numbers(words: str) -> tuple[int, ...]:
    numbers = [word.strip() for word in words.split(",") if word.strip()]
    if not all(word.isascii() and word.isdigit() and len(word) < 16 for word in numbers):
        raise typer.BadParameter("it takes whole numbers from 0 on, separated by commas")
    return tuple(map(int, numbers))


def option(name: str, kind: Any, default: Any, said: str, **limits: Any) -> inspect.Parameter:
    told = kind is bool or name.endswith("_")  # for there is no --no-…, and no --from-
    flag = ["--" + name.strip("_").replace("_", "-")] if told else []
    declared = Annotated[kind, typer.Option(*flag, help=said, **limits)]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=declared)


def _amount(name: str, said: str, least: int = 0, most: int = MOST) -> inspect.Parameter:
    """A number of something: none of it, or where one is the least, no limit unless given."""
    kind, default = (int | None, None) if least else (int, 0)
    return option(name, kind, default, said, min=least, max=most)


ASKED = (
    _amount("limit", "Only the first N inputs.", least=1),
    _amount("sample", "A random choice of N inputs.", least=1),
    option("seed", int, 0, "The seed of --sample."),
    option("fps", float | None, None, "Of videos: the frames shown at so many times a second."),
    _amount("every", "Of videos: each Nth frame.", least=1),
    option("keyframes", bool, False, "Of videos: the key frames."),
    option("frames", str, "", "Of videos: these, counted from 0: 0,100,200.", callback=_numbers),
    option("from_", str, "", "Of videos: from here on, in seconds or h:mm:ss."),
    option("to", str, "", "Of videos: what comes before this, in seconds or h:mm:ss."),
    option("threshold", float | None, None, "Lowest score kept; else the card's.", min=0, max=1),
    _amount("max_detections", "Most detections an image (default: the card's).", least=1),
    option("classes", str, "", "Only these: names or ids, separated by commas."),
    option("category_ids", str, "", "coco91, contiguous or a JSON file of ids by name."),
    option("category_map", str, "", "A JSON file of names or ids by class; others drop out."),
    option("allow_unmatched", bool, False, "--category-map may name classes not in the model."),
    option("runtime", Runtime | None, None, "What runs the model; else the build's usual one."),
    option("precision", Literal["f32", "bf16"], "f32", "In what openvino computes a float model."),
    _amount("min_area", "Drop masks of fewer pixels."),
    _amount("fill_holes", "Fill holes of fewer pixels."),
    _amount("drop_specks", "Drop parts of a mask of fewer pixels."),
    option("mask_format", Literal["rle", "polygon"], "rle", "How masks are written."),
    option("images_root", str, "", "Where the images of a COCO INPUT lie (default: beside it)."),
    option("images_from", str, "", "A COCO file whose image ids are kept, by file name."),
    option("extra_images", bool, False, "Number inputs unknown to --images-from, too."),
    option("full_decode", bool, False, "Never decode large JPEGs at reduced scale."),
    option("save_frames", bool, False, "Keep each annotated frame of a video in OUT/frames."),
    _amount("shard_size", "Images a shard (default: 64; 16 for boards).", least=1, most=100_000),
    option("overwrite", bool, False, "Start anew where the output holds a job."),
    option("gate_parity", bool, False, "First compare 16 inputs with the card's first build."),
)
SETTINGS = (
    option("delegate", str, "", "TFLite's: auto (this board's), none or a library's path."),
    option("delegate_option", list[str] | None, None, "For it.", metavar="KEY=VALUE"),
    option("memory", str, "", "The most that the worker may take, as in 512M (MASKMILL_MEMORY)."),
)
# Where the process that computes looks for them, in the environment.
_VARIABLES = ("MASKMILL_DELEGATE", "MASKMILL_DELEGATE_OPTIONS", "MASKMILL_MEMORY")


def command(
    app: typer.Typer, target: str, *options: inspect.Parameter, name: str = "", reports: bool = True
) -> Callable[[Callable[..., None]], None]:
    """Make a command of a function's parameters and docstring, with more options.

    `target` is who does it, module:function, imported when it runs. It gets what is typed by
    name; `as_json` too where the function declares it, as that of a command which speaks on its
    way does. One that `reports` has --json.
    """

    def declare(declared: Callable[..., None]) -> None:
        own, kind = inspect.signature(declared).parameters, inspect.Parameter.KEYWORD_ONLY
        flag = inspect.Parameter("as_json", kind, default=False, annotation=JsonFlag)
        added = [flag] if reports and "as_json" not in own else []
        given = [each.replace(kind=kind) for each in (*own.values(), *options, *added)]
        given.sort(key=lambda each: each.default is not each.empty)

        def run(**typed: Any) -> None:
            for variable, each in zip(_VARIABLES, SETTINGS, strict=True):
                if value := typed.pop(each.name, None):
                    os.environ[variable] = value if isinstance(value, str) else " ".join(value)
            as_json = typed.pop("as_json") if added else typed.get("as_json", False)
            ended = resolve_name("tasks.exits:ended")
            raise typer.Exit(ended(lambda: resolve_name(target)(**typed), as_json))

        run.__signature__ = inspect.Signature(given)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in given}
        app.command(name or declared.__name__, help=declared.__doc__)(run)

    return declare
