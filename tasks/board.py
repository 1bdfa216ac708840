"""Which i.MX board this is, as its kernel says. Without numpy, so that producers can ask too."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tasks.environment import SettingError

BOARDS = ("imx8mp", "imx93", "imx95")
_SOC_ID = "sys/devices/soc0/soc_id"  # "i.MX8MP" and so on, by the drivers soc-imx8m and soc-imx9


def board(root: str | Path = "") -> str:
    """The board whose system tree lies at `root`, one of BOARDS; empty for any other machine."""
    try:
        place = Path(root or os.environ.get("MASKMILL_BOARD_ROOT") or "/")
        text = (place / _SOC_ID).read_text("ascii", errors="replace")
    except OSError:
        return ""
    name = text.strip().lower().replace(".", "")
    return name if name in BOARDS else ""


def targets_of(labels: Sequence[str]) -> tuple[str, ...]:
    """What this machine takes besides work for any: its labels, its board, and edge or cloud.

    A board is edge and all else is cloud, unless a label says otherwise.
    """
    for label in labels:
        check_target(label)
    here = board()
    kind = [] if {"edge", "cloud"} & set(labels) else ["edge" if here else "cloud"]
    return tuple(dict.fromkeys((*labels, *([here] if here else []), *kind)))


def check_target(target: str) -> None:
    """A target is a part of a queue's name."""
    if not re.fullmatch("[a-z0-9][a-z0-9-]{0,39}", target):
        raise SettingError(
            f"the target {target!r} is no name of small letters, digits and hyphens, 40 at most;"
            f" there are any, cloud, edge, {', '.join(BOARDS)}, and the labels of your workers"
        )
