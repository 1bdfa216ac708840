"""Tests of the conversion. Run them here: python -m pytest test_convert.py"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import convert
import numpy as np
import onnxruntime
import original
import pytest
import torch
from original import WeightsError, check_published, configuration, load_original, save_original
from torch import Tensor
from torch.nn import functional as F

from fullsize import picture  # isort: skip  (of the sibling recipe)
from network import decode_boxes  # isort: skip

SIDE = 128
MOBILENET_ROWS = (  # expansion, channels, repeats, stride
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class Authors(dict[str, Tensor]):
    """The authors' network, layer by layer and name by name; weights are drawn on first use."""

    def __init__(self, backbone: str) -> None:
        self.random = torch.Generator().manual_seed(7)
        self.backbone = backbone

    def draw(self, name: str, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        if name not in self:
            self[name] = torch.rand(shape, generator=self.random) * (high - low) + low
        return self[name]

    def conv(
        self, x: Tensor, name: str, channels: int, size: int = 3, step: int = 1, groups: int = 1,
        bias: bool = True,
    ) -> Tensor:  # fmt: skip
        inputs = x.shape[1] // groups
        far = 1.7 / math.sqrt(inputs * size * size)
        weight = self.draw(f"{name}.weight", (channels, inputs, size, size), -far, far)
        added = self.draw(f"{name}.bias", (channels,), -0.3, 0.3) if bias else None
        return F.conv2d(x, weight, added, step, size // 2, groups=groups)

    def norm(self, x: Tensor, name: str) -> Tensor:
        shape = (x.shape[1],)
        mean = self.draw(f"{name}.running_mean", shape, -0.3, 0.3)
        variance = self.draw(f"{name}.running_var", shape, 0.2, 0.6)
        weight = self.draw(f"{name}.weight", shape, 0.4, 1.0)
        return F.batch_norm(
            x, mean, variance, weight, self.draw(f"{name}.bias", shape, -0.3, 0.3), eps=1e-5
        )

    def resnet(self, x: Tensor, depths: tuple[int, ...]) -> list[Tensor]:
        x = F.relu(self.norm(self.conv(x, "backbone.conv1", 64, 7, 2, bias=False), "backbone.bn1"))
        x = F.max_pool2d(x, 3, 2, 1)
        maps = []
        for stage, depth in enumerate(depths):
            wide = 64 * 2**stage
            for block in range(depth):
                at = f"backbone.layers.{stage}.{block}"
                step = 2 if stage and not block else 1
                y = F.relu(self.norm(self.conv(x, f"{at}.conv1", wide, 1, bias=False), f"{at}.bn1"))
                y = self.conv(y, f"{at}.conv2", wide, 3, step, bias=False)
                y = F.relu(self.norm(y, f"{at}.bn2"))
                y = self.norm(self.conv(y, f"{at}.conv3", 4 * wide, 1, bias=False), f"{at}.bn3")
                if not block:
                    x = self.conv(x, f"{at}.downsample.0", 4 * wide, 1, step, bias=False)
                    x = self.norm(x, f"{at}.downsample.1")
                x = F.relu(x + y)
            maps.append(x)
        return maps[1:]

    def mobilenet(self, x: Tensor) -> list[Tensor]:
        def block(x: Tensor, name: str, channels: int, size: int, step: int, groups: int) -> Tensor:
            x = self.conv(x, f"{name}.0", channels, size, step, groups, bias=False)
            return F.relu6(self.norm(x, f"{name}.1"))

        maps = [block(x, "backbone.layers.0", 32, 3, 2, 1)]
        for row, (expansion, channels, repeats, stride) in enumerate(MOBILENET_ROWS, 1):
            x = maps[-1]
            for index in range(repeats):
                at = f"backbone.layers.{row}.{index}.conv"
                y, step, place, wide = x, stride if not index else 1, 0, x.shape[1] * expansion
                if expansion > 1:
                    y, place = block(y, f"{at}.0", wide, 1, 1, 1), 1
                y = block(y, f"{at}.{place}", wide, 3, step, wide)
                y = self.conv(y, f"{at}.{place + 1}", channels, 1, bias=False)
                y = self.norm(y, f"{at}.{place + 2}")
                x = x + y if step == 1 and x.shape == y.shape else y
            maps.append(x)
        block(maps[-1], "backbone.layers.8", 1280, 1, 1, 1)
        return [maps[index] for index in (3, 4, 6)]

    def run(self, image: Tensor) -> dict[str, Tensor]:
        if self.backbone == "mobilenetv2":
            maps = self.mobilenet(image)
        else:
            depths = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
            maps = self.resnet(image, depths[self.backbone])
        x, sums = None, []
        for index, found in enumerate(reversed(maps)):
            lateral = self.conv(found, f"fpn.lat_layers.{index}", 256, 1)
            if x is not None:
                lateral = lateral + F.interpolate(x, lateral.shape[2:], mode="bilinear")
            x = lateral
            sums.append(x)
        levels = [
            F.relu(self.conv(each, f"fpn.pred_layers.{index}", 256))
            for index, each in enumerate(sums)
        ][::-1]
        for index in range(2):
            levels.append(self.conv(levels[-1], f"fpn.downsample_layers.{index}", 256, 3, 2))
        proto = levels[0]
        for index in (0, 2, 4):
            proto = F.relu(self.conv(proto, f"proto_net.{index}", 256))
        proto = F.relu(F.interpolate(proto, scale_factor=2, mode="bilinear"))
        proto = F.relu(self.conv(proto, "proto_net.8", 256))
        proto = F.relu(self.conv(proto, "proto_net.10", 32, 1))
        heads: dict[str, list[Tensor]] = {"bbox": [], "conf": [], "mask": []}
        for level in levels:
            x = F.relu(self.conv(level, "prediction_layers.0.upfeature.0", 256))
            for kind, width in (("bbox", 4), ("conf", 81), ("mask", 32)):
                y = self.conv(x, f"prediction_layers.0.{kind}_layer", 3 * width)
                heads[kind].append(y.permute(0, 2, 3, 1).reshape(1, -1, width))
        self.conv(levels[0], "semantic_seg_conv", 80, 1)
        joined = {kind: torch.cat(parts, 1) for kind, parts in heads.items()}
        return joined | {"mask": joined["mask"].tanh(), "proto": proto}


def small(backbone: str):
    return replace(configuration(backbone), size=SIDE)


def image() -> Tensor:
    return torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def mobilenet() -> Authors:
    authors = Authors("mobilenetv2")
    authors.run(image())
    return authors


@torch.inference_mode()
@pytest.mark.parametrize("backbone", original.BACKBONES)
def test_the_authors_weights_compute_what_their_layers_compute(
    backbone: str, tmp_path: Path
) -> None:
    authors = Authors(backbone)
    want = authors.run(image())
    torch.save(dict(authors), tmp_path / "a.pth")
    network = load_original(tmp_path / "a.pth", small(backbone))
    got = network(image())
    for mine, theirs in (
        (got.loc, want["bbox"]),
        (got.logits, want["conf"]),
        (got.coefficients, want["mask"]),
        (got.prototypes, want["proto"]),
    ):
        assert theirs.std() > 1e-3  # it says something
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
    save_original(network, tmp_path / "b.pth")
    again = torch.load(tmp_path / "b.pth", weights_only=True)
    unused = {
        name for name in authors if name.startswith(("backbone.layers.7", "backbone.layers.8"))
    }
    assert set(again) == set(authors) - unused
    assert all(torch.equal(again[name], authors[name]) for name in again)


def test_what_older_and_split_files_carry_along_is_left_out(
    mobilenet: Authors, tmp_path: Path
) -> None:
    weights = {
        name.replace("fpn.lat", "fpn_phase_1.lat").replace("fpn.p", "fpn_phase_2.p"): value
        for name, value in mobilenet.items()
    }
    weights["backbone.layers.0.1.num_batches_tracked"] = torch.tensor(5)
    weights["backbone.layer1.0.conv1.weight"] = torch.zeros(3)
    weights["fpn.downsample_layers.2.weight"] = torch.zeros(3)
    # As PyTorch saved before 1.6, and so as the authors did.
    torch.save(weights, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    network = load_original(tmp_path / "a.pth", small("mobilenetv2"))
    torch.testing.assert_close(
        network.head.boxes.bias.detach(), mobilenet["prediction_layers.0.bbox_layer.bias"]
    )


def test_keys_that_do_not_fit_are_named(mobilenet: Authors, tmp_path: Path) -> None:
    weights = dict(mobilenet)
    del weights["proto_net.8.bias"]
    weights["flow_net.0.weight"] = torch.zeros(1)
    weights["semantic_seg_conv.weight"] = torch.zeros(20, 256, 1, 1)
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(WeightsError) as caught:
        load_original(tmp_path / "a.pth", small("mobilenetv2"))
    said = str(caught.value)
    assert "1 missing: proto_net.8.bias" in said
    assert "1 surplus: flow_net.0.weight" in said
    assert "semantic_seg_conv.weight (20, 256, 1, 1) for (80, 256, 1, 1)" in said
    with pytest.raises(WeightsError, match=r"resnet50 .* missing: .* more; .* surplus: "):
        load_original(tmp_path / "a.pth", small("resnet50"))


class Unsafe:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return print, ("a pickle ran",)


@pytest.mark.parametrize(
    "content", [[1, 2], {"epoch": 3}, {"state_dict": {"a": torch.zeros(1)}}, {"a": Unsafe()}, None]
)
def test_other_files_end_in_a_sentence(
    content: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.pth"
    if content is None:
        path.write_text("not found")
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=r"a\.pth (cannot be read as weights|is not a table)"):
        load_original(path, small("mobilenetv2"))
    assert "a pickle ran" not in capsys.readouterr().out


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["convert.py", *map(str, arguments)])
    convert.main()


@pytest.mark.parametrize(
    ("backbone", "reason"),
    [
        ("resnet50", r"is not the file that was published: its SHA-384 is [0-9a-f]"),
        ("resnet101", "no checksum of published weights with resnet101 is known"),
    ],
)
def test_weights_of_another_checksum_are_refused(
    backbone: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"other weights")
    arguments = [path, "--backbone", backbone, "--out", tmp_path / "out"]
    with pytest.raises(SystemExit, match=f"{reason}.*Give --any-weights"):
        run(monkeypatch, *arguments)
    with pytest.raises(SystemExit, match="cannot be read as weights"):  # it got past the checksum
        run(monkeypatch, *arguments, "--any-weights")
    with pytest.raises(SystemExit, match="cannot be read: No such file"):
        run(monkeypatch, tmp_path / "b.pth", "--out", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_the_published_weights_are_let_through() -> None:
    check_published(Path("a.pth"), "resnet50", original.PUBLISHED["resnet50"])
    assert len(bytes.fromhex(original.PUBLISHED["resnet50"])) == 48


def one_detection(number: int, score: float, x1: float = 0.2) -> convert.Raw:
    """Two anchors, of which the first says `number`, over 32 prototypes of 8×8."""
    conf = np.zeros((1, 2, 81), np.float32)
    conf[0, 0, 1 + number] = score
    mask = np.zeros((1, 2, 32), np.float32)
    mask[0, 0, 0] = 1
    boxes = np.array([[[x1, 0.2, x1 + 0.6, 0.8], [0, 0, 1, 1]]], np.float32)
    return {"conf": conf, "mask": mask, "proto": np.ones((1, 8, 8, 32), np.float32), "boxes": boxes}


@pytest.mark.parametrize(
    ("other", "alone"),
    [
        (one_detection(3, 0.9), 0),
        (one_detection(3, 0.5), 0),
        (one_detection(3, 0.28), 0),
        (one_detection(3, 0.24), 1),
        (one_detection(4, 0.9), 2),
        (one_detection(3, 0.9, x1=0.4), 2),
    ],
)
def test_a_detection_needs_a_counterpart(other: convert.Raw, alone: int) -> None:
    compared = convert.compare(one_detection(3, 0.9), other, 64, within=0.05)
    assert (compared.detections, compared.alone) == (1, alone)
    if not alone:
        assert compared.outputs["conf"] == pytest.approx(0.9 - other["conf"].max(), abs=1e-6)
        assert (compared.pixels, compared.outputs["boxes"]) == (0, 0)


@pytest.fixture
def arguments(
    mobilenet: Authors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[object, ...]:
    """A conversion that takes seconds; it writes into tmp_path/out."""
    torch.save(dict(mobilenet), tmp_path / "a.pth")
    form = small("mobilenetv2")
    monkeypatch.setattr(original, "configuration", lambda backbone: form)
    out = tmp_path / "out"
    return tmp_path / "a.pth", "--backbone", "mobilenetv2", "--out", out, "--any-weights"


def test_half_precision_halves_the_ir(
    arguments: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, *arguments, "--fp16")
    made = {path.suffix: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert 0.4 < made[".bin"] / made[".onnx"] < 0.6
    assert 'precision = "fp16"' in (tmp_path / "out" / "yolact-mobilenetv2.toml").read_text()


# Under the score that counts, the outputs themselves still differ.
@pytest.mark.parametrize("score", [0.9, 0.29])
def test_nothing_is_kept_where_the_graphs_disagree(
    score: float, arguments: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = convert.run_onnx

    def louder(ir: Path, rgb: np.ndarray) -> convert.Raw:
        raw = real(ir.with_suffix(".onnx"), rgb)
        conf = raw["conf"].copy()
        conf[0, 7] = 0
        conf[0, 7, 5] = score
        return raw | {"conf": conf}

    monkeypatch.setattr(convert, "run_ir", louder)
    with pytest.raises(SystemExit, match="nothing is kept"):
        run(monkeypatch, *arguments)
    assert not list((tmp_path / "out").iterdir())


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    with pytest.MonkeyPatch.context() as patch:
        run(patch, "--random", 3, "--out", folder)
    return folder


def test_random_weights_go_all_the_way(converted: Path) -> None:
    assert sorted(path.name for path in converted.iterdir()) == [
        "yolact-resnet50-random.pth",
        "yolact-resnet50.bin",
        "yolact-resnet50.onnx",
        "yolact-resnet50.toml",
        "yolact-resnet50.xml",
    ]
    network = load_original(converted / "yolact-resnet50-random.pth", configuration("resnet50"))
    # Another picture than the conversion compared on.
    rgb = picture(5, 1, 550)
    tensor = (torch.from_numpy(rgb).float() - torch.tensor(original.MEAN)) / torch.tensor(
        original.STD
    )
    with torch.inference_mode():
        raw = network(tensor.permute(2, 0, 1)[None])
        want = {
            "conf": raw.logits.softmax(-1).numpy(),
            "mask": raw.coefficients.numpy(),
            "proto": raw.prototypes.permute(0, 2, 3, 1).numpy(),
            "boxes": decode_boxes(raw.loc, network.priors).numpy(),
        }
    for got in (
        convert.run_onnx(converted / "yolact-resnet50.onnx", rgb),
        convert.run_ir(converted / "yolact-resnet50.xml", rgb),
    ):
        compared = convert.compare(want, got, 550, within=1e-3)
        assert compared.detections > 3
        assert compared.alone == 0
        assert compared.pixels < 20
        assert compared.outputs["conf"] < 1e-3
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, atol=2e-3 * np.abs(value).max(), rtol=0)


def test_the_graph_has_the_published_form(converted: Path) -> None:
    session = onnxruntime.InferenceSession(
        converted / "yolact-resnet50.onnx", providers=["CPUExecutionProvider"]
    )
    assert [(each.name, each.shape) for each in session.get_inputs()] == [
        ("input.1", [1, 3, 550, 550])
    ]
    assert [(each.name, each.shape) for each in session.get_outputs()] == [
        ("conf", [1, 19248, 81]),
        ("mask", [1, 19248, 32]),
        ("proto", [1, 138, 138, 32]),
        ("boxes", [1, 19248, 4]),
    ]


def test_the_card_names_both_builds_by_their_bytes(converted: Path) -> None:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    card = tomllib.loads((converted / "yolact-resnet50.toml").read_text("utf-8"))
    onnx, ir = card["builds"]
    data = {path.suffix: path.read_bytes() for path in converted.iterdir()}
    assert onnx["sha256"] == hashlib.sha256(data[".onnx"]).hexdigest()
    assert ir["sha256"] == hashlib.sha256(data[".xml"] + data[".bin"]).hexdigest()
    assert (onnx["file"], ir["file"]) == ("yolact-resnet50.onnx", "yolact-resnet50.xml")
    assert card["input"]["mean"] == list(original.MEAN)
    assert ir["input"] == {"color": "bgr"}
    assert hashlib.sha384(data[".pth"]).hexdigest() in card["facts"]["notes"]
