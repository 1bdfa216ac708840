"""In a stream of found inputs, the frames that are asked for in the place of each video."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib import import_module

from storage import OfOneInput, asked_once, of_frame, shown
from tasks.inputs import Found, InputError
from tasks.records import ItemError, Problem, Sampling, VideoFrame
from tasks.videos import MICROSECONDS, Part, VideoIndex, VideoLimits, chosen, span_of

LOOKS = 4  # videos looked at side by side; each may be a download to a temporary file
AHEAD = 16  # inputs taken at a time: no more indices than these are in memory


def may_read(uri: str) -> str:
    return ""


def frames_of(
    found: Iterable[Found], sampling: Sampling, refused: Callable[[str], str] = may_read
) -> Iterator[Found]:
    """Images as they are, in order; a video that has no frame for us is one item with a problem.

    refused: why a video may not be looked at; empty if it may.
    """
    span, limits = span_of(sampling), VideoLimits()

    def look(each: Found) -> VideoIndex | Problem:
        try:
            if reason := refused(each.uri):
                return Problem("fetch", "refused", reason)
            reader = import_module("worker.film")  # only who has a video needs it
            index: VideoIndex = reader.look(each.uri, each.version, limits)
            return index
        except ItemError as exc:
            return Problem(exc.stage, exc.kind, exc.message)
        except OfOneInput as exc:
            return Problem("fetch", exc.kind, str(exc))
        except ImportError as exc:
            lacks = f"{shown(each.uri)} is a video, which needs {exc.name}"
            raise InputError(f"{lacks}: pip install 'maskmill[worker]'") from exc

    def video(each: Found) -> tuple[str, str | None] | None:
        return (each.uri, each.version) if each.part else None

    def frames() -> Iterator[Found]:
        for each, seen in asked_once(look, found, video, LOOKS, AHEAD):
            if each.part is None or seen is None:
                yield each
            elif isinstance(seen, Problem):
                yield _failed(each, each.part.fragment, seen)
            else:
                numbers = chosen(seen, each.part, span, sampling)
                yield from _frames(each, each.part, seen, numbers)

    return frames()


def _frames(each: Found, part: Part, index: VideoIndex, numbers: Iterable[int]) -> Iterator[Found]:
    count, given = len(index.pts), each
    ends = float(index.time(count))
    none = Problem("decode", "no-frame", f"the video has {count} frames, and ends at {ends:.3f} s")
    for number in numbers:
        if number < count:
            yield _frame(given, part, index, number)
        else:
            yield _failed(given, f"frame={number}", none)
        given = replace(each, size=0)  # the video's is counted once
    if given is each:
        yield _failed(each, part.fragment, none)


def _frame(each: Found, part: Part, index: VideoIndex, number: int) -> Found:
    is_one = part.frame is not None or part.at is not None
    video, name = each.path if is_one else "", each.file_name
    time = index.microseconds(number) / MICROSECONDS
    return replace(
        each,
        uri=of_frame(each.uri, number),
        file_name=name if video else f"{name}/frame_{number:06d}.jpg",
        version=each.version or index.version,
        part=None,
        frame=VideoFrame(number, index.pts[number], time, index.groups[number], video),
    )


def _failed(each: Found, fragment: str, problem: Problem) -> Found:
    mark = fragment and f"#{fragment}"
    name = each.file_name + ("" if each.path else mark)
    return replace(each, uri=each.uri + mark, file_name=name, part=None, problem=problem)
