"""A network of one's own, tried as a new user would: without a card, `models add`, `check`."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper
from PIL import Image

from tasks.cards import Build, Card, InputSpec, read_card
from tasks.categories import Category
from tests import graphs_yolo_seg
from tests.graphs import NAMES, write_model
from tests.pictures import write_folder
from tests.running import MASKMILL, environment, maskmill
from worker.add_model import to_toml

CLASSES = {0: "ash", 1: 'Käse "x"', 2: "a b", 3: "d", 4: "e"}
TOLD = ("--categories", ",".join(NAMES), "--color", "rgb", "--mean", "128,128,128")
TOLD = (*TOLD, "--std", "64,64,64")


def write_yolo(path: Path, metadata: bool = True) -> Path:
    """A -seg network as a person's own training leaves it."""
    model = graphs_yolo_seg.graph("raw")
    said = {each.key: each.value for each in model.metadata_props}
    del model.metadata_props[:]
    if metadata:
        changed = {"names": str(CLASSES), "license": "AGPL-3.0 License"}
        helper.set_model_props(model, said | changed)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos", 4)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKMILL_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def load(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_a_yolo_of_ones_own_needs_no_card(tmp_path: Path, photos: Path, models: Path) -> None:
    best = write_yolo(tmp_path / "runs" / "best.onnx")
    first, second = tmp_path / "first", tmp_path / "second"
    ran = maskmill("annotate", photos, "-m", best, "-o", first)
    assert ran.code == 0, ran.err
    dataset = load(first / "instances.json")
    assert [(each["id"], each["name"]) for each in dataset["categories"]] == [
        (number + 1, name) for number, name in CLASSES.items()
    ]
    assert len(dataset["images"]) == 4
    assert len(dataset["annotations"]) > 20
    again = maskmill("annotate", photos, "-m", best, "-o", first)
    assert again.code == 0, "the card is the same as before"
    added = maskmill("models", "add", best)
    assert added.code == 0, added.err
    card = read_card(models / "best.toml")
    assert (card.family, card.input.fit, card.input.std[0]) == ("yolo_seg", "letterbox", 255.0)
    assert card.license == "AGPL-3.0 License"
    assert maskmill("annotate", photos, "-m", "best", "-o", second).code == 0
    assert load(second / "instances.json")["annotations"] == dataset["annotations"]


def test_what_a_file_does_not_tell_is_asked_for(tmp_path: Path, photos: Path, models: Path) -> None:
    bare = write_yolo(tmp_path / "bare.onnx", metadata=False)
    for command in (
        ("annotate", photos, "-m", bare, "-o", tmp_path / "o"),
        ("models", "add", bare),
    ):
        ran = maskmill(*command)
        assert ran.code == 2
        assert "--categories" in ran.err
        assert ran.err.count("\n") == 1
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"categories": [{"id": n + 3, "name": f"n{n}"} for n in range(5)]}))
    ran = maskmill("models", "add", bare, "--name", "mine", "--categories", names)
    assert ran.code == 0, ran.err
    assert maskmill("annotate", photos, "-m", "mine", "-o", tmp_path / "o").code == 0
    categories = load(tmp_path / "o" / "instances.json")["categories"]
    assert [each["id"] for each in categories] == [3, 4, 5, 6, 7]


