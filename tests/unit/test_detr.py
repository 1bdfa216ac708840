"""The DETR family's decoder equals the plain reference in every form, and refuses misfits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cards import InputSpec
from tasks.categories import coco80
from tasks.graph_file import Tensor
from tests.oracles import detr as oracle
from tests.pixels import decode as pixels
from worker.detections import ModelMismatch, Wanted
from worker.detr import bind
from worker.intake import Intake
from worker.preprocess import to_frame

SPARSE = {each.id: index for index, each in enumerate(coco80())}
OWN = {0: 0, 1: 1, 2: 2}
SIZE = (48, 64)
# form -> names of logits, masks and boxes, and the oracle
FORMS = {
    "detr": (("logits", "pred_masks", "pred_boxes"), oracle.detr),
    "detr without boxes": (("logits", "pred_masks", None), oracle.detr),
    "mask2former": (("class_queries_logits", "masks_queries_logits", None), oracle.mask2former),
    "rf_detr": (("labels", "masks", "dets"), oracle.rf_detr),
}
# Class columns with what they stand for.
HEADS = {
    "coco": {"detr": 92, "detr without boxes": 251, "mask2former": 81, "rf_detr": 91},
    "own": {"detr": 4, "detr without boxes": 4, "mask2former": 4, "rf_detr": 4},
}


def intake(fit="stretch", size=SIZE):
    return Intake(InputSpec(fit=fit), "image", "nchw", size, np.float32)


def frame_of(height=61, width=97, fit="stretch", size=SIZE):
    return to_frame(height, width, InputSpec(fit=fit), size)


def outputs_of(seed, form, columns, queries=12, cells=(12, 16), sure=6.0, levels=None):
    """Blobs for masks, a class or two that stand out in each query, boxes anywhere."""
    rng = np.random.default_rng(seed)
    names = FORMS[form][0]
    logits = rng.normal(-3, 1, (queries, columns))
    logits[np.arange(queries), rng.integers(0, columns, queries)] += rng.uniform(0, sure, queries)
    rows, across = np.mgrid[0 : cells[0], 0 : cells[1]]
    centre, radius = rng.uniform(0, 1, (queries, 2)) * cells, rng.uniform(0, 6, queries)
    distance = np.hypot(rows - centre[:, 0, None, None], across - centre[:, 1, None, None])
    planes = (radius[:, None, None] - distance) * 2 + rng.normal(0, 1, (queries, *cells))
    boxes = np.hstack([rng.uniform(-0.2, 1.2, (queries, 2)), rng.uniform(0.05, 0.8, (queries, 2))])
    heads = [logits, planes, boxes]
    if levels:
        heads = [np.round(head * levels) / levels for head in heads]
    if names[2] is None:
        # Boxes are of the masks, and Mask2Former's scores, too: a pixel at zero would move them.
        heads[1] = planes
    pairs = zip(names, heads, strict=True)
    return {name: head[None].astype(np.float32) for name, head in pairs if name}


def bound(raw, categories, taken=None, **table):
    tensors = [Tensor(name, array.shape, "float") for name, array in raw.items()]
    return bind(tensors, table, categories, taken or intake())


def reference(raw, form, frame, categories, **options):
    names, steps = FORMS[form]
    heads = [raw[name][0] if name else None for name in names]
    return oracle.decode(steps, *heads, frame, categories, **options)


def assert_same(found, plain):
    assert found.classes.tolist() == plain.classes.tolist()
    np.testing.assert_allclose(found.scores, plain.scores, rtol=1e-5)
    np.testing.assert_allclose(found.boxes, plain.boxes, atol=1e-4)
    assert found.dropped == plain.dropped
    for mask, surface in zip(found.masks, plain.surfaces, strict=True):
        differs = pixels(mask) != (surface > 0)
        # Logits are float32 and up to tens: 1e-6 of the largest is their rounding.
        assert (abs(surface[differs]) < 1e-6 * max(abs(surface).max(), 1)).all()


def categories_of(head):
    return {"coco": SPARSE, "own": OWN}[head]


@pytest.mark.parametrize("size", [(61, 97), (1, 1), (200, 20), (33, 250), (48, 64)], ids=str)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("form", FORMS)
def test_each_form_equals_the_reference(form, head, size):
    categories = categories_of(head)
    if (form, head) == ("mask2former", "coco"):
        categories = {index: index for index in range(80)}
    seen = 0
    for seed in range(3):
        raw = outputs_of(seed, form, HEADS[head][form])
        frame = frame_of(*size)
        found = bound(raw, len(categories))(raw, frame)
        assert_same(found, reference(raw, form, frame, categories))
        seen += len(found)
    assert seen > 2 or size == (1, 1)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    queries=st.integers(1, 15),
    cells=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    levels=st.sampled_from([None, None, 1, 2]),
    sure=st.sampled_from([2.0, 9.0]),
)
def test_any_outputs_equal_the_reference(form, seed, queries, cells, size, levels, sure):
    raw = outputs_of(seed, form, 4, queries, cells, sure, levels)
    frame = frame_of(*size)
    plain = reference(raw, form, frame, OWN)
    assert_same(bound(raw, 3)(raw, frame), plain)


@pytest.mark.parametrize("fit", ["pad", "letterbox"])
@pytest.mark.parametrize("size", [(61, 97), (97, 61), (10, 300), (300, 10)], ids=str)
@pytest.mark.parametrize("form", ["detr", "detr without boxes"])
def test_padding_is_cut_from_masks_and_no_part_of_boxes(form, size, fit):
    raw = outputs_of(3, form, 4, queries=20)
    frame = frame_of(*size, fit=fit)
    found = bound(raw, 3, intake(fit))(raw, frame)
    assert_same(found, reference(raw, form, frame, OWN))
    assert len(found)


def test_mask2former_lets_padding_be():
    """Where the network saw zeros on the right and below, the picture has no pixels."""
    raw = outputs_of(3, "mask2former", 4, queries=20, sure=12)
    frame = frame_of(61, 61, fit="pad")
    found = bound(raw, 3, intake("pad"))(raw, frame)
    assert_same(found, reference(raw, "mask2former", frame, OWN))
    assert len(found)


def test_sides_that_are_resized_to_a_multiple():
    spec = InputSpec(fit="sides", size=(40, 66), multiple=32)
    frame = to_frame(123, 77, spec, None)
    assert (frame.input_width, frame.content_width) == (64, 40)
    raw = outputs_of(4, "detr", 4, cells=(24, 16))
    found = bound(raw, 3, Intake(spec, "image", "nchw", None, np.float32))(raw, frame)
    assert_same(found, reference(raw, "detr", frame, OWN))
    assert len(found)


def test_one_query_of_rf_detr_may_be_several_instances():
    raw = outputs_of(5, "rf_detr", 4)
    raw["labels"][0, 2:] = -9
    raw["labels"][0, :2] = [[3, 2, 1, 9], [0, -9, 2, 1]]
    raw["masks"][0, :2] += 30
    raw["dets"][0, :2] = 0.5
    found = bound(raw, 3)(raw, frame_of())
    assert found.classes.tolist() == [0, 1, 2, 2, 0]
    assert_same(found, reference(raw, "rf_detr", frame_of(), OWN))


def test_places_taken_by_what_is_no_category_stay_taken():
    """Of RF-DETR's best Q, those of columns without a category are left out, not replaced."""
    raw = outputs_of(6, "rf_detr", 91, queries=3)
    raw["labels"][...] = 0.0
    raw["labels"][0, :, 12] = 5.0  # no category of COCO has this id
    raw["labels"][0, 1, 90] = 6.0  # the toothbrush, in the last slot
    raw["masks"][...] = 1
    raw["dets"][...] = 0.5
    found = bound(raw, 80)(raw, frame_of())
    assert found.classes.tolist() == [79]


