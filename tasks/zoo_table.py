"""`maskmill models list` and `show`: what the cards say, and what the files that are here say."""

from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap

import msgspec
from rich.console import Console
from rich.table import Table

from tasks.cards import Build, Card, ModelError, read_card
from tasks.exits import Facts, Said, record_lines
from tasks.graph_file import files_of, read_graph
from tasks.recognise import sides
from tasks.shelf import find_card, is_shared, place_of, zoo_cards

_COLUMNS = ("model", "network, input", "box/mask AP", "cost", "runs on", "weights")
_UNKNOWN = "–"
_LEGEND = f"AP is in percent and as published, or with * measured by us; {_UNKNOWN} is not known"


def list_models() -> Said:
    first_of_name = {path.stem: path for path in reversed(list(zoo_cards()))}
    models = [_listed(first_of_name[name]) for name in sorted(first_of_name)]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 1, 0))
    for heading in _COLUMNS:
        table.add_column(heading, overflow="fold", no_wrap=heading in ("model", "box/mask AP"))
    for model in models:
        table.add_row(*([model["name"], model["problem"]] if "problem" in model else _cells(model)))
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 100)
    with console.capture() as drawn:
        console.print(table, _LEGEND, sep="\n", end="")
    return Said({"event": "models", "models": models}, [drawn.get()])


def _listed(path: Path) -> Facts:
    """A card that cannot be read says so in its place."""
    try:
        return _known(path, read_card(path))
    except ModelError as exc:
        return {"name": path.stem, "card": str(path), "problem": str(exc)}


def show_model(name: str) -> Said:
    model = _known(*find_card(name))
    return Said({"event": "model", **model}, record_lines(model))


def _known(path: Path, card: Card) -> Facts:
    """A card and what its files say, as one record."""
    model: Facts = msgspec.to_builtins(card)
    builds = [_build(path, card, each) for each in card.builds]
    graphs = (each["graph"] for each in builds if each["graph"])
    size = model["input"].pop("size") or next((each["sides"] for each in graphs), ())
    return model | {
        "card": str(path) if path.suffix == ".toml" else None,
        "shared": is_shared(path),
        "takes": "×".join("?" if side is None else str(side) for side in size),
        "engines": list(dict.fromkeys(engine for each in card.builds for engine in each.engines)),
        "builds": builds,
    }


def _build(path: Path, card: Card, build: Build) -> Facts:
    here = place_of(path, card, build)
    own = [str(each) for each in files_of(Path(build.file))]
    sizes = [each.size or 0 for each in build.downloads if each.file in own]
    if here:
        sizes = [part.stat().st_size for part in files_of(here)]
    said: Facts = msgspec.to_builtins(build)
    return said | {
        "engines": list(build.engines),
        "path": str(here) if here else None,
        "bytes": sum(sizes) if sizes and all(sizes) else None,
        "graph": _graph(here) if here else None,
    }


def _graph(place: Path) -> Facts | None:
    """What the file says of itself, where it is of a kind that can be looked into."""
    try:
        graph = read_graph(place)
    except ModelError:
        return None
    return {
        "sides": sides(graph),
        "inputs": [str(each) for each in graph.inputs],
        "outputs": [str(each) for each in graph.outputs],
    }


def _cells(model: Facts) -> Iterator[str]:
    """A model's row of the table."""
    facts, builds = model["facts"], model["builds"]
    here = dict.fromkeys(f"{each['precision']} here" for each in builds if each["path"])
    kept = [each for each in builds if each["bytes"]]
    sizes = [f"{each['precision']} {each['bytes'] / 1e6:.1f} MB" for each in kept]
    picture = f"{model['takes'] or _UNKNOWN} {model['input']['fit']}"
    for cell in (
        wrap(model["name"], 22),
        (facts["backbone"], facts["dataset"], picture),
        (*_figures(builds, "fp32"), *_figures(builds, "int8")),
        (facts["operations"], facts["parameters"], *(sizes or facts["sizes"])),
        (*facts["boards"], *model["engines"]),
        here or ["shared" if model["shared"] else "not here"],
    ):
        yield "\n".join(filter(None, cell)) or _UNKNOWN


def _figures(builds: list[Facts], precision: str) -> list[str]:
    """What the builds of a precision reach, under each protocol."""
    found = []
    for said in (ap for each in builds if each["precision"] == precision for ap in each["ap"]):
        box, mask, mean = (_percent(said[name]) for name in ("box", "mask", "mean"))
        both = f"{mean} mean" if box == mask == _UNKNOWN else f"{box}/{mask}"
        found.append(f"{precision} {both}{'*' if said['source'] == 'measured' else ''}")
    return list(dict.fromkeys(found)) or [f"{precision} {_UNKNOWN}"]


def _percent(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{100 * value:.4g}"
