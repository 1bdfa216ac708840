"""The Mask R-CNN decoder equals the plain reference in every form that is published."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cards import InputSpec
from tasks.graph_file import Tensor
from tests.oracles import mask_rcnn as oracle
from tests.pixels import decode as pixels
from tests.unit.test_pasting import heat_maps, pasted_planes
from worker.detections import ModelMismatch, Wanted
from worker.intake import Intake
from worker.mask_rcnn import bind

IMAGE = (61, 97)
SIZE = (96, 128)


def intake(fit="pad", size=SIZE):
    spec = InputSpec(fit=fit, size=size if fit == "sides" else None)
    return Intake(spec, "image", "nchw", None if fit in ("sides", "native") else size, np.float32)


def rows_of(seed, count, categories, levels=None):
    """Boxes in pixels of the input, some over its border; classes; scores, some that tie."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-0.1, 0.9, (count, 2)) * SIZE[::-1]
    boxes = np.hstack([corner, corner + rng.uniform(0.02, 0.6, (count, 2)) * SIZE[::-1]])
    scores = rng.uniform(0.05, 1, count)
    if levels:
        boxes, scores = np.round(boxes / 8) * 8, np.ceil(scores * levels) / levels
    classes = rng.integers(0, categories, count)
    return boxes.astype(np.float32), classes, scores.astype(np.float32)


class Made:
    """What a graph puts out, how it declares that, and what the reference is told of it."""

    def __init__(self, raw, shapes, categories, fit, numbering, paste, table=(), real=None):
        self.raw = {name: np.asarray(array, np.float32) for name, array in raw.items()}
        self.categories, self.numbering, self.paste = categories, numbering, paste
        self.real, self.table = real, dict(table)
        self.tensors = [
            Tensor(name, shape, "int64" if "l" in name.replace("TopK", "l")[:6] else "float")
            for name, shape in shapes.items()
        ]
        self.intake = intake(fit)
        self.frame = self.intake.frame(*IMAGE)

    def bound(self, **table):
        return bind(self.tensors, {**self.table, **table}, self.categories, self.intake)

    def plain(self, **options):
        decoder = self.bound()
        boxes, labels, scores, masks = (self.raw.get(called(decoder, role)) for role in ROLES)
        if scores is None:
            boxes, scores = boxes[:, :4], boxes[:, 4]
        if masks.shape[1] == 1:
            masks = masks[:, 0]
        return oracle.decode(
            *(boxes, labels, scores, masks, self.frame, self.categories),
            **{"numbering": self.numbering, "paste": self.paste, "real": self.real, **options},
        )


def security_0033(seed=0, count=30, levels=None, fit="pad"):
    """100 rows, those after the last detection of the background; a map for each class."""
    boxes, classes, scores = rows_of(seed, 100, 80, levels)
    labels = np.where(np.arange(100) < count, classes + 1, 0)
    maps = np.zeros((100, 81, 28, 28), np.float32)
    maps[np.arange(100), labels] = heat_maps(seed, 100, levels=levels)
    maps[np.arange(100), (labels + 1) % 81] = 1
    raw = {"classes": labels, "scores": scores, "boxes": boxes, "raw_masks": maps}
    shapes = {name: array.shape for name, array in raw.items()}
    return Made(raw, shapes, 80, fit, "one_based", "rounded")


