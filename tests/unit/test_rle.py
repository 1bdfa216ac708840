"""Run lengths equal COCO's own encoder to the byte, from crops and from flips."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from tests.pixels import decode, encode_whole
from worker.rle import Rle, encode, from_flips, is_canonical, runs_of


def by_coco(mask):
    made = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Rle(*mask.shape, made["counts"].decode(), int(coco.area(made)))


def placed(crop, x0, y0, height, width):
    mask = np.zeros((height, width), dtype=bool)
    mask[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]] = crop
    return mask


def checked(crop, x0, y0, height, width):
    mask = placed(crop, x0, y0, height, width)
    rle = encode(crop, x0, y0, height, width)
    assert rle == by_coco(mask)
    assert is_canonical(rle)
    assert (decode(rle) == mask).all()
    rows, columns = np.nonzero(mask)
    if rows.size:
        x, y = columns.min(), rows.min()
        assert rle.box == (x, y, columns.max() - x + 1, rows.max() - y + 1)
    else:
        assert rle.box == (0, 0, 0, 0)
    return rle


SHAPES = [
    ("one pixel, all of the image", (1, 1), 0, 0, 1, 1),
    ("one row", (1, 7), 0, 0, 1, 7),
    ("one column", (7, 1), 0, 0, 7, 1),
    ("full height, so that runs join over columns", (5, 3), 2, 0, 5, 9),
    ("in the upper left corner", (3, 4), 0, 0, 8, 9),
    ("in the lower right corner", (3, 4), 5, 5, 8, 9),
    ("in the middle of a large photo", (40, 30), 2000, 1000, 3000, 4000),
    ("the last pixel of a large photo", (1, 1), 3999, 2999, 3000, 4000),
    ("all of a large photo", (3000, 4000), 0, 0, 3000, 4000),
    ("no crop at all", (0, 0), 3, 3, 8, 9),
]


@pytest.mark.parametrize("fill", ["ones", "zeros", "random"])
@pytest.mark.parametrize(("why", "shape", "x0", "y0", "height", "width"), SHAPES)
def test_a_crop_encodes_as_coco_does(why, shape, x0, y0, height, width, fill):
    rng = np.random.default_rng(7)
    crop = {
        "ones": np.ones(shape, bool),
        "zeros": np.zeros(shape, bool),
        # Sparse in a large picture, where each pixel costs COCO's decoder a run.
        "random": rng.random(shape) < (0.5 if np.prod(shape) < 10_000 else 0.01),
    }[fill]
    checked(crop, x0, y0, height, width)


@st.composite
def crops(draw):
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rows, columns = draw(st.integers(0, height)), draw(st.integers(0, width))
    x0, y0 = draw(st.integers(0, width - columns)), draw(st.integers(0, height - rows))
    density = draw(st.sampled_from([0.02, 0.5, 0.98]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.random((rows, columns)) < density, x0, y0, height, width


@settings(max_examples=300, deadline=None)
@given(crops())
def test_any_crop_encodes_as_coco_does(crop):
    rle = checked(*crop)
    runs = runs_of(rle.counts)
    assert runs.sum() == rle.height * rle.width
    assert runs[1::2].sum() == rle.area


@pytest.mark.parametrize(
    ("why", "flips", "on"),
    [
        ("nothing flips", [], []),
        ("given in any order", [5, 2], [2, 3, 4]),
        ("two at one place cancel", [2, 4, 4, 6], [2, 3, 4, 5]),
        ("three at one place are one", [2, 4, 4, 4], [2, 3]),
        ("from the first pixel", [0, 1], [0]),
        ("to the last pixel", [11, 12], [11]),
        ("all pixels", [0, 12], list(range(12))),
        ("an empty run at the end", [12, 12], []),
    ],
)
def test_flips_of_several_masks_are_kept_apart(why, flips, on):
    mask = np.zeros(12, dtype=bool)
    mask[on] = True
    expected = by_coco(mask.reshape(4, 3).T)
    keys = [place + owner * 13 for owner in (0, 2) for place in flips]
    first, empty, third = from_flips(np.array(keys, dtype=np.int64), 3, 3, 4)
    assert first == third == expected
    assert empty == by_coco(np.zeros((3, 4), bool))


def test_no_masks_are_no_masks():
    assert from_flips(np.array([], dtype=np.int64), 0, 3, 4) == []


@pytest.mark.parametrize(("x0", "y0"), [(-1, 0), (0, -1), (7, 0), (0, 7)])
def test_a_crop_that_leaves_the_image_is_refused(x0, y0):
    with pytest.raises(ValueError, match="leaves the 8×8 image"):
        encode(np.ones((2, 2), bool), x0, y0, 8, 8)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="has no mask"):
        encode_whole(np.ones((0, 4), bool))


def string(*runs, size=(3, 4)):
    plain = [{"size": list(size), "counts": list(runs)}]
    return coco.frPyObjects(plain, *size)[0]["counts"].decode()


@pytest.mark.parametrize(
    ("why", "counts", "area"),
    [
        ("an area that is not the mask's", string(2, 3, 7), 4),
        ("too few pixels", string(2, 3, 6), 3),
        ("too many pixels", string(2, 3, 8), 3),
        ("a run of nothing in the middle", string(2, 3, 0, 7), 10),
        ("a run of nothing at the end", string(2, 10, 0), 10),
        ("a negative run", string(2, 12) + "Q", 12),
        ("a number spelt longer than needed", "R" + string(2, 3, 7)[1:], 3),
        ("a number that goes on past the end", string(2, 3, 7) + "P", 3),
        ("a number of more than 32 bits", "PPPPPPP0", 0),
        ("not ASCII", "é", 3),
        ("a character outside the alphabet", "!", 3),
        ("nothing", "", 0),
    ],
)
def test_what_coco_would_not_write_is_not_canonical(why, counts, area):
    assert is_canonical(Rle(3, 4, string(2, 3, 7), 3))
    assert not is_canonical(Rle(3, 4, counts, area))
