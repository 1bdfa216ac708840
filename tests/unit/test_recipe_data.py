"""The training recipe's data: scenes tell the truth, bad files are refused, masks keep in step."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle

RECIPE = Path(__file__).parents[2] / "deploy" / "recipes" / "yolact"
NAMES = ("augment", "data", "evaluate", "outlines", "scenes", "textures")

sys.path.insert(0, str(RECIPE))
try:
    import augment
    import data
    import evaluate
    import scenes
finally:
    sys.path.remove(str(RECIPE))
    for name in NAMES:  # the recipe's module names are its own, not the test session's
        sys.modules.pop(name, None)

SIDE = 40


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    scenes.write_scenes(folder, 12, 5)
    return folder


def test_scenes_are_the_same_for_the_same_seed_whatever_the_count(
    drawn: Path, tmp_path: Path
) -> None:
    scenes.write_scenes(tmp_path, 5, 5)
    few = json.loads((tmp_path / "instances.json").read_text())
    many = json.loads((drawn / "instances.json").read_text())
    assert few["images"] == many["images"][:5]
    assert few["annotations"] == many["annotations"][: len(few["annotations"])]
    for image in few["images"]:
        name = image["file_name"]
        assert (tmp_path / name).read_bytes() == (drawn / name).read_bytes()


def test_another_seed_draws_other_scenes(drawn: Path, tmp_path: Path) -> None:
    scenes.write_scenes(tmp_path, 1, 6)
    assert (tmp_path / "000001.jpg").read_bytes() != (drawn / "000001.jpg").read_bytes()


def test_scenes_are_sound_coco(drawn: Path) -> None:
    document = json.loads((drawn / "instances.json").read_text())
    images = {image["id"]: image for image in document["images"]}
    assert [a["id"] for a in document["annotations"]] == [
        *range(1, len(document["annotations"]) + 1)
    ]
    assert [c["name"] for c in document["categories"]] == list(scenes.SHAPES)
    covered: dict[int, np.ndarray] = {}
    for annotation in document["annotations"]:
        image = images[annotation["image_id"]]
        mask = rle.decode(annotation["segmentation"])
        assert mask.shape == (image["height"], image["width"])
        assert annotation["area"] == mask.sum() >= scenes.MIN_PIXELS
        rows, cols = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        x, y, w, h = annotation["bbox"]
        assert (x, y, x + w, y + h) == (cols[0], rows[0], cols[-1] + 1, rows[-1] + 1)
        pile = covered.setdefault(image["id"], np.zeros(mask.shape, int))
        pile += mask
    assert max(pile.max() for pile in covered.values()) == 1, "visible parts never overlap"
    for image in document["images"]:
        picture = cv2.imread(str(drawn / image["file_name"]))
        assert picture.shape[:2] == (image["height"], image["width"])


def test_a_ring_has_a_hole_and_a_disc_has_none() -> None:
    for kind, holes in (("ring", 1), ("disc", 0), ("cross", 0), ("star", 0)):
        cover = scenes.rasterise(np.random.default_rng(0), kind, 60.0) >= 0.5
        _, levels = cv2.findContours(cover.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        inner = [row for row in levels.reshape(-1, 4) if row[3] >= 0]
        assert len(inner) == holes, kind


def test_every_kind_fills_its_circle_and_stays_inside() -> None:
    for kind in scenes.KINDS:
        cover = scenes.rasterise(np.random.default_rng(1), kind, 50.0)
        edge = np.concatenate([cover[0], cover[-1], cover[:, 0], cover[:, -1]])
        assert edge.max() == 0, kind
        assert 0.08 < (cover >= 0.5).mean() < 0.8, kind


def test_kinds_that_the_demo_model_does_not_know(tmp_path: Path) -> None:
    scenes.write_scenes(tmp_path, 2, 5, scenes.STRANGERS)
    document = json.loads((tmp_path / "instances.json").read_text())
    assert [(c["id"], c["name"]) for c in document["categories"]] == [
        (7, "heart"),
        (8, "crescent"),
        (9, "arrow"),
    ]


def coco(folder: Path, count: int = 10) -> dict[str, Any]:
    """`count` grey images with one square each; the file is for the test to spoil and write."""
    for number in range(1, count + 1):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((SIDE, SIDE, 3), 90, np.uint8))
    return {
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": SIDE, "width": SIDE}
            for n in range(1, count + 1)
        ],
        "annotations": [
            {
                "id": n,
                "image_id": n,
                "category_id": 44,
                "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]],
                "iscrowd": 0,
            }
            for n in range(1, count + 1)
        ],
        "categories": [{"id": 44, "name": "thing"}],
    }


def load(folder: Path, document: Any) -> data.Dataset:
    path = folder / "instances.json"
    path.write_text(json.dumps(document))
    return data.load_dataset(path)


def remove_image(document: dict[str, Any], folder: Path) -> None:
    (folder / "3.png").unlink()


def unknown_category(document: dict[str, Any], folder: Path) -> None:
    document["annotations"][2]["category_id"] = 7


def unknown_image(document: dict[str, Any], folder: Path) -> None:
    document["annotations"][2]["image_id"] = 99


def twice_the_same_image(document: dict[str, Any], folder: Path) -> None:
    document["images"].append(document["images"][0])


def polygons_outside(document: dict[str, Any], folder: Path) -> None:
    for annotation in document["annotations"]:
        annotation["segmentation"] = [[50, 50, 70, 50, 70, 70]]


def nothing_annotated(document: dict[str, Any], folder: Path) -> None:
    document["annotations"] = []


def only_crowds(document: dict[str, Any], folder: Path) -> None:
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 1


def too_few(document: dict[str, Any], folder: Path) -> None:
    document["annotations"] = document["annotations"][:3]


def no_categories(document: dict[str, Any], folder: Path) -> None:
    document["annotations"], document["categories"] = [], []


def results_list(document: dict[str, Any], folder: Path) -> None:
    del document["images"]


def broken_mask(document: dict[str, Any], folder: Path) -> None:
    document["annotations"][0]["segmentation"] = {"counts": 3, "size": [SIDE, SIDE]}


def mask_of_another_size(document: dict[str, Any], folder: Path) -> None:
    document["annotations"][0]["segmentation"] = {"counts": [4, 4, 8], "size": [4, 4]}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (remove_image, r"1 of the 10 images .* are not below .*, 3\.png for one"),
        (unknown_category, r"Annotation 3 .* has category 7, which is unknown"),
        (unknown_image, r"Annotation 3 .* belongs to image 99, which is unknown"),
        (twice_the_same_image, "uses an image id twice"),
        (polygons_outside, r"no annotation to learn from \(10 cover no pixel"),
        (nothing_annotated, "no annotation to learn from"),
        (only_crowds, "no annotation to learn from"),
        (too_few, "has 3 images with annotations, and at least 8 are needed"),
        (no_categories, "names no categories"),
        (results_list, "it has no images"),
        (broken_mask, "Annotation 1 .* has a segmentation that cannot be read"),
        (mask_of_another_size, r"Annotation 1 .* has a mask of \[4, 4\] on a 40x40 image"),
    ],
)
def test_bad_data_is_refused_with_a_sentence(
    spoil: Callable[[dict[str, Any], Path], None], says: str, tmp_path: Path
) -> None:
    document = coco(tmp_path)
    spoil(document, tmp_path)
    with pytest.raises(data.DataError, match=says):
        load(tmp_path, document)


@pytest.mark.parametrize("content", ["", "{", "[]", "3"])
def test_a_file_that_is_no_coco_json_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(content)
    with pytest.raises(data.DataError, match="is not"):
        data.load_dataset(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match="does not exist"):
        data.load_dataset(tmp_path / "none.json")


def test_an_image_of_another_size_is_refused_when_read(tmp_path: Path) -> None:
    document = coco(tmp_path)
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((20, 30, 3), np.uint8))
    dataset = load(tmp_path, document)
    with pytest.raises(data.DataError, match=r"is 30x20, but the annotation file says 40x40"):
        dataset.image(dataset.samples[0])


def test_odd_annotations_are_taken_or_counted(tmp_path: Path) -> None:
    document = coco(tmp_path)
    square = document["annotations"][0]["segmentation"]
    document["annotations"][0]["segmentation"] = []
    document["annotations"][1]["segmentation"] = [[50, 50, 70, 50, 70, 70], *square]
    document["annotations"][2]["segmentation"] = [[-20, -20, 25, -20, 25, 25, -20, 25]]
    document["annotations"][3] |= {
        "segmentation": {"counts": [0, SIDE * 10, SIDE * 30], "size": [SIDE, SIDE]},
        "iscrowd": 1,
    }
    dataset = load(tmp_path, document)
    assert dataset.skipped == 1
    assert dataset.samples[0].instances == ()
    assert dataset.samples[1].instances[0].box == (5, 5, 25, 25)
    assert dataset.samples[2].instances[0].box == (0, 0, 25, 25)
    assert dataset.samples[3].instances[0].crowd
    assert dataset.samples[3].instances[0].box == (0, 0, 10, SIDE)


def test_the_split_is_seeded_and_leaves_no_image_out(tmp_path: Path) -> None:
    dataset = load(tmp_path, coco(tmp_path))
    train, held_out = data.split(dataset, 0.2, 1)
    assert [s.id for s in data.split(dataset, 0.2, 1)[1]] == [s.id for s in held_out]
    assert sorted(s.id for s in train + held_out) == list(range(1, 11))
    assert len(held_out) == 2


@pytest.mark.parametrize("seed", range(8))
def test_masks_boxes_and_pixels_stay_in_step(seed: int, tmp_path: Path) -> None:
    """A white patch on black: wherever it goes, its mask and its box go."""
    document = coco(tmp_path)
    height, width = 90, 120
    picture = np.zeros((height, width, 3), np.uint8)
    patch = np.array([[30, 20], [75, 30], [40, 70]])
    cv2.fillPoly(picture, [patch], (255, 255, 255))
    for image, annotation in zip(document["images"], document["annotations"], strict=True):
        cv2.imwrite(str(tmp_path / image["file_name"]), picture)
        image |= {"height": height, "width": width}
        mask = rle.encode(np.asfortranarray(picture[..., 0] // 255))
        annotation["segmentation"] = {**mask, "counts": mask["counts"].decode()}
    dataset = load(tmp_path, document)
    how = augment.Augmentation(zoom_chance=1.0, flip_vertical=0.5, colour=0.0)
    rng = np.random.default_rng(seed)
    example = augment.make_example(dataset, dataset.samples[0], rng, how, 96, 48)
    seen = cv2.resize(example.image[..., 0], (48, 48), interpolation=cv2.INTER_AREA)
    seen = np.where(seen > 190, 255, 0)  # the fill beside the image is grey
    mask = np.where(example.masks[0] > 127, 255, 0)
    assert (seen != mask).mean() < 0.03
    rows, cols = (example.masks[0] > 127).any(1).nonzero()[0], mask.any(0).nonzero()[0]
    tight = np.array([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1]) / 48
    assert np.abs(example.boxes[0] - tight).max() < 0.05


def test_an_instance_that_leaves_the_window_is_left_out(tmp_path: Path) -> None:
    dataset = load(tmp_path, coco(tmp_path))
    instance = dataset.samples[0].instances[0]
    mask = rle.decode(instance.mask)
    assert augment.box_in_window(mask, instance.box, augment.Window(23, 0, 17, 40)) is None
    half = augment.box_in_window(mask, instance.box, augment.Window(15, 0, 20, 40))
    assert half == pytest.approx((0, 5 / 40, 10 / 20, 25 / 40))


def test_flipping_twice_changes_nothing(tmp_path: Path) -> None:
    dataset = load(tmp_path, coco(tmp_path))
    rng = np.random.default_rng(0)
    example = augment.make_example(dataset, dataset.samples[0], rng, augment.NONE, 32, 16)
    for horizontal in (True, False):
        once = augment.flip(example, horizontal=horizontal)
        again = augment.flip(once, horizontal=horizontal)
        np.testing.assert_allclose(again.boxes, example.boxes, atol=1e-6)
        np.testing.assert_array_equal(again.masks, example.masks)
        np.testing.assert_array_equal(again.image, example.image)
        assert not np.array_equal(once.masks, example.masks)


def test_perfect_answers_score_one_and_none_scores_zero(tmp_path: Path) -> None:
    dataset = load(tmp_path, coco(tmp_path))
    samples = list(dataset.samples)
    perfect = [
        {
            "image_id": sample.id,
            "category_id": 44,
            "score": 0.9,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "segmentation": instance.mask,
        }
        for sample in samples
        for instance in sample.instances
        for x1, y1, x2, y2 in [instance.box]
    ]
    for annotation in dataset.document["annotations"]:
        annotation |= {"area": 400, "bbox": [5, 5, 20, 20]}
    scores = evaluate.average_precision(dataset, samples, perfect)
    assert (scores["box_ap"], scores["mask_ap"]) == (1.0, 1.0)
    assert evaluate.average_precision(dataset, samples, [])["mask_ap"] == 0.0
