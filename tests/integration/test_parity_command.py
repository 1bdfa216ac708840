"""`maskmill parity` and `--gate-parity` with real runtimes, in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.graphs import write_model
from tests.graphs_tflite import write_yolact
from tests.pictures import write_folder
from tests.running import maskmill


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("parity") / "photos", 4)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two builds of one network; the second sees the picture darker than it is."""
    path = write_model(tmp_path_factory.mktemp("model"), "a")
    text = path.read_text()
    (file,) = (line for line in text.splitlines() if line.startswith("file ="))
    dark = path.with_name("dark.onnx")
    dark.write_bytes(path.with_name(file.split('"')[1]).read_bytes())
    build = (
        f'[[builds]]\nfile = "{dark.name}"\nprecision = "dark"\ninput = {{ mean = [60, 60, 60] }}'
    )
    path.write_text(f"{text}\n{build}\n")
    return path


def test_runtimes_agree_and_a_wrong_build_does_not(card: Path, photos: Path) -> None:
    ran = maskmill("parity", card, photos, "--json")
    assert ran.code == 5, ran.err
    report = ran.events[-1]
    assert report["exit"] == 5
    ways = {each["way"]: each for each in report["ways"]}
    assert [*ways][:2] == ["fp32 onnx", "fp32 openvino"]
    assert ways["fp32 onnx"]["instances"] > 4
    assert ways["fp32 openvino"]["matched"] == 1.0
    assert ways["fp32 openvino"]["mask_iou"] > 0.99
    assert ways["fp32 openvino"]["made_by"][0]["engine"] == "openvino"
    assert ways["fp32 openvino"]["ms_an_image"]["inference"] > 0
    assert ways["dark onnx"]["matched"] < 0.98
    assert all(fault.startswith("dark ") for fault in report["faults"])
    both = maskmill(
        "parity", card, photos, "--only", "fp32 onnx,fp32 openvino", "--require", "matched=1"
    )
    assert both.code == 0, both.err
    assert "100.00%" in both.out
    assert "dark" not in both.out


def test_ap_against_a_ground_truth(card: Path, photos: Path, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    assert maskmill("annotate", photos, "-m", card, "-o", truth, "--threshold", 0.3).code == 0
    asked = [
        "parity",
        card,
        photos,
        "--gt",
        truth / "instances.json",
        "--only",
        "fp32 onnx,dark onnx",
    ]
    ran = maskmill(*asked, "--require", "ap_loss=0.01", "--json")
    assert ran.code == 5
    one, dark = ran.events[-1]["ways"]
    assert one["mask_ap"] == pytest.approx(1.0, abs=0.01)
    assert dark["ap_loss"] == pytest.approx(one["mask_ap"] - dark["mask_ap"], abs=1e-4)
    assert ran.events[-1]["faults"] == [
        f"dark onnx: ap_loss is {dark['ap_loss']:g}, over the bound of 0.01"
    ]
    assert maskmill(*asked, "--require", "none").code == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--only", "fp32 onnx,int4 abacus"], "not as 'int4 abacus'"),
        (["--only", "fp32 onnx"], "nothing to compare"),
        (["--require", "speed=3"], "'speed=3' is no NAME=NUMBER"),
    ],
)
def test_what_cannot_be_compared(card: Path, photos: Path, words: list[str], reason: str) -> None:
    ran = maskmill("parity", card, photos, *words)
    assert ran.code == 2
    assert reason in ran.err


def test_a_job_can_ask_for_parity_first(card: Path, photos: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "out", ["--gate-parity", "--threshold", 0.3]
    other = write_yolact(tmp_path, "int8").with_suffix(".tflite")  # of another network
    other.rename(card.with_name("other.tflite"))
    both = card.with_name("both.toml")
    build = '[[builds]]\nfile = "other.tflite"\nprecision = "int8"'
    both.write_text(f"{card.read_text()}\n{build}\n")
    asked = ["annotate", photos, "-o", out, *words, "-m", both, "--runtime"]
    wrong = maskmill(*asked, "tflite")
    assert wrong.code == 5, wrong.err
    assert "int8 tflite as asked: matched is" in wrong.out
    assert not out.exists()
    ran = maskmill(*asked, "openvino")
    assert ran.code == 0, ran.err
    assert "fp32 openvino" in ran.out
    assert (out / "instances.json").is_file()
