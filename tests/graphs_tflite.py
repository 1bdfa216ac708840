"""The canned graphs as .tflite files: float, with int8 weights only, and quantised throughout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from ai_edge_litert.schema_py_generated import ActivationFunctionType, Padding, TensorType

from tests.graphs import CLASSES, COEFFICIENTS, GRID, NAMES, PROTOTYPES, SIZE, boxes_of
from tests.tflite_file import Quantised, TfliteFile

Kind = Literal["float", "dynamic", "int8", "uint8"]


def write_types(path: Path, height: int, width: int, where: str = "WHERE") -> Path:
    """The graph of the runtimes' contract; a size of -1 is open."""
    file = TfliteFile()
    shape = [1, 3, height, width]
    image, shift = file.tensor("image", shape), file.tensor("shift", [1])
    twice, also_whole = file.tensor("twice", shape), file.tensor("also_whole", shape, "int64")
    size, turned = file.tensor("size", shape), file.tensor("turned", [-1, 4], "int64")
    outputs = {
        "whole": file.tensor("whole", shape, "int64"),
        "shifted": file.tensor("shifted", shape),
        "positive": file.tensor("positive", shape, "bool"),
        "half": file.tensor("half", shape, "float16"),
        "bytes": file.tensor("bytes", shape, "uint8"),
        "places": file.tensor("places", [4, -1], "int64"),
        "also_whole": also_whole,
    }
    two, zero = (file.constant(f"{n}", np.array([n], np.float32)) for n in (2, 0))
    order = file.constant("order", np.array([1, 0], np.int32))
    file.operator("MUL", [image, two], [twice], "MulOptions")
    file.operator("ADD", [twice, shift], [outputs["shifted"]], "AddOptions")
    for name, dtype in (("whole", "INT64"), ("also_whole", "INT64")):
        _cast(file, outputs["shifted"], outputs[name], "FLOAT32", dtype)
    file.operator("GREATER", [image, zero], [outputs["positive"]], "GreaterOptions")
    _cast(file, image, outputs["half"], "FLOAT32", "FLOAT16")
    file.operator("ABS", [image], [size], "AbsOptions")
    _cast(file, size, outputs["bytes"], "FLOAT32", "UINT8")
    file.operator(where, [outputs["positive"]], [turned])
    file.operator("TRANSPOSE", [turned, order], [outputs["places"]], "TransposeOptions", 1)
    path.write_bytes(file.written([image, shift], list(outputs.values())))
    return path


def _cast(file: TfliteFile, source: int, target: int, before: str, after: str) -> None:
    kinds = {"inDataType": getattr(TensorType, before), "outDataType": getattr(TensorType, after)}
    file.operator("CAST", [source], [target], "CastOptions", 1, **kinds)


def write_quantised(path: Path, dtype: str, scale: float, zero: int) -> Path:
    """Takes numbers that stand for values; tells them once as such and once as floats."""
    file = TfliteFile()
    image = file.tensor("image", (1, 5, 7, 3), dtype, (scale, zero))
    flat = file.tensor("flat", (1, 105), dtype, (scale, zero))
    floats = file.tensor("floats", (1, 105))
    shape = file.constant("shape", np.array([1, 105], np.int32))
    file.operator("RESHAPE", [image, shape], [flat], "ReshapeOptions", newShape=[1, 105])
    file.operator("DEQUANTIZE", [flat], [floats], "DequantizeOptions", 3)
    path.write_bytes(file.written([image], [floats, flat]))
    return path


