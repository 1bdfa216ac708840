"""OpenVINO on the CPU behind the narrow runtime protocol: its own IR (.xml with .bin) and .onnx."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.cards import Compute, ModelError
from worker.runtimes import RunFailed, Tensor
from worker.settings import WorkerSettings

# Importing openvino reports the import to Google Analytics and writes an identity into the home
# folder. Where its reporter cannot be imported, openvino takes an empty one of its own instead.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
# What it keeps for every picture size that an open graph has seen is meant to be small.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")

import openvino as ov  # noqa: E402
from openvino.frontend import FrontEndManager  # noqa: E402

VERSION = str(ov.__version__).partition("-")[0]

_OLDEST_IR = 10  # OpenVINO reads none before this since its release 2021.1
_ONNX_NAMES = {"f16": "float16", "f32": "float", "f64": "double", "boolean": "bool"} | {
    f"{sign[0]}{bits}": f"{sign}{bits}" for sign in ("int", "uint") for bits in (8, 16, 32, 64)
}


def load(path: str, compute: Compute, settings: WorkerSettings) -> OpenVinoRuntime:
    core = ov.Core()
    if compute == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ModelError(f"this CPU does not compute in bf16, which {path} is to run in; use f32")
    if path.lower().endswith(".xml"):
        _check_ir(Path(path))
    return OpenVinoRuntime(core, path, compute, settings.threads)


class OpenVinoRuntime:
    device = "CPU"

    def __init__(self, core: ov.Core, path: str, compute: Compute, threads: int) -> None:
        try:
            network = _read(core, path)
            # Compiling gives tensors further names, of layers that it merged: read them before.
            self.inputs = tuple(_tensor(each) for each in network.inputs)
            self.outputs = tuple(_tensor(each) for each in network.outputs)
            compiled = core.compile_model(network, "CPU", _properties(compute, threads))
            self._request = compiled.create_infer_request()
        except Exception as exc:
            raise ModelError(f"{path} is no network for OpenVINO: {_reason(exc)}") from exc

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        try:
            # By position: OpenVINO would let an input that is not fed keep its last picture.
            values = self._request.infer([feeds[each.name] for each in self.inputs])
        except Exception as exc:
            raise RunFailed(_reason(exc)) from exc
        return {
            tensor.name: np.asarray(values[place], dtype=np.float32)
            for place, tensor in enumerate(self.outputs)
        }


def _properties(compute: Compute, threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": compute,  # left to itself it takes bf16 where the CPU has it
        "EXECUTION_MODE_HINT": "ACCURACY",  # and quantises activations beside int8 weights
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # several workers of one machine would share the first cores
        "CPU_RUNTIME_CACHE_CAPACITY": 16,  # of kernels for shapes seen; the default holds 5,000
    }


def _read(core: ov.Core, path: str) -> ov.Model:
    """The graph, with its weights in memory: a mapped file that is replaced kills its reader."""
    if path.lower().endswith(".xml"):
        core.set_property({"ENABLE_MMAP": False})
        return core.read_model(path)
    onnx = FrontEndManager().load_by_framework("onnx")  # told what it is, it says what is wrong
    network = onnx.convert(onnx.load(path, False))
    if not network.inputs:
        raise ValueError("it has no inputs")
    return network


def _check_ir(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = re.search(rb'<net\b[^>]*?\bversion="(\d+)"', file.read(4096))
    except OSError as exc:
        raise ModelError(f"the model file {path} cannot be read: {exc.strerror}") from exc
    if head is None:
        raise ModelError(f"{path} is no OpenVINO IR")
    if int(head[1]) < _OLDEST_IR:
        raise ModelError(
            f"{path} is an OpenVINO IR of version {int(head[1])}, and OpenVINO {VERSION} reads IRs "
            f"from version {_OLDEST_IR} on: convert the original network anew, to IR or to ONNX"
        )
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ModelError(f"{path} lies there without its weights: put {weights.name} beside it")


def _tensor(port: Any) -> Tensor:
    shape = tuple(
        each.get_length() if each.is_static else None for each in port.get_partial_shape()
    )
    kind = port.get_element_type().get_type_name()
    return Tensor(_name(port), shape, _ONNX_NAMES.get(kind, kind))


def _name(port: Any) -> str:
    """The one name of a tensor, of which OpenVINO may know several.

    It is the graph's own name for this input or output; else one that does not begin with a digit,
    as the numbers of exporters do, the shortest of them and then the first.
    """
    own = str(port.get_node().get_friendly_name()).partition("/sink_port_")[0]
    names: set[str] = port.get_names() or {own}
    return min(names, key=lambda name: (name != own, name[:1].isdigit(), len(name), name))


def _reason(exc: Exception) -> str:
    """The last line: those before it say where in OpenVINO it was noticed."""
    return ([line.strip() for line in str(exc).splitlines() if line.strip()] or ["unknown"])[-1]
