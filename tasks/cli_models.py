"""`maskmill models …`: the zoo. Nothing heavy is imported before it is needed."""

from typing import Annotated

import typer

from tasks.cli_options import JsonFlag, end

_ABOUT = "The zoo: what models there are, and what each one needs."
app = typer.Typer(name="models", no_args_is_help=True, rich_markup_mode="rich", help=_ABOUT)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A card's name, a card, or a network.")]


@app.command("list")
def list_models(as_json: JsonFlag = False) -> None:
    """Every card at hand: accuracy, cost, where it runs, and whether its weights are here."""
    end("tasks.zoo_table:list_models", as_json)


@app.command()
def show(name: Name, as_json: JsonFlag = False) -> None:
    """All of one card: builds, downloads, checksums, where its files are, licence and source."""
    end("tasks.zoo_table:show_model", name, as_json)


@app.command()
def pull(
    name: Name,
    precision: Annotated[
        str, typer.Option(help="Which build: fp32, fp16, int8, … (default: the card's first).")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Download a build from where it is published, and verify it."""
    end("tasks.pull:pull", name, precision, as_json)


@app.command(
    epilog="Example:\n\n  maskmill models reproduce shapes --coco held-out\n\n"
    "Exit codes: 0 as published, 2 wrong usage, 5 further from it than --tolerance."
)
def reproduce(
    name: Name,
    coco: Annotated[str, typer.Option(help="COCO's folder, or images with an instances.json.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Default: reproduce-NAME.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="How far from the card's AP is still the same.")
    ] = 0.005,
    as_json: JsonFlag = False,
) -> None:
    """Run a model over COCO's val2017 and print measured beside published AP."""
    end("worker.reproduce:reproduce", name, coco, output, limit, tolerance, as_json)


@app.command(
    epilog="Examples:\n\n  maskmill models add best.onnx\n\n"
    "  maskmill models add mask-rcnn.onnx --name mine --categories cat,dog"
)
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
    """Make a card by looking at a network, and show what it finds on a picture."""
    told = {"categories": categories, "color": color, "mean": mean, "std": std, "fit": fit}
    told["name"] = name
    end("worker.add_model:add", file, told, replace, as_json)


@app.command(epilog="Exit codes: 0 all that is here fits, 2 it cannot be used.")
def check(
    model: Name,
    image: Annotated[str, typer.Argument(help="A picture.", show_default=False)] = "",
    output: Annotated[str, typer.Option("--output", "-o", help="For drawings.")] = "maskmill-check",
    as_json: JsonFlag = False,
) -> None:
    """Load every build with every engine that is here, run a picture and draw what is found."""
    end("worker.check:check", model, image, output, as_json)