@pytest.mark.parametrize("form", FORMS)
def test_limit_threshold_and_classes_choose_from_the_whole_answer(form):
    raw = outputs_of(7, form, 4, queries=30, sure=12)
    decoder, frame = bound(raw, 3), frame_of()

    def rows(**options):
        found = decoder(raw, frame, Wanted(**options))
        parts = found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), found.masks
        return list(zip(*parts, strict=True))

    whole = rows()
    assert len({row[2] for row in whole}) == 3
    assert rows(threshold=0.9) == [row for row in whole if row[1] >= 0.9] != whole
    level = whole[2][1]
    assert rows(threshold=level) == [row for row in whole if row[1] >= level]
    assert rows(threshold=float(np.nextafter(level, 2)))[-1][1] > level
    assert rows(keep_classes=frozenset({1})) == [row for row in whole if row[2] == 1]
    assert rows(keep_classes=frozenset()) == rows(max_detections=0) == rows(threshold=1.1) == []
    best = rows(max_detections=4)
    assert best == whole[: len(best)] != []
    assert len(best) + decoder(raw, frame, Wanted(max_detections=4)).dropped == 4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_what_is_not_finite_is_left_out(form, value):
    raw = outputs_of(8, form, 4, queries=30, sure=12)
    frame = frame_of()
    logits, planes, boxes = FORMS[form][0]
    raw[logits][0, ::5, 1] = value
    raw[planes][0, 1::5, 3:9] = value
    raw[planes][0, 2] = value
    if boxes:
        raw[boxes][0, 3::5, 2] = value
        raw[boxes][0, 4, 0] = value
    untouched = {name: array.copy() for name, array in raw.items()}
    found = bound(raw, 3)(raw, frame)
    assert_same(found, reference(raw, form, frame, OWN))
    assert len(found)
    for name, array in raw.items():
        np.testing.assert_array_equal(array, untouched[name])


