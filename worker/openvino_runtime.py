"""OpenVINO on the CPU behind the narrow runtime protocol: its own IR (.xml with .bin) and .onnx."""

import os
import re
import sys
from collections.abc import Iterable
from typing import Any

from tasks.cards import Compute, ModelError
from tasks.environment import WorkerSettings
from tasks.graph_file import GraphFile, Tensor
from worker.model import Feeds, RunFailed, Told, as_floats, in_its_words

# Importing openvino reports the import to Google Analytics and writes an identity into the home
# folder. Where its reporter cannot be imported, openvino takes an empty one of its own instead.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
# What it keeps for every picture size that an open graph has seen is meant to be small.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")

import openvino as ov  # noqa: E402

VERSION = str(ov.__version__).partition("-")[0]

_LAST = -1  # line of its errors: those before it say where in OpenVINO it was noticed
# Types in ONNX Runtime's words.
_TYPES = {"f32": "float", "f16": "float16", "f64": "double", "bf16": "bfloat16", "boolean": "bool"}
_TYPES |= {f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
_TYPES |= {f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}
_OLDEST_IR = 10  # OpenVINO reads none before this since its release 2021.1


def load(path: str, compute: Compute, settings: WorkerSettings) -> "OpenVinoRuntime":
    core = ov.Core()
    if compute == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ModelError(f"this CPU does not compute in bf16, which {path} is to run in; use f32")
    return OpenVinoRuntime(core, path, compute, settings.threads)


class OpenVinoRuntime:
    device = "CPU"
    version = VERSION

    def __init__(self, core: ov.Core, path: str, compute: Compute, threads: int) -> None:
        with in_its_words(ModelError, f"{path} is no network for OpenVINO: ", _LAST):
            network = _read(core, path)
            # Compiling gives tensors further names, of layers that it merged: read them before.
            self.inputs = tuple(_tensor(each) for each in network.inputs)
            self.outputs = tuple(_tensor(each) for each in network.outputs)
            compiled = core.compile_model(network, "CPU", _properties(compute, threads))
            self._request = compiled.create_infer_request()

    def run(self, feeds: Feeds) -> Told:
        with in_its_words(RunFailed, line=_LAST):
            # By position: OpenVINO would let an input that is not fed keep its last picture.
            values = self._request.infer([feeds[each.name] for each in self.inputs])
        return as_floats(self.outputs, (values[place] for place in range(len(self.outputs))))


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


def look_into(path: str) -> GraphFile:
    """What a network's file says of itself."""
    with in_its_words(ModelError, f"{path} is no network for OpenVINO: ", _LAST):
        network = _read(ov.Core(), path)
        inputs, outputs = (tuple(map(_tensor, each)) for each in (network.inputs, network.outputs))
        said = network.get_rt_info("model_info").value if network.has_rt_info("model_info") else {}
        return GraphFile(inputs, outputs, {key: str(value) for key, value in said.items()})


def _read(core: ov.Core, path: str) -> Any:
    if path.lower().endswith(".xml"):
        _check_version(path)
    core.set_property({"ENABLE_MMAP": False})  # a mapped file that is replaced kills us
    return core.read_model(path)


def _check_version(path: str) -> None:
    with open(path, "rb") as file:
        head = re.search(rb'<net\b[^>]*?\bversion="(\d+)"', file.read(4096))
    if head is None:
        raise ValueError("it is no OpenVINO IR")
    if int(head[1]) < _OLDEST_IR:
        raise ValueError(
            f"it is an OpenVINO IR of version {int(head[1])}, and OpenVINO {VERSION} reads IRs "
            f"from version {_OLDEST_IR} on: convert the original network anew, to IR or to ONNX"
        )


def _tensor(port: Any) -> Tensor:
    shape = tuple(
        each.get_length() if each.is_static else None for each in port.get_partial_shape()
    )
    kind = port.get_element_type().get_type_name()
    name = _one_name(str(port.get_node().get_friendly_name()), port.get_names())
    return Tensor(name, shape, _TYPES.get(kind, kind))


def _one_name(layer: str, names: Iterable[str]) -> str:
    """The one name of a tensor, of which OpenVINO may know several.

    It is the graph's own name for this input or output; else one that does not begin with a digit,
    as the numbers of exporters do, the shortest of them and then the first.
    """
    own = layer.partition("/sink_port_")[0]
    return min(names, key=lambda e: (e != own, e[:1].isdigit(), len(e), e), default=own)
