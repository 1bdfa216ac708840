"""Noisy grounds and textured surfaces for the scenes."""

from __future__ import annotations

import cv2
import numpy as np

MIN_CONTRAST = 70.0  # between a surface's main colour and the ground's, in BGR distance


def ground(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A blotchy ground (H, W, 3) float32 in 0..255, and its mean colour (3,)."""
    tone = rng.uniform(30, 225, 3).astype(np.float32)
    image = np.broadcast_to(tone, (height, width, 3)).astype(np.float32)
    for cells, strength in ((4, 22), (14, 14), (50, 8)):
        blotches = rng.standard_normal((cells, cells, 3), dtype=np.float32)
        strength_here = np.float32(rng.uniform(0.2, 1.0) * strength)
        smooth = cv2.resize(blotches, (width, height), interpolation=cv2.INTER_LINEAR)
        image = image + smooth * strength_here
    if rng.random() < 0.4:
        image = image + _waves(rng, height, width)[..., None] * np.float32(rng.uniform(5, 18))
    return image, tone


def surface(rng: np.random.Generator, side: int, tone: np.ndarray) -> np.ndarray:
    """A textured square (S, S, 3) float32 whose main colour stands out from `tone`."""
    colour = rng.uniform(0, 255, 3)
    while np.linalg.norm(colour - tone) < MIN_CONTRAST:
        colour = rng.uniform(0, 255, 3)
    second = np.clip(colour + rng.uniform(-70, 70, 3), 0, 255)
    style = rng.random()
    if style < 0.25:
        weight = np.zeros((side, side), np.float32)
    elif style < 0.5:
        weight = (_waves(rng, side, side) > 0).astype(np.float32)
    elif style < 0.7:
        weight = (_waves(rng, side, side) * _waves(rng, side, side) > 0).astype(np.float32)
    elif style < 0.85:
        weight = _waves(rng, side, side, cycles=(0.3, 0.8)) * 0.5 + 0.5
    else:
        blotches = rng.uniform(0, 1, (7, 7)).astype(np.float32)
        weight = cv2.resize(blotches, (side, side), interpolation=cv2.INTER_LINEAR)
    step = (second - colour).astype(np.float32)
    return colour.astype(np.float32) + weight[..., None] * step


def _waves(
    rng: np.random.Generator, height: int, width: int, cycles: tuple[float, float] = (2.0, 7.0)
) -> np.ndarray:
    """Straight waves (H, W) float32 in -1..1 with a random direction."""
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    turns = rng.uniform(*cycles) * 2 * np.pi / max(height, width)
    x = np.arange(width, dtype=np.float32) * np.float32(np.cos(angle) * turns)
    y = np.arange(height, dtype=np.float32) * np.float32(np.sin(angle) * turns)
    return np.sin(y[:, None] + x[None, :] + np.float32(phase))