@pytest.mark.parametrize("form", FORMS)
def test_nothing_found(form):
    raw = outputs_of(9, form, 4)
    raw[FORMS[form][0][1]][...] = -1
    found = bound(raw, 3)(raw, frame_of())
    assert len(found) == 0
    assert found.dropped == len(reference(raw, form, frame_of(), OWN).surfaces) + (
        reference(raw, form, frame_of(), OWN).dropped
    )
    none = outputs_of(9, form, 4, queries=1)
    none = {name: array[:, :0] for name, array in none.items()}
    assert len(bound(none, 3)(none, frame_of())) == 0


def test_boxes_without_an_area_or_outside_are_left_out():
    raw = outputs_of(10, "detr", 4, queries=5)
    raw["pred_masks"][...] = 1
    raw["pred_boxes"][0] = [
        [0.5, 0.5, 0, 0.2],
        [0.5, 0.5, -0.2, 0.2],
        [3, 0.5, 0.2, 0.2],
        [1e38, 1e38, 1e38, 3e38],
        [0.5, 0.5, 9, 9],
    ]
    found = bound(raw, 3)(raw, frame_of(20, 30))
    assert found.boxes.tolist() == [[0, 0, 30, 20]]


@pytest.mark.parametrize("form", FORMS)
def test_thousands_of_ties(form):
    # Mask2Former looks at 384² places for each, so fewer do.
    queries = 500 if form == "mask2former" else 10_000
    raw = outputs_of(11, form, 4, queries, cells=(3, 4))
    for name, array in raw.items():
        raw[name] = np.repeat(array[:, :1], queries, axis=1)
    raw[FORMS[form][0][0]][...] = [9, -9, -9, -9]
    raw[FORMS[form][0][1]][...] = 9
    found = bound(raw, 3)(raw, frame_of(5, 6))
    assert len(found) == queries
    assert {mask.area for mask in found.masks} == {30}


def tensors(**shapes):
    return [Tensor(name, shape, "float") for name, shape in shapes.items()]


DETR = {"logits": (1, 9, 4), "pred_boxes": (1, 9, 4), "pred_masks": (1, 9, 12, 16)}
RF_DETR = {"dets": (1, 9, 4), "labels": (1, 9, 4), "masks": (1, 9, 12, 16)}


@pytest.mark.parametrize(
    ("why", "shapes", "table", "form"),
    [
        ("the authors' names", {**DETR, "logits": (1, None, 4)}, {}, "detr"),
        ("in another order", dict(reversed(DETR.items())), {}, "detr"),
        ("with hidden states beside", {**DETR, "last_hidden_state": (1, 9, 256)}, {}, "detr"),
        ("all sizes left open", {"pred_masks": (None,) * 4, "logits": (None, None, 4)}, {}, "detr"),
        ("RF-DETR's", RF_DETR, {}, "rf_detr"),
        ("RF-DETR's without the slot that nothing trains",
         {**RF_DETR, "labels": (1, 9, 3)}, {}, "rf_detr"),
        ("names of DETR, scores of RF-DETR", DETR,
         {"form": "rf_detr", "outputs": {"logits": "logits", "masks": "pred_masks"}}, "rf_detr"),
        (
            "names of one's own",
            {"a": (1, 9, 4), "b": (1, 9, 12, 16)},
            {"form": "mask2former", "outputs": {"logits": "a", "masks": "b"}},
            "mask2former",
        ),
        ("stuff after the card's things", {**DETR, "logits": (1, 9, 134)},
         {"classes": "direct"}, "detr"),
    ],
)  # fmt: skip
def test_forms_are_known_by_their_names(why, shapes, table, form):
    decoder = bind(tensors(**shapes), table, 3, intake())
    assert decoder.form == form
    assert decoder.classes[:3].tolist() == [0, 1, 2]
    assert (decoder.classes[3:] == -1).all()


