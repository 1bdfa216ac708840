"""The int8 recipe's choice of pictures and reading of Vela's report; the rest needs TensorFlow."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.cards import InputSpec
from tests.pictures import write_folder

RECIPE = Path(__file__).parents[2] / "deploy" / "recipes" / "yolact-edge"

sys.path.insert(0, str(RECIPE))
try:
    import npu
    import pictures
finally:
    sys.path.remove(str(RECIPE))
    for name in ("npu", "pictures"):  # the recipe's module names are its own
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"), 9)


def test_a_seed_chooses_the_same_pictures_from_a_folder_and_from_coco(
    photos: Path, tmp_path: Path
) -> None:
    chosen = pictures.choose(photos, None, 5, 1)
    assert len(set(chosen)) == 5
    assert chosen == pictures.choose(photos, None, 5, 1)
    assert chosen != pictures.choose(photos, None, 5, 2)
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
    coco = tmp_path / "instances.json"
    coco.write_text(json.dumps({"images": [{"file_name": name} for name in names[::-1]]}))
    assert pictures.choose(photos, coco, 5, 1) == chosen
    assert pictures.choose(None, coco, 5, 1) == [
        tmp_path / path.relative_to(photos) for path in chosen
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("none", "cannot be read as a COCO file"),
        ('{"images": 3}', "cannot be read as a COCO file"),
        ('{"images": [{}]}', "cannot be read as a COCO file"),
        ('{"images": []}', "has 0 images, --count asks for 2: add images or ask for fewer"),
    ],
)
def test_what_cannot_calibrate_is_said(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(pictures.PicturesError, match=said):
        pictures.choose(None, tmp_path / "a.json", 2, 1)
    with pytest.raises(pictures.PicturesError, match="is no folder of images"):
        pictures.choose(tmp_path / "none", None, 2, 1)
    (tmp_path / "a.jpg").write_bytes(b"none")
    with pytest.raises(pictures.PicturesError, match=r"a\.jpg cannot be read"):
        list(pictures.levels([tmp_path / "a.jpg"], InputSpec(), (8, 8)))


def test_pictures_are_levels_over_the_whole_range(photos: Path) -> None:
    spec = InputSpec(color="bgr", mean=(120, 110, 100), std=(60, 60, 60))
    paths = sorted(photos.rglob("*.jpg"))[:3]
    swapped = list(pictures.levels(paths, spec, (24, 32)))
    plain = list(pictures.levels(paths, InputSpec(), (24, 32)))
    for one, other in zip(swapped, plain, strict=True):
        assert one.shape == (24, 32, 3)
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other[..., ::-1])
        np.testing.assert_array_equal(one, one.round())
    assert (plain[0].min(), plain[0].max()) == (0, 255)


PRINTED = """
Warning (supported operators) operator: DEQUANTIZE, ofm: 'PartitionedCall:2'
Reason: Unsupported opType

Warning (supported operators) operator: DEQUANTIZE, ofm: 'PartitionedCall:0'
Reason: Unsupported opType

Network summary for a
CPU operators = 2 (20.0%)
NPU operators = 8 (80.0%)
"""
SUMMARY = {
    "accelerator_configuration": "Ethos_U65_256",
    "system_config": "Ethos_U65_Client_Server",
    "memory_mode": "Dedicated_Sram_384KB",
    "inference_time": "0.0069817",
    "sram_memory_used": "383.703125",
    "dram_memory_used": "2055.453125",
    "total_npu_encoded_weights": "686400",
    "nn_macs": "471359050",
}


def test_the_report_says_what_stays_on_the_cpu() -> None:
    found = npu.report(PRINTED, ",".join(SUMMARY) + "\n" + ",".join(SUMMARY.values()) + "\n\n")
    assert (found["npu_operators"], found["cpu_operators"], found["npu_share"]) == (8, 2, 0.8)
    assert found["cpu_kinds"] == ["DEQUANTIZE"]
    assert (found["estimated_ms"], found["sram_kib"], found["dram_kib"]) == (6.98, 383.7, 2055.5)
    kept = json.loads((RECIPE / "runs" / "shapes-int8.vela.json").read_text())
    assert kept.keys() == {"vela", *found}
    assert kept["npu_share"] > 0.9
