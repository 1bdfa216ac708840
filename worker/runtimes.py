"""What every runtime is to the rest: named tensors in, named float arrays out."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.graph_file import Tensor


class RunFailed(Exception):
    """The network could not be run on this input, in words of the runtime."""


class Runtime(Protocol):
    """One loaded network. It is made in the process that runs it and used by one thread."""

    device: str  # what it runs on: a provider, a delegate or "CPU"
    version: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]: ...
