"""TFLite behind the narrow runtime protocol, by LiteRT or by the tflite-runtime of a board."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.cards import Compute, ModelError
from tasks.graph_file import Tensor
from worker.runtimes import RunFailed
from worker.settings import WorkerSettings
from worker.tflite_file import check_whole

PACKAGES = {"tflite-runtime": "tflite_runtime", "litert": "ai_edge_litert"}
_DTYPES = {"float32": "float", "float64": "double"}

Details = Mapping[str, Any]  # of a tensor, as the interpreter tells them


def load(path: str, compute: Compute, settings: WorkerSettings) -> TfliteRuntime:
    if compute != "f32":
        raise ModelError(f"TFLite has no precision {compute}; openvino has")
    return TfliteRuntime(path, threads=settings.threads, interpreter=chosen(settings))


def chosen(settings: WorkerSettings) -> str:
    """Which interpreter runs here: on a board the one that its NPU's delegate was built for, else
    LiteRT, whose int8 kernels are the faster ones."""
    if settings.tflite != "auto":
        order = [settings.tflite]
    else:
        order = [*PACKAGES] if platform.machine() == "aarch64" else [*reversed(PACKAGES)]
    here = [each for each in order if find_spec(PACKAGES[each])]
    if not here:
        raise ModelError(f"{' and '.join(order)} are not installed: pip install 'maskmill[worker]'")
    return here[0]


class TfliteRuntime:
    """One interpreter, made in the process that runs it and used by one thread."""

    device = "CPU"

    def __init__(self, path: str, *, threads: int, interpreter: str) -> None:
        package = import_module(PACKAGES[interpreter])
        self.version = f"{interpreter} {package.__version__}"
        module = import_module(f"{PACKAGES[interpreter]}.interpreter")
        # In memory: a mapped file that is replaced kills its reader.
        content = _content(path)
        try:
            check_whole(content)
            self._interpreter = module.Interpreter(
                model_content=content, num_threads=threads or os.cpu_count()
            )
            self._interpreter.allocate_tensors()
        except SystemError as exc:
            raise ModelError(
                f"{self.version} cannot work with numpy {np.__version__}: install numpy < 2,"
                " or set MASKMILL_TFLITE=litert"
            ) from exc
        except Exception as exc:
            raise ModelError(f"{path} is no network for {self.version}: {_reason(exc)}") from exc
        self._inputs = _by_name(self._interpreter.get_input_details())
        self._outputs = _by_name(self._interpreter.get_output_details())
        self.inputs = tuple(_tensor(name, each) for name, each in self._inputs.items())
        self.outputs = tuple(_tensor(name, each) for name, each in self._outputs.items())
        self._shapes = {name: tuple(each["shape"]) for name, each in self._inputs.items()}

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        try:
            self._resize({each.name: feeds[each.name].shape for each in self.inputs})
            for each in self.inputs:
                self._interpreter.set_tensor(self._inputs[each.name]["index"], feeds[each.name])
            self._interpreter.invoke()
        except Exception as exc:
            raise RunFailed(_reason(exc)) from exc
        return {
            each.name: _floats(
                self._interpreter.get_tensor(self._outputs[each.name]["index"]), each.quantised
            )
            for each in self.outputs
        }

    def _resize(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Give open inputs the sizes of this picture; fixed ones refuse others by themselves."""
        if shapes == self._shapes:
            return
        self._shapes = {}
        for tensor in self.inputs:
            if None in tensor.shape:
                index = self._inputs[tensor.name]["index"]
                self._interpreter.resize_tensor_input(index, shapes[tensor.name], strict=True)
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as exc:
        raise ModelError(f"the model file {path} cannot be read: {exc.strerror}") from exc


def _by_name(details: Sequence[Details]) -> dict[str, Details]:
    """A file may call several tensors alike, and tell one tensor several times."""
    named: dict[str, Details] = {}
    for each in {each["index"]: each for each in details}.values():
        name = each["name"] or "tensor"
        named[f"{name}#{each['index']}" if name in named else name] = each
    return named


def _tensor(name: str, details: Details) -> Tensor:
    sizes = details["shape_signature"] if len(details["shape_signature"]) else details["shape"]
    shape = tuple(int(size) if size >= 0 else None for size in sizes)
    kind = np.dtype(details["dtype"]).name
    scale, zero = details["quantization"]
    quantised = (float(scale), int(zero)) if scale else None
    return Tensor(name, shape, _DTYPES.get(kind, kind), quantised)


def _floats(value: NDArray[Any], quantised: tuple[float, int] | None) -> NDArray[np.float32]:
    """What the numbers of an output mean."""
    floats = np.asarray(value, dtype=np.float32)
    if quantised is not None:
        scale, zero = quantised
        floats -= np.float32(zero)
        floats *= np.float32(scale)
    return floats


def _reason(exc: Exception) -> str:
    if isinstance(exc, KeyError):
        return f"nothing is fed to its input {exc}"
    return str(exc).strip().partition("\n")[0] or type(exc).__name__
