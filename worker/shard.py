"""One shard's items, from bytes to COCO records. The pipeline that every worker runs."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from storage import get_versioned
from storage.errors import OF_ONE_INPUT, StorageError
from storage.uris import shown
from tasks.cards import ModelError
from tasks.ordered import ordered_map
from tasks.records import Annotation, Failure, Image, Item, ItemError, RleMask, Settings, Video
from worker.detections import Detections, Raw, Wanted
from worker.images import BadImage, Header, Pixels, decode, read_header
from worker.memory import flight
from worker.model import LoadedModel
from worker.polygons import polygons
from worker.preprocess import Frame
from worker.refinement import refine
from worker.runtimes import RunFailed

if TYPE_CHECKING:  # PyAV is loaded where there is a video
    from worker.frames import Shot

POST_WINDOW = 4


Shoot = Callable[[Item], "Future[Shot] | None"]
Keep = Callable[[Item, Pixels], None]
Begun = tuple[Item, "Failure | Future[Shot] | None"]
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

    item: Item
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


def annotate(
    items: Sequence[Item],
    model: LoadedModel,
    settings: Settings,
    *,
    threads: int,
    watch: Stopwatch,
    refused: Callable[[Item], str] = lambda item: "",
    away: list[StorageError] | None = None,
    keep: Keep = lambda item, pixels: None,
) -> Iterator[Outcome]:
    """Outcomes in the items' order. Fetching and decoding run ahead, post-processing beside.

    Frames of videos are read ahead of all that, one after the other, and given to `keep`.
    Once a store is `away`, what is fetched is finished, nothing more is fetched, and it is raised.
    """
    away = [] if away is None else away

    def begun(item: Item) -> Begun:
        if item.problem:
            return item, failure_of(item, *msgspec.structs.astuple(item.problem))
        if reason := refused(item):
            return item, failure_of(item, "fetch", "refused", reason)
        return item, None if away else shoot(item)

    def ahead(given: Begun) -> Prepared | Failure | None:
        item, shot = given
        if away:
            return None
        if isinstance(shot, Failure):
            return shot
        try:
            return _or_failure(item, partial(prepare, item, shot, model, settings, watch, keep))
        except StorageError as exc:
            away.append(exc)
            return None

    def inferred(prepared: Iterable[Prepared | Failure | None]) -> Iterator[Failure | Ran | None]:
        for each in prepared:
            if each is None or isinstance(each, Failure):
                yield each
            else:
                yield _or_failure(each[0].item, partial(infer, *each, model, watch))

    def behind(ran: Failure | Ran | None) -> Outcome | Failure | None:
        if ran is None or isinstance(ran, Failure):
            return ran
        return watch.timed("masks", finish, *ran, model, settings)

    threads = flight.threads(threads)
    windows = (threads, 2) if flight.limited else (2 * threads, POST_WINDOW)
    with (
        _shooting(items, settings, watch) as shoot,
        ThreadPoolExecutor(threads) as front,
        ThreadPoolExecutor(1) as back,
    ):
        prepared = ordered_map(front, ahead, map(begun, items), window=windows[0])
        results = ordered_map(back, behind, inferred(prepared), window=windows[1])
        for item, result in zip(items, results, strict=True):
            if result is not None:
                yield Outcome(item, failure=result) if isinstance(result, Failure) else result
    if away:
        raise away[0]


def _or_failure(item: Item, step: Callable[[], R]) -> R | Failure:
    try:
        return step()
    except ItemError as exc:
        return failure_of(item, exc.stage, exc.kind, exc.message)


def failure_of(item: Item, stage: Any, kind: str, message: str) -> Failure:
    return Failure(item.id, shown(item.uri), item.file_name, stage, kind, message)


def frame_reader(settings: Settings) -> Any:
    """A FrameReader; images do without the 15 MiB of its decoders."""
    try:
        kind = import_module("worker.frames").FrameReader
    except ModuleNotFoundError as exc:
        said = f"frames of videos need {exc.name}: pip install 'maskmill[worker]'"
        raise ModelError(said) from exc
    return kind(settings.max_video_bytes, settings.max_pixels)


@contextmanager
def _shooting(items: Sequence[Item], settings: Settings, watch: Stopwatch) -> Iterator[Shoot]:
    """What reads a frame beside all else, in one thread and in the order in which it is asked."""
    if not any(item.frame for item in items):
        yield lambda item: None
        return
    with closing(frame_reader(settings)) as reader, ThreadPoolExecutor(1) as pool:
        read = partial(watch.timed, "decode", reader.read)
        yield lambda item: pool.submit(read, item) if item.frame else None


def prepare(
    item: Item,
    shot: "Future[Shot] | None",
    model: LoadedModel,
    settings: Settings,
    watch: Stopwatch,
    keep: Keep,
) -> Prepared:
    if shot is not None:
        with _of_one_item():
            frame = shot.result()
        return watch.timed("decode", _frame_to_tensor, item, frame, model, keep)
    data = watch.timed("fetch", fetch, item, settings.max_bytes)
    return watch.timed("decode", _to_tensor, item, data, model, settings)


def fetch(item: Item, max_bytes: int) -> bytes:
    with _of_one_item():
        data, version = get_versioned(item.uri, max_bytes=max_bytes)
    if item.version is not None and version != item.version:
        raise ItemError("fetch", "changed", "the object is not the one that was planned any more")
    return data


@contextmanager
def _of_one_item() -> Iterator[None]:
    """A store's errors that are wrong with one input are its failure."""
    try:
        yield
    except StorageError as exc:
        if exc.kind not in OF_ONE_INPUT:
            raise
        raise ItemError("fetch", exc.kind, str(exc)) from exc


def _to_tensor(item: Item, data: bytes, model: LoadedModel, settings: Settings) -> Prepared:
    try:
        header = read_header(data, max_pixels=settings.max_pixels)
        frame = model.intake.frame(header.height, header.width)
        twice = (2 * frame.content_height, 2 * frame.content_width)
        minimum = twice if settings.reduced_decode else None
        with flight.decoding(len(data), header, minimum):
            tensor = model.intake.tensor(decode(data, header, minimum), frame)
    except BadImage as exc:
        raise ItemError("decode", exc.kind, str(exc)) from exc
    return Picture(item, frame, header.orientation), tensor


def _frame_to_tensor(item: Item, shot: "Shot", model: LoadedModel, keep: Keep) -> Prepared:
    video = shot.video
    with flight.decoding(0, Header(video.codec, video.width, video.height, 1), None):
        pixels = shot.pixels()
        keep(item, pixels)
        frame = model.intake.frame(*pixels.shape[:2])
        return Picture(item, frame, 1, video), model.intake.tensor(pixels, frame)


def infer(picture: Picture, tensor: Tensor, model: LoadedModel, watch: Stopwatch) -> Ran:
    try:
        return picture, watch.timed("inference", model.infer, tensor, picture.frame)
    except RunFailed as exc:
        raise ItemError("model", "failed", "the network failed on this image") from exc


def finish(picture: Picture, raw: Raw, model: LoadedModel, settings: Settings) -> Outcome:
    item, frame = picture.item, picture.frame
    wanted = Wanted(settings.threshold, settings.max_detections, _kept_classes(settings))
    found = refine(model.decode(raw, frame, wanted), settings)
    sides = frame.image_width, frame.image_height
    shown = (picture.video, None, item.frame.index, item.frame.time) if item.frame else ()
    return Outcome(
        item,
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
            segmentation=RleMask((mask.height, mask.width), mask.counts),
            score=round(score, 5),
            polygons=tuple(map(tuple, outline)),
            polygon_iou=round(kept, 4),
        )
