"""Which i.MX board this is, as its kernel says. Without numpy, so that producers can ask too."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/")
BOARDS = ("imx8mp", "imx93", "imx95")
_SOC_ID = "sys/devices/soc0/soc_id"  # "i.MX8MP" and so on, by the drivers soc-imx8m and soc-imx9


def board(root: str | Path | None = None) -> str:
    """The board whose system tree lies at `root`, one of BOARDS; empty for any other machine."""
    try:
        text = (Path(root or ROOT) / _SOC_ID).read_text("ascii", errors="replace")
    except OSError:
        return ""
    name = text.strip().lower().replace(".", "")
    return name if name in BOARDS else ""
