"""Which frames a video has and when each is shown, told from its packets and not its pixels."""

from array import array
from bisect import bisect_right
from contextlib import closing

from tasks.records import ItemError
from tasks.videos import VideoIndex, VideoLimits
from worker.film import Film


def look(uri: str, version: str | None, limits: VideoLimits) -> VideoIndex:
    """Raises ItemError for what is wrong with the video; a store that is away passes through."""
    with closing(Film(uri, version or "", limits.max_bytes, limits.max_pixels)) as film:
        times, keys, end = array("q"), array("q"), 0
        latest = (limits.max_seconds + film.start) / film.time_base
        film.source.blind = film.is_movie and not film.source.in_fragments
        for pts, packet in film.packets():
            if packet.is_keyframe:
                keys.append(pts)
            if film.shows(packet):
                times.append(pts)
                end = max(end, pts + (packet.duration or 1))
            if len(times) > limits.max_frames or end > latest:
                most = f"{limits.max_frames:,} frames (MASKMILL_MAX_FRAMES)"
                longest = f"{limits.max_seconds:,} seconds (MASKMILL_MAX_VIDEO_S)"
                raise ItemError("decode", "too-long", f"it has more than {most} or {longest}")
        groups = _groups(sorted(keys), sorted(set(times)))
        if not groups:
            raise ItemError("decode", "no-frames", "it holds no frame that can be decoded")
        frames = array("q", groups), array("q", groups.values())
        return VideoIndex(
            film.video(), film.source.version, *frames, end, film.time_base, film.start
        )


def _groups(keys: list[int], times: list[int]) -> dict[int, int]:
    """The key frame of each time; frames before all key frames cannot be decoded."""
    places = ((time, bisect_right(keys, time)) for time in times)
    return {time: keys[place - 1] for time, place in places if place}
