"""OpenVINO beside ONNX Runtime, and Open Model Zoo's IRs through the whole command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from tasks.cards import Model, ModelError
from tasks.categories import coco80
from tasks.environment import WorkerSettings
from tasks.shelf import find_model
from tests.graphs import write_model as write_yolact
from tests.graphs_ir import COLOURS, FORMS, WHOLE_PICTURE, write_ir, write_model
from tests.pictures import jpeg
from tests.running import maskmill
from worker import openvino_runtime
from worker.detections import Detections, Wanted
from worker.images import decode, read_header
from worker.model import LoadedModel, load_model
from worker.openvino_runtime import ov

from openvino.preprocess import ColorFormat, PrePostProcessor  # isort: skip

DEMO = sorted((Path(__file__).parents[2] / "worker" / "demo").glob("*.jpg"))
SETTINGS = WorkerSettings(threads=1)
BF16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

# One float32 graph in two engines differs by the order of its sums. Seen over these pictures:
# 6e-5 pixels, 9e-7 of score, not one pixel of a mask.
BOXES, SCORES, IOU = 1e-3, 1e-5, 0.999


def load(model: Model) -> LoadedModel:
    return load_model(model, SETTINGS)


def found_in(loaded: LoadedModel, data: bytes, threshold: float | None = None) -> Detections:
    header = read_header(data, max_pixels=1 << 24)
    frame = loaded.intake.frame(header.height, header.width)
    tensor = loaded.intake.tensor(decode(data, header, None), frame)
    return loaded.decode(loaded.infer(tensor, frame), frame, Wanted(threshold))


def overlap(first: Detections, second: Detections) -> np.ndarray:
    """(N, M) IoU of masks."""
    masks = (
        [{"size": [each.height, each.width], "counts": each.counts} for each in found.masks]
        for found in (first, second)
    )
    return np.asarray(coco_mask.iou(*masks, [0] * len(second))).reshape(len(first), len(second))


def assert_same(found: Detections, wanted: Detections) -> None:
    assert found.classes.tolist() == wanted.classes.tolist()
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=BOXES)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=SCORES)
    assert np.diag(overlap(found, wanted)).min(initial=1) >= IOU


def test_the_bundled_model_finds_the_same_with_both_engines() -> None:
    onnx, openvino = load(find_model("shapes")), load(find_model("shapes", "openvino"))
    assert onnx.runtime.version != openvino.runtime.version == openvino_runtime.VERSION
    count = 0
    for path in DEMO:
        wanted = found_in(onnx, path.read_bytes())
        assert_same(found_in(openvino, path.read_bytes()), wanted)
        count += len(wanted)
    assert count > 500


@pytest.mark.parametrize("form", ["a", "b", "g"])
def test_canned_graphs_find_the_same_with_both_engines(tmp_path: Path, form: Any) -> None:
    card = str(write_yolact(tmp_path, form))
    onnx, openvino = load(find_model(card)), load(find_model(card, "openvino"))
    for seed in range(8):
        wanted = found_in(onnx, jpeg(seed))
        assert len(wanted) > 50
        assert_same(found_in(openvino, jpeg(seed)), wanted)


@pytest.mark.skipif(not BF16, reason="this CPU does not compute in bf16")
def test_bf16_finds_nearly_the_same() -> None:
    """Every sure detection has its partner: seen are 0.3 pixels, 0.046 of score, IoU 0.96."""
    exact = load(find_model("shapes", "openvino"))
    coarse = load(find_model("shapes", "openvino", "bf16"))
    differs = 0.0
    for path in DEMO:
        pair = [found_in(each, path.read_bytes(), 0.2) for each in (exact, coarse)]
        for found, other in (pair, pair[::-1]):
            same = overlap(found, other) * (found.classes[:, np.newaxis] == other.classes)
            for row in np.flatnonzero(found.scores > 0.3):
                partner = same[row].argmax()
                assert same[row, partner] > 0.9
                assert abs(found.scores[row] - other.scores[partner]) < 0.08
                assert np.abs(found.boxes[row] - other.boxes[partner]).max() < 1
                differs = max(differs, abs(found.scores[row] - other.scores[partner]))
    assert differs > 1e-3  # ten bits fewer show: f32 was f32, and bf16 is bf16


def test_a_cpu_without_bf16_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class OlderCpu:
        def get_property(self, device: str, name: str) -> list[str]:
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino_runtime.ov, "Core", OlderCpu)
    with pytest.raises(ModelError, match=r"does not compute in bf16.*shapes\.onnx.*f32"):
        load(find_model("shapes", "openvino", "bf16"))


def test_two_builds_of_one_card_find_the_same(tmp_path: Path) -> None:
    """An ONNX that wants RGB behind its statistics, and an IR with them inside that wants BGR."""
    card = write_yolact(tmp_path, "b", "two")
    mean, std = [123.675, 116.78, 103.94], [58.395, 57.12, 57.375]
    graph = ov.Core().read_model(str(tmp_path / "two.onnx"))
    steps = PrePostProcessor(graph)
    nchw = ov.Layout("NCHW")
    steps.input().tensor().set_layout(nchw).set_color_format(ColorFormat.BGR)
    steps.input().model().set_layout(nchw)
    steps.input().preprocess().convert_color(ColorFormat.RGB).mean(mean).scale(std)
    ov.save_model(steps.build(), str(tmp_path / "two.xml"), compress_to_fp16=False)
    card.write_text(
        f'name = "two"\nfamily = "yolact"\ncategories = ["a", "b", "c", "d", "e"]\n'
        f"input.mean = {mean}\ninput.std = {std}\n"
        '[[builds]]\nfile = "two.onnx"\n'
        '[[builds]]\nfile = "two.xml"\ninput.color = "bgr"\n'
    )
    onnx, ir = (load(find_model(str(tmp_path / f"two.{kind}"))) for kind in ("onnx", "xml"))
    assert (onnx.intake.spec.color, ir.intake.spec.color) == ("rgb", "bgr")
    for seed in range(8):
        wanted = found_in(onnx, jpeg(seed))
        assert len(wanted) > 50
        assert_same(found_in(ir, jpeg(seed)), wanted)


# The fit of each model as its accuracy was published; 0033 has two protocols.
FITS = {
    "0033": 'fit = "pad"',
    "0033-open": 'fit = "sides"\nsize = [480, 640]',
    "0050": 'fit = "pad"',
    "0002": 'fit = "pad"',
    "0091": 'fit = "pad"',
    "0228": 'fit = "stretch"',
    "1039": 'fit = "stretch"',
    "1040": 'fit = "stretch"',
}
SHAPES = {
    "wide.png": (640, 427, {"red": "ellipse", "green": "rectangle", "cyan": "ellipse"}),
    "tall.png": (333, 500, {"blue": "rectangle", "yellow": "ellipse"}),
    "large.png": (1500, 900, {"magenta": "ellipse", "red": "rectangle", "blue": "ellipse"}),
    "empty.png": (320, 240, {}),
}


def draw(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Pictures of plain shapes on grey, and by file and colour the mask of each."""
    folder.mkdir()
    drawn: dict[str, dict[str, np.ndarray]] = {}
    for number, (name, (width, height, kinds)) in enumerate(SHAPES.items()):
        random = np.random.default_rng(number)
        scene, drawn[name] = Image.new("RGB", (width, height), (120, 120, 120)), {}
        for place, (colour, kind) in enumerate(kinds.items()):
            left, right = (width * (place + share) / len(kinds) for share in (0.05, 0.95))
            top, bottom = height * random.uniform(0.05, 0.3), height * random.uniform(0.6, 0.95)
            mask = Image.new("1", (width, height))
            getattr(ImageDraw.Draw(mask), kind)((left, top, right, bottom), fill=1)
            scene.paste(COLOURS[colour][0], mask=mask)
            drawn[name][colour] = np.asarray(mask)
        scene.save(folder / name)
    return drawn