def security_1040(seed=0, count=30, levels=None, side=28, fit="stretch"):
    """Scores beside the boxes, rows of zeros at the end, an output of no use."""
    boxes, classes, scores = rows_of(seed, count, 80, levels)
    boxes = np.hstack([boxes, scores[:, None]])
    boxes[count * 3 // 4 :, :4] = 0
    boxes[count // 2 : count // 2 + 1, :4] = [-60, -50, 40, 30]  # as its sum of coordinates says
    raw = {
        "TopK_2265.0": np.zeros(7),
        "boxes": boxes,
        "labels": classes,
        "masks": heat_maps(seed, count, side, levels),
    }
    shapes = {"TopK_2265.0": (7,), "boxes": (None, 5), "labels": (None,)}
    shapes["masks"] = (None, side, side)
    real = boxes[:, :4].sum(axis=1) > 0
    return Made(raw, shapes, 80, fit, "zero_based", "rounded", real=real)


def torchvision(seed=0, count=30, levels=None, categories=80):
    """Boxes and soft masks of the image itself, labels with COCO's gaps."""
    _, classes, scores = rows_of(seed, count, categories, levels)
    planes, boxes = pasted_planes(seed, count, *IMAGE)
    labels = np.array(oracle.COCO_IDS)[classes] if categories == 80 else classes + 1
    raw = {"boxes": boxes, "labels": labels, "scores": scores, "masks": planes[:, None]}
    shapes = {"boxes": (None, 4), "labels": (None,), "scores": (None,)}
    shapes["masks"] = (None, 1, None, None)
    numbering = "coco91" if categories == 80 else "one_based"
    return Made(raw, shapes, categories, "native", numbering, None)


def detectron2(seed=0, count=30, levels=None):
    """In the alphabetical order that its exporter gives."""
    boxes, classes, scores = rows_of(seed, count, 80, levels)
    raw = {
        "pred_boxes": boxes,
        "pred_classes": classes,
        "pred_masks": heat_maps(seed, count, levels=levels)[:, None],
        "scores": scores,
        "image_size": np.array(SIZE),
    }
    shapes = {"pred_boxes": (None, 4), "pred_classes": (None,), "pred_masks": (None, 1, 28, 28)}
    shapes.update({"scores": (None,), "image_size": (2,)})
    made = Made(raw, shapes, 80, "sides", "zero_based", "sampled")
    made.tensors = [
        Tensor(each.name, each.shape, "int64")
        if each.name in ("pred_classes", "image_size")
        else Tensor(each.name, each.shape, "float")
        for each in made.tensors
    ]
    return made


def renamed(made, names):
    """The same graph with outputs that are called by numbers."""
    made.raw = {names[name]: array for name, array in made.raw.items()}
    made.tensors = [Tensor(names[t.name], t.shape, t.dtype) for t in made.tensors]
    return made


def detectron2_traced(seed=0, count=30, levels=None):
    made = detectron2(seed, count, levels)
    return renamed(made, {name: str(3000 + n) for n, name in enumerate(made.raw)})


def onnx_zoo(seed=0, count=30, levels=None):
    made = detectron2(seed, count, levels)
    made.raw["pred_classes"] = made.raw["pred_classes"] + 1
    del made.raw["image_size"]
    made.tensors = made.tensors[:4]
    made.numbering, made.paste = "one_based", "rounded"
    names = {"pred_boxes": "6568", "pred_classes": "6570", "scores": "6572", "pred_masks": "6887"}
    return renamed(made, names)


FORMS = {
    "0033": security_0033,
    "0033, short and long side": lambda *a, **k: security_0033(*a, fit="sides", **k),
    "1040": security_1040,
    "0228": lambda *a, **k: security_1040(*a, side=14, **k),
    "0002": lambda *a, **k: security_1040(*a, fit="pad", **k),
    "torchvision": torchvision,
    "torchvision of other classes": lambda *a, **k: torchvision(*a, categories=7, **k),
    "Detectron2": detectron2,
    "Detectron2, traced": detectron2_traced,
    "ONNX zoo": onnx_zoo,
}


def assert_same(found, plain):
    seen = [index for index, mask in enumerate(plain.masks) if mask.any()]
    assert found.dropped == len(plain.surfaces) - len(seen)
    assert found.classes.tolist() == plain.classes[seen].tolist()
    np.testing.assert_allclose(found.scores, plain.scores[seen], rtol=1e-6)
    np.testing.assert_allclose(found.boxes, plain.boxes[seen], atol=1e-4)
    for mask, index in zip(found.masks, seen, strict=True):
        surface = plain.surfaces[index]
        differs = pixels(mask) != plain.masks[index]
        assert (abs(surface[differs] - 0.5) < 1e-6).all()


ROLES = ("boxes", "labels", "scores", "masks")


def called(decoder, role):
    """What the graph calls the output in this role, if it has one."""
    return decoder.outputs[role].tensor.name if role in decoder.outputs else None


def as_rows(found):
    parts = (found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), found.masks)
    return list(zip(*parts, strict=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_each_form_equals_the_reference(form, seed):
    made = FORMS[form](seed)
    found = made.bound()(made.raw, made.frame)
    assert len(found) > 12
    assert_same(found, made.plain())


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 12),
    levels=st.sampled_from([None, 2, 4]),
    limit=st.sampled_from([None, 1, 5]),
)
def test_any_outputs_equal_the_reference(form, seed, count, levels, limit):
    made = FORMS[form](seed, count, levels)
    found = made.bound()(made.raw, made.frame, Wanted(max_detections=limit))
    assert_same(found, made.plain(limit=limit))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("threshold", [0, 0.3, 0.5, 1])
def test_a_threshold_and_classes_filter_the_answer(form, threshold):
    made = FORMS[form](3, 30, 4)
    decoder, classes = made.bound(), frozenset(range(0, 80, 2))
    whole = as_rows(decoder(made.raw, made.frame))
    passed = [row for row in whole if row[1] >= threshold]
    assert as_rows(decoder(made.raw, made.frame, Wanted(threshold=threshold))) == passed
    kept = [row for row in passed if row[2] in classes]
    options = {"threshold": threshold, "keep_classes": classes}
    assert as_rows(decoder(made.raw, made.frame, Wanted(**options))) == kept
    few = decoder(made.raw, made.frame, Wanted(max_detections=4, **options))
    assert as_rows(few) == kept[: 4 - few.dropped]
    assert len(decoder(made.raw, made.frame, Wanted(keep_classes=frozenset()))) == 0


@pytest.mark.parametrize(
    ("form", "table"),
    [
        ("ONNX zoo", {"paste": "sampled", "labels": "zero_based"}),
        ("ONNX zoo", {"labels": "coco91"}),
        ("Detectron2", {"paste": "rounded", "labels": "one_based"}),
        ("torchvision", {"labels": "zero_based"}),
        ("1040", {"paste": "sampled", "labels": "one_based"}),
    ],
)
def test_the_card_says_what_a_graph_does_not(form, table):
    made = FORMS[form](4)
    found = made.bound(**table)(made.raw, made.frame)
    names = {"labels": "numbering", "paste": "paste"}
    assert_same(found, made.plain(**{names[key]: value for key, value in table.items()}))
    assert as_rows(found) != as_rows(made.bound()(made.raw, made.frame))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, -3e38])
