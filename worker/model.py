"""A card and a build, loaded: pixels go in, Detections come out.

What every runtime is to the rest: named tensors in, named float arrays out.
"""

import importlib
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.cards import Model, ModelError
from tasks.environment import WorkerSettings
from tasks.graph_file import Tensor
from worker.detections import Detections, Frame, Raw, Wanted
from worker.images import decode, read_header
from worker.intake import Intake, bind_input
from worker.memory import flight

Feeds = Mapping[str, NDArray[np.generic]]
Told = dict[str, NDArray[np.float32]]

_PICTURES = 3  # that show whether a runtime can be trusted

# Runtimes are made and run by one thread, for all shards the same: some drivers mind.
network = ThreadPoolExecutor(1)


class RunFailed(Exception):
    """The network could not be run on this input, in words of the runtime."""


@contextmanager
def in_its_words(kind: type[Exception], what: str = "", line: int = 0) -> Iterator[None]:
    """Whatever a runtime raises as that kind of error: `what`, and one line of what it said."""
    try:
        yield
    except ModelError:
        raise
    except Exception as exc:
        lines = [each.strip() for each in str(exc).splitlines() if each.strip()]
        raise kind(what + (lines or ["unknown"])[line]) from exc


class Runtime(Protocol):
    """One loaded network. It is made in the process that runs it and used by one thread."""

    device: str  # what it runs on: a provider, a delegate or "CPU"
    version: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def run(self, feeds: Feeds) -> Told: ...


def as_floats(tensors: Iterable[Tensor], values: Iterable[Any]) -> Told:
    both = zip(tensors, values, strict=True)
    return {tensor.name: np.asarray(value, dtype=np.float32) for tensor, value in both}


class LoadedModel(NamedTuple):
    model: Model
    runtime: Runtime
    intake: Intake
    decode: Callable[[Raw, Frame, Wanted], Detections]  # the family's decoder

    def infer(self, tensor: NDArray[np.generic], frame: Frame) -> Raw:
        return self.runtime.run(self.intake.feeds(tensor, frame))


def load_model(model: Model, settings: WorkerSettings) -> LoadedModel:
    """Load a build and check that its graph fits its card; run it once, so that it is warm."""
    return network.submit(_loaded, model, settings).result()


def _loaded(model: Model, settings: WorkerSettings) -> LoadedModel:
    # Each engine and family is a module here: worker/onnx_runtime.py, worker/yolact.py.
    engine = importlib.import_module(f"worker.{model.engine}_runtime")
    runtime = engine.load(model.path, model.compute, settings)
    intake = bind_input(runtime.inputs, model.input)
    if hasattr(engine, "proven"):
        runtime = engine.proven(runtime, settings, _pictures(intake))
    family = importlib.import_module(f"worker.{model.card.family}")
    categories = len(model.card.category_list())
    decode = family.bind(runtime.outputs, model.decode, categories, intake)
    with in_its_words(ModelError, "the network does not run: "):
        runtime.run(next(_pictures(intake)))
    flight.limit(settings.memory, model.build.file)
    return LoadedModel(model, runtime, intake, decode)


def _pictures(intake: Intake) -> Iterator[dict[str, NDArray[np.generic]]]:
    """A few bundled images as the model's input."""
    for path in sorted((Path(__file__).parent / "demo").glob("*.jpg"))[:_PICTURES]:
        data = path.read_bytes()
        header = read_header(data, max_pixels=1 << 24)
        frame = intake.frame(header.height, header.width)
        yield intake.feeds(intake.tensor(decode(data, header, None), frame), frame)


def instruction_set() -> str:
    """The widest vector instructions of this CPU: kernels, and so the last bits, differ by them."""
    facts = Path("/proc/cpuinfo")
    words = facts.read_text("ascii", "replace").split() if facts.is_file() else []
    known = ("amx_tile", "avx512_bf16", "avx512f", "avx2", "avx", "sve", "asimddp", "asimd")
    return next((each for each in known if each in words), platform.machine())