@pytest.mark.parametrize("form", FITS)
def test_security_models_through_the_whole_command(tmp_path: Path, form: str) -> None:
    drawn = draw(tmp_path / "in")
    card = write_model(tmp_path, form, "canned", f'color = "bgr"\n{FITS[form]}', "")
    ran = maskmill("annotate", tmp_path / "in", "-m", card, "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    dataset = json.loads((tmp_path / "out" / "instances.json").read_bytes())
    ids = [category.id for category in coco80()]
    for image in dataset["images"]:
        wanted = drawn[image["file_name"]]
        records = {
            ids.index(each["category_id"]): each
            for each in dataset["annotations"]
            if each["image_id"] == image["id"]
        }
        if FORMS[form].old:
            assert_describes(records.pop(WHOLE_PICTURE), image, form)
        assert records.keys() == {COLOURS[colour][1] for colour in wanted}
        for colour, mask in wanted.items():
            assert_found(records[COLOURS[colour][1]], mask)
    assert len(dataset["annotations"]) == 8 + 4 * FORMS[form].old


def assert_describes(record: dict[str, Any], image: dict[str, Any], form: str) -> None:
    """What a graph made of `im_info`: the box of the picture, and its scale."""
    width, height = image["width"], image["height"]
    sides = FORMS[form].size
    scale = (
        min(sides[0] / height, sides[1] / width)
        if sides
        else min(480 / min(height, width), 640 / max(height, width))
    )
    assert record["bbox"] == pytest.approx([0, 0, width, height], abs=1)
    assert record["score"] == pytest.approx(0.5 + 0.01 * scale, abs=2e-5)
    assert record["area"] > 0.98 * width * height


def assert_found(record: dict[str, Any], mask: np.ndarray) -> None:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    x, y, width, height = record["bbox"]
    # The graph's boxes end at whole pixels of its input: up to three of the largest picture's.
    assert (x, x + width) == pytest.approx((columns[0], columns[-1] + 1), abs=3)
    assert (y, y + height) == pytest.approx((rows[0], rows[-1] + 1), abs=3)
    truth = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert coco_mask.iou([record["segmentation"]], [truth], [0])[0, 0] > 0.9
    assert 0.6 < record["score"] < 0.9


@pytest.fixture
def ir(tmp_path: Path) -> Path:
    """The card of a sound IR."""
    return write_model(tmp_path, "1039", "canned", 'color = "bgr"', "")


def refusals(card: Path) -> Iterator[str]:
    """The sentence of the loader, and that of the command."""
    with pytest.raises(ModelError) as refused:
        load(find_model(str(card)))
    yield str(refused.value)
    ran = maskmill("annotate", DEMO[0], "-m", card, "-o", card.parent / "out")
    assert ran.code != 0
    assert "Traceback" not in ran.err
    yield " ".join(ran.err.split())


@pytest.mark.parametrize("version", [6, 7, 9])
def test_irs_that_openvino_reads_no_more_say_so(ir: Path, version: int) -> None:
    file = ir.with_suffix(".xml")
    file.write_text(file.read_text().replace('version="11"', f'version="{version}"', 1))
    for said in refusals(ir):
        for word in (f"IR of version {version}", "from version 10 on", "convert the original"):
            assert word in said
    assert str(file) in next(refusals(ir))


def test_an_ir_of_version_10_is_read(ir: Path) -> None:
    """Those of 2020 name no tensors: their names are those of the layers."""
    wanted = load(find_model(str(ir))).runtime
    file = ir.with_suffix(".xml")
    text, count = re.subn(r' names="[^"]*"', "", file.read_text())
    assert count >= 4
    file.write_text(text.replace('version="11"', 'version="10"', 1))
    runtime = openvino_runtime.load(str(file), "f32", SETTINGS)
    assert (runtime.inputs, runtime.outputs) == (wanted.inputs, wanted.outputs)


def test_weights_that_are_not_here_are_named(ir: Path) -> None:
    ir.with_suffix(".bin").unlink()
    with pytest.raises(ModelError, match=r"canned\.xml is no network for OpenVINO: .*bin file"):
        openvino_runtime.load(str(ir.with_suffix(".xml")), "f32", SETTINGS)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    file = write_ir(tmp_path, "0033", "cut")
    weights = file.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"cut\.xml is no network for OpenVINO: .*weights"):
        openvino_runtime.load(str(file), "f32", SETTINGS)


