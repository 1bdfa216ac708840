"""TFLite behind the narrow runtime protocol, by LiteRT or by the tflite-runtime of a board."""

import logging
import os
import platform
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.cards import Compute, ModelError
from tasks.graph_file import Tensor
from worker import delegates
from worker.delegates import Delegate, Unfit
from worker.runtimes import Feeds, RunFailed, Told, in_its_words
from worker.settings import WorkerSettings
from worker.tflite_file import check_whole

PACKAGES = {"tflite-runtime": "tflite_runtime", "litert": "ai_edge_litert"}
_DTYPES = {"float32": "float", "float64": "double"}

log = logging.getLogger("maskmill.worker")


def load(path: str, compute: Compute, settings: WorkerSettings) -> "TfliteRuntime":
    delegate = delegates.find_delegate(settings)
    try:
        return TfliteRuntime(path, settings, delegate)
    except Unfit as exc:
        return on_the_cpu(path, settings, str(exc))


def on_the_cpu(path: str, settings: WorkerSettings, reason: str) -> "TfliteRuntime":
    """Where a delegate is unfit, if that is wanted."""
    if settings.delegate_unfit == "refuse":
        raise ModelError(f"{reason}; --delegate none or MASKMILL_DELEGATE_UNFIT=cpu uses the CPU")
    log.warning("%s; the CPU computes", reason)
    return TfliteRuntime(path, settings, None)


def proven(
    runtime: "TfliteRuntime", settings: WorkerSettings, pictures: Iterable[Feeds]
) -> "TfliteRuntime":
    """A runtime on a delegate, if that finds in a few pictures what the CPU finds in them."""
    if runtime.delegate is None:
        return runtime
    what, fed, wanted = f"the delegate {runtime.delegate.library}", list(pictures), []
    if runtime.is_converted:
        log.info("%s: the CPU cannot run this file, so nothing was compared", what)
    else:
        cpu = TfliteRuntime(runtime.path, settings, None)
        wanted = [cpu.run(each) for each in fed]
    try:
        problem = delegates.unlike([runtime.run(each) for each in fed], wanted)
    except RunFailed as exc:
        problem = f"it fails: {exc}"
    return on_the_cpu(runtime.path, settings, f"{what} is wrong: {problem}") if problem else runtime


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

    def __init__(self, path: str, settings: WorkerSettings, delegate: Delegate | None) -> None:
        self.path, self.delegate = path, delegate
        self.device = delegate.name if delegate else "CPU"
        interpreter = chosen(settings)
        package = import_module(PACKAGES[interpreter])
        self.version = f"{interpreter} {package.__version__}"
        module = import_module(f"{PACKAGES[interpreter]}.interpreter")
        with in_its_words(ModelError, f"{path} is no network for {self.version}: "):
            content = Path(path).read_bytes()  # a mapped file that is replaced kills its reader
            check_whole(content)
            try:
                # Without the delegate, which would be asked to prepare what it does not know.
                plain = module.Interpreter(model_content=content)
            except SystemError as exc:
                raise ModelError(
                    f"{self.version} cannot work with numpy {np.__version__}: install numpy < 2,"
                    " or set MASKMILL_TFLITE=litert"
                ) from exc
            names = [each["op_name"] for each in plain._get_ops_details()]
            self.is_converted = delegates.check_operators(names, delegate, path)
            self._interpreter = module.Interpreter(
                model_content=content,
                num_threads=settings.threads or os.cpu_count(),
                experimental_delegates=[delegate.loaded(module)] if delegate else None,
            )
            # on the delegate, and in all
            self.operators = delegates.operators_taken(self._interpreter._get_ops_details())
            self._interpreter.allocate_tensors()
        if delegate is not None:
            log.info("the delegate %s took %d of %d operators", delegate.library, *self.operators)
            if not self.operators[0]:
                raise Unfit(f"the delegate {delegate.library} took none of {path}'s operators")
        self._inputs = {e["name"]: e for e in self._interpreter.get_input_details()}
        self._outputs = {e["name"]: e for e in self._interpreter.get_output_details()}
        self.inputs = tuple(map(_tensor, self._inputs.values()))
        self.outputs = tuple(map(_tensor, self._outputs.values()))

    def run(self, feeds: Feeds) -> Told:
        with in_its_words(RunFailed):
            for each in self.inputs:
                self._interpreter.set_tensor(self._inputs[each.name]["index"], feeds[each.name])
            self._interpreter.invoke()
        return {each.name: self._floats(each) for each in self.outputs}

    def _floats(self, output: Tensor) -> NDArray[np.float32]:
        """What the numbers of an output mean."""
        value = self._interpreter.get_tensor(self._outputs[output.name]["index"])
        floats = np.asarray(value, dtype=np.float32)
        if output.quantised is not None:
            scale, zero = output.quantised
            floats -= np.float32(zero)
            floats *= np.float32(scale)
        return floats


def _tensor(details: Mapping[str, Any]) -> Tensor:
    sizes = details["shape_signature"] if len(details["shape_signature"]) else details["shape"]
    shape = tuple(int(size) if size >= 0 else None for size in sizes)
    kind = np.dtype(details["dtype"]).name
    scale, zero = details["quantization"]
    quantised = (float(scale), int(zero)) if scale else None
    return Tensor(details["name"], shape, _DTYPES.get(kind, kind), quantised)