def test_a_mask_rcnn_by_models_add(tmp_path: Path, photos: Path, models: Path) -> None:
    from tests.graphs_mask_rcnn import write_model as write_mask_rcnn

    card = write_mask_rcnn(tmp_path / "from", "torchvision", "rcnn")
    card.unlink()
    network = card.with_suffix(".onnx")
    ran = maskmill("models", "add", network, "--json", "--categories", "coco80")
    assert ran.code == 0, ran.err + ran.out
    (said,) = ran.events
    assert said["build"]["fits"]
    with Image.open(said["build"]["drawn"]) as drawn:
        assert min(drawn.size) > 100
    ran = maskmill("annotate", photos, "-m", "rcnn", "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    dataset = load(tmp_path / "out" / "instances.json")
    assert len(dataset["annotations"]) > 10
    assert dataset["categories"][-1]["id"] == 90


def test_an_ir_by_models_add(tmp_path: Path, photos: Path, models: Path) -> None:
    pytest.importorskip("openvino")
    from tests.graphs_ir import write_ir

    network = write_ir(tmp_path, "1039", "ours")
    ran = maskmill("models", "add", network, "--categories", "coco80", "--json")
    assert ran.code == 0, ran.err
    assert ran.events[0]["build"]["engine"] == "openvino"
    assert sorted(each.suffix for each in (models / "ours").iterdir()) == [".bin", ".jpg", ".xml"]
    card = read_card(models / "ours.toml")
    assert (card.family, card.input.color, card.input.fit) == ("mask_rcnn", "bgr", "stretch")
    assert maskmill("annotate", photos, "-m", "ours", "-o", tmp_path / "out").code == 0


def test_on_a_terminal_it_asks(tmp_path: Path, models: Path) -> None:
    network = write_model(tmp_path, "a").with_suffix(".onnx")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [MASKMILL, "models", "add", str(network), "--mean", "128,128,128"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    os.close(theirs)
    os.write(ours, f"{','.join(NAMES)}\nbgr\n64,64,64\n".encode())
    out, err = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0, err
    assert "the names of its classes (--categories)" in out + err
    card = read_card(models / "canned.toml")
    assert (card.categories, card.input.color, card.input.std) == (NAMES, "bgr", (64.0,) * 3)


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["{net}", *TOLD, "--categories", "a,b"], "was not added: the model does not fit", 2),
        (["{net}", *TOLD, "--categories", "{net}.json"], "--categories", 2),
        (["{net}", *TOLD, "--color", "red"], "red", 2),
        (["{net}", *TOLD, "--mean", "1,2"], "length", 2),
        (["{net}", *TOLD, "--std", "0,0,0"], "> 0", 2),
        (["{net}", *TOLD, "--name", "../x"], "no name for a model", 2),
        (["{net}", *TOLD, "--name", "shapes"], "there is a model shapes", 2),
        (["{tmp}/nowhere.onnx"], "there is no model file", 2),
        (["{tmp}/pipe.onnx"], "there is no model file", 2),
        (["{tmp}/text.onnx"], "no network", 2),
        (["{tmp}/outside.onnx"], "keeps weights in outside.data", 2),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else None,
)
def test_what_cannot_be_added_leaves_nothing(
    tmp_path: Path, models: Path, arguments: list[str], words: str, code: int
) -> None:
    network = write_model(tmp_path, "a").with_suffix(".onnx")
    (tmp_path / "text.onnx").write_text("this is no network")
    os.mkfifo(tmp_path / "pipe.onnx")
    onnx.save(
        onnx.load(network),
        tmp_path / "outside.onnx",
        save_as_external_data=True,
        location="outside.data",
        size_threshold=0,
    )
    ran = maskmill("models", "add", *(each.format(net=network, tmp=tmp_path) for each in arguments))
    assert ran.code == code, ran.err
    assert words in ran.err
    assert ran.err.count("\n") == 1, ran.err
    assert not models.exists() or not list(models.iterdir())


@pytest.mark.parametrize("part", ["canned.toml", "canned/canned.onnx", "canned/sample.jpg"])
def test_a_failure_while_it_is_written_leaves_nothing(
    tmp_path: Path, models: Path, part: str
) -> None:
    """A full disk when the card, the network or the sample is to get its name."""
    network = write_model(tmp_path, "a").with_suffix(".onnx")
    fault = {"who": "parent", "path": str(models / part), "nth": 1, "errno": 28}
    ran = maskmill("models", "add", network, *TOLD, fault=fault)
    assert ran.code in (2, 4), ran.err
    assert ran.err.count("\n") == 1, ran.err
    assert not list(models.glob("[!.]*")), "the fault lets nothing be removed of the hidden rest"


