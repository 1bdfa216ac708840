"""Vela for the Ethos-U65, and what it says of the outcome, as a small table."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

# The i.MX 93's unit, on Arm's own timings: an estimate at 1 GHz, which no board has to keep.
TARGET = {
    "accelerator-config": "ethos-u65-256",
    "system-config": "Ethos_U65_Client_Server",
    "memory-mode": "Dedicated_Sram_384KB",
}


class VelaError(Exception):
    """What Vela says against a model, in one sentence."""


def compile_for_npu(model: Path, folder: Path) -> tuple[Path, dict[str, object]]:
    """The compiled model in `folder`, and Vela's report of it."""
    command = [sys.executable, "-m", "ethosu.vela", str(model), "--output-dir", str(folder)]
    command += [f"--{name}={value}" for name, value in TARGET.items()]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    compiled = folder / f"{model.stem}_vela.tflite"
    summaries = list(folder.glob(f"{model.stem}_summary_*.csv"))
    if ran.returncode or not compiled.is_file() or not summaries:
        said = (ran.stderr or ran.stdout).strip().rpartition("\n")[2]
        raise VelaError(f"vela does not take {model.name}: {said or 'it says nothing'}")
    found = report(ran.stdout, summaries[0].read_text("utf-8"))
    return compiled, {"vela": version("ethos-u-vela"), **found}


def report(printed: str, summary: str) -> dict[str, object]:
    """Share of operators, memory and estimated time, from Vela's output and its summary CSV."""
    (row,) = csv.DictReader(summary.splitlines())
    counts = {
        unit: int(re.search(rf"^{unit} operators = (\d+)", printed, re.MULTILINE)[1])
        for unit in ("CPU", "NPU")
    }
    left = re.findall(r"^Warning \(.*\) operator: (\w+)", printed, re.MULTILINE)
    return {
        "accelerator": row["accelerator_configuration"],
        "system": row["system_config"],
        "memory_mode": row["memory_mode"],
        "npu_operators": counts["NPU"],
        "cpu_operators": counts["CPU"],
        "cpu_kinds": sorted(set(left)),
        "npu_share": round(counts["NPU"] / sum(counts.values()), 4),
        "estimated_ms": round(1000 * float(row["inference_time"]), 2),
        "sram_kib": round(float(row["sram_memory_used"]), 1),
        "dram_kib": round(float(row["dram_memory_used"]), 1),
        "weights_bytes": int(row["total_npu_encoded_weights"]),
        "macs": int(row["nn_macs"]),
    }
