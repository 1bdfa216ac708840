"""The typed values that a person asks with, and that a job folder holds.

Each of these is written as JSON exactly as it stands here. What has a sentence in its annotation is
an option of the command line too.
"""

from typing import Annotated, Any, Literal

import msgspec

from tasks.cards import Compute, Model, Positive, Share
from tasks.categories import Category

Schema = Annotated[int, msgspec.Meta(ge=1, le=1)]  # all that there ever was
Index = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
ShardSize = Annotated[int, msgspec.Meta(ge=1, le=100_000)]


class VideoFrame(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which frame of a video. What tells it from all others is its presentation time stamp."""

    index: int  # from 0, in presentation order
    pts: int  # in units of the video's time base
    time: float  # seconds on the clock that a player shows, to a microsecond
    group: int  # the time stamp of the key frame from which it can be decoded
    video: str = ""  # its name, where that is not the folder of the frame's


Stage = Literal["fetch", "decode", "model", "write", "worker"]


class Problem(msgspec.Struct, frozen=True):
    """Why nothing is to be tried: what was asked for was not there when it was planned."""

    stage: Stage
    kind: str
    message: str


class ItemError(Exception):
    """One input cannot go on: a failure record, never a crash."""

    def __init__(self, stage: Stage, kind: str, message: str) -> None:
        super().__init__(message)
        self.stage, self.kind, self.message = stage, kind, message


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One input of a plan. The URI may carry the query of a presigned URL; nothing else does.

    That of a frame is its video's with `#frame=` and its index.
    """

    id: int
    uri: str
    file_name: str
    version: str | None = None  # what a listing said of the object; None where none was listed
    frame: VideoFrame | None = None
    problem: Problem | None = None


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """What of the dataset is a person's to choose, as it is typed."""

    threshold: Annotated[Share | None, "Lowest score kept; else the card's."] = None
    max_detections: Annotated[Positive | None, "Most detections an image; else the card's."] = None
    mask_format: Annotated[Literal["rle", "polygon"], "How masks are written."] = "rle"
    min_area: Annotated[Index, "Drop masks of fewer pixels."] = 0
    fill_holes: Annotated[Index, "Fill holes of fewer pixels."] = 0
    drop_specks: Annotated[Index, "Drop parts of a mask of fewer pixels."] = 0
    reduced_decode: bool = True
    save_frames: Annotated[bool, "Keep each annotated frame of a video in OUT/frames."] = False


class Wishes(Choices, frozen=True, kw_only=True):
    """What was typed, besides the inputs and how they are selected."""

    model: str
    output: str
    classes: Annotated[tuple[str, ...], "Only these: names or ids, separated by commas."] = ()
    category_ids: Annotated[str, "coco91, contiguous or a JSON file of ids by name."] = ""
    category_map: Annotated[str, "A JSON file of names or ids by class; others drop out."] = ""
    allow_unmatched: Annotated[bool, "--category-map may name classes not in the model."] = False
    runtime: Annotated[str, "onnx, openvino or tflite; else what usually runs the build."] = ""
    precision: Annotated[Compute, "In what openvino computes a float model."] = "f32"
    mixed: bool = False
    shard_size: Annotated[ShardSize | None, "Images a shard; else 64, or 16 for boards."] = None
    max_failures: Annotated[Index, "Exit 3 with more failures (of submit: with --wait)."] = 0
    overwrite: Annotated[bool, "Start anew where the output holds a job."] = False
    replace_edited: bool = False
    upload: bool = False  # local inputs are copied to where workers on other machines see them …
    shared_paths: bool = False  # … or these see them, and the output, at the same paths


class Settings(Choices, frozen=True, kw_only=True):
    """Everything besides the inputs and the model that the dataset's bytes depend on."""

    categories: tuple[Category, ...]  # of the dataset
    class_ids: tuple[int | None, ...]  # the category of each of the network's classes; None: none
    keep: tuple[int, ...] = ()  # category ids; empty means all
    max_bytes: int
    max_pixels: int
    max_video_bytes: int = 2 << 30  # of a video that has to be downloaded


class Sampling(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Which frames of videos: all of a part, or one choice of `fps` to `frames` among these."""

    fps: Annotated[float | None, "Of videos: the frames shown at so many times a second."] = None
    every: Annotated[Positive | None, "Of videos: each Nth frame."] = None
    keyframes: Annotated[bool, "Of videos: the key frames."] = False
    frames: Annotated[tuple[Index, ...], "Of videos: these, counted from 0: 0,100,200."] = ()
    from_: Annotated[str | float, "Of videos: from here on, in seconds or h:mm:ss."] = ""
    to: Annotated[str | float, "Of videos: what comes before this, in seconds or h:mm:ss."] = ""


class Selection(Sampling, frozen=True, kw_only=True):
    """How the inputs were chosen and numbered."""

    limit: Annotated[Positive | None, "Only the first N inputs."] = None
    sample: Annotated[Positive | None, "A random choice of N inputs."] = None
    seed: Annotated[int, "The seed of --sample."] = 0
    images_root: Annotated[str, "Where the images of a COCO INPUT lie; else beside it."] = ""
    images_from: Annotated[str, "A COCO file whose image ids are kept, by file name."] = ""
    extra_images: Annotated[bool, "Number inputs unknown to --images-from, too."] = False
    only_unannotated: Annotated[bool, "Of a COCO INPUT: fill what has no annotations."] = False


class Asked(msgspec.Struct, frozen=True):
    """What the person asked for: the same again continues a job, anything else is refused."""

    inputs: tuple[str, ...]
    selection: Selection
    model: Model  # whose path is the submitter's file, or a copy that all can read
    settings: Settings
    shard_size: int
    alternates: tuple[Model, ...] = ()  # mixed: builds and engines that may make a shard as well


class Counts(msgspec.Struct, kw_only=True):
    """What was found; what was chosen of it is `items`."""

    items: int = 0
    shards: int = 0
    duplicates: int = 0
    not_images: int = 0
    not_images_named: tuple[str, ...] = ()  # the first few
    bytes: int = 0
    of_unknown_size: int = 0


Priority = Literal["high", "normal", "low"]


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """How a fleet works a job off. None of it changes the dataset."""

    priority: Annotated[Priority, "Which queue the shards go to."] = "normal"
    target: Annotated[str, "any, cloud, edge, imx8mp, imx93, imx95 or a worker's label."] = "any"
    per_image: Annotated[bool, "Also write a file for each input once it is done."] = False


class Job(msgspec.Struct, frozen=True):
    """job.json: written last and create-only, so of two planners one wins."""

    run: str
    asked: Asked
    counts: Counts = msgspec.field(default_factory=Counts)
    routing: Routing = Routing()
    open: bool = False  # no plan in advance: parts are added while it runs
    schema: Schema = 1


class Failure(msgspec.Struct, frozen=True):
    """One input that could not be annotated, and why, in words of our own."""

    image_id: int
    uri: str
    file_name: str
    stage: Stage
    kind: str
    message: str


class Video(msgspec.Struct, frozen=True):
    """What a video says of itself; width and height are those after its rotation."""

    name: str
    width: int
    height: int
    fps: float  # the average
    duration: float  # seconds
    codec: str


class Image(msgspec.Struct, frozen=True, omit_defaults=True):
    id: int
    file_name: str
    width: int  # after EXIF orientation
    height: int
    exif_orientation: int = 1  # 1…8 as the file had it; applied to the pixels before anything else
    video: Video | None = None  # in the dataset its id
    video_id: int | None = None
    frame_index: int | None = None
    timestamp: float | None = None
    vanished: bool = False  # it is no longer where a schedule found it


class RleMask(msgspec.Struct, frozen=True):
    size: tuple[int, int]  # (height, width)
    counts: str


class Annotation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One instance. Ids are given at merge, in plan order."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]  # x, y, width, height
    area: int
    segmentation: RleMask
    score: float
    polygons: tuple[tuple[float, ...], ...] = ()  # with --mask-format polygon, beside the RLE
    polygon_iou: float = 1.0  # of those polygons with the mask
    id: int = 0  # not numbered yet


class ProducedBy(msgspec.Struct, frozen=True):
    """The kind of worker. Within one kind the same inputs give the same bytes."""

    sha256: str
    engine: str
    engine_version: str
    precision: str
    delegate: str
    instruction_set: str


class Shard(msgspec.Struct, frozen=True):
    shard: int | str
    produced_by: ProducedBy
    images: tuple[Image, ...]
    annotations: tuple[Annotation, ...]
    failures: tuple[Failure, ...]
    empty_masks: int = 0  # detections dropped because no pixel of their mask was left
    schema: Schema = 1


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """Who tried a shard. `beat` is renewed while it runs; `ended` says how it came to an end."""

    worker: str
    started: float
    beat: float
    careful: bool = False
    item: int | None = None  # in careful mode the image in hand, written before it is opened
    ended: Literal["", "committed", "released", "died", "interrupted"] = ""
    peak: int = 0  # bytes of memory, the most that its process ever had
    seconds: dict[str, float] = {}  # by stage, summed over threads


def encode(value: Any) -> bytes:
    """One JSON line. Field order is the struct's, so equal values are equal bytes."""
    return msgspec.json.encode(value)


encode_lines = msgspec.json.Encoder().encode_lines


# msgspec takes a type apart when it first decodes one. Threads that do so at the same time can end
# the process when the garbage collector runs in between, so this one has done it before them.
for _kind in (Item, Job, Shard, Attempt):
    msgspec.json.Decoder(_kind)
