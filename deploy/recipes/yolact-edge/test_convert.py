"""The conversion, from end to end on the demo model: what comes out says what the ONNX says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import convert  # puts maskmill's own packages on the path
import graphs
import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper

from tasks.cards import InputSpec, read_card

ZOO = convert.ROOT / "tasks" / "zoo"
PHOTOS = convert.ROOT / "worker" / "demo"
SIDE = 224


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["convert.py", *map(str, arguments)])
    convert.main()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    shared = ("--images", PHOTOS, "--count", 10, "--out", folder)
    with pytest.MonkeyPatch.context() as patch:
        run(patch, ZOO / "shapes.toml", *shared)
        run(patch, ZOO / "shapes.toml", *shared, "--name", "float", "--softmax", "float")
        run(patch, ZOO / "shapes.toml", *shared, "--name", "whole", "--whole")
    return folder


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    paths = convert.pictures.choose(PHOTOS, None, 20, 1)
    return list(convert.pictures.levels(paths, InputSpec(), (SIDE, SIDE)))[-1]


@pytest.fixture(scope="module")
def wanted(picture: np.ndarray) -> dict[str, np.ndarray]:
    return graphs.runner(onnx.load(ZOO / "shapes.onnx"))(picture)


def answer(path: Path, picture: np.ndarray) -> dict[str, np.ndarray]:
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    assert image["dtype"] is np.int8
    assert image["quantization"] == (1, -128), "a level is a step"
    interpreter.set_tensor(image["index"], (picture[np.newaxis] - 128).astype(np.int8))
    interpreter.invoke()
    details = interpreter.get_output_details()
    assert {each["dtype"] for each in details} == {np.float32}
    return {each["name"]: interpreter.get_tensor(each["index"]) for each in details}


@pytest.mark.parametrize("name", ["shapes-int8", "float"])
def test_it_says_what_the_onnx_says(
    made: Path, picture: np.ndarray, wanted: dict[str, np.ndarray], name: str
) -> None:
    got = answer(made / f"{name}.tflite", picture)
    assert {key: value.shape for key, value in got.items()} == {
        "boxes": (1, 2090, 4),
        "scores": (1, 2090, 7),
        "masks": (1, 2090, 16),
        "proto": (1, 112, 112, 16),
    }
    scores, sure = wanted["scores"][0].T, wanted["scores"][0].max(0) > 0.5
    assert sure.sum() > 10
    assert np.abs(got["scores"][0, :, 1:] - scores)[sure].mean() < 0.03
    assert np.abs(got["boxes"] - wanted["boxes"])[0, sure].mean() < 0.006
    assert np.abs(got["masks"] - wanted["masks"])[0, sure].mean() < 0.05
    assert np.abs(got["proto"] - wanted["proto"]).mean() < 0.06


def test_boxes_decoded_in_eight_bits_are_coarser(
    made: Path, picture: np.ndarray, wanted: dict[str, np.ndarray]
) -> None:
    sure = wanted["scores"][0].max(0) > 0.5
    far = {}
    for name in ("float", "whole"):
        boxes = _boxes(answer(made / f"{name}.tflite", picture))
        far[name] = np.abs(boxes - wanted["boxes"])[0, sure].mean()
    assert far["float"] < 0.8 * far["whole"]


def _boxes(found: dict[str, np.ndarray]) -> np.ndarray:
    """By shape: a graph that was converted whole has TensorFlow's names."""
    return next(each for each in found.values() if each.shape == (1, 2090, 4))


def test_the_cards_name_their_builds_by_their_bytes(made: Path) -> None:
    for name in ("shapes-int8", "shapes-int8_vela"):
        card = read_card(made / f"{name}.toml")
        (build,) = card.builds
        assert build.file == f"{name}.tflite"
        assert build.sha256 == convert.hashlib.sha256((made / build.file).read_bytes()).hexdigest()
        assert build.input == InputSpec()
        assert len(card.category_list()) == 6


def test_vela_reports_what_the_npu_takes(made: Path) -> None:
    report = json.loads((made / "shapes-int8.vela.json").read_text())
    kept = json.loads(Path("runs/shapes-int8.vela.json").read_text())
    assert report.keys() == kept.keys()
    assert report["npu_share"] > 0.9
    assert report["macs"] == pytest.approx(0.46e9, rel=0.05)
    assert "CONV_2D" not in report["cpu_kinds"]
    assert "EXP" in report["cpu_kinds"], "the tail"
    assert b"ethos-u" in (made / "shapes-int8_vela.tflite").read_bytes()


