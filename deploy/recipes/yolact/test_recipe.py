"""Tests of the recipe that need torch. Run them here: python -m pytest test_recipe.py"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import train
from augment import NONE, Augmentation
from batches import batch_samples, make_batch, normalise
from checkpoints import load_network, network_predictor, pack, read, save_atomically, start_from
from data import CROWD, Dataset, load_dataset
from evaluate import detect, draw_mask, onnx_predictor
from export import FORMS, export
from losses import IGNORED, PADDING, Truth, Weights, crop, losses, match
from network import EDGE, RESNET50, Config, Yolact, decode_boxes, encode_boxes, make_priors
from scenes import write_scenes

TINY = Config(
    classes=6,
    size=64,
    width=0.25,
    features=16,
    prototypes=4,
    proto_features=16,
    proto_skips=(4,),
    scales=((8, 11), (16, 22), (32, 45)),
)
PLAN = train.Plan(
    steps=6,
    minutes=0,
    batch=4,
    rate=3e-3,
    warmup=2,
    seed=0,
    held_out=0.2,
    validate_minutes=9,
    validate_images=4,
    flip_vertical=0.0,
)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(write_scenes(tmp_path_factory.mktemp("scenes"), 10, 3))


def tiny(seed: int = 0) -> Yolact:
    torch.manual_seed(seed)
    return Yolact(TINY)


def steps(run: train.Run, dataset: Dataset, first: int, last: int) -> list[float]:
    totals = []
    for step in range(first, last):
        batch = make_batch(dataset, list(dataset.samples), step, 4, 0, Augmentation(), TINY)
        totals.append(sum(train.train_step(run, batch, 3e-3).values()))
    return totals


def test_full_size_graphs_are_yolacts() -> None:
    assert EDGE.levels == RESNET50.levels == (69, 35, 18, 9, 5)
    assert EDGE.proto_size == 138
    priors = make_priors(EDGE)
    assert priors.shape == (19248, 4)
    np.testing.assert_allclose(priors[0], [0.5 / 69, 0.5 / 69, 24 / 550, 24 / 550], rtol=1e-6)
    backbone = Yolact(EDGE).backbone.channels
    assert [backbone[s] for s in (8, 16, 32)] == [32, 64, 160]


def test_boxes_survive_encoding() -> None:
    priors = make_priors(TINY)
    boxes = torch.rand(len(priors), 2) * 0.4
    boxes = torch.cat([boxes, boxes + 0.1 + torch.rand(len(priors), 2) * 0.5], 1)
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, priors), priors), boxes)


def test_every_instance_gets_an_anchor_and_crowds_teach_nothing() -> None:
    priors = make_priors(TINY)
    # A sliver that no square anchor overlaps by half, a crowd on the right, a row that only fills.
    boxes = torch.tensor([[[0.0, 0.0, 0.4, 0.02], [0.5, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]])
    truth = Truth(boxes, torch.tensor([[3, CROWD, PADDING]]), torch.zeros(1, 3, 4, 4))
    classes, owner = match(truth, priors)
    assert (classes == 4).sum() == 1
    assert owner[classes == 4].tolist() == [0]
    inside = (priors[:, 0] - priors[:, 2] / 2 >= 0.5) & (priors[:, 0] + priors[:, 2] / 2 <= 1)
    inside &= (priors[:, 1] - priors[:, 3] / 2 >= 0) & (priors[:, 1] + priors[:, 3] / 2 <= 1)
    assert inside.any()
    assert (classes[0, inside] == IGNORED).all()
    assert (classes[0, priors[:, 0] < 0.3] != IGNORED).all()


def test_crop_pads_by_one_cell() -> None:
    inside = crop(torch.tensor([[0.25, 0.5, 0.5, 0.75]]), 8)[0]
    rows, cols = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    assert (rows[0], rows[-1], cols[0], cols[-1]) == (3, 6, 1, 4)


def test_epochs_use_every_sample_once(dataset: Dataset) -> None:
    samples = list(dataset.samples)
    seen = [s.id for step in range(5) for s in batch_samples(samples, step, 4, 1)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == [s.id for s in samples]
    assert seen[:10] != seen[10:]


def test_loss_decreases_on_four_scenes(dataset: Dataset) -> None:
    run = train.begin(tiny(), PLAN)
    batch = make_batch(dataset, list(dataset.samples), 0, 4, 0, NONE, TINY)
    totals = [sum(train.train_step(run, batch, 5e-3).values()) for _ in range(60)]
    assert totals[-1] < 0.6 * totals[0]


def test_an_image_without_instances_is_learnt_from(dataset: Dataset) -> None:
    raw = tiny().train()(torch.zeros(2, 3, 64, 64))
    empty = Truth(
        torch.zeros(2, 1, 4),
        torch.full((2, 1), PADDING),
        torch.zeros(2, 1, TINY.proto_size, TINY.proto_size),
    )
    parts = losses(raw, empty, make_priors(TINY), Weights())
    assert all(torch.isfinite(value) for value in parts.values())
    assert parts["classes"] > 0 == parts["boxes"]


def test_resuming_equals_going_on(dataset: Dataset, tmp_path: Path) -> None:
    straight = train.begin(tiny(), PLAN)
    steps(straight, dataset, 0, 6)
    first = train.begin(tiny(), PLAN)
    steps(first, dataset, 0, 3)
    save_atomically(first.state(), tmp_path / "last.pt")
    second = train.begin(tiny(seed=9), PLAN)
    second.restore(read(tmp_path / "last.pt"))
    steps(second, dataset, 3, 6)
    assert second.step == straight.step
    for name in ("network", "averaged"):
        want, got = (getattr(run, name).state_dict() for run in (straight, second))
        for key in want:
            torch.testing.assert_close(got[key], want[key], msg=key)


def test_a_loss_that_is_no_number_stops_before_it_harms(dataset: Dataset) -> None:
    run = train.begin(tiny(), PLAN)
    run.network.head.boxes.bias.data.fill_(float("nan"))
    before = copy.deepcopy(run.averaged.state_dict())
    with pytest.raises(train.TrainingStopped, match="no longer a number at step 0"):
        steps(run, dataset, 0, 1)
    for key, value in run.averaged.state_dict().items():
        torch.testing.assert_close(value, before[key])


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setitem(train.NETWORKS, "small", TINY)
    monkeypatch.setattr("sys.argv", ["train.py", *map(str, words)])
    train.main()


def test_the_command_trains_goes_on_and_fine_tunes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = write_scenes(tmp_path / "known", 10, 3)
    words = ("--data", truth, "--out", tmp_path / "run", "--batch", 4, "--steps", 4)
    command(monkeypatch, *words)
    run = tmp_path / "run"
    assert {f.name for f in run.iterdir()} == {"best.pt", "last.pt", "log.jsonl", "curve.png"}
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 4
    assert {"box_ap", "mask_ap"} <= lines[-1].keys()

    capsys.readouterr()
    command(monkeypatch, *words)
    assert "Going on from step 4." in capsys.readouterr().out
    with pytest.raises(SystemExit, match="another rate"):
        command(monkeypatch, *words, "--rate", 0.1)

    strange = write_scenes(tmp_path / "strange", 10, 4, ("heart", "arrow"))
    tuned = tmp_path / "tuned"
    command(
        monkeypatch,
        *("--data", strange, "--from", run / "best.pt", "--out", tuned),
        *("--batch", 4, "--steps", 2),
    )
    network, categories = load_network(tuned / "best.pt")
    assert [c["name"] for c in categories] == ["heart", "arrow"]
    assert network.config == replace(TINY, classes=2)


def test_one_class_and_a_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = write_scenes(tmp_path / "one", 10, 3, ("ring",))
    words = ("--out", tmp_path / "run", "--batch", 4, "--steps", 1)
    command(monkeypatch, "--data", truth, *words)
    assert load_network(tmp_path / "run" / "best.pt")[0].config.classes == 1
    with pytest.raises(SystemExit, match="does not exist"):
        command(monkeypatch, "--data", tmp_path / "none.json", "--out", tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


def test_other_classes_keep_everything_but_the_class_layers(tmp_path: Path) -> None:
    known = tuple({"id": i, "name": f"kind {i}"} for i in range(6))
    first = tiny()
    save_atomically(pack(TINY, known, first.state_dict()), tmp_path / "a.pt")
    torch.manual_seed(1)
    fewer = start_from(tmp_path / "a.pt", known[:3])
    same = start_from(tmp_path / "a.pt", known)
    assert fewer.head.classes.out_channels == 2 * 4
    for key, value in first.state_dict().items():
        torch.testing.assert_close(same.state_dict()[key], value)
        if not key.startswith(("head.classes", "semantic")):
            torch.testing.assert_close(fewer.state_dict()[key], value)


@pytest.mark.parametrize("form", FORMS)
def test_exported_forms_agree_with_the_network(form: str, tmp_path: Path) -> None:
    network = tiny().eval()
    network(torch.randn(2, 3, 64, 64))
    export(network, form, tmp_path / "graph.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    want = network_predictor(network)(pixels)
    session = onnxruntime.InferenceSession(
        tmp_path / "graph.onnx", providers=["CPUExecutionProvider"]
    )
    assert [o.name for o in session.get_outputs()] == list(FORMS[form])
    image = normalise(torch.from_numpy(pixels)[None], TINY).numpy()
    if form == "edge":
        image = pixels.transpose(2, 0, 1)[None].astype(np.float32)
    got = dict(zip(FORMS[form], session.run(None, {"image": image}), strict=True))
    close = {"rtol": 1e-3, "atol": 1e-4}
    np.testing.assert_allclose(got["proto"][0], want.proto, **close)
    np.testing.assert_allclose(got["masks" if form == "edge" else "mask"][0], want.masks, **close)
    if form == "edge":
        np.testing.assert_allclose(got["scores"][0], want.scores, **close)
    else:
        np.testing.assert_allclose(got["conf"][0, :, 1:].T, want.scores, **close)
        np.testing.assert_allclose(got["conf"].sum(-1), 1, **close)
    if form == "raw":
        boxes = decode_boxes(*(torch.from_numpy(got[name]) for name in ("loc", "priors")))
        np.testing.assert_allclose(boxes[0], want.boxes, **close)
    else:
        np.testing.assert_allclose(got["boxes"][0], want.boxes, **close)


def test_the_onnx_predictor_is_the_network(tmp_path: Path) -> None:
    network = tiny().eval()
    export(network, "edge", tmp_path / "graph.onnx")
    predict, size = onnx_predictor(tmp_path / "graph.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    want = network_predictor(network)(pixels)
    assert size == 64
    np.testing.assert_allclose(predict(pixels).boxes, want.boxes, rtol=1e-3, atol=1e-4)
    anchors, _, scores = detect(want)
    assert list(scores) == sorted(scores, reverse=True)
    for anchor in anchors[:3]:
        mask = draw_mask(want.boxes[anchor], want.masks[anchor], want.proto, 50, 70)
        assert mask.shape == (50, 70)