def write_yolact(folder: Path, kind: Kind, name: str = "canned") -> Path:
    """tests.graphs' YOLACT in the form of YOLACT-Edge's int8 recipe, with its card; that's path.

    float and dynamic (int8 weights) take and tell floats; int8 takes int8 and tells floats, as
    NXP's recipe has it; uint8 takes and tells uint8, and computes in int8.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.tflite").write_bytes(_Yolact(kind).written())
    card = folder / f"{name}.toml"
    names = ", ".join(f'"{each}"' for each in NAMES)
    card.write_text(
        f'name = "{name}"\nfamily = "yolact"\nlicense = "MIT"\ncategories = [{names}]\n\n'
        "[input]\nmean = [128.0, 128.0, 128.0]\nstd = [64.0, 64.0, 64.0]\n\n"
        f'[[builds]]\nfile = "{name}.tflite"\nprecision = "{"fp32" if kind == "float" else kind}"\n'
    )
    return card


class _Yolact:
    _IN = (4 / 255, 0)  # of normalised levels, from -2 to 2

    def __init__(self, kind: Kind) -> None:
        self.kind, self.file = kind, TfliteFile()
        self.inside = "int8" if kind in ("int8", "uint8") else "float32"
        self.random = np.random.default_rng(0)

    def written(self) -> bytes:
        shape = (1, SIZE, SIZE, 3)
        image = fed = self.tensor("image", shape, self._IN)
        if self.kind == "uint8":
            fed = self.file.tensor("fed", shape, "uint8", (self._IN[0], 128))
            self.file.operator("QUANTIZE", [fed], [image], "QuantizeOptions")
        cells, fine = self.pooled(image, GRID), self.pooled(image, PROTOTYPES)
        proto, _ = self.convolved(fine, "proto", PROTOTYPES, COEFFICIENTS, 2.0, relu=True)
        mask = self.head(cells, "mask", COEFFICIENTS, 2.0, "TANH", (1 / 128, 0))
        conf = self.head(cells, "conf", CLASSES + 1, 1.5, "SOFTMAX", (1 / 256, -128))
        kept = self.tensor("kept", (1, GRID * GRID, CLASSES), (1 / 256, -128))
        ends = [self.numbers("begin", 0, 0, 1), self.numbers("size", 1, GRID * GRID, CLASSES)]
        self.file.operator("SLICE", [conf, *ends], [kept], "SliceOptions")
        scores = self.tensor("scores", (1, CLASSES, GRID * GRID), (1 / 256, -128))
        order = self.numbers("order", 0, 2, 1)
        self.file.operator("TRANSPOSE", [kept, order], [scores], "TransposeOptions")
        grid = boxes_of(self.random, "a")
        turned = self.constant("turned", np.moveaxis(grid, 2, 1), (1 / 128, 0))
        boxes = self.tensor("boxes", grid.shape, (1 / 128, 0))
        self.file.operator("TRANSPOSE", [turned, order], [boxes], "TransposeOptions")
        told = {"proto": proto, "mask": mask, "scores": scores, "boxes": boxes}
        return self.file.written([fed], [self.told(*each) for each in told.items()])

    def told(self, name: str, source: int) -> int:
        """An output in the type that this kind tells."""
        made = self.file.graph.tensors[source]
        if self.inside == "float32":
            return source
        made.name = f"{name} inside"
        if self.kind == "int8":
            target = self.file.tensor(name, made.shape)
            self.file.operator("DEQUANTIZE", [source], [target], "DequantizeOptions")
            return target
        scale, zero = made.quantization.scale[0], made.quantization.zeroPoint[0]
        target = self.file.tensor(name, made.shape, "uint8", (scale, zero + 128))
        self.file.operator("QUANTIZE", [source], [target], "QuantizeOptions")
        return target

    def tensor(self, name: str, shape: tuple[int, ...], quantised: Quantised) -> int:
        given = quantised if self.inside == "int8" else None
        return self.file.tensor(name, shape, self.inside, given)

    def constant(self, name: str, value: np.ndarray, quantised: Quantised) -> int:
        if self.inside == "float32":
            return self.file.constant(name, value)
        return self.file.constant(name, _quantised(value, quantised), quantised)

    def numbers(self, name: str, *values: int) -> int:
        return self.file.constant(name, np.array(values, np.int32))

    def pooled(self, image: int, size: int) -> int:
        pooled = self.tensor(f"pooled to {size}", (1, size, size, 3), self._IN)
        step = SIZE // size
        options = {"strideW": step, "strideH": step, "filterWidth": step, "filterHeight": step}
        options["padding"] = Padding.VALID
        self.file.operator("AVERAGE_POOL_2D", [image], [pooled], "Pool2DOptions", 2, **options)
        return pooled

    def convolved(
        self, source: int, name: str, size: int, channels: int, spread: float, relu: bool = False
    ) -> tuple[int, Quantised]:
        kernel = self.random.normal(0, spread, (channels, 1, 1, 3)).astype(np.float32)
        bias = self.random.normal(0, spread / 3, channels).astype(np.float32)
        bound = float((np.abs(kernel).sum((1, 2, 3)) * 2 + np.abs(bias)).max())
        quantised = (bound / 255, -128) if relu else (2 * bound / 255, 0)
        of_kernel = (float(np.abs(kernel).max()) / 127, 0)
        if self.kind == "float":
            weights = self.file.constant(f"{name}.w", kernel)
        else:
            weights = self.file.constant(f"{name}.w", _quantised(kernel, of_kernel), of_kernel)
        if self.inside == "int8":
            unit = self._IN[0] * of_kernel[0]
            whole = np.rint(bias / unit).astype(np.int32)
            biases = self.file.constant(f"{name}.b", whole, (unit, 0))
        else:
            biases = self.file.constant(f"{name}.b", bias)
        target = self.tensor(name, (1, size, size, channels), quantised)
        self.file.operator(
            "CONV_2D", [source, weights, biases], [target], "Conv2DOptions", 2, strideW=1,
            strideH=1, padding=Padding.VALID,
            fusedActivationFunction=getattr(ActivationFunctionType, "RELU" if relu else "NONE"),
        )  # fmt: skip
        return target, quantised

    def head(
        self, cells: int, name: str, channels: int, spread: float, end: str, quantised: Quantised
    ) -> int:
        source, inner = self.convolved(cells, f"{name}.conv", GRID, channels, spread)
        shape = (1, GRID * GRID, channels)
        rows, target = (
            self.tensor(f"{name}.rows", shape, inner),
            self.tensor(name, shape, quantised),
        )
        wanted = self.numbers(f"{name}.shape", *shape)
        self.file.operator("RESHAPE", [source, wanted], [rows], "ReshapeOptions", newShape=[*shape])
        options = {"options": "SoftmaxOptions", "beta": 1.0} if end == "SOFTMAX" else {}
        self.file.operator(end, [rows], [target], version=2, **options)
        return target


def _quantised(value: np.ndarray, quantised: Quantised) -> np.ndarray:
    scale, zero = quantised
    return np.clip(np.rint(value / scale + zero), -128, 127).astype(np.int8)
