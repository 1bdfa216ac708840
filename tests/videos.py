"""Videos that tests make: each frame carries its number as blocks that survive compression."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("SVT_LOG", "1")  # of libsvtav1: errors only

Pixels = NDArray[np.uint8]

COLUMNS, ROWS = 4, 6
# Two rows that look different in each of the eight ways to turn and mirror a picture.
UPPER, LOWER = (1, 1, 1, 0), (0, 1, 0, 0)
BITS = COLUMNS * (ROWS - 2)


def numbered(number: int, width: int = 128, height: int = 96) -> Pixels:
    """A picture of white and black blocks that say `number`, below 65536."""
    bits = [number >> bit & 1 for bit in range(BITS)]
    cells = np.array([*UPPER, *bits, *LOWER], np.uint8).reshape(ROWS, COLUMNS) * 255
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    return np.repeat(cells[rows][:, columns, np.newaxis], 3, axis=2)


def number_of(pixels: Pixels) -> int:
    """The number on a picture, upright; -1 where there is none or it lies on its side."""
    height, width = pixels.shape[:2]
    rows = (np.arange(ROWS) * 2 + 1) * height // (2 * ROWS)
    columns = (np.arange(COLUMNS) * 2 + 1) * width // (2 * COLUMNS)
    cells = (pixels[rows][:, columns].mean(axis=2) > 127).astype(int)
    if (tuple(cells[0]), tuple(cells[-1])) != (UPPER, LOWER):
        return -1
    return int(sum(bit << place for place, bit in enumerate(cells[1:-1].ravel().tolist())))


@dataclass(frozen=True)
class Recipe:
    """How a video is made. `pts` are in units of `time_base`; None means one frame a unit."""

    name: str = "clip.mp4"
    codec: str = "libx264"
    frames: int = 40
    width: int = 128
    height: int = 96
    rate: Fraction = Fraction(25)
    time_base: Fraction | None = None
    pts: Sequence[int] | None = None
    gop: int = 12
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)  # of the encoder
    container: dict[str, str] = field(default_factory=dict)  # of the muxer
    rotation: int = 0  # degrees counter-clockwise that a player has to turn the picture
    first: int = 0  # the number of the first frame
    late: int = 0  # frames after the start of the sound
    sound: bool = False
    picture: Callable[[int, int, int], Pixels] = numbered


def write(folder: Path, recipe: Recipe) -> Path:
    """Make the video of a recipe in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / recipe.name
    base = recipe.time_base or 1 / recipe.rate
    with av.open(str(path), "w", container_options=recipe.container) as container:
        stream = container.add_stream(recipe.codec, rate=recipe.rate, options=recipe.options)
        stream.width, stream.height = recipe.width, recipe.height
        stream.pix_fmt = recipe.pix_fmt
        stream.codec_context.gop_size = recipe.gop
        stream.codec_context.time_base = stream.time_base = base
        stream.codec_context.thread_count = 1
        if recipe.rotation:
            stream.set_display_rotation(recipe.rotation)
        if recipe.sound:
            write_sound(container, float(recipe.frames / recipe.rate))
        for packet in _packets(stream, recipe, base):
            container.mux(packet)
    return path


def _packets(stream: av.VideoStream, recipe: Recipe, base: Fraction) -> Iterator[av.Packet]:
    for number in range(recipe.frames):
        pixels = recipe.picture(recipe.first + number, *_upright_size(recipe))
        pixels = np.rot90(pixels, -recipe.rotation // 90)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(format=recipe.pix_fmt)
        frame.pts = recipe.late + (number if recipe.pts is None else recipe.pts[number])
        frame.time_base = base
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _upright_size(recipe: Recipe) -> tuple[int, int]:
    sides = recipe.width, recipe.height
    return sides[::-1] if recipe.rotation % 180 else sides


def write_sound(container: av.container.OutputContainer, seconds: float) -> None:
    """Silence from 0 on; streams of pictures have to be added before."""
    sound = container.add_stream("aac", rate=8000, layout="mono")
    for start in range(0, int(8000 * seconds), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 8000, start, Fraction(1, 8000)
        container.mux(sound.encode(frame))
    container.mux(sound.encode(None))


_X265 = "log-level=none:pools=none:frame-threads=1"
_OPEN = "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0"

RECIPES = {
    "h264 with b-frames": Recipe(options={"bf": "3", "b-adapt": "0"}),
    "h264 without b-frames": Recipe(options={"preset": "ultrafast"}),
    "h264 with sound": Recipe(sound=True),
    "faststart": Recipe(container={"movflags": "faststart"}),
    "fragmented": Recipe(container={"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "open groups in mp4": Recipe(options={"x264-params": _OPEN}),
    "open groups in mkv": Recipe("clip.mkv", options={"x264-params": _OPEN}),
    "open groups in ts": Recipe("clip.ts", options={"x264-params": _OPEN}),
    "intra refresh": Recipe(options={"x264-params": "intra-refresh=1:keyint=12:bframes=0"}),
    "intra refresh in ts": Recipe(
        "clip.ts", options={"x264-params": "intra-refresh=1:keyint=12:bframes=0"}
    ),
    "variable rate": Recipe(pts=[n * n for n in range(40)], time_base=Fraction(1, 1000)),
    "ntsc": Recipe(rate=Fraction(30000, 1001)),
    "rotated by 90": Recipe(rotation=90),
    "rotated by 180": Recipe("clip.mov", rotation=180),
    "rotated by 270": Recipe("clip.mkv", rotation=270),
    "late in mp4": Recipe(late=20, sound=True),
    "late in ts": Recipe("clip.ts", late=20, sound=True),
    "ts": Recipe("clip.ts"),
    "mjpeg in avi": Recipe("clip.avi", "mjpeg", pix_fmt="yuvj420p"),
    "mjpeg in mov": Recipe("clip.mov", "mjpeg", pix_fmt="yuvj420p"),
    "mpeg4 in mp4": Recipe(codec="mpeg4"),
    "mpeg4 with b-frames in avi": Recipe("clip.avi", "mpeg4", options={"bf": "2"}),
    "mpeg2 in ts": Recipe("clip.ts", "mpeg2video", options={"bf": "2"}),
    "mpeg1 in mpg": Recipe("clip.mpg", "mpeg1video", options={"bf": "2"}),
    "flv": Recipe("clip.flv"),
    "vp8": Recipe("clip.webm", "libvpx"),
    "vp8 with hidden frames": Recipe(
        "clip.webm", "libvpx", gop=30, options={"auto-alt-ref": "1", "lag-in-frames": "10"}
    ),
    "vp9": Recipe("clip.webm", "libvpx-vp9", options={"lag-in-frames": "10"}),
    "vp9 in mp4": Recipe(codec="libvpx-vp9"),
    "av1 in mp4": Recipe(codec="libsvtav1", options={"preset": "8", "crf": "10"}),
    "hevc": Recipe(codec="libx265", options={"x265-params": _X265}),
    "hevc with open groups": Recipe(codec="libx265", options={"x265-params": f"{_X265}:{_OPEN}"}),
    "hevc of 10 bits": Recipe(
        "clip.mkv", "libx265", pix_fmt="yuv420p10le", options={"x265-params": _X265}
    ),
}
"""One of each kind, 40 frames long."""