@pytest.mark.parametrize("role", [0, 1, 2, 3], ids=["boxes", "labels", "scores", "masks"])
def test_what_is_not_finite_or_huge(form, bad, role):
    """It costs the rows that hold it, and no other."""
    made = FORMS[form](6)
    decoder = made.bound()
    name = called(decoder, ROLES[role]) or called(decoder, "boxes")
    hit = np.zeros(made.raw[name].shape, bool)
    hit[::3] = np.random.default_rng(1).random(hit[::3].shape) < 0.4
    if role == 3:
        hit[::3, ..., 9, 9] = True
    with np.errstate(over="ignore"):
        made.raw[name] = np.where(hit, np.float32(bad), made.raw[name])
    if made.real is not None:
        with np.errstate(invalid="ignore"):
            made.real = made.raw["boxes"][:, :4].sum(axis=1, dtype=np.float64) > 0
    found = decoder(made.raw, made.frame)
    assert len(found) > 5
    if role != 3 or (np.isinf(bad) and made.paste):
        assert_same(found, made.plain())


@pytest.mark.parametrize("form", ["1040", "Detectron2", "torchvision"])
@pytest.mark.parametrize(
    ("why", "box", "seen"),
    [
        ("reversed", (50, 40, 20, 10), False),
        ("without width", (50, 10, 50, 40), False),
        ("outside", (-40, 10, -20, 40), False),
        ("touching from outside", (-40, 1, 0, 40), False),
        ("far outside", (3e37, 3e37, 3e38, 3e38), False),
        ("over all", (-1e37, -1e37, 1e38, 1e38), True),
    ],
)
def test_one_box(form, why, box, seen):
    made = FORMS[form](7, 1)
    made.raw[called(made.bound(), "boxes")][0, :4] = box
    made.real = None
    if made.paste:
        made.raw[called(made.bound(), "masks")][:] = 1
    found = made.bound()(made.raw, made.frame)
    assert (len(found), found.dropped) == (int(seen and made.paste is not None), 0) or (
        made.paste is None and seen
    )
    if seen and made.paste:
        np.testing.assert_allclose(found.boxes, [[0, 0, 97, 61]])
        assert_same(found, made.plain())


