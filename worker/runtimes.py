"""What every runtime is to the rest: named tensors in, named float arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int | None, ...]  # None where the graph leaves a dimension open
    dtype: str

    def __str__(self) -> str:
        sizes = "×".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} ({sizes} {self.dtype})"


class RunFailed(Exception):
    """The network could not be run on this input, in words of the runtime."""


class Runtime(Protocol):
    """One loaded network. It is made in the process that runs it and used by one thread."""

    device: str  # what it runs on: a provider, a delegate or "CPU"
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]: ...
