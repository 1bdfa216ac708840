"""A card and a build, loaded: pixels go in, Detections come out."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.cards import InputSpec, Model, ModelError
from worker.detections import ModelMismatch
from worker.preprocess import preprocess
from worker.runtimes import Runtime, Tensor
from worker.settings import WorkerSettings

FAMILIES = {"yolact": "worker.yolact"}
_DTYPES: dict[str, type[np.generic]] = {"float": np.float32, "uint8": np.uint8}

Raw = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class LoadedModel:
    runtime: Runtime
    decode: Callable[..., Any]  # the family's decoder, see worker/yolact.py
    spec: InputSpec
    input_name: str
    layout: Literal["nchw", "nhwc"]
    size: tuple[int, int]  # height, width
    dtype: type[np.generic]
    engine_version: str
    provider: str

    def infer(self, tensor: NDArray[np.generic]) -> Raw:
        return self.runtime.run({self.input_name: tensor})


def load_model(model: Model, settings: WorkerSettings) -> LoadedModel:
    """Load a build and check that its graph fits its card; run it once, so that it is warm."""
    if model.build.engine != "onnx":
        raise ModelError(f"{model.build.file} needs {model.build.engine}, which is not built in")
    if model.card.family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ModelError(f"the card's family {model.card.family!r} is none of {known}")
    onnx = importlib.import_module("worker.onnx_runtime")
    runtime = onnx.OnnxRuntime(model.path, threads=settings.threads, providers=settings.providers)
    tensor, layout, size = _picture_input(runtime.inputs, model.input)
    family = importlib.import_module(FAMILIES[model.card.family])
    decode = family.bind(runtime.outputs, model.card.decode, len(model.card.category_list()), size)
    loaded = LoadedModel(
        runtime=runtime,
        decode=decode,
        spec=model.input,
        input_name=tensor.name,
        layout=layout,
        size=size,
        dtype=_DTYPES[tensor.dtype],
        engine_version=onnx.VERSION,
        provider=runtime.provider,
    )
    _warm_up(loaded)
    return loaded


def _picture_input(
    inputs: tuple[Tensor, ...], spec: InputSpec
) -> tuple[Tensor, Literal["nchw", "nhwc"], tuple[int, int]]:
    expected, found = ["one picture (1, 3, H, W) or (1, H, W, 3)"], [str(each) for each in inputs]
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].dtype not in _DTYPES:
        raise ModelMismatch("it does not take one picture", expected, found)
    shape = inputs[0].shape
    layout: Literal["nchw", "nhwc"] = "nhwc" if shape[3] == 3 and shape[1] != 3 else "nchw"
    channels, *sides = shape[1:] if layout == "nchw" else (shape[3], *shape[1:3])
    if channels not in (3, None) or shape[0] not in (1, None):
        raise ModelMismatch("it does not take one picture of three colours", expected, found)
    height, width = (a or b for a, b in zip(sides, spec.size or sides, strict=True))
    if height is None or width is None:
        raise ModelMismatch("the graph leaves its size open: give input.size", expected, found)
    if spec.size is not None and spec.size != (height, width):
        raise ModelMismatch("its size is not the card's", [f"input.size {spec.size}"], found)
    return inputs[0], layout, (height, width)


def _warm_up(loaded: LoadedModel) -> None:
    black = np.zeros((1, 1, 3), np.uint8)
    try:
        loaded.infer(preprocess(black, loaded.spec, loaded.layout, loaded.size, loaded.dtype))
    except Exception as exc:
        reason = str(exc).partition("\n")[0]
        raise ModelError(f"the network does not run: {reason}") from exc


def instruction_set() -> str:
    """The widest vector instructions of this CPU: kernels, and so the last bits, differ by them."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            words = set(file.read().split())
    except OSError:
        words = set()
    known = ("amx_tile", "avx512_bf16", "avx512f", "avx2", "avx", "sve", "asimddp", "asimd")
    return next((each for each in known if each in words), platform.machine())
