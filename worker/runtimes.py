"""What every runtime is to the rest: named tensors in, named float arrays out."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.cards import ModelError
from tasks.graph_file import Tensor

Feeds = Mapping[str, NDArray[np.generic]]
Told = dict[str, NDArray[np.float32]]


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