def test_another_model_is_replaced_only_when_told(tmp_path: Path, models: Path) -> None:
    first = write_model(tmp_path / "1", "a").with_suffix(".onnx")
    second = write_model(tmp_path / "2", "b").with_suffix(".onnx")
    assert maskmill("models", "add", first, *TOLD).code == 0
    before = (models / "canned" / "canned.onnx").read_bytes()
    ran = maskmill("models", "add", second, *TOLD)
    assert ran.code == 2
    assert "--replace" in ran.err
    assert (models / "canned" / "canned.onnx").read_bytes() == before == first.read_bytes()
    assert maskmill("models", "add", second, *TOLD, "--replace").code == 0
    assert (models / "canned" / "canned.onnx").read_bytes() == second.read_bytes()
    assert sorted(each.name for each in models.iterdir()) == ["canned", "canned.toml"]
    assert maskmill("models", "check", "canned", "-o", tmp_path / "drawn").code == 0


def test_check_tries_every_build_with_every_engine(tmp_path: Path) -> None:
    card = write_model(tmp_path, "a")
    card.write_text(card.read_text() + '[[builds]]\nfile = "int8/missing.onnx"\n')
    ran = maskmill("models", "check", card, "--json", "-o", tmp_path / "drawn")
    assert ran.code == 0, ran.err
    builds = ran.events[0]["builds"]
    here = [each for each in builds if each["build"] == "canned.onnx"]
    assert [each["engine"] for each in here] == ["onnx", "openvino"]
    assert here[0]["fits"]
    assert "boxes (1×64×4 float)" in here[0]["outputs"]
    assert here[0]["roles"]["boxes"] == "boxes (1×64×4 float)"
    assert sum(here[0]["detections"].values()) > 10
    if here[1]["fits"]:
        assert here[1]["detections"] == here[0]["detections"]
    else:
        assert "maskmill[worker,openvino]" in here[1]["problem"]
    assert [each["problem"] for each in builds if each["build"] != "canned.onnx"] == [
        "it is not here"
    ]
    with Image.open(here[0]["drawn"]) as drawn:
        assert min(drawn.size) > 100


def test_check_says_what_was_expected_and_found(tmp_path: Path) -> None:
    card = write_model(tmp_path, "a")
    card.write_text(card.read_text().replace('"ash", "birch", ', ""))
    ran = maskmill("models", "check", card, "-o", tmp_path / "drawn")
    assert ran.code == 2
    told = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert told[1:5] == ["build canned.onnx", "engine onnx", f"path {told[3][5:]}", "fits False"]
    assert "expected" in ran.out
    assert "found" in ran.out
    (tmp_path / "canned.onnx").unlink()
    assert maskmill("models", "check", card).code == 2


def test_check_takes_a_network_and_a_picture(tmp_path: Path, photos: Path) -> None:
    best = write_yolo(tmp_path / "best.onnx")
    picture = next(photos.rglob("*.jpg"))
    ran = maskmill("models", "check", best, picture, "-o", tmp_path / "drawn")
    assert ran.code == 0, ran.err
    assert str(picture) in ran.out
    assert (tmp_path / "drawn" / "best.onnx-onnx.jpg").is_file()
    ran = maskmill("models", "check", best, tmp_path / "best.onnx", "-o", tmp_path / "drawn")
    assert ran.code == 2
    assert "best.onnx" in ran.err


@pytest.mark.parametrize(
    "categories",
    ["coco80", ("a", 'b "c" \\ \x7f\n', "€😀"), (Category(3, "x", "y"), "z")],
    ids=["COCO", "odd names", "ids"],
)
def test_a_written_card_reads_back(tmp_path: Path, categories: Any) -> None:
    spec = InputSpec((480, 640), "sides", 32, "bgr", (1.5, 2.0, 1e-5), (1.0, 2.0, 1e20))
    build = Build("x y.onnx", sha256="0" * 64)
    card = Card("m", "yolact", (build,), categories, spec, {"boxes": "loc"}, 'a "b"', "MIT")
    path = tmp_path / "m.toml"
    path.write_text(to_toml(card, "YOLACT"), "utf-8")
    assert read_card(path) == card
