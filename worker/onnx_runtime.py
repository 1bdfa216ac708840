"""ONNX Runtime behind the narrow runtime protocol."""

from collections.abc import Sequence

import onnxruntime as ort

from tasks.cards import Compute, ModelError
from tasks.environment import WorkerSettings
from tasks.graph_file import Tensor
from worker.model import Feeds, RunFailed, Told, as_floats, in_its_words

VERSION = str(ort.__version__)


def load(path: str, compute: Compute, settings: WorkerSettings) -> "OnnxRuntime":
    return OnnxRuntime(path, threads=settings.threads, providers=settings.providers)


class OnnxRuntime:
    """A session, made in the process that runs it: one made before a fork can hang the child."""

    version = VERSION

    def __init__(self, path: str, *, threads: int = 0, providers: Sequence[str] = ()) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # its warnings are about graph folding, not about the job
        chosen = _in_order(providers)
        with in_its_words(ModelError, f"{path} is no network for ONNX Runtime: "):
            self._session = ort.InferenceSession(path, options, providers=chosen)
        self.device = self._session.get_providers()[0].removesuffix("ExecutionProvider")
        self.inputs = tuple(_tensor(each) for each in self._session.get_inputs())
        self.outputs = tuple(_tensor(each) for each in self._session.get_outputs())

    def run(self, feeds: Feeds) -> Told:
        with in_its_words(RunFailed):
            return as_floats(self.outputs, self._session.run(None, dict(feeds)))


def _in_order(wanted: Sequence[str]) -> list[str]:
    """The providers asked for, with the CPU last."""
    here = ort.get_available_providers()
    missing = [each for each in wanted if each not in here]
    if missing:
        raise ModelError(f"MASKMILL_PROVIDERS names {missing[0]}; here are {', '.join(here)}")
    cpu = "CPUExecutionProvider"
    return [each for each in wanted if each != cpu] + [cpu]


def _tensor(value: ort.NodeArg) -> Tensor:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return Tensor(value.name, shape, value.type.removeprefix("tensor(").removesuffix(")"))
