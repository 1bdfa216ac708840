"""Cards and categories: what a person writes, and what is said when it cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import onnx
import pytest

from tasks.cards import Model, ModelError, read_card
from tasks.categories import Category, coco80, ids_of, mapped, renumber
from tasks.environment import SettingError
from tasks.shelf import find_model, zoo_cards
from tests.graphs import write_model

MINIMAL = 'name = "m"\nfamily = "yolact"\ncategories = ["a", "b"]\n[[builds]]\nfile = "m.onnx"\n'


def test_every_bundled_card_reads_and_names_its_source() -> None:
    cards = [read_card(path) for path in zoo_cards()]
    assert {"yolact-edge-mobilenetv2", "yolact-resnet50-fpn-pytorch"} <= {c.name for c in cards}
    for card in cards:
        assert card.license
        assert card.source
        assert card.builds[0].ap


def test_coco_has_its_eighty_on_sparse_ids() -> None:
    ids = {each.id for each in coco80()}
    assert len(ids) == len({each.name for each in coco80()}) == 80
    assert set(range(1, 91)) - ids == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    by_id = {each.id: each.name for each in coco80()}
    assert [by_id[n] for n in (1, 13, 44, 90)] == ["person", "stop sign", "bottle", "toothbrush"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("family", "famly"), "famly"),
        (('["a", "b"]', "[]"), "length >= 1.*categories"),
        (('["a", "b"]', '[{id = 1, name = "a"}, {id = 1, name = "b"}]'), "one name or one id"),
        (('["a", "b"]', '["a", "A"]'), "one name or one id"),
        (('["a", "b"]', '["a", ""]'), r"length >= 1.*categories\[1\]"),
        (('["a", "b"]', '[{id = 0, name = "a"}]'), r">= 1.*categories\[0\].id"),
        (("m.onnx", "m.pt"), r"onnx.*tflite.*xml.*builds\[0\].file"),
        (("m.onnx", ".onnx"), r"onnx.*tflite.*xml.*builds\[0\].file"),
        (('[[builds]]\nfile = "m.onnx"\n', "builds = []"), "length >= 1.*builds"),
        (("[[builds]]", '[input]\nfit = "pad"\nmultiple = 32\n[[builds]]'), "no multiple.*input"),
        (('"m.onnx"\n', '"m.onnx"\nap = [{box = 38.6}]\n'), r"<= 1\.0.*ap\[0\]\.box"),
        (("name =", "name = ="), "cannot be read"),
    ],
    ids=[
        "a slip in a key",
        "no category",
        "ids twice",
        "names twice",
        "no name",
        "id 0",
        "no engine",
        "no name of a file",
        "no build",
        "what is not read",
        "AP in percent",
        "no TOML",
    ],
)
def test_a_card_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    card = tmp_path / "m.toml"
    card.write_text(MINIMAL.replace(*change))
    with pytest.raises(ModelError, match=words) as refused:
        read_card(card)
    assert str(card) in str(refused.value)


def test_a_pipe_is_no_card(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.toml")
    with pytest.raises(ModelError, match="there is no model card"):
        read_card(tmp_path / "m.toml")


def test_a_model_is_found_by_name_by_card_and_by_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKMILL_MODELS", str(tmp_path))
    card = write_model(tmp_path, "a", "mine")
    found = [find_model(word) for word in ("mine", str(card), str(tmp_path / "mine.onnx"))]
    assert len({(each.path, each.sha256) for each in found}) == 1
    (tmp_path / "mine.onnx").unlink()
    with pytest.raises(ModelError, match=r"weights of mine are not here.*mine\.onnx"):
        find_model("mine")


def test_an_xml_without_its_bin_names_the_bin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKMILL_MODELS", str(tmp_path))
    (tmp_path / "mine.toml").write_text(MINIMAL.replace("m.onnx", "mine.xml"))
    (tmp_path / "mine.xml").write_text("<net></net>")
    with pytest.raises(ModelError, match=rf"not here: put mine\.bin into {tmp_path}"):
        find_model("mine")
    with pytest.raises(ModelError, match=rf"there is no model file {tmp_path}/mine\.bin"):
        find_model(str(tmp_path / "mine.xml"))


def test_categories_are_chosen_and_renumbered(tmp_path: Path) -> None:
    own = (Category(4, "person"), Category(9, "dog"))
    assert ids_of(own, ["dog", " 4", "PERSON"]) == (4, 9)
    assert [each.id for each in renumber(own, "coco91")] == [1, 18]
    assert [each.id for each in renumber(own, "contiguous")] == [1, 2]
    ids = tmp_path / "ids.json"
    ids.write_text('{"dog": 2, "person": 5}')
    assert [each.id for each in renumber(own, str(ids))] == [5, 2]
    with pytest.raises(SettingError, match=r"'dgo'.*near it: dog"):
        ids_of(own, ["dgo"])
    ids.write_text('{"person": 5}')
    with pytest.raises(SettingError, match=r"'dog' is not among .*ids\.json"):
        renumber(own, str(ids))


CATS = (Category(3, "car"), Category(8, "truck"), Category(5, "cat"), Category(9, "dog"))


@pytest.mark.parametrize(
    ("mapping", "categories", "places"),
    [
        ({"car": "car"}, [(3, "car")], (0, None, None, None)),
        ({"car": "vehicle", "8": "vehicle"}, [(10, "vehicle")], (0, 0, None, None)),
        ({"CAR": "truck", "truck": "truck"}, [(8, "truck")], (0, 0, None, None)),
        ({"cat": 1, "dog": 3}, [(1, "cat"), (3, "car")], (None, None, 0, 1)),
        ({"dog": "x", "car": "y"}, [(10, "y"), (11, "x")], (0, None, None, 1)),
        ({"car": "car", "cat": 3}, [(3, "car")], (0, None, 0, None)),
        ({"car": 10, "truck": "lorry"}, [(10, "car"), (11, "lorry")], (0, 1, None, None)),
        ({"car": "Truck", "cat": "8"}, [(8, "truck")], (0, None, 0, None)),
    ],
    ids=[
        "kept",
        "two into a new one",
        "into one there is",
        "ids",
        "by the model's order",
        "both",
        "new ids and names apart",
        "case and digits",
    ],
)
def test_what_a_category_map_makes(mapping, categories, places) -> None:
    made, found = mapped(CATS, mapping, allow_unmatched=False)
    assert [(each.id, each.name) for each in made] == categories
    assert found == places


def test_a_category_map_that_does_not_match() -> None:
    with pytest.raises(SettingError, match="'trcuk'; near it: truck"):
        mapped(CATS, {"trcuk": "truck"}, allow_unmatched=False)
    made, _ = mapped(CATS, {"bicycle": "car", "cat": "cat"}, allow_unmatched=True)
    assert [each.name for each in made] == ["cat"]
    with pytest.raises(SettingError, match="nothing would be left"):
        mapped(CATS, {"bicycle": "car"}, allow_unmatched=True)


@pytest.mark.parametrize(
    "mapping", [{"car": "a", "3": "b"}, {"car": ""}, {"car": 100, "truck": "car"}]
)
def test_a_category_map_that_contradicts_itself(mapping) -> None:
    with pytest.raises(SettingError, match=r"twice|one name to two ids"):
        mapped(CATS, mapping, allow_unmatched=False)


def test_weights_beside_an_onnx_are_refused(tmp_path: Path) -> None:
    """Their bytes are not in the hash that a job names."""
    write_model(tmp_path, "a", "apart")
    model = onnx.load(tmp_path / "apart.onnx")
    onnx.save(
        model,
        tmp_path / "apart.onnx",
        save_as_external_data=True,
        location="apart.data",
        size_threshold=0,
    )
    with pytest.raises(ModelError, match=r"keeps weights in apart\.data: export it as one file"):
        find_model(str(tmp_path / "apart.toml"))


@pytest.mark.parametrize("name", ["a" * 3000, "no-such"])
def test_there_is_no_such_model(name: str) -> None:
    with pytest.raises(ModelError, match="there is no model"):
        find_model(name)


def test_a_job_names_an_engine_that_is_built_in() -> None:
    text = msgspec.json.encode(find_model("shapes"))
    assert msgspec.json.decode(text, type=Model) == find_model("shapes")
    with pytest.raises(msgspec.ValidationError, match="engine"):
        msgspec.json.decode(text.replace(b'"onnx"', b'"elsewhere"'), type=Model)
