"""What people edit is kept by the real commands when a dataset grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from tests.fleet import fleet, until
from tests.graphs import write_model
from tests.pictures import write_folder

Dataset = dict[str, Any]


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "b")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"), 9)


def dataset(output: Path) -> Dataset:
    found: Dataset = json.loads((output / "instances.json").read_bytes())
    for section in ("images", "annotations", "categories"):
        assert len({each["id"] for each in found[section]}) == len(found[section])
    return found


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