def test_the_same_pictures_make_the_same_bytes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, ZOO / "shapes.toml", "--images", PHOTOS, "--count", 10, "--out", tmp_path)
    for name in ("shapes-int8.tflite", "shapes-int8_vela.tflite"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


def test_mean_and_std_move_into_the_graph(picture: np.ndarray) -> None:
    spec = InputSpec(mean=(120, 110, 100), std=(60, 50, 40))
    plain, inside = onnx.load(ZOO / "shapes.onnx"), onnx.load(ZOO / "shapes.onnx")
    graphs.normalise_inside(inside, spec)
    want = graphs.runner(plain)(((picture - spec.mean) / spec.std).astype(np.float32))
    got = graphs.runner(inside)(picture)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, atol=1e-3)


def test_an_axis_mistaken_by_onnx2tf_is_found(wanted: dict[str, np.ndarray]) -> None:
    values = list(wanted.values())
    convert.check_same(wanted, values)
    turned = [*values[:3], values[3].swapaxes(1, 2)]
    with pytest.raises(graphs.RecipeError, match=r"proto differs from the ONNX's .* mistaken"):
        convert.check_same(wanted, turned)


@pytest.mark.parametrize(
    ("shapes", "wanted"),
    [
        (((1, 9, 4), (1, 6, 9), (1, 9, 16), (1, 5, 5, 16)), "bsmp"),
        (((1, 16, 5, 5), (1, 9, 7), (1, 9, 4), (1, 9, 16)), "psbm"),
        (((1, 9, 4), (1, 9, 16), (1, 5, 5, 16)), None),
        (((1, 9, 4), (1, 9, 8), (1, 9, 16), (1, 5, 5, 16)), None),
        (((1, 9, 4), (1, 9, 6), (1, 9, 16), (1, 5, 5, 32)), None),
        (((1, 9, 4), (1, 8, 6), (1, 9, 16), (1, 5, 5, 16)), None),
    ],
)
def test_heads_are_found_by_their_shapes(
    shapes: tuple[tuple[int, ...], ...], wanted: str | None
) -> None:
    named = dict(zip(wanted or "abcd", shapes, strict=False))
    if wanted is None:
        with pytest.raises(graphs.RecipeError, match="are not YOLACT's four"):
            graphs.find_heads(named, 6)
    else:
        assert graphs.find_heads(named, 6) == ("b", "s", "m", "p")


def test_boxes_that_are_decoded_otherwise_are_refused(picture: np.ndarray) -> None:
    model, _ = graphs.read(ZOO / "shapes.onnx")
    card = read_card(ZOO / "shapes.toml")
    graphs.cut(model, card, False, picture, picture[::-1])
    exp = next(node for node in model.graph.node if node.op_type == "Exp")
    exp.op_type = "Softplus"
    with pytest.raises(graphs.RecipeError, match="not decoded as YOLACT's are"):
        graphs.cut(model, card, False, picture, picture[::-1])
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.op_type = "Sigmoid"
    del softmax.attribute[:]
    with pytest.raises(graphs.RecipeError, match="no softmax is found behind 'scores'"):
        graphs.cut(model, card, False, picture, picture[::-1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.toml"], "there is no model card none.toml"),
        (["{tmp}/broken.onnx", "--card", "{zoo}/shapes.toml"], "broken.onnx cannot be read"),
        (["{tmp}/flat.onnx", "--card", "{zoo}/shapes.toml"], r"takes \(1, 4\), not one picture"),
        (["{zoo}/instance-segmentation-security-0002.toml"], "is not of a YOLACT with an ONNX"),
        (["{zoo}/shapes.toml", "--count", "21"], "has 20 images, --count asks for 21"),
    ],
)
def test_what_is_wrong_is_said(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"none")
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "flat", [value], [out])
    onnx.save(helper.make_model(graph), tmp_path / "flat.onnx")
    given = [word.format(tmp=tmp_path, zoo=ZOO) for word in words]
    with pytest.raises(SystemExit, match=said):
        run(monkeypatch, "--images", PHOTOS, "--count", 10, "--out", tmp_path / "out", *given)
    assert not list((tmp_path / "out").iterdir())


def test_weights_need_the_other_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "TORCH", tmp_path / "python")
    with pytest.raises(SystemExit, match="random wants PyTorch: run make recipe-setup first"):
        run(monkeypatch, "random", "--images", PHOTOS, "--out", tmp_path)