@pytest.mark.parametrize("label", [-1, 0, 12, 91, 1000, 2.5, np.nan, 3e38])
def test_labels_without_a_category(label):
    made = torchvision(8)
    made.raw["labels"][:] = 90
    made.raw["labels"][3:6] = label
    found = made.bound()(made.raw, made.frame)
    assert set(found.classes.tolist()) == {79}
    assert_same(found, made.plain())


@pytest.mark.parametrize("form", FORMS)
def test_no_detections(form):
    made = FORMS[form](9, 0)
    found = made.bound()(made.raw, made.frame)
    assert (len(found), found.dropped) == (0, 0)


@pytest.mark.parametrize("form", ["1040", "Detectron2"])
def test_ten_thousand_detections(form):
    made = FORMS[form](10, 10_000)
    found = made.bound()(made.raw, made.frame)
    real = 7_500 if form == "1040" else 10_000
    # The remaining ones have an empty mask or lie outside the picture.
    assert real * 0.8 < len(found) + found.dropped <= real
    assert len(made.bound()(made.raw, made.frame, Wanted(max_detections=100))) <= 100


@pytest.mark.parametrize("form", ["1040", "Detectron2"])
def test_an_empty_mask_is_dropped_and_counted(form):
    made = FORMS[form](11)
    whole = made.bound()(made.raw, made.frame)
    masks = made.raw[called(made.bound(), "masks")]
    masks[5:9] *= 0.4
    found = made.bound()(made.raw, made.frame)
    assert len(found) + found.dropped == len(whole) + whole.dropped
    assert found.dropped > whole.dropped
    assert_same(found, made.plain())


@pytest.mark.parametrize("form", FORMS)
def test_the_outputs_are_never_written_into(form):
    made = FORMS[form](1)
    for array in made.raw.values():
        array.setflags(write=False)
    assert len(made.bound()(made.raw, made.frame))


def test_only_the_map_of_its_class_is_copied():
    """A map of another class holds what would be seen."""
    made = security_0033(2)
    labels = made.raw["classes"].astype(int)
    others = np.ones((100, 81), bool)
    others[np.arange(100), labels] = False
    made.raw["raw_masks"][others] = np.nan
    assert_same(made.bound()(made.raw, made.frame), made.plain())


GOOD = {
    "b": ((None, 4), "float"),
    "l": ((None,), "int64"),
    "s": ((None,), "float"),
    "m": ((None, 1, 28, 28), "float"),
}


def tensors(**changes):
    return [Tensor(name, *each) for name, each in {**GOOD, **changes}.items() if each is not None]


@pytest.mark.parametrize(
    ("why", "changes", "labels", "masks"),
    [
        ("the plain shapes", {}, "one_based", "rounded"),
        ("all sizes fixed", {"b": ((9, 4), "float"), "m": ((9, 1, 28, 28), "float")}, "one_based",
         "rounded"),
        ("with the size of the input", {"i": ((2,), "int64")}, "zero_based", "sampled"),
        ("a map for each class", {"m": ((100, 6, 28, 28), "float")}, "one_based", "rounded"),
        ("scores in the boxes", {"b": ((None, 5), "float"), "s": None}, "zero_based", "rounded"),
        ("masks without an axis for one", {"m": ((None, 14, 14), "float16")}, "one_based",
         "rounded"),
    ],
)  # fmt: skip
def test_outputs_are_found_in_any_order(why, changes, labels, masks):
    for order in (1, -1):
        decoder = bind(tensors(**changes)[::order], {}, 5, intake())
        wanted = ["b", "l", None if changes.get("s", 1) is None else "s", "m"]
        assert [called(decoder, role) for role in ROLES] == wanted
        assert decoder.paste == masks
        assert len(decoder.class_of_label) == (6 if labels == "one_based" else 5)


OPEN = {"m": ((None, 1, None, None), "float")}


