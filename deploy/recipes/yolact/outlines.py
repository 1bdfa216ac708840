"""Outlines of the shapes: closed contours within the unit circle, drawn with the even-odd rule."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Contours = list[np.ndarray]  # each (P, 2), x and y in -1..1


def _circle(radius: float = 1.0, points: int = 72) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def _disc(rng: np.random.Generator) -> Contours:
    return [_circle()]


def _square(rng: np.random.Generator) -> Contours:
    side = np.sqrt(0.5)
    return [side * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])]


def _triangle(rng: np.random.Generator) -> Contours:
    return [_circle(points=3)]


def _star(rng: np.random.Generator) -> Contours:
    spokes = _circle(points=10)
    spokes[1::2] *= rng.uniform(0.4, 0.55)
    return [spokes]


def _ring(rng: np.random.Generator) -> Contours:
    return [_circle(), _circle(rng.uniform(0.45, 0.65))]


def _cross(rng: np.random.Generator) -> Contours:
    a = rng.uniform(0.25, 0.4)
    b = np.sqrt(1 - a * a)
    corner = np.array([[a, b], [a, a], [b, a]])
    quarter = np.array([[0, 1], [-1, 0]])  # corner @ quarter turns it by 90 degrees
    turns = [corner]
    for _ in range(3):
        turns.append(turns[-1] @ quarter.T)
    return [np.concatenate(turns)]


def _heart(rng: np.random.Generator) -> Contours:
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t) + 2.5
    return [np.stack([x, -y], 1) / 17.5]


def _crescent(rng: np.random.Generator) -> Contours:
    half = np.linspace(0.28 * np.pi, 1.72 * np.pi, 60)
    outer = np.stack([np.cos(half), np.sin(half)], 1)
    tip_x, tip_y = outer[0]
    centre = rng.uniform(0.45, 0.6)
    radius = np.hypot(tip_x - centre, tip_y)
    start = np.arctan2(tip_y, tip_x - centre)
    back = np.linspace(2 * np.pi - start, start, 60)
    inner = np.stack([centre + radius * np.cos(back), radius * np.sin(back)], 1)
    return [np.concatenate([outer, inner])]


def _arrow(rng: np.random.Generator) -> Contours:
    shaft = rng.uniform(0.18, 0.28)
    half = [[1, 0], [0.15, 0.75], [0.15, shaft], [-0.95, shaft]]
    return [np.array(half + [[x, -y] for x, y in half[:0:-1]])]


DRAWINGS: dict[str, Callable[[np.random.Generator], Contours]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
    "arrow": _arrow,
}
KINDS = tuple(DRAWINGS)


def outline(kind: str, rng: np.random.Generator) -> Contours:
    """The contours of one shape of this kind; its proportions vary with `rng`."""
    return DRAWINGS[kind](rng)
