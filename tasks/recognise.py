"""What a network is, from the names and shapes of its tensors: the draft of a card.

The facts of each form are its authors'. What they leave to whoever trained or exported it is not
guessed: the draft names the options that tell it.
"""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from tasks.cards import LARGEST_SIDE, Build, Card, Categories, Fit, InputSpec, ModelError
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
_SIDES = (800, 1333)  # short and long side, of all who resize as Detectron did

_BGR = InputSpec(color="bgr")
_UNIT = InputSpec(std=(255.0, 255.0, 255.0))
_IMAGENET = InputSpec(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
_CAFFE = InputSpec(color="bgr", mean=(102.9801, 115.9465, 122.7717))
# Open Model Zoo's since 2020, by size: which of them were measured on stretched pictures.
_OMZ_FITS: dict[tuple[Size, ...], Fit] = {(608, 608): "stretch", (480, 480): "stretch"}
_OMZ_FITS |= {(768, 1024): "pad", (800, 1344): "pad"}


class Draft(msgspec.Struct, frozen=True):
    form: str  # in words, for people
    family: str
    input: InputSpec = InputSpec()
    unknown: tuple[str, ...] = ("categories",)  # keys of ASKED
    categories: Categories = ()  # where nobody has told them
    decode: dict[str, Any] = {}


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
    draft = _by_names(graph) or _by_shapes(graph)
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


def _by_names(graph: GraphFile) -> Draft | None:
    """Forms whose authors name their outputs."""
    shapes = {each.name: each.shape for each in graph.outputs}
    names = shapes.keys()
    if names >= {"boxes", "classes", "scores", "raw_masks"}:
        spec = replace(_BGR, fit="pad", size=(480, 640))
        return Draft("Mask R-CNN of Open Model Zoo until 2019", "mask_rcnn", spec)
    if names >= {"labels", "boxes", "masks"} and shapes["boxes"][1:] == (5,):
        fit = _OMZ_FITS.get(sides(graph))
        unknown = ("categories",) if fit else ("categories", "fit")
        spec = replace(_BGR, fit=fit or "stretch")
        return Draft("Mask R-CNN of Open Model Zoo", "mask_rcnn", spec, unknown)
    if names >= {"pred_boxes", "pred_classes", "pred_masks", "scores"}:
        spec = replace(_BGR, fit="sides", size=_SIDES)
        # As a rule it normalises by itself, but not all exports do.
        return Draft("Mask R-CNN of Detectron2", "mask_rcnn", spec, ("categories", "mean", "std"))
    if names >= {"dets", "labels", "masks"}:
        return Draft("RF-DETR-Seg", "detr", _IMAGENET)
    if "pred_masks" in names and names & {"logits", "pred_logits"}:
        return Draft("DETR", "detr", replace(_IMAGENET, fit="sides", size=_SIDES))
    if names >= {"class_queries_logits", "masks_queries_logits"}:
        return Draft("Mask2Former", "detr", replace(_IMAGENET, size=(384, 384)))
    return None


def _by_shapes(graph: GraphFile) -> Draft | None:
    shapes = sorted((each.shape for each in graph.outputs), key=len)
    ranks = [len(shape) for shape in shapes]
    if ranks == [1, 1, 2, 4]:  # labels and scores, boxes, masks: names are often numbers here
        if None in shapes[3][2:]:  # of the whole image
            return Draft("Mask R-CNN of torchvision", "mask_rcnn", replace(_UNIT, fit="native"))
        spec = replace(_CAFFE, fit="sides", size=_SIDES, multiple=32)
        return Draft("Mask R-CNN of the ONNX zoo", "mask_rcnn", spec)
    if ranks[-4:] == [3, 3, 3, 4] and len(ranks) <= 5 and any(s[-1:] == (4,) for s in shapes):
        # Exporters differ in what they put into the graph, so little is known of its input.
        raw = any(each.name == "loc" or "prior" in each.name.lower() for each in graph.outputs)
        decode = {"boxes": "loc"} if raw else {}
        told = ("categories", "color", "mean", "std")
        return Draft("YOLACT", "yolact", InputSpec((550, 550)), told, decode=decode)
    if ranks == [3, 4]:
        return _ultralytics(graph)
    return None


def _ultralytics(graph: GraphFile) -> Draft:
    """A -seg network of any generation; which one, its decoder sees."""
    names = _names(graph.metadata)
    size = _literal(graph.metadata.get("imgsz", ""))
    both = size if isinstance(size, list) and len(size) == 2 else [size, size]
    height, width = (s if type(s) is int and 0 < s <= LARGEST_SIDE else 640 for s in both)
    spec = replace(_UNIT, fit="letterbox", size=(height, width))
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
