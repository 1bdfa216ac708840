"""What a network is, from the names and shapes of its tensors: the draft of a card.

The facts of each form are its authors'. What they leave to whoever trained or exported it is not
guessed: the draft names the options that tell it.
"""

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from tasks.cards import LARGEST_SIDE, Build, Card, Categories, Family, InputSpec, ModelError
from tasks.categories import coco80
from tasks.graph_file import GraphFile, read_graph

Size = int | None

# Options of `models add`, and what each one tells.
ASKED = {
    "categories": "the names of its classes",
    "color": "the order of its colours",
    "mean": "the mean that it wants subtracted",
    "std": "the deviation that it wants divided by",
    "fit": "how a picture becomes its input",
}
_MOST_NAMES = 1 << 20  # characters of the names in a file's metadata
_FORMS = Path(__file__).with_name("forms.toml")


class Draft(msgspec.Struct, frozen=True):
    form: str  # in words, for people
    family: Family
    input: InputSpec = InputSpec()
    unknown: tuple[str, ...] = ("categories",)  # keys of ASKED
    categories: Categories = ()  # where nobody has told them
    decode: dict[str, Any] = {}


class _Form(Draft, frozen=True, forbid_unknown_fields=True):
    """One that its outputs tell by themselves; forms.toml says what these fields mean."""

    outputs: dict[str, int] = {}
    ranks: tuple[int, ...] = ()
    whole: bool | None = None
    sides: tuple[tuple[Size, ...], ...] = ()


def derived_card(path: Path) -> Card:
    """The card of a network that has none beside it: the same for the same file, always."""
    missing = f"{path} has no card {path.with_suffix('.toml').name} beside it, and"
    try:
        draft = recognise(read_graph(path))
    except ModelError as exc:
        raise ModelError(f"{missing} none can be made from it: {exc}") from exc
    if draft.unknown:
        command = f"give {asked(draft.unknown)} to maskmill models add {path}"
        raise ModelError(f"{missing} as a {draft.form} it does not tell all of one: {command}")
    build = Build(path.name)
    return Card(path.stem, draft.family, (build,), draft.categories, draft.input, draft.decode)


def asked(options: Iterable[str]) -> str:
    return ", ".join(f"--{option} ({ASKED[option]})" for option in options)


def recognise(graph: GraphFile) -> Draft:
    """Raises ModelError for a network of no family here."""
    draft = _listed(graph) or _by_shapes(graph)
    if graph.metadata.get("task", "segment") != "segment":
        raise ModelError(f"Ultralytics made it for the task {graph.metadata['task']}, not segment")
    if draft is None:
        found = ", ".join(map(str, graph.outputs))
        raise ModelError(f"its outputs are those of no family that is known here: {found}")
    # A card names the size only where the graph leaves it open, and only there can it vary.
    if None in sides(graph):
        return draft
    spec = replace(draft.input, size=None, multiple=1)
    if spec.fit not in ("sides", "native"):
        return replace(draft, input=spec)
    unknown = (*draft.unknown, "fit")
    return replace(draft, input=replace(spec, fit="stretch"), unknown=unknown)


def sides(graph: GraphFile) -> tuple[Size, ...]:
    """Height and width of the picture, which is the input of most axes."""
    shape = max((each.shape for each in graph.inputs), key=len)
    return shape[-3:-1] if shape[-1:] == (3,) else shape[-2:]


@cache
def _forms() -> tuple[_Form, ...]:
    table = msgspec.toml.decode(
        _FORMS.read_bytes(), type=dict[str, tuple[_Form, ...]], strict=False
    )
    return table["forms"]


def _listed(graph: GraphFile) -> Draft | None:
    """The first form that the graph has all marks of."""
    last = {each.name: each.shape[-1:] for each in graph.outputs}
    shapes = sorted((each.shape for each in graph.outputs), key=len)
    ranks = tuple(map(len, shapes))
    for form in _forms():
        named = form.outputs.items()
        if (
            all(name in last and size in (0, *last[name]) for name, size in named)
            and form.ranks in ((), ranks)
            and form.whole in (None, None in shapes[-1][2:])
            and (not form.sides or sides(graph) in form.sides)
        ):
            return form
    return None


def _by_shapes(graph: GraphFile) -> Draft | None:
    shapes = sorted((each.shape for each in graph.outputs), key=len)
    ranks = [len(shape) for shape in shapes]
    if ranks[-4:] == [3, 3, 3, 4] and len(ranks) <= 5 and any(s[-1:] == (4,) for s in shapes):
        # Exporters differ in what they put into the graph, so little is known of its input.
        raw = any(each.name == "loc" or "prior" in each.name.lower() for each in graph.outputs)
        decode = {"boxes": "loc"} if raw else {}
        told = ("categories", "color", "mean", "std")
        return Draft("YOLACT", "yolact", InputSpec((550, 550)), told, decode=decode)
    return _ultralytics(graph) if ranks == [3, 4] else None


def _ultralytics(graph: GraphFile) -> Draft:
    """A -seg network of any generation; which one, its decoder sees."""
    names = _names(graph.metadata)
    size = _literal(graph.metadata.get("imgsz", ""))
    both = size if isinstance(size, list) and len(size) == 2 else [size, size]
    height, width = (s if type(s) is int and 0 < s <= LARGEST_SIDE else 640 for s in both)
    spec = InputSpec((height, width), "letterbox", std=(255.0, 255.0, 255.0))
    unknown = () if names else ("categories",)
    # Converters that turn it to NHWC leave its boxes as parts of the input.
    parts = any(each.shape[-1:] == (3,) for each in graph.inputs)
    decode = {"boxes": "normalised"} if parts else {}
    return Draft("YOLO -seg of Ultralytics", "yolo_seg", spec, unknown, names, decode)


def _names(said: dict[str, str]) -> Categories:
    """Ultralytics writes {0: 'person', …}, and into an .xml the names in a row, blanks as _."""
    names = _literal(said.get("names", "")) or dict(enumerate(said.get("labels", "").split()))
    if not isinstance(names, dict) or sorted(names, key=str) != sorted(range(len(names)), key=str):
        return ()
    found = tuple(str(names[number]) for number in range(len(names)))
    lowered = {each.lower() for each in found}
    if not all(map(str.isprintable, found)) or "" in lowered or len(lowered) < len(found):
        return ()
    known = tuple(each.name for each in coco80())
    return "coco80" if found in (known, tuple(k.replace(" ", "_") for k in known)) else found


def _literal(text: str) -> Any:
    """A Python literal, as exporters write lists and dicts; None for anything else."""
    try:
        return ast.literal_eval(text) if len(text) <= _MOST_NAMES else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