@pytest.mark.parametrize(
    ("own", "names", "chosen"),
    [
        ("boxes/sink_port_0", {"boxes"}, "boxes"),
        ("boxes/sink_port_0", {"6530", "a", "boxes"}, "boxes"),
        ("Concat_7/sink_port_1", {"6530", "boxes", "boxes:0"}, "boxes"),
        ("Concat_7/sink_port_1", {"b", "a"}, "a"),
        ("Concat_7/sink_port_1", {"6530"}, "6530"),
        ("boxes/sink_port_0", set(), "boxes"),
    ],
)
def test_of_several_names_one_is_chosen(own: str, names: set[str], chosen: str) -> None:
    assert openvino_runtime._one_name(own, names) == chosen


def test_merged_layers_do_not_rename_outputs(tmp_path: Path) -> None:
    """Compiling drops the graph's last nodes, and the tensors before them bring their names."""
    write_yolact(tmp_path, "a")
    path = str(tmp_path / "canned.onnx")
    compiled = ov.Core().compile_model(path, "CPU")
    assert any(len(port.get_names()) > 1 for port in compiled.outputs)
    runtime = openvino_runtime.load(path, "f32", SETTINGS)
    assert {each.name for each in runtime.outputs} == {"proto", "mask", "scores", "boxes"}


REPLACED = """
import sys
from pathlib import Path
import numpy as np
from worker.openvino_runtime import load, ov
from tasks.environment import WorkerSettings
source, place = sys.argv[1:]
ov.save_model(ov.Core().read_model(source), place, compress_to_fp16=False)
runtime = load(place, "f32", WorkerSettings(threads=1))
(name, shape) = runtime.inputs[0].name, runtime.inputs[0].shape
feeds = {name: np.full(shape, 90, np.float32)}
before = runtime.run(feeds)
Path(place).with_suffix(".bin").write_bytes(b"")
after = runtime.run(feeds)
assert all((before[each] == after[each]).all() for each in before)
"""


def test_weights_may_be_replaced_while_they_are_in_use(tmp_path: Path) -> None:
    command = [sys.executable, "-c", REPLACED, find_model("shapes").path, str(tmp_path / "s.xml")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_nothing_is_reported_or_written_elsewhere(tmp_path: Path) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    ran = maskmill(
        "annotate", DEMO[0], "-m", "shapes", "-o", tmp_path / "out", "--runtime", "openvino",
        cwd=here, HOME=str(home), XDG_CACHE_HOME=str(home), XDG_DATA_HOME=str(home),
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert [*home.rglob("*"), *here.rglob("*")] == []
    produced = json.loads((tmp_path / "out" / "run.json").read_bytes())
    assert openvino_runtime.VERSION in json.dumps(produced)
    assert sys.modules["openvino_telemetry"] is None
