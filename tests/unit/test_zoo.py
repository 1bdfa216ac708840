"""The zoo's cards say what is published, and the table of them what is known and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.cards import Card, ModelError, read_card
from tasks.exits import say
from tasks.shelf import ZOO
from tasks.zoo_table import list_models, show_model
from tests import graphs_yolo_seg

CARDS = [read_card(path) for path in sorted(ZOO.glob("*.toml"))]
SECURITY = "instance-segmentation-security-"


def card(name: str) -> Card:
    return read_card(ZOO / f"{name}.toml")


@pytest.mark.parametrize("each", CARDS, ids=lambda each: each.name)
def test_what_a_card_says_of_its_downloads_is_whole(each: Card) -> None:
    for build in each.builds:
        for file in build.downloads:
            assert file.url.startswith("https://")
            assert file.url.endswith("/" + Path(file.file).name)
            assert len(file.sha256) in (0, 64)
            assert len(file.sha384) in (0, 96)
            assert set(file.sha256 + file.sha384) <= set("0123456789abcdef")
        if build.file.endswith(".xml") and build.downloads:
            parts = {str(Path(build.file).with_suffix(end)) for end in (".xml", ".bin")}
            assert {file.file for file in build.downloads} == parts
    sums = [file.sha384 or file.sha256 for b in each.builds for file in b.downloads if file.url]
    known = [value for value in sums if value]
    assert len(known) == len(set(known)), "the same checksum for two files is a slip of the pen"


@pytest.mark.parametrize(
    ("name", "size", "fit", "box", "mask", "precisions"),
    [
        ("0002", (768, 1024), "pad", 0.3986, 0.3644, ["fp32", "fp16", "int8"]),
        ("0033", (480, 640), "pad", 0.386, 0.343, ["fp32", "fp16"]),
        ("0050", (480, 480), "stretch", 0.3127, 0.2783, ["fp32", "fp16", "int8"]),
        ("0091", (800, 1344), "pad", 0.4355, 0.3814, ["fp32", "fp16", "int8"]),
        ("0228", (608, 608), "stretch", 0.3885, 0.339, ["fp32", "fp16", "int8"]),
        ("1039", (480, 480), "stretch", 0.329, 0.286, ["fp32", "fp16", "int8"]),
        ("1040", (608, 608), "stretch", 0.35, 0.312, ["fp32", "fp16", "int8"]),
    ],
)
def test_the_security_models(
    name: str, size: tuple[int, int], fit: str, box: float, mask: float, precisions: list[str]
) -> None:
    found = card(SECURITY + name)
    assert (found.family, found.input.color, found.categories) == ("mask_rcnn", "bgr", "coco80")
    assert (found.input.size, found.input.fit) == (size, fit)
    assert (found.builds[0].ap[0].box, found.builds[0].ap[0].mask) == (box, mask)
    assert not any(build.ap for build in found.builds[1:])
    assert [build.precision for build in found.builds] == precisions
    assert all(len(build.downloads) == 2 for build in found.builds)


def test_0033_under_both_of_its_protocols_and_its_age() -> None:
    found = card(SECURITY + "0033")
    figures = [(each.box, each.mask) for each in found.builds[0].ap]
    assert figures == [(0.386, 0.343), (0.389, 0.347)]
    assert "2019 R1" in found.facts.notes
    assert "refuses" in found.facts.notes


def test_the_two_builds_of_yolact_want_other_pixels() -> None:
    onnx, ir = card("yolact-resnet50-fpn-pytorch").builds
    assert onnx.input is None
    assert ir.input is not None
    assert (ir.input.color, ir.input.mean) == ("bgr", (0.0, 0.0, 0.0))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKMILL_MODELS", str(tmp_path))
    return tmp_path


def test_the_list_as_json(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shelf / "broken.toml").write_text("name = ")
    assert say(list_models(), as_json=True) == 0
    models = {each["name"]: each for each in json.loads(capsys.readouterr().out)["models"]}
    assert "cannot be read" in models["broken"]["problem"]
    shapes = models["shapes"]
    assert shapes["takes"] == "224×224", "read from the file"
    assert models["yolact-edge-mobilenetv2"]["takes"] == "550×550", "read from the card"
    files = [ZOO / "shapes.onnx", ZOO / "shapes-int8.tflite"]
    assert [build["bytes"] for build in shapes["builds"]] == [each.stat().st_size for each in files]
    assert [build["path"] for build in shapes["builds"]] == [str(each) for each in files]
    assert shapes["engines"] == ["onnx", "openvino", "tflite"]
    old = models[SECURITY + "0033"]
    assert [build["path"] for build in old["builds"]] == [None, None]
    assert [build["bytes"] for build in old["builds"]] == [None, None], "nobody publishes it"
    sizes = [build["bytes"] for build in models[SECURITY + "1039"]["builds"]]
    assert sizes == [1263072 + 40970616, 1452966 + 20485580, 1850574 + 11866852]
    pth = models["yolact-resnet50-fpn-pytorch"]["builds"][0]
    assert pth["bytes"] is None, "the size of the weights it is made of is not its own"


def test_the_list_fits_a_hundred_columns(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert say(list_models(), as_json=False) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    (ours,) = card("shapes").builds[0].ap
    measured = f"{100 * (ours.box or 0):.4g}/{100 * (ours.mask or 0):.4g}*"
    known = ("fp32 38.6/34.3", "fp32 38.9/34.7", "int8 –", measured, "21 mean", "int8 8.5 MB")
    for words in (*known, "fp32 here", "fp32 178.2 MB", "i.MX 93", "security-0002 "):
        assert words in text
    assert "measured" in text


def test_each_build_has_figures_of_its_own(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = 'ap = [{ box = 0.5, mask = 0.4321, source = "measured" }]\n'
    build = f'[[builds]]\nfile = "mine-int8.onnx"\nprecision = "int8"\n{said}'
    (shelf / "mine.toml").write_text((ZOO / "shapes.toml").read_text() + build)
    assert say(list_models(), as_json=False) == 0
    assert "int8 50/43.21*" in capsys.readouterr().out
    assert say(show_model("mine"), as_json=False) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    at = lines.index("file mine-int8.onnx")
    own = lines[at:]
    assert own[1] == "precision int8"
    assert own[own.index("ap") + 1 :][:2] == ["box 0.5", "mask 0.4321"]


def test_show_says_what_is_not_published(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert say(show_model("yolact-edge-mobilenetv2"), as_json=False) == 0
    text = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in text.splitlines()]
    url = lines.index(next(line for line in lines if line.startswith("url https://github.com")))
    assert lines[url + 1 : url + 4] == [
        f"{name} not published" for name in ("size", "sha256", "sha384")
    ]
    assert {"path not here", "license MIT", "boards i.MX 8M Plus, i.MX 93"} <= set(lines)
    assert "sizes fp32 32 MB, int8 8.5 MB" in lines
    assert say(show_model(SECURITY + "0002"), as_json=False) == 0
    text = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert {"size 177479888", "box 0.3986", "mask 0.369", "takes 768×1024"} <= set(lines)
    assert any(line.startswith("sha384 5791653367195b51") for line in lines)


def test_show_looks_into_the_file(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert say(show_model("shapes"), as_json=True) == 0
    graph = json.loads(capsys.readouterr().out)["builds"][0]["graph"]
    assert graph["inputs"] == ["image (1×3×224×224 float)"]
    assert len(graph["outputs"]) == 4


def test_a_name_that_nobody_knows(shelf: Path) -> None:
    with pytest.raises(ModelError, match="no model 'nowhere'; the cards at hand: instance-seg"):
        show_model("nowhere")


def test_show_takes_a_network_that_needs_no_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graphs_yolo_seg.write_model(tmp_path, "raw")
    (tmp_path / "canned.toml").unlink()
    assert say(show_model(str(tmp_path / "canned.onnx")), as_json=False) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "card none: the network tells it all" in lines
    assert {"family yolo_seg", "fit letterbox", f"path {tmp_path}/canned.onnx"} <= set(lines)
