"""Bytes to pixels: every format and its quirks; nothing bad passes in silence or as a crash."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from tasks.records import ItemError
from worker.images import Header, decode, read_header, reduction, supported_formats

# What worker.images sets for the process; pytest puts its own filters over it.
pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.")

ORIENTATION = 0x0112
PHOTOS = Path(__file__).parents[3] / "shared" / "photos"


def textured(width: int, height: int, seed: int = 0) -> Image.Image:
    """Something like a photo: shapes at every scale, and a corner that tells which way is up."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cell in (2, 8, 32, 128):
        noise = rng.normal(size=(height // cell + 2, width // cell + 2, 3))
        total += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * cell**0.5
    pixels = np.clip(128 + total * 10, 0, 255).astype(np.uint8)
    pixels[: height // 4, : width // 4] = (250, 20, 20)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def read(data: bytes) -> tuple[Header, np.ndarray]:
    header = read_header(data)
    return header, decode(data, header)


PICTURE = textured(48, 36)
PALETTE = PICTURE.quantize(16)
GREY = PICTURE.convert("L")
CLEAR = PICTURE.copy()
CLEAR.putalpha(GREY)
DEEP_GREY = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)

FEATURES = [
    # name, bytes, format, the picture they should give, greatest difference allowed
    ("jpeg", encoded(PICTURE, "JPEG", quality=98, subsampling=0), "JPEG", PICTURE, 24),
    ("jpeg progressive", encoded(PICTURE, "JPEG", quality=98, subsampling=0, progressive=True),
     "JPEG", PICTURE, 24),
    ("jpeg grey", encoded(GREY, "JPEG", quality=98), "JPEG", GREY, 24),
    ("jpeg cmyk", encoded(PICTURE.convert("CMYK"), "JPEG", quality=98), "JPEG", PICTURE, 40),
    ("jpeg broken icc", encoded(PICTURE, "JPEG", quality=98, subsampling=0, icc_profile=b"no"),
     "JPEG", PICTURE, 24),
    ("png", encoded(PICTURE, "PNG"), "PNG", PICTURE, 0),
    ("png broken icc", encoded(PICTURE, "PNG", icc_profile=b"no profile"), "PNG", PICTURE, 0),
    ("png palette", encoded(PALETTE, "PNG"), "PNG", PALETTE, 0),
    ("png palette, transparent", encoded(PALETTE, "PNG", transparency=bytes([0, 9, 255])),
     "PNG", PALETTE, 0),
    ("png 1 bit", encoded(PICTURE.convert("1"), "PNG"), "PNG", PICTURE.convert("1"), 0),
    ("png grey", encoded(GREY, "PNG"), "PNG", GREY, 0),
    ("png grey 16 bit", encoded(DEEP_GREY, "PNG"), "PNG", GREY, 0),
    ("png rgb 16 bit", cv2.imencode(".png", np.asarray(PICTURE)[..., ::-1].astype(np.uint16) * 257)
     [1].tobytes(), "PNG", PICTURE, 0),
    ("png alpha is dropped", encoded(CLEAR, "PNG"), "PNG", PICTURE, 0),
    ("png grey alpha", encoded(CLEAR.convert("LA"), "PNG"), "PNG", GREY, 0),
    ("webp lossless", encoded(PICTURE, "WEBP", lossless=True), "WebP", PICTURE, 0),
    ("webp", encoded(PICTURE, "WEBP", quality=98), "WebP", PICTURE, 110),
    ("webp alpha", encoded(CLEAR, "WEBP", lossless=True, exact=True), "WebP", PICTURE, 0),
    ("webp animated", encoded(PICTURE, "WEBP", lossless=True, save_all=True,
                              append_images=[PICTURE.rotate(180)]), "WebP", PICTURE, 0),
    ("bmp", encoded(PICTURE, "BMP"), "BMP", PICTURE, 0),
    ("bmp palette", encoded(PALETTE, "BMP"), "BMP", PALETTE, 0),
    ("tiff", encoded(PICTURE, "TIFF"), "TIFF", PICTURE, 0),
    ("tiff lzw", encoded(PICTURE, "TIFF", compression="tiff_lzw"), "TIFF", PICTURE, 0),
    ("tiff grey 16 bit", encoded(DEEP_GREY, "TIFF"), "TIFF", GREY, 0),
    ("tiff cmyk", encoded(PICTURE.convert("CMYK"), "TIFF"), "TIFF", PICTURE, 1),
    ("tiff pages", encoded(PICTURE, "TIFF", save_all=True, append_images=[GREY.copy()]), "TIFF",
     PICTURE, 0),
    ("avif", encoded(PICTURE, "AVIF", quality=98), "AVIF", PICTURE, 110),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "format", "expected", "difference"),
    [pytest.param(*case[1:], id=case[0]) for case in FEATURES],
)
def test_formats(data: bytes, format: str, expected: Image.Image, difference: int) -> None:
    header, pixels = read(data)
    assert (header.format, header.width, header.height, header.orientation) == (format, 48, 36, 1)
    assert pixels.shape == (36, 48, 3)
    assert pixels.dtype == np.uint8
    wanted = np.asarray(expected.convert("RGB")).astype(int)
    assert np.abs(pixels - wanted).max() <= difference
    assert np.abs(pixels - wanted).mean() <= difference / 8


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_told(format: str, orientation: int) -> None:
    turns = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p),
    }
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    _, as_stored = read(encoded(PICTURE, format))
    header, pixels = read(encoded(PICTURE, format, exif=exif))
    assert header.orientation == orientation
    assert (header.width, header.height) == ((36, 48) if orientation > 4 else (48, 36))
    assert np.array_equal(pixels, turns[orientation](as_stored))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_impossible_orientation_is_none(value: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    assert read_header(encoded(PICTURE, "JPEG", exif=exif)).orientation == 1


BROKEN_EXIF = (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*abcd")


@pytest.mark.parametrize("exif", BROKEN_EXIF)
def test_broken_exif_costs_nothing(exif: bytes) -> None:
    header, pixels = read(encoded(PICTURE, "JPEG", exif=exif))
    assert header.orientation == 1
    assert pixels.shape == (36, 48, 3)


@pytest.mark.parametrize(
    ("data", "kind", "word"),
    [
        (b"", "empty", "empty"),
        (b"hello, this is a text", "not-an-image", "not an image"),
        (b"BM is how this text begins", "not-an-image", "not an image"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "not-an-image", "not an image"),
        (encoded(PICTURE, "GIF"), "unsupported", "GIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported", "HEIC"),
        (b"\xff\xd8\xff", "corrupt", "cut off"),
        (encoded(PICTURE, "PNG")[:40], "corrupt", "cut off"),
        (encoded(PICTURE, "PNG").replace(b"IDAT", b"IDAT\x07", 1), "corrupt", "damaged"),
        (encoded(Image.new("F", (8, 8)), "TIFF"), "unsupported", "samples"),
        (encoded(Image.new("I", (8, 8)), "TIFF"), "unsupported", "samples"),
        (encoded(Image.new("LAB", (8, 8)), "TIFF"), "unsupported", "samples"),
    ],
)
def test_what_gives_no_pixels(data: bytes, kind: str, word: str) -> None:
    with pytest.raises(ItemError, match=word) as caught:
        read(data)
    assert caught.value.kind == kind


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_download_that_broke_off_into_zeros_is_corrupt(options, share: float) -> None:
    """Pillow decodes about a third of such files without a word, to grey."""
    whole = encoded(textured(400, 300), "JPEG", quality=85, **options)
    data = whole[: int(len(whole) * share)].ljust(len(whole), b"\0")
    with pytest.raises(ItemError) as caught:
        read(data)
    assert caught.value.kind == "corrupt"


@pytest.mark.parametrize("trailer", [b"\0" * 64, b"more of the maker's own" + b"\0" * 64])
def test_bytes_after_the_end_are_let_be(trailer: bytes) -> None:
    whole = encoded(PICTURE, "JPEG")
    assert np.array_equal(read(whole + trailer)[1], read(whole)[1])


CUT = [(name, data) for name, data, *_ in FEATURES if "pages" not in name]


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in CUT])
def test_a_cut_file_never_passes_for_whole(data: bytes) -> None:
    """Whatever is cut off: an error, or, if only the end mark is missing, the very same pixels."""
    _, whole = read(data)
    offsets = {*range(64), *range(64, len(data) - 24, max(1, len(data) // 40))}
    offsets |= set(range(len(data) - 24, len(data)))
    refused = 0
    for offset in sorted(offsets):
        try:
            _, pixels = read(data[:offset])
        except ItemError as bad:
            refused += 1
            assert bad.kind in ("empty", "not-an-image", "corrupt")  # noqa: PT017
        else:
            assert np.array_equal(pixels, whole), offset
    assert refused >= len(offsets) - 24


def png_saying(width: int, height: int) -> bytes:
    data = bytearray(encoded(PICTURE, "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def webp_saying(width: int, height: int) -> bytes:
    data = bytearray(encoded(CLEAR, "WEBP"))
    assert data[12:16] == b"VP8X"
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def bmp_saying(width: int, height: int) -> bytes:
    data = bytearray(encoded(PICTURE, "BMP"))
    data[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("bomb", [png_saying, webp_saying, bmp_saying])
@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (16_000_000, 10)])
def test_a_pixel_bomb_is_refused_by_its_header(bomb, width: int, height: int) -> None:
    with pytest.raises(ItemError, match=rf"{width}×{height} .* limit of 100,000,000") as caught:
        read_header(bomb(width, height), max_pixels=100_000_000)
    assert caught.value.kind == "too-many-pixels"


@pytest.mark.parametrize("lossless", [False, True])
def test_a_plain_webp_of_the_largest_size_is_refused_by_its_header(lossless: bool) -> None:
    data = bytearray(encoded(PICTURE, "WEBP", lossless=lossless))
    assert data[12:16] == (b"VP8L" if lossless else b"VP8 ")
    if lossless:
        data[21:25] = (16382 << 14 | 16382).to_bytes(4, "little")
    else:
        data[26:30] = b"\xff\x3f" * 2
    with pytest.raises(ItemError, match=r"16383×16383 .* limit of 100,000,000") as caught:
        read_header(bytes(data))
    assert caught.value.kind == "too-many-pixels"
    assert read_header(bytes(data), max_pixels=1 << 30).width == 16383


def test_the_limit_is_ours_and_not_the_library_s() -> None:
    data = png_saying(20_000, 20_000)  # over twice the size at which Pillow itself gives up
    assert read_header(data, max_pixels=400_000_000).width == 20_000
    with pytest.raises(ItemError, match="limit of 399,999,999"):
        read_header(data, max_pixels=399_999_999)


@given(
    head=st.sampled_from([b"", *sorted({data[:12] for _, data, *_ in FEATURES})]),
    tail=st.binary(max_size=200),
)
def test_random_bytes_are_bad_images_and_nothing_else(head: bytes, tail: bytes) -> None:
    try:
        read(head + tail)
    except ItemError as bad:
        assert str(bad).endswith(".")  # noqa: PT017


@given(data=st.data())
def test_damaged_bytes_are_bad_images_or_images(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from([each[1] for each in FEATURES])))
    for at in data.draw(st.lists(st.integers(0, min(len(damaged), 400) - 1), max_size=6)):
        damaged[at] = data.draw(st.integers(0, 255))
    try:
        header = read_header(bytes(damaged), max_pixels=1_000_000)
        assert decode(bytes(damaged), header).shape == (header.height, header.width, 3)
    except ItemError:
        pass


def test_threads_do_not_meet() -> None:
    whole = [data for _, data, *_ in FEATURES]
    alone = [read(data) for data in whole]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(read, whole * 20))
    for number, (header, pixels) in enumerate(together):
        assert header == alone[number % len(whole)][0]
        assert np.array_equal(pixels, alone[number % len(whole)][1])


@pytest.mark.parametrize(
    ("size", "minimum", "expected"),
    [
        ((4000, 3000), None, 1),
        ((4000, 3000), (1100, 1100), 2),
        ((4000, 3000), (750, 750), 4),
        ((4000, 3000), (751, 750), 2),  # 3000 / 4 is a row too few
        ((4000, 3000), (375, 375), 8),
        ((4000, 3000), (10, 10), 8),
        ((4000, 3000), (3000, 3000), 1),
        ((3000, 4000), (1500, 1500), 2),
        ((799, 800), (400, 400), 1),
    ],
)
def test_reduction(size: tuple[int, int], minimum: tuple[int, int] | None, expected: int) -> None:
    header = Header("JPEG", *size, orientation=1)
    assert reduction(header, minimum) == expected
    assert reduction(Header("PNG", *size, orientation=1), minimum) == 1


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(403, 301), (401, 207)])
def test_reduced_decoding_is_what_reduction_says(
    orientation: int, mode: str, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(textured(*size).convert(mode), "JPEG", exif=exif)
    header, full = read(data)
    for minimum in ((25, 25), (50, 50), (100, 100), (300, 300)):
        pixels = decode(data, header, minimum)
        scale = reduction(header, minimum)
        assert pixels.shape == (-(-header.height // scale), -(-header.width // scale), 3)
        assert min(pixels.shape[:2]) >= minimum[0] or scale == 1
        if scale == 1:
            assert np.array_equal(pixels, full)


def photos() -> Iterator[bytes]:
    for side, blur in ((2240, 0.7), (900, 1.5)):
        made = textured(side, side, seed=side).filter(ImageFilter.GaussianBlur(blur))
        yield encoded(made, "JPEG", quality=90)
    for path in sorted(PHOTOS.glob("*.jpg")):
        yield path.read_bytes()


MEAN_BOUND = {2: 17, 4: 20, 8: 24}
P99_BOUND = {2: 90, 4: 116, 8: 136}


@pytest.mark.parametrize("side", [32, 64, 96, 112, 192, 550])
def test_what_the_network_sees_of_a_reduced_photo(side: int) -> None:
    """The bound that decode() states, and that it never strays from the pixels' true average."""
    reduced_any = False
    for data in photos():
        header = read_header(data)
        scale = reduction(header, (2 * side, 2 * side))
        if scale == 1:
            continue
        reduced_any = True
        full, reduced = decode(data, header), decode(data, header, (2 * side, 2 * side))
        seen, seen_reduced, average = (
            cv2.resize(pixels, (side, side), interpolation=way).astype(int)
            for pixels, way in (
                (full, cv2.INTER_LINEAR),
                (reduced, cv2.INTER_LINEAR),
                (full, cv2.INTER_AREA),
            )
        )
        difference = np.abs(seen - seen_reduced)
        assert difference.mean() <= MEAN_BOUND[scale]
        assert np.percentile(difference, 99) <= P99_BOUND[scale]
        assert np.abs(seen_reduced - average).mean() <= np.abs(seen - average).mean()
    assert reduced_any


def test_supported_formats_are_told() -> None:
    found = supported_formats()
    assert all(found[name] for name in ("JPEG", "PNG", "BMP", "TIFF", "WebP"))
    assert found["HEIC"] is False


def test_pillow_s_remarks_do_not_reach_the_terminal(tmp_path: Path) -> None:
    """Read where only worker.images sets filters: these files make Pillow warn."""
    for number, exif in enumerate(BROKEN_EXIF):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(PICTURE, "JPEG", exif=exif))
    (tmp_path / "p.png").write_bytes(encoded(PALETTE, "PNG", transparency=bytes([0, 9, 255])))
    script = """
import sys, pathlib
from worker.images import decode, read_header
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    data = path.read_bytes()
    print(decode(data, read_header(data)).shape)
"""
    ran = subprocess.run(
        [sys.executable, "-W", "always", "-c", script, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines() == ["(36, 48, 3)"] * 4
    assert ran.stderr == ""
