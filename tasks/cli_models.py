"""`maskmill models …`: the zoo. Nothing heavy is imported before it is needed."""

from typing import Annotated

import typer

from tasks.cli_options import JsonFlag, Limit, command

_ABOUT = "The zoo: what models there are, and what each one needs."
app = typer.Typer(name="models", no_args_is_help=True, rich_markup_mode="rich", help=_ABOUT)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A card's name, a card, or a network.")]


@command(app, "tasks.zoo_table:list_models", name="list")
def list_models() -> None:
    """Every card at hand: accuracy, cost, where it runs, and whether its weights are here."""


@command(app, "tasks.zoo_table:show_model")
def show(name: Name) -> None:
    """All of one card: builds, downloads, checksums, where its files are, licence and source."""


@command(app, "tasks.pull:pull")
def pull(
    name: Name,
    precision: Annotated[str, typer.Option(help="fp32, int8, … (default: the card's first).")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Download a build from where it is published, and verify it."""


@command(app, "worker.reproduce:reproduce")
def reproduce(
    name: Name,
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


@command(app, "worker.add_model:add")
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


@command(app, "worker.check:check")
def check(
    name: Name,
    image: Annotated[str, typer.Argument(help="A picture.", show_default=False)] = "",
    output: Annotated[str, typer.Option("--output", "-o", help="For drawings.")] = "maskmill-check",
) -> None:
    """Load every build with every engine that is here, run a picture and draw what is found.

    Exit codes: 0 all that is here fits, 2 it cannot be used.
    """
