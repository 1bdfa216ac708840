"""The bundled model on the bundled images, and on scenes drawn anew: its card says the truth."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.cards import read_card
from tasks.shelf import ZOO
from tests.running import maskmill

ROOT = Path(__file__).parents[2]
SCENES = ROOT / "deploy" / "recipes" / "yolact" / "scenes.py"


def test_demo_annotates_judges_and_says_what_is_next(tmp_path: Path) -> None:
    ran = maskmill("demo", "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "20 of 20 inputs" in ran.out
    assert "contact-sheet.jpg" in ran.out
    assert "maskmill annotate" in ran.out
    assert (tmp_path / "out" / "contact-sheet.jpg").stat().st_size > 20_000
    again = maskmill("demo", "-o", tmp_path / "out", "--json")
    assert again.code == 0, again.err
    report = again.events[-1]
    # A golden of this model; the last digits belong to the CPU that runs it.
    assert report["box"]["ap"] == pytest.approx(0.795, abs=0.01)
    assert report["mask"]["ap"] == pytest.approx(0.844, abs=0.01)
    assert report["mean_ap"] == pytest.approx((0.795 + 0.844) / 2, abs=0.01)
    assert maskmill("doctor", tmp_path / "out").code == 0


def test_the_card_s_ap_is_what_eval_finds(tmp_path: Path) -> None:
    """On a hundred of the held-out scenes; the card's own figure is of all 500."""
    command = [sys.executable, str(SCENES), str(tmp_path / "held"), "--count", "100", "--seed", "2"]
    subprocess.run(command, check=True, capture_output=True)
    truth = tmp_path / "held" / "instances.json"
    assert maskmill("annotate", truth, "-m", "shapes", "-o", tmp_path / "out").code == 0
    ran = maskmill("eval", tmp_path / "out", "--gt", truth, "--json")
    report = json.loads(ran.out)
    card = read_card(ZOO / "shapes.toml").builds[0].ap[0]
    assert report["box"]["ap"] == pytest.approx(card.box, abs=0.03)
    assert report["mask"]["ap"] == pytest.approx(card.mask, abs=0.03)
    rings = report["mask"]["by_class"]["ring"]
    assert rings > 0.6, "a hole that is filled would cost most of this"