@pytest.mark.parametrize(
    ("says", "changes", "table"),
    [
        ("no output has the name, shape and type of masks", {"m": None}, {}),
        (
            "no output has the name, shape and type of masks",
            {"m": ((None, 1, 28, 14), "float")},
            {},
        ),
        (
            "no output has the name, shape and type of masks",
            {"m": ((None, 5, 28, 28), "float")},
            {},
        ),
        (
            "no output has the name, shape and type of masks",
            {"m": ((1, None, 1, 28, 28), "float")},
            {},
        ),
        ("no output has the name, shape and type of boxes", {"b": ((None, 6), "float")}, {}),
        ("no output has the name, shape and type of boxes", {"b": ((1, None, 4), "float")}, {}),
        ("no output has the name, shape and type of scores", {"s": None}, {}),
        ("no output has the name, shape and type of labels", {"l": ((None,), "float")}, {}),
        ("s and s2 could be scores in more than one way", {"s2": ((None,), "float")}, {}),
        ("b and b2 could be boxes in more than one way", {"b2": ((None, 4), "float")}, {}),
        ("output 'x' is surplus", {"x": ((None, 7), "float")}, {}),
        ("no 4 outputs agree", {"b": ((9, 4), "float"), "l": ((8,), "int64")}, {}),
        ("output 's' is surplus", {"b": ((None, 5), "float")}, {}),
        ("no output has the name, shape and type of scores", {}, {"outputs": {"scores": "x"}}),
        ("no output has the name, shape and type of masks", {}, {"outputs": {"scores": "m"}}),
        ("labels are COCO's ids", {}, {"labels": "coco91"}),
        ("table is not valid .*unknown field `nms`", {}, {"nms": "fast"}),
        ("table is not valid .*paste", {}, {"paste": "soft"}),
        ("table is not valid .*outputs", {}, {"outputs": {"priors": "m"}}),
        ("cover the whole input", {"m": ((None, 1, 96, 96), "float")}, {}),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(says, changes, table):
    with pytest.raises(ModelMismatch, match=says) as refused:
        bind(tensors(**changes), table, 5, intake(size=(96, 96)))
    assert "\n" not in str(refused.value)
    assert "expected" in str(refused.value)
    assert "found" in str(refused.value)


def test_pasted_masks_are_not_pasted_again():
    with pytest.raises(ModelMismatch, match="cover the whole input"):
        bind(tensors(**OPEN), {"paste": "rounded"}, 5, intake("native"))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"l": ((None,), "float")}, {"labels": "l", "scores": "s"}),
        ({"s2": ((None,), "float")}, dict(zip(ROLES, "blsm", strict=True))),
        ({"i": ((2,), "int64"), "l": ((2,), "int64")}, {"labels": "l"}),
    ],
    ids=["labels that are floats", "an output beside the four named", "two rows at most"],
)
def test_names_settle_what_shapes_do_not(changes, names):
    with pytest.raises(ModelMismatch):
        bind(tensors(**changes), {}, 5, intake())
    decoder = bind(tensors(**changes), {"outputs": names}, 5, intake())
    assert [called(decoder, role) for role in ROLES] == ["b", "l", "s", "m"]


def test_known_names_come_before_types():
    """OpenVINO gives some of these graphs labels that are floats."""
    named = [Tensor(name, (100,), "float") for name in ("scores", "classes")]
    named += [Tensor("boxes", (100, 4), "float"), Tensor("raw_masks", (100, 6, 28, 28), "float")]
    decoder = bind(named, {}, 5, intake())
    found = [called(decoder, role) for role in ROLES]
    assert found == ["boxes", "classes", "scores", "raw_masks"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("role", [0, 1, 2, 3])
def test_outputs_that_disagree_when_run_are_refused(form, role):
    made = FORMS[form](0)
    decoder = made.bound()
    name = called(decoder, ROLES[role])
    if name is not None:
        made.raw[name] = made.raw[name][1:]
        with pytest.raises(ModelMismatch, match="do not belong together"):
            decoder(made.raw, made.frame)


def test_planes_are_not_taken_for_heat_maps():
    """Where the card does not say that the picture comes as it is, only the size tells."""
    made = torchvision(0)
    made.intake = intake("stretch")
    made.raw["masks"] = np.zeros((30, 1, 96, 96), np.float32)
    frame = intake("stretch", (96, 96)).frame(*IMAGE)
    with pytest.raises(ModelMismatch, match="other than of 96×96"):
        made.bound()(made.raw, frame)


def test_planes_of_another_size_when_run_are_refused():
    made = torchvision(0)
    made.raw["masks"] = made.raw["masks"][..., 1:]
    with pytest.raises(ModelMismatch, match="masks of 61×97"):
        made.bound()(made.raw, made.frame)
