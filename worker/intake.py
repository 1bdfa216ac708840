"""How a graph takes its picture: which of its inputs, in which layout, size and type."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.cards import InputSpec
from tasks.graph_file import Tensor
from worker.binding import Tensors
from worker.detections import Frame, ModelMismatch
from worker.images import Pixels
from worker.preprocess import Layout, preprocess, to_frame

# In the graph's words, which are numpy's but for "float".
_DTYPES = ("float", "float16", "uint8", "int8")
# Besides the picture, graphs ask for no more than these, which follow from its frame. Of another
# shape they are refused when the network is run for the first time.
_IM_INFO = "im_info"  # (1, 3): height and width of the picture in the input, and its scale
_PIXEL_MASK = "pixel_mask"  # (1, H, W): one where the picture is
_BESIDE = {_IM_INFO: ("float",), _PIXEL_MASK: ("bool", "float", "int32", "int64")}
_EXPECTED = ["one picture (1, 3, H, W), (1, H, W, 3) or (3, H, W)"]


class Intake(NamedTuple):
    spec: InputSpec
    name: str
    layout: Layout
    size: tuple[int, int] | None  # (height, width) where every picture gets the same
    dtype: type[np.generic]
    quantised: tuple[float, int] | None = None
    beside: tuple[Tensor, ...] = ()

    def frame(self, height: int, width: int) -> Frame:
        return to_frame(height, width, self.spec, self.size)

    def tensor(self, pixels: Pixels, frame: Frame) -> NDArray[np.generic]:
        return preprocess(pixels, self.spec, self.layout, frame, self.dtype, self.quantised)

    def feeds(self, tensor: NDArray[np.generic], frame: Frame) -> dict[str, NDArray[np.generic]]:
        """The graph's inputs by name."""
        return {self.name: tensor} | {each.name: _beside(each, frame) for each in self.beside}

    def check_stretched(self, outputs: Tensors) -> None:
        if self.spec.fit != "stretch":
            reason = "its boxes are parts of a stretched picture"
            raise ModelMismatch(reason, ['input.fit = "stretch"'], outputs)


def _beside(tensor: Tensor, frame: Frame) -> NDArray[np.generic]:
    dtype = _numpy(tensor)
    if tensor.name == _IM_INFO:
        return np.array([(frame.content_height, frame.content_width, frame.scale_y)], dtype)
    mask = np.zeros((1, frame.input_height, frame.input_width), dtype)
    bottom, right = frame.top + frame.content_height, frame.left + frame.content_width
    mask[:, frame.top : bottom, frame.left : right] = 1
    return mask


def bind_input(inputs: Tensors, spec: InputSpec) -> Intake:
    """The graph's picture input as its card says; raises ModelMismatch where the two differ."""
    beside = tuple(each for each in inputs if each.dtype in _BESIDE.get(each.name, ()))
    pictures = [each for each in inputs if each not in beside]
    if len(pictures) != 1 or pictures[0].dtype not in _DTYPES:
        raise ModelMismatch("it does not take one picture", _EXPECTED, inputs)
    picture = pictures[0]
    layout, sides = _layout(picture, inputs)
    size = _size(sides, spec, inputs)
    dtype = _numpy(picture)
    return Intake(spec, picture.name, layout, size, dtype, picture.quantised, beside)


def _numpy(tensor: Tensor) -> type[np.generic]:
    return np.dtype("float32" if tensor.dtype == "float" else tensor.dtype).type


def _layout(picture: Tensor, found: Tensors) -> tuple[Layout, tuple[int | None, int | None]]:
    shape = picture.shape
    if len(shape) == 3 and shape[0] in (3, None):
        return "chw", (shape[1], shape[2])
    if len(shape) == 4 and shape[0] in (1, None):
        if shape[3] == 3 and shape[1] != 3:
            return "nhwc", (shape[1], shape[2])
        if shape[1] in (3, None):
            return "nchw", (shape[2], shape[3])
    raise ModelMismatch("it does not take one picture of three colours", _EXPECTED, found)


def _size(
    sides: tuple[int | None, int | None], spec: InputSpec, found: Tensors
) -> tuple[int, int] | None:
    height, width = sides
    if spec.fit in ("sides", "native"):
        if height is not None or width is not None:
            reason = f'input.fit = "{spec.fit}" needs a graph that leaves its size open'
            raise ModelMismatch(reason, ["a picture of any height and width"], found)
        if spec.fit == "sides" and spec.size is None:
            raise ModelMismatch("input.size names no short and long side", ["input.size"], found)
        return None
    height, width = (a or b for a, b in zip(sides, spec.size or sides, strict=True))
    if height is None or width is None:
        raise ModelMismatch("the graph leaves its size open: give input.size", _EXPECTED, found)
    if spec.size is not None and spec.size != (height, width):
        raise ModelMismatch("its size is not the card's", [f"input.size {spec.size}"], found)
    return height, width
