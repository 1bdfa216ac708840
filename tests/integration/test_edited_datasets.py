"""What people edit is kept by the real commands: when a dataset grows, and when one is filled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from tests.fleet import fleet, until
from tests.graphs import NAMES, write_model
from tests.pictures import write_folder
from tests.running import Ran, maskmill

Dataset = dict[str, Any]


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "b")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"), 9)


@pytest.fixture
def coco(photos: Path, tmp_path: Path) -> Path:
    """A file of all photos, of which each third has an annotation, with ids of its own."""
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
    images = [
        {"id": 10 * n, "file_name": name, "width": 80, "height": 60, "license": n % 2}
        for n, name in enumerate(names, 1)
    ]
    annotations = [
        {"id": 40 - n, "image_id": each["id"], "category_id": 7 if n else 1,
         "bbox": [1, 2.50, 3, 4], "area": 12, "iscrowd": 0, "by": "eve",
         "segmentation": [[1, 2, 4, 2, 4, 6]]}
        for n, each in enumerate(images[::3])
    ]  # fmt: skip
    categories = [{"id": 1, "name": NAMES[0], "supercategory": "tree"}, {"id": 7, "name": "own"}]
    body = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "theirs.json").write_text(json.dumps(body, indent=1))
    return tmp_path / "theirs.json"


def dataset(output: Path) -> Dataset:
    found: Dataset = json.loads((output / "instances.json").read_bytes())
    for section in ("images", "annotations", "categories"):
        assert len({each["id"] for each in found[section]}) == len(found[section])
    return found


def fill(coco: Path, photos: Path, card: Path, out: Path, *more: object) -> Ran:
    roots = ("--images-root", photos) if photos else ()
    return maskmill("annotate", coco, "--only-unannotated", *roots, "-m", card, "-o", out, *more)


def is_filled(made: Dataset, theirs: Dataset, alone: Dataset) -> None:
    """All of theirs as it was, and what lacks annotations as it is annotated without them."""
    annotated = {each["image_id"] for each in theirs["annotations"]}
    images = {each["id"]: each for each in made["images"]}
    assert images.keys() == {each["id"] for each in theirs["images"]}
    for each in theirs["images"]:
        assert images[each["id"]]["file_name"] == each["file_name"]
        assert each["id"] not in annotated or images[each["id"]] == each
    found = {each["id"]: each for each in made["annotations"]}
    for each in theirs["annotations"]:
        assert found.pop(each["id"]) == each
    highest = max(each["id"] for each in theirs["annotations"])
    assert min(found) > highest
    expected = [each for each in alone["annotations"] if each["image_id"] not in annotated]
    assert [{**each, "id": 0} for each in found.values()] == [
        {**each, "id": 0} for each in expected
    ]
    assert expected, "a test of something"


def test_only_what_lacks_annotations_is_annotated(
    coco: Path, photos: Path, card: Path, tmp_path: Path
) -> None:
    out, alone = tmp_path / "out", tmp_path / "alone"
    ran = fill(coco, photos, card, out, "--shard-size", 2)
    assert ran.code == 0, ran.err
    ran = maskmill("annotate", coco, "--images-root", photos, "-m", card, "-o", alone)
    assert ran.code == 0, ran.err
    made = dataset(out)
    is_filled(made, json.loads(coco.read_bytes()), dataset(alone))
    categories = {each["id"]: each for each in made["categories"]}
    assert categories[7] == {"id": 7, "name": "own"}
    assert categories[1]["supercategory"] == "tree"
    assert {each["name"] for each in made["categories"]} == {*NAMES, "own"}
    COCO(str(out / "instances.json"))
    run = json.loads((out / "run.json").read_bytes())
    assert (run["inputs"], run["images"], run["failures"]) == (9, 9, 0)
    sound = maskmill("doctor", out)
    assert sound.code == 0, sound.out
    again = fill(coco, photos, card, out, "--shard-size", 2)
    assert again.code == 0
    assert dataset(out) == made
    other = maskmill("annotate", coco, "--images-root", photos, "-m", card, "-o", out)
    assert other.code == 2
    assert "only unannotated" in other.err


def test_one_that_was_cut_off_goes_on_to_the_same_bytes(
    coco: Path, photos: Path, card: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert fill(coco, photos, card, whole).code == 0
    for path in (whole / "edits").rglob("*.json"):  # planning that was cut off had come to this
        place = out / path.relative_to(whole)
        place.parent.mkdir(parents=True)
        place.write_bytes(path.read_bytes())
    assert fill(coco, photos, card, out).code == 0
    (out / "instances.json").unlink()  # a merge that was cut off
    assert fill(coco, photos, card, out).code == 0
    assert (out / "instances.json").read_bytes() == (whole / "instances.json").read_bytes()


def test_the_fleet_fills_it_as_well(coco: Path, photos: Path, card: Path, tmp_path: Path) -> None:
    out, local = tmp_path / "out", tmp_path / "local"
    assert fill(coco, photos, card, local).code == 0
    with fleet(tmp_path / "fleet") as made:
        command = ("submit", coco, "--only-unannotated", "--images-root", photos, "-m", card)
        how = ("-o", out, "--shared-paths", "--json")
        dry = made.run(*command, *how, "--dry-run")
        assert dry.code == 0, dry.err
        assert dry.events[0]["items"] == 6
        ran = made.run(*command, *how)
        assert ran.code == 0, ran.err
        assert ran.events[0]["items"] == 6
        made.worker()
        assert made.await_merged(out) == (local / "instances.json").read_bytes()
        appended = made.run(*command, "-o", tmp_path / "open", "--shared-paths", "--append")
        assert appended.code == 2
        assert "--append" in appended.err


@pytest.mark.parametrize(
    ("change", "more", "why"),
    [
        (None, ["{photos}"], "--only-unannotated takes one COCO file"),
        (None, ["--images-from", "{coco}"], "--only-unannotated takes one COCO file"),
        ("category", [], "has 'oak' as category 1, the model 'ash' as 1; --category-map"),
        ("name", [], "has 'ash' as category 9, the model 'ash' as 1; --category-map"),
        ("all", [], "no image of {coco} is without annotations"),
        ("twice", [], "{coco} is no COCO dataset: an id of its annotations is there twice"),
        ("cut", [], "{coco} is not JSON|{coco} is no COCO dataset"),
    ],
)
def test_wrong_use_is_one_sentence(
    coco: Path,
    photos: Path,
    card: Path,
    tmp_path: Path,
    change: str | None,
    more: list[str],
    why: str,
) -> None:
    theirs = json.loads(coco.read_bytes())
    if change == "category":
        theirs["categories"][0]["name"] = "oak"
    elif change == "name":
        theirs["categories"][0]["id"] = 9
    elif change == "all":
        one = theirs["annotations"][0]
        theirs["annotations"] = [
            {**one, "id": n, "image_id": each["id"]} for n, each in enumerate(theirs["images"])
        ]
    elif change == "twice":
        theirs["annotations"][0]["id"] = theirs["annotations"][1]["id"]
    text = json.dumps(theirs)
    coco.write_text(text[:-30] if change == "cut" else text)
    given = [each.format(photos=photos, coco=coco) for each in more]
    ran = fill(coco, photos, card, tmp_path / "out", *given)
    assert ran.code == 2, ran.err
    assert any(each.format(coco=coco) in ran.err for each in why.split("|")), ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "job.json").exists()


def test_edits_survive_when_an_open_job_grows(photos: Path, card: Path, tmp_path: Path) -> None:
    out, paths = tmp_path / "out", sorted(map(str, photos.rglob("*.jpg")))
    with fleet(tmp_path / "fleet") as made:

        def append(*inputs: str) -> None:
            how = ("-m", card, "-o", out, "--append", "--shared-paths")
            ran = made.run("submit", *inputs, *how, "--wait")
            assert ran.code == 0, ran.err + made.logs()

        made.worker()
        append(*paths[:4])
        theirs = dataset(out)
        changed, deleted, last = (
            theirs["annotations"][0],
            theirs["annotations"][1],
            theirs["images"][-1],
        )
        changed["category_id"] = 2
        changed["by"] = "eve"
        added = {**changed, "id": len(theirs["annotations"]) + 1, "image_id": last["id"]}
        theirs["annotations"] = [*theirs["annotations"][2:], changed, added]
        (out / "instances.json").write_text(json.dumps(theirs, indent=2, sort_keys=True))
        append(*paths[4:])
        until(lambda: len(dataset(out)["images"]) == 9, 60, "all are merged", made.logs)
        grown = dataset(out)
        found = {each["id"]: each for each in grown["annotations"]}
        assert deleted["id"] not in found
        for each in theirs["annotations"]:
            assert found.pop(each["id"]) == each
        assert min(found) > added["id"]
        assert {each["image_id"] for each in found.values()} <= {5, 6, 7, 8, 9}
        COCO(str(out / "instances.json"))
        sound = made.run("doctor", out)
        assert sound.code == 0, sound.out
        (out / "instances.json").write_text("[]")
        refused = made.run("merge", out)
        assert refused.code == 4, refused.err
        assert "--replace-edited" in refused.err
        assert (out / "instances.json").read_text() == "[]"
        assert made.run("merge", out, "--replace-edited").code == 0
        assert dataset(out) == grown
