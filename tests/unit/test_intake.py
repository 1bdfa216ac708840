"""Which input of a graph takes the picture, and what the graph is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tasks.cards import InputSpec, ModelError
from tasks.environment import WorkerSettings
from tasks.graph_file import Tensor
from tasks.shelf import find_model
from tests.graphs import write_model
from worker.detections import ModelMismatch
from worker.intake import Intake, bind_input
from worker.model import load_model

SIZED = InputSpec(size=(48, 64))


def image(*shape: int | None, dtype: str = "float", name: str = "image") -> Tensor:
    return Tensor(name, shape, dtype)


def pixels(height: int, width: int) -> np.ndarray:
    """Red grows downwards, green to the right, blue is 200."""
    picture = np.full((height, width, 3), 200, np.uint8)
    picture[..., 0] = np.linspace(0, 255, height).round()[:, np.newaxis]
    picture[..., 1] = np.linspace(0, 255, width).round()
    return picture


def fed(intake: Intake, height: int, width: int) -> dict[str, np.ndarray]:
    frame = intake.frame(height, width)
    return intake.feeds(intake.tensor(pixels(height, width), frame), frame)


@pytest.mark.parametrize(
    ("tensor", "spec", "layout", "size", "shape"),
    [
        (image(1, 3, 48, 64), InputSpec(), "nchw", (48, 64), (1, 3, 48, 64)),
        (image(1, 3, 48, 64), SIZED, "nchw", (48, 64), (1, 3, 48, 64)),
        (image(None, 3, 48, 64), InputSpec(), "nchw", (48, 64), (1, 3, 48, 64)),
        (image(None, None, None, None), SIZED, "nchw", (48, 64), (1, 3, 48, 64)),
        (image(1, 3, None, 64), SIZED, "nchw", (48, 64), (1, 3, 48, 64)),
        (image(1, 48, 64, 3), InputSpec(), "nhwc", (48, 64), (1, 48, 64, 3)),
        (image(1, None, None, 3), SIZED, "nhwc", (48, 64), (1, 48, 64, 3)),
        (image(1, 3, 64, 3), InputSpec(), "nchw", (64, 3), (1, 3, 64, 3)),
        (image(3, 48, 64), InputSpec(), "chw", (48, 64), (3, 48, 64)),
        (image(3, None, None), SIZED, "chw", (48, 64), (3, 48, 64)),
        (image(1, 3, None, None), InputSpec(fit="native"), "nchw", None, (1, 3, 30, 50)),
        (image(1, 3, None, None), InputSpec((15, 20), "sides"), "nchw", None, (1, 3, 12, 20)),
        (image(3, None, None), InputSpec(fit="native", multiple=32), "chw", None, (3, 32, 64)),
        (image(1, None, None, 3), InputSpec(fit="native"), "nhwc", None, (1, 30, 50, 3)),
    ],
    ids=[
        "the graph says the size",
        "graph and card agree on the size",
        "an open batch is a batch of one",
        "everything open, the card says the size",
        "half of the size open",
        "colours last",
        "colours last, size open",
        "three columns are not three colours",
        "without a batch",
        "without a batch, size open",
        "as the picture is",
        "by its sides",
        "as it is, filled up to a multiple",
        "as it is, colours last",
    ],
)
def test_a_picture_is_fed_as_the_graph_takes_it(
    tensor: Tensor, spec: InputSpec, layout: str, size: Any, shape: tuple[int, ...]
) -> None:
    intake = bind_input([tensor], spec)
    assert (intake.name, intake.layout, intake.size) == ("image", layout, size)
    made = fed(intake, 30, 50)
    assert made.keys() == {"image"}
    assert made["image"].shape == shape
    assert made["image"].dtype == np.float32
    channels = made["image"].reshape(-1, 3) if layout == "nhwc" else made["image"].reshape(3, -1).T
    assert channels[:, 2].max() == 200  # blue comes third in every layout
    assert channels[:, 0].std() > 50 < channels[:, 1].std()


@pytest.mark.parametrize(
    ("dtype", "kind"), [("float", np.float32), ("float16", np.float16), ("uint8", np.uint8)]
)
def test_levels_come_in_the_type_of_the_graph(dtype: str, kind: Any) -> None:
    intake = bind_input([image(1, 3, 30, 50, dtype=dtype)], InputSpec())
    tensor = fed(intake, 30, 50)["image"]
    assert tensor.dtype == kind
    np.testing.assert_array_equal(tensor[0].transpose(1, 2, 0), pixels(30, 50))


def test_levels_stand_behind_the_numbers_of_a_quantised_graph() -> None:
    picture = Tensor("image", (1, 30, 50, 3), "int8", (0.5, -100))
    tensor = fed(bind_input([picture], InputSpec(mean=(128, 128, 128), std=(4, 4, 4))), 30, 50)
    assert tensor["image"].dtype == np.int8
    wanted = np.rint((pixels(30, 50) - 128.0) / 4 / 0.5 - 100).clip(-128, 127)
    np.testing.assert_array_equal(tensor["image"][0], wanted)


@pytest.mark.parametrize(
    ("dtype", "mean"), [("uint8", (123.68, 116.78, 103.94)), ("int8", (0.0, 0.0, 0.0))]
)
def test_levels_that_a_whole_number_cannot_hold_are_refused(dtype: str, mean: Any) -> None:
    intake = bind_input([image(1, 3, 30, 50, dtype=dtype)], InputSpec(mean=mean))
    with pytest.raises(ValueError, match=rf"mean \({mean[0]}.* do not fit a {dtype} input"):
        fed(intake, 30, 50)


IM_INFO = Tensor("im_info", (1, 3), "float")


@pytest.mark.parametrize(
    ("spec", "sides", "said"),
    [
        (InputSpec(fit="pad"), (480, 640), (480, 320, 0.5)),
        (InputSpec(fit="stretch"), (480, 640), (480, 640, 0.5)),
        (InputSpec((480, 640), "sides"), (None, None), (640, 427, 640 / 960)),
        (InputSpec(fit="native"), (None, None), (960, 640, 1.0)),
    ],
    ids=["padded", "stretched", "by its sides", "as it is"],
)
def test_im_info_says_where_the_picture_lies(
    spec: InputSpec, sides: tuple[int | None, int | None], said: tuple[float, ...]
) -> None:
    intake = bind_input([IM_INFO, image(1, 3, *sides)], spec)
    info = fed(intake, 960, 640)["im_info"]
    assert (info.shape, info.dtype) == ((1, 3), np.float32)
    assert info[0].tolist() == pytest.approx(said, abs=1e-6)


@pytest.mark.parametrize("fit", ["pad", "letterbox", "stretch"])
@pytest.mark.parametrize("dtype", ["bool", "int32", "int64", "float"])
def test_a_pixel_mask_is_one_where_the_picture_is(fit: Any, dtype: str) -> None:
    inputs = [image(1, 3, 40, 90), Tensor("pixel_mask", (1, None, None), dtype)]
    spec = InputSpec(fit=fit, mean=(300.0, 300.0, 300.0))  # no level of a picture becomes zero
    made = fed(bind_input(inputs, spec), 30, 30)
    mask = made["pixel_mask"]
    assert mask.shape == (1, 40, 90)
    assert mask.dtype.name == {"float": "float32"}.get(dtype, dtype)
    around = {"pad": 0, "letterbox": 114 - 300, "stretch": None}[fit]
    if around is None:
        assert mask.all()
        return
    green = made["image"][0, 1]  # beside the picture as the fit fills it, -300…-45 in it
    np.testing.assert_array_equal(mask[0, 0] != 0, _inside(green, around))
    assert np.count_nonzero(mask) == 40 * 40


def _inside(green: np.ndarray, around: float) -> np.ndarray:
    """Of each column: whether it is anything but filling."""
    return (green != around).any(0)


def test_an_open_pixel_mask_follows_each_picture() -> None:
    inputs = [image(1, 3, None, None), Tensor("pixel_mask", (1, None, None), "int64")]
    intake = bind_input(inputs, InputSpec(fit="native", multiple=32))
    mask = fed(intake, 30, 50)["pixel_mask"]
    assert mask.shape == (1, 32, 64)
    assert (mask.sum(), mask[0, :30, :50].sum()) == (1500, 1500)


NATIVE = InputSpec(fit="native")


@pytest.mark.parametrize(
    ("inputs", "spec", "words"),
    [
        ([], InputSpec(), ["one picture", "found nothing"]),
        ([IM_INFO], InputSpec(), ["one picture", "im_info (1×3 float)"]),
        (
            [image(1, 3, 8, 8), image(1, 3, 8, 8, name="b")],
            InputSpec(),
            ["one picture", "b (1×3×8"],
        ),
        ([image(1, 3, 8, 8, dtype="int64")], InputSpec(), ["one picture", "int64"]),
        ([image(1, 3, 8, 8, dtype="string")], InputSpec(), ["one picture", "string"]),
        ([image(2, 3, 8, 8)], InputSpec(), ["three colours", "2×3×8×8"]),
        ([image(1, 1, 8, 8)], InputSpec(), ["three colours", "1×1×8×8"]),
        ([image(1, 8, 8, 4)], InputSpec(), ["three colours", "1×8×8×4"]),
        ([image(8, 8, 3)], InputSpec(), ["three colours", "8×8×3"]),
        ([image(1, 3)], InputSpec(), ["three colours", "1×3"]),
        ([image()], InputSpec(), ["three colours"]),
        ([image(1, 3, None, None)], InputSpec(), ["input.size", "?×?"]),
        ([image(1, 3, 48, None)], InputSpec(), ["input.size", "48×?"]),
        ([image(1, 3, 48, 65)], SIZED, ["not the card's", "(48, 64)", "48×65"]),
        ([image(1, 3, None, 65)], SIZED, ["not the card's", "(48, 64)", "?×65"]),
        ([image(1, 3, 48, 64)], NATIVE, ["native", "open", "48×64"]),
        ([image(1, 3, None, 64)], NATIVE, ["native", "open", "?×64"]),
        ([image(1, 3, 48, 64)], InputSpec((48, 64), "sides"), ["sides", "open"]),
        ([image(1, 3, None, None)], InputSpec(fit="sides"), ["short and long side"]),
        ([image(1, 3, 8, 8), Tensor("im_info", (1, 3), "int64")], InputSpec(), ["im_info (1×3 i"]),
        (
            [image(1, 3, 8, 8), Tensor("pixel_mask", (1, 8, 8), "string")],
            InputSpec(),
            ["8 string)"],
        ),
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, list) and value else None,
)
def test_what_does_not_fit_is_said_with_the_tensors_found(
    inputs: list[Tensor], spec: InputSpec, words: list[str]
) -> None:
    with pytest.raises(ModelMismatch) as refused:
        bind_input(inputs, spec)
    for word in words:
        assert word in str(refused.value)


def test_what_goes_beside_the_picture_in_another_shape_is_refused_at_load(tmp_path: Path) -> None:
    card = write_model(tmp_path, "a")
    model = onnx.load(card.with_suffix(".onnx"))
    model.graph.input.append(helper.make_tensor_value_info("im_info", TensorProto.FLOAT, [1, 4]))
    onnx.save(model, card.with_suffix(".onnx"))
    with pytest.raises(ModelError, match=r"the network does not run: .*im_info"):
        load_model(find_model(str(card)), WorkerSettings())
