"""The log of a run as a small picture: loss on the left axis, AP on the right."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT, EDGE = 720, 400, 50
SERIES = (("loss", (160, 160, 160)), ("box_ap", (200, 90, 20)), ("mask_ap", (40, 120, 230)))


def draw_curve(log: Path, picture: Path) -> None:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    last = max((line["minutes"] for line in lines), default=0) or 1
    top = max((line["loss"] for line in lines[2:] if "loss" in line), default=1) or 1
    canvas = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = round(HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE))
        cv2.line(canvas, (EDGE, y), (WIDTH - EDGE, y), (225, 225, 225), 1)
        _write(canvas, f"{share * top:.1f}", 8, y + 4, (120, 120, 120))
        _write(canvas, f"{share:.2f}", WIDTH - EDGE + 6, y + 4, (120, 120, 120))
    for row, (name, colour) in enumerate(SERIES):
        points = [
            (
                round(EDGE + line["minutes"] / last * (WIDTH - 2 * EDGE)),
                round(
                    HEIGHT
                    - EDGE
                    - min(1.0, line[name] / (top if name == "loss" else 1)) * (HEIGHT - 2 * EDGE)
                ),
            )
            for line in lines
            if name in line
        ]
        if points:
            cv2.polylines(canvas, [np.array(points)], False, colour, 2, cv2.LINE_AA)
        _write(canvas, name.replace("_", " "), EDGE + 90 * row, 30, colour)
    _write(canvas, f"{last:.1f} minutes", WIDTH - EDGE - 80, HEIGHT - 20, (120, 120, 120))
    partial = picture.with_name(f"partial-{picture.name}")
    cv2.imwrite(str(partial), canvas)
    partial.replace(picture)


def _write(canvas: np.ndarray, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
