"""One line of the bench table: a picture's raw outputs, decoded by us and by the plain way."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import NamedTuple

from worker.detections import Detections


class Case(NamedTuple):
    form: str  # family and form of the graph, and the threshold if there is one
    width: int
    height: int
    objects: int
    ours: Callable[[], Detections]
    plain: Callable[[], Sized]  # as many detections, or the two are not comparable
