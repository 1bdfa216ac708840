"""Model cards: a TOML file that says what a network's bytes cannot say of themselves; and which
engines run them here.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tasks.categories import Category, Name, coco80

# Which engines run a file, the usual one first.
ENGINES_BY_SUFFIX = {".onnx": ("onnx", "openvino"), ".tflite": ("tflite",), ".xml": ("openvino",)}
# What computing needs, and what each engine does, any one of them.
WORKER_PARTS = ("numpy", "cv2", "PIL", "pycocotools")
ENGINE_PARTS = {
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "tflite": ("tflite_runtime", "ai_edge_litert"),
}

LARGEST_SIDE = 1 << 14
Positive = Annotated[int, msgspec.Meta(ge=1, le=10**12)]  # what the scratch database can count
Side = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_SIDE)]
Spread = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_SUFFIXES = "|".join(map(re.escape, ENGINES_BY_SUFFIX))
NetworkFile = Annotated[str, msgspec.Meta(pattern=rf"(?i)[^/]({_SUFFIXES})\Z")]
Categories = Literal["coco80"] | Annotated[tuple[Name | Category, ...], msgspec.Meta(min_length=1)]
Family = Literal["yolact", "mask_rcnn", "detr", "yolo_seg"]  # each a decoder: worker/yolact.py
Fit = Literal["stretch", "pad", "letterbox", "sides", "native"]


class ModelError(Exception):
    """A model that cannot be used, in one sentence. It stops a command before anything runs."""


class InputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How pixels become the network's input; mean and std are on 0…255, in the order of `color`.

    fit: "stretch" to the size; "pad", into the size with zeros at the right and the bottom;
    "letterbox", into its middle on grey; "sides", to a short side of size[0] and a long one of at
    most size[1]; "native", as the picture is. The last two suit graphs that leave their size open.
    """

    # (height, width), only where the graph leaves it open
    size: tuple[Side, Side] | None = None
    fit: Fit = "stretch"
    # "sides" and "native": zeros at the right and bottom, up to a multiple of this
    multiple: Positive = 1
    color: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[Spread, Spread, Spread] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.fit == "native" and self.size:
            raise ValueError('fit = "native" takes no size')
        if self.fit not in ("sides", "native") and self.multiple > 1:
            raise ValueError(f'fit = "{self.fit}" takes no multiple')


class Accuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """AP of a build under one protocol; None where nobody has published or measured it."""

    box: Share | None = None
    mask: Share | None = None
    mean: Share | None = None  # of the two, where that is all that is published
    source: Literal["published", "measured"] = "published"
    on: str = ""


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    backbone: str = ""
    dataset: str = ""
    operations: str = ""
    parameters: str = ""
    sizes: tuple[str, ...] = ()  # of the weights, where they are published in round figures only
    boards: tuple[str, ...] = ()
    notes: str = ""


class Download(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of a build as its source publishes it; a checksum that nobody publishes is empty."""

    file: str
    url: str = ""
    size: int | None = None
    sha256: str = ""
    sha384: str = ""


class Build(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a model (an .xml with its .bin). Its own `input` stands in place of the card's.

    sha256 is of the bytes of the file, or of the .xml and then the .bin.
    """

    file: NetworkFile
    precision: str = "fp32"
    sha256: str = ""
    input: InputSpec | None = None
    decode: dict[str, Any] | None = None
    ap: tuple[Accuracy, ...] = ()  # the first is of this input, others are of other protocols
    downloads: tuple[Download, ...] = ()

    @property
    def engines(self) -> tuple[str, ...]:
        return ENGINES_BY_SUFFIX[Path(self.file).suffix.lower()]


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    family: Family
    builds: Annotated[tuple[Build, ...], msgspec.Meta(min_length=1)]
    categories: Categories
    input: InputSpec = InputSpec()
    decode: dict[str, Any] = {}  # the family validates it when the model is loaded
    description: str = ""
    license: str = ""
    source: str = ""
    facts: Facts = Facts()

    def category_list(self) -> tuple[Category, ...]:
        if isinstance(self.categories, str):
            return coco80()
        return tuple(
            Category(number, each) if isinstance(each, str) else each
            for number, each in enumerate(self.categories, 1)
        )


Compute = Literal["f32", "bf16"]


class Model(msgspec.Struct, frozen=True):
    """A card, the build chosen from it, where that build's bytes are, and what runs it how."""

    card: Card
    build: Build
    path: str
    sha256: str
    engine: Annotated[str, msgspec.Meta(pattern=r"^(onnx|openvino|tflite)\Z")]
    compute: Compute = "f32"  # in which precision the engine computes a float graph

    @property
    def input(self) -> InputSpec:
        return self.build.input or self.card.input

    @property
    def decode(self) -> dict[str, Any]:
        return self.card.decode if self.build.decode is None else self.build.decode


def read_card(path: Path) -> Card:
    if not path.is_file():  # what is no regular file, a pipe say, might never end
        raise ModelError(f"there is no model card {path}")
    try:
        return parse_card(path.read_text("utf-8"), path)
    except (OSError, UnicodeDecodeError) as exc:
        raise ModelError(f"the model card {path} cannot be read: {exc}") from exc


def parse_card(text: str, path: Path) -> Card:
    """A card's text, which lies or is to lie at `path`."""
    try:
        card = msgspec.toml.decode(text, type=Card, strict=False)
    except msgspec.DecodeError as exc:
        raise ModelError(f"the model card {path} cannot be read: {exc}") from exc
    categories = card.category_list()
    ids, names = {each.id for each in categories}, {each.name.lower() for each in categories}
    if min(len(ids), len(names)) < len(categories):
        raise ModelError(f"the model card {path} gives two categories one name or one id")
    return card


def engines_here() -> list[str]:
    return [engine for engine in ENGINE_PARTS if is_here(engine)]


def need_worker_parts(engine: str) -> None:
    missing = [each for each in WORKER_PARTS if find_spec(each) is None]
    if not is_here(engine):
        missing.append(" or ".join(ENGINE_PARTS[engine]))
    if missing:
        extras = "worker,openvino" if engine == "openvino" else "worker"
        raise ModelError(
            f"running a model needs {', '.join(missing)}: pip install 'maskmill[{extras}]'"
        )


def is_here(engine: str) -> bool:
    return any(find_spec(part) for part in ENGINE_PARTS[engine])
