"""TFLite behind the narrow runtime protocol, by LiteRT or by the tflite-runtime of a board.

Delegates bring a network onto an i.MX board's NPU; each is looked at before it is trusted.
"""

import logging
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.cards import Compute, ModelError
from tasks.environment import WorkerSettings, board
from tasks.graph_file import Tensor
from tasks.shelf import cache_folder
from worker.model import Feeds, RunFailed, Told, in_its_words
from worker.tflite_file import check_whole

PACKAGES = {"tflite-runtime": "tflite_runtime", "litert": "ai_edge_litert"}
_DTYPES = {"float32": "float", "float64": "double"}
# The board's delegate, in /usr/lib/lib…_delegate.so.
BOARDS = {"imx8mp": "vx", "imx93": "ethosu", "imx95": "neutron"}
# Operators of converted files, which only that delegate runs.
_OPERATORS = {"ethos-u": "ethosu", "NeutronGraph": "neutron"}
_LIKE = 0.9  # least concordance of an output with the CPU's, see `_concordance`

log = logging.getLogger("maskmill.worker")


class Unfit(ModelError):
    """The delegate is not to be used; the CPU may do."""


class Delegate(NamedTuple):
    name: str
    library: str
    options: Mapping[str, str]

    def loaded(self, module: Any) -> Any:
        """It, made by the interpreter's module; each interpreter needs one of its own."""
        if self.name == "vx":  # compiling a graph takes it minutes, reading a compiled one seconds
            cache = cache_folder().parent / "vx"
            cache.mkdir(parents=True, exist_ok=True)
            os.environ.setdefault("VIV_VX_ENABLE_CACHE_GRAPH_BINARY", "1")
            os.environ.setdefault("VIV_VX_CACHE_BINARY_GRAPH_DIR", str(cache))
        try:
            return module.load_delegate(self.library, dict(self.options))
        except (ValueError, OSError) as exc:
            reason = " ".join(str(exc).split())
            raise Unfit(f"the delegate {self.library} cannot be had: {reason}") from exc


def load(path: str, compute: Compute, settings: WorkerSettings) -> "TfliteRuntime":
    delegate = find_delegate(settings)
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
        problem = unlike([runtime.run(each) for each in fed], wanted)
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
            self.is_converted = check_operators(names, delegate, path)
            self._interpreter = module.Interpreter(
                model_content=content,
                num_threads=settings.threads or os.cpu_count(),
                experimental_delegates=[delegate.loaded(module)] if delegate else None,
            )
            # on the delegate, and in all
            self.operators = operators_taken(self._interpreter._get_ops_details())
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


def find_delegate(settings: WorkerSettings) -> Delegate | None:
    """The delegate asked for, or that of this board."""
    if settings.delegate == "none":
        return None
    library = Path(settings.delegate).absolute()  # the loader would look for a bare name elsewhere
    if settings.delegate == "auto":
        here = board(settings.board_root)
        if here not in BOARDS:
            return None
        library = Path(settings.board_root) / f"usr/lib/lib{BOARDS[here]}_delegate.so"
        if not library.is_file():
            log.warning("this board is an %s, but %s is not there: the CPU computes", here, library)
            return None
    if not library.is_file():
        raise ModelError(f"there is no delegate {library}; give auto, none or a library's path")
    name = library.stem.removeprefix("lib").removesuffix("_delegate")
    return Delegate(name, str(library), settings.delegate_options)


def check_operators(operators: Sequence[str], delegate: Delegate | None, path: str) -> bool:
    """Whether the file was converted for a delegate; refused where that is not the one here."""
    name = delegate.name if delegate else ""
    needed = {_OPERATORS[each] for each in operators if each in _OPERATORS}
    if needed - {name}:
        (other,) = needed - {name}
        raise ModelError(
            f"{path} was converted for the NPU of lib{other}_delegate.so, which is not used here:"
            " run it on that board, with --delegate auto or the library's path"
        )
    if name == "neutron" and not needed:
        raise Unfit(
            f"{path} has no operator NeutronGraph, so all of it would run on the CPU: convert it"
            " with the Neutron converter of the board's BSP"
        )
    return bool(needed)


def operators_taken(nodes: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """How many of the graph's operators lie behind the nodes that delegates put in their place,
    and how many there are. The interpreter lists both, one after the other."""
    own = [each for each in nodes if each["op_name"] != "DELEGATE"]
    makers = {tensor: place for place, each in enumerate(own) for tensor in each["outputs"]}
    taken: set[int] = set()
    for each in nodes[len(own) :]:
        given, wanted = set(each["inputs"]), list(each["outputs"])
        while wanted:
            place = makers.get(wanted.pop())
            if place is not None and place not in taken:
                taken.add(place)
                wanted += [tensor for tensor in own[place]["inputs"] if tensor not in given]
    return len(taken), len(own)


def unlike(told: Sequence[Told], wanted: Sequence[Told]) -> str:
    """What is wrong with a delegate's outputs, beside the CPU's where that runs the file at all."""
    for name in told[0]:
        ours = np.stack([each[name] for each in told])
        if not np.isfinite(ours).all():
            return f"its output {name} is not finite"
        if not wanted and ours.min() == ours.max():
            return f"its output {name} is {ours.flat[0]} everywhere"
        if wanted:
            likeness = _concordance(ours, np.stack([each[name] for each in wanted]))
            if likeness < _LIKE:
                return f"its output {name} is not the CPU's (concordance {likeness:.2f})"
    return ""


def _concordance(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Lin's coefficient: 1 for equal numbers, less for others, another scale or a shift."""
    if np.array_equal(first, second):
        return 1.0
    (ours, together), (_, theirs) = np.cov(first.ravel(), second.ravel(), bias=True)
    apart = first.mean(dtype=np.float64) - second.mean(dtype=np.float64)
    return float(2 * together / (ours + theirs + apart**2))