@pytest.mark.parametrize(
    ("says", "shapes", "table", "categories"),
    [
        ("no form has outputs of these names", {"boxes": (1, 9, 4)}, {}, 3),
        ("no form has outputs of these names", {"logits": (1, 9, 4)}, {}, 3),
        ("no form has outputs of these names", DETR, {"form": "mask2former"}, 3),
        ("no form has outputs of these names", DETR, {"outputs": {"boxes": "bbox"}}, 3),
        (
            "no form has outputs of these names",
            {"a": (1, 9, 4), "b": (1, 9, 12, 16)},
            {"outputs": {"logits": "a", "masks": "b"}},
            3,
        ),
        (
            "no output has the name, shape and type of masks",
            {**DETR, "pred_masks": (1, 9, 12)},
            {},
            3,
        ),
        ("no 3 outputs agree", {**DETR, "pred_masks": (1, 8, 12, 16)}, {}, 3),
        (
            "no output has the name, shape and type of boxes",
            {**DETR, "pred_boxes": (1, 9, 5)},
            {},
            3,
        ),
        (
            "no output has the name, shape and type of logits",
            {**DETR, "logits": (1, 9, None)},
            {},
            3,
        ),
        ("no output has the name, shape and type of logits", {**DETR, "logits": (2, 9, 4)}, {}, 3),
        ("no output has the name, shape and type of logits", {**RF_DETR, "labels": (1, 9)}, {}, 3),
        ("4 class columns are neither", DETR, {}, 5),
        ("4 class columns are neither", DETR, {}, 80),
        ("92 class columns are neither", {**DETR, "logits": (1, 9, 92)}, {}, 3),
        ("4 class columns are neither", DETR, {"classes": "sparse"}, 80),
        ("92 class columns", {**DETR, "logits": (1, 9, 92)}, {"classes": "sparse"}, 3),
        ("4 class columns are neither", DETR, {"classes": "direct"}, 4),
        ("table is not valid .*unknown field `nms`", DETR, {"nms": "fast"}, 3),
        ("table is not valid .*form", DETR, {"form": "yolo"}, 3),
        ("table is not valid .*score_threshold", DETR, {"score_threshold": 2}, 3),
        ("table is not valid .*outputs", DETR, {"outputs": {"anchors": "x"}}, 3),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(says, shapes, table, categories):
    with pytest.raises(ModelMismatch, match=says) as refused:
        bind(tensors(**shapes), table, categories, intake())
    assert "\n" not in str(refused.value)
    assert "expected" in str(refused.value)
    assert "found" in str(refused.value)


def test_rf_detr_sees_a_stretched_picture():
    with pytest.raises(ModelMismatch, match="stretched"):
        bind(tensors(**RF_DETR), {}, 3, intake("pad"))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("logits", (1, 9, 5)), ("logits", (1, 8, 4)), ("pred_boxes", (1, 8, 4))],
    ids=["classes", "queries", "boxes"],
)
def test_outputs_that_disagree_when_run_are_refused(name, shape):
    raw = {key: np.zeros(size, np.float32) for key, size in DETR.items()}
    decoder = bound(raw, 3)
    raw[name] = np.zeros(shape, np.float32)
    with pytest.raises(ModelMismatch, match="do not belong together"):
        decoder(raw, frame_of())


@pytest.mark.parametrize("form", FORMS)
def test_the_card_sets_the_threshold(form):
    raw = outputs_of(12, form, 4, queries=30, sure=12)
    options = {} if form.startswith("detr") else {"least": 0.8}
    found = bound(raw, 3, score_threshold=0.8)(raw, frame_of())
    plain = reference(raw, form, frame_of(), OWN, **options)
    kept = plain.scores >= np.float32(0.8)
    assert found.scores.tolist() == pytest.approx(plain.scores[kept].tolist(), rel=1e-5)
    assert 0 < len(found) < len(bound(raw, 3)(raw, frame_of()))
