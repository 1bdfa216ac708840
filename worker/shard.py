"""One shard's items, from bytes to COCO records. The pipeline that every worker runs."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from storage import OfOneInput, StorageError, get_versioned, shown, side_by_side
from tasks.cards import ModelError
from tasks.records import Annotation, Failure, Image, Item, ItemError, Problem, Settings, Video
from worker.detections import Detections, Frame, Raw, Wanted
from worker.images import Header, Pixels, decode, read_header
from worker.memory import flight
from worker.model import LoadedModel, RunFailed, network
from worker.polygons import polygons
from worker.refinement import refine

if TYPE_CHECKING:  # PyAV is loaded where there is a video
    from worker.frames import Shot

Shoot = Callable[[Item], "Future[Shot] | None"]
Begun = tuple[Item, Problem | None, "Future[Shot] | None"]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Picture:
    """An input that was opened, and what is needed to find the way back to its pixels."""

    item: Item
    frame: Frame
    orientation: int
    video: Video | None = None


Tensor = NDArray[np.generic]
Prepared = tuple[Picture, Tensor]
Ran = tuple[Picture, Raw]  # the tensor is let go: it is the largest thing here


@dataclass(frozen=True)
class Outcome:
    """How one input ended: an image with its annotations, or a failure."""

    image: Image | None = None
    annotations: tuple[Annotation, ...] = ()
    failure: Failure | None = None
    empty_masks: int = 0


@dataclass
class Stopwatch:
    """Seconds by stage, summed over threads; they belong to the attempt, never to the records."""

    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def timed(self, stage: str, function: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
        start = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Means:
    """What the inputs of a shard are annotated with.

    refused: why an input may not be read; empty if it may.
    keep: is given the pixels of frames of videos.
    away: gets what says that a store does not answer.
    """

    model: LoadedModel
    settings: Settings
    watch: Stopwatch
    threads: int = 1
    refused: Callable[[Item], str] = lambda item: ""
    keep: Callable[[Item, Pixels], None] | None = None
    away: list[StorageError] = field(default_factory=list)


def annotate(items: Sequence[Item], means: Means) -> Iterator[Outcome]:
    """Outcomes in the items' order. Several are on their way at a time, one of them in the network.

    Frames of videos are read ahead of all that, one after the other.
    Once a store is `away`, what is fetched is finished, nothing more is fetched, and it is raised.
    """
    away = means.away

    def begun(item: Item) -> Begun:
        problem = item.problem
        try:
            if not problem and (reason := means.refused(item)):
                problem = Problem("fetch", "refused", reason)
        except OfOneInput as exc:  # of a URI that is none
            problem = Problem("fetch", exc.kind, str(exc))
        return item, problem, None if problem or away else shoot(item)

    def through(given: Begun) -> Outcome | None:
        """None is what a store kept from being done."""
        item, problem, shot = given
        if away:
            return None
        try:
            if problem:
                return failed(item, problem)
            prepared = front.submit(prepare, item, shot, means).result()
            ran = network.submit(infer, *prepared, means)
            del prepared  # or its tensor would stay until the masks are done
            return means.watch.timed("masks", finish, *ran.result(), means.model, means.settings)
        except ItemError as exc:
            return failed(item, exc)
        except OfOneInput as exc:
            return failed(item, Problem("fetch", exc.kind, str(exc)))
        except StorageError as exc:
            away.append(exc)
            return None

    # Beside those that fetch and decode there is one in the network, and one behind it. A thread
    # that decoded keeps memory, so there are no more of those than asked for.
    threads = flight.threads(means.threads)
    with _shooting(items, means) as shoot, ThreadPoolExecutor(threads) as front:
        yield from filter(None, side_by_side(through, map(begun, items), threads + 2, threads + 2))
    if away:
        raise away[0]


def failed(item: Item, why: Problem | ItemError) -> Outcome:
    said = why.stage, why.kind, why.message
    return Outcome(failure=Failure(item.id, shown(item.uri), item.file_name, *said))


def frame_reader(settings: Settings) -> Any:
    """A FrameReader; images do without the 15 MiB of its decoders."""
    if find_spec("av") is None:
        raise ModelError("frames of videos need av: pip install 'maskmill[worker]'")
    kind = import_module("worker.frames").FrameReader
    return kind(settings.max_video_bytes, settings.max_pixels)


@contextmanager
def _shooting(items: Sequence[Item], means: Means) -> Iterator[Shoot]:
    """What reads a frame beside all else, in one thread and in the order in which it is asked."""
    if not any(item.frame for item in items):
        yield lambda item: None
        return
    with closing(frame_reader(means.settings)) as reader, ThreadPoolExecutor(1) as pool:
        read = partial(means.watch.timed, "decode", reader.read)
        yield lambda item: pool.submit(read, item) if item.frame else None


def prepare(item: Item, shot: "Future[Shot] | None", means: Means) -> Prepared:
    if shot is not None:
        return means.watch.timed("decode", _frame_to_tensor, item, shot.result(), means)
    data = means.watch.timed("fetch", fetch, item, means.settings.max_bytes)
    return means.watch.timed("decode", _to_tensor, item, data, means.model, means.settings)


def fetch(item: Item, max_bytes: int) -> bytes:
    data, version = get_versioned(item.uri, max_bytes=max_bytes)
    if item.version is not None and version != item.version:
        raise ItemError("fetch", "changed", "the object is not the one that was planned any more")
    return data


def _to_tensor(item: Item, data: bytes, model: LoadedModel, settings: Settings) -> Prepared:
    header = read_header(data, max_pixels=settings.max_pixels)
    frame = model.intake.frame(header.height, header.width)
    twice = (2 * frame.content_height, 2 * frame.content_width)
    minimum = twice if settings.reduced_decode else None
    with flight.decoding(len(data), header, minimum):
        tensor = model.intake.tensor(decode(data, header, minimum), frame)
    return Picture(item, frame, header.orientation), tensor


def _frame_to_tensor(item: Item, shot: "Shot", means: Means) -> Prepared:
    video, intake = shot.video, means.model.intake
    with flight.decoding(0, Header(video.codec, video.width, video.height, 1), None):
        pixels = shot.pixels()
        if means.keep:
            means.keep(item, pixels)
        frame = intake.frame(*pixels.shape[:2])
        return Picture(item, frame, 1, video), intake.tensor(pixels, frame)


def infer(picture: Picture, tensor: Tensor, means: Means) -> Ran:
    try:
        return picture, means.watch.timed("inference", means.model.infer, tensor, picture.frame)
    except RunFailed as exc:
        raise ItemError("model", "failed", "the network failed on this image") from exc


def finish(picture: Picture, raw: Raw, model: LoadedModel, settings: Settings) -> Outcome:
    item, frame = picture.item, picture.frame
    wanted = Wanted(settings.threshold, settings.max_detections, _kept_classes(settings))
    found = refine(model.decode(raw, frame, wanted), settings)
    sides = frame.image_width, frame.image_height
    shown = (picture.video, None, item.frame.index, item.frame.time) if item.frame else ()
    return Outcome(
        Image(item.id, item.file_name, *sides, picture.orientation, *shown),
        tuple(to_annotations(found, item.id, settings)),
        empty_masks=found.dropped,
    )


def _kept_classes(settings: Settings) -> frozenset[int] | None:
    kept = set(settings.keep) or {each.id for each in settings.categories}
    classes = frozenset(n for n, number in enumerate(settings.class_ids) if number in kept)
    return classes if len(classes) < len(settings.class_ids) else None


def to_annotations(found: Detections, image_id: int, settings: Settings) -> Iterator[Annotation]:
    """COCO records: boxes to a hundredth of a pixel, scores to five decimals."""
    boxes, scores, classes = (a.tolist() for a in (found.boxes, found.scores, found.classes))
    for (x1, y1, x2, y2), score, index, mask in zip(
        boxes, scores, classes, found.masks, strict=True
    ):
        number = settings.class_ids[index]
        assert number is not None  # the classes that lead nowhere are not kept
        outline, kept = polygons(mask) if settings.mask_format == "polygon" else ([], 1.0)
        yield Annotation(
            image_id=image_id,
            category_id=number,
            bbox=(round(x1, 2), round(y1, 2), round(x2 - x1, 2), round(y2 - y1, 2)),
            area=mask.area,
            segmentation=mask.record(),
            score=round(score, 5),
            polygons=tuple(map(tuple, outline)),
            polygon_iou=round(kept, 4),
        )
