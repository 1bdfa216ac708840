"""The Ultralytics decoder equals the plain reference in every form, and refuses misfits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cards import InputSpec
from tasks.graph_file import Tensor
from tests.oracles import yolo_seg as oracle
from tests.oracles.yolo_heads import make_heads
from tests.pixels import decode as pixels
from worker.detections import ModelMismatch, Wanted
from worker.intake import Intake
from worker.yolo_seg import bind

CLASSES, DEPTH = 5, 7
INPUT = (64, 96)
LETTERBOX = InputSpec(fit="letterbox", std=(255.0, 255.0, 255.0))
INTAKE = Intake(LETTERBOX, "images", "nchw", INPUT, np.float32)
MASKS = ["upsampled", "logits", "probabilities"]
FORMS = ["raw", "raw, as TensorFlow", "normalised", "end to end", "end to end, as TensorFlow"]
# The content has the image's size, is larger than it, smaller, a half, a third, padded by an odd
# number of pixels, or is hardly there.
IMAGES = [(64, 80), (41, 57), (97, 203), (32, 40), (192, 288), (50, 96), (1, 1), (1, 200), (300, 2)]


def random_heads(seed, anchors=45, levels=None, step=4, spread=1.0):
    """Rows (4 + classes + depth, N) whose boxes overlap, lie all over the input and beyond."""
    rng = np.random.default_rng(seed)
    height, width = INPUT
    centres = rng.uniform(-0.1, 1.1, (anchors // 3, 2)) * [width, height]
    sides = rng.uniform(0, 0.6, (anchors // 3, 2)) * [width, height]
    boxes = np.hstack([centres, sides])[rng.integers(anchors // 3, size=anchors)]
    boxes = boxes + rng.normal(0, 1.5, boxes.shape)
    scores = rng.uniform(0, 1, (anchors, CLASSES)) ** 3
    if levels:
        scores, boxes = np.round(scores * levels) / levels, np.round(boxes / 4) * 4
    coefficients = rng.normal(0, spread, (anchors, DEPTH))
    rows = np.hstack([boxes, scores, coefficients]).astype(np.float32).T
    cells = height // step, width // step
    prototypes = rng.normal(0, 1, (DEPTH, *cells)).astype(np.float32)
    return np.ascontiguousarray(rows), prototypes


def in_form(form, rows, prototypes):
    """The same outputs as a graph of this form gives them, and the card's table."""
    if form.startswith("end to end"):
        found = oracle.raw_candidates(rows.T, CLASSES, 0.1)
        rows = np.array([[*box, score, kind, *rest] for box, score, kind, rest, _ in found])
        rows = rows.reshape(-1, 6 + DEPTH).astype(np.float32)
    if form == "normalised":
        rows = rows / np.array([*INPUT[::-1], *INPUT[::-1], *[1] * (len(rows) - 4)])[:, None]
        rows = rows.astype(np.float32)
    if form == "raw, as TensorFlow":
        rows = np.ascontiguousarray(rows.T)
    if form.endswith("TensorFlow"):
        prototypes = np.ascontiguousarray(np.moveaxis(prototypes, 0, 2))
    table = {"boxes": "normalised"} if form == "normalised" else {}
    return {"output1": prototypes[None], "output0": rows[None]}, table


def bound(raw, intake=INTAKE, classes=CLASSES, **table):
    tensors = [Tensor(name, array.shape, "float") for name, array in raw.items()]
    return bind(tensors, table, classes, intake)


def reference(form, raw, height, width, masks="upsampled", resize="rounded", **options):
    rows, prototypes = raw["output0"][0], raw["output1"][0]
    if form.endswith("TensorFlow"):
        prototypes = np.moveaxis(prototypes, 2, 0)
    limit = options.pop("limit", 300)
    if form.startswith("end to end"):
        found = oracle.listed(rows, CLASSES)
        boxes, scores, classes = oracle.columns(found)
        found = [found[i] for i in oracle.in_order(boxes, scores, classes)][:limit]
    else:
        rows = rows if form == "raw, as TensorFlow" else rows.T
        if form == "normalised":
            rows = rows.copy()
            rows[:, :4] *= np.float32([*INPUT[::-1], *INPUT[::-1]])
        picked = {k: options[k] for k in ("threshold", "multi_label") if k in options}
        rest = {k: options[k] for k in ("iou", "candidates") if k in options}
        found = oracle.raw_candidates(rows, CLASSES, **picked)
        found = oracle.suppressed(found, limit=limit, **rest)
    return oracle.decode(found, prototypes, height, width, INPUT, masks, resize)


def assert_same(found, plain, some=0):
    """The same detections in the same order; masks between the least and the most allowed."""
    sure = [place for place, least in enumerate(plain.least) if least.any()]
    maybe = [place for place, most in enumerate(plain.most) if most.any()]
    assert sure == maybe, "a seed that leaves a doubt of which masks are empty"
    assert len(found) >= some
    assert found.dropped == len(plain.least) - len(sure)
    assert found.classes.tolist() == plain.classes[sure].tolist()
    np.testing.assert_allclose(found.scores, plain.scores[sure], rtol=1e-6)
    np.testing.assert_allclose(found.boxes, plain.boxes[sure], atol=1e-4)
    for mask, place in zip(found.masks, sure, strict=True):
        drawn = pixels(mask)
        assert (plain.least[place] <= drawn).all()
        assert (drawn <= plain.most[place]).all()


def as_rows(found):
    columns = found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), found.masks
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("form", FORMS)
def test_each_form_equals_the_reference(form, masks):
    raw, table = in_form(form, *random_heads(3))
    found = bound(raw, masks=masks, **table)(raw, INTAKE.frame(97, 203))
    assert_same(found, reference(form, raw, 97, 203, masks), some=10)


@pytest.mark.parametrize("size", IMAGES)
@pytest.mark.parametrize("resize", ["rounded", "truncated"])
@pytest.mark.parametrize("masks", MASKS)
def test_each_image_size_equals_the_reference(size, masks, resize):
    raw, _ = in_form("raw", *random_heads(sum(size)))
    found = bound(raw, masks=masks, resize=resize)(raw, INTAKE.frame(*size))
    plain = reference("raw", raw, *size, masks, resize)
    assert_same(found, plain, some=min(size) > 2 and 10)
    doubt = [(most & ~least).mean() for least, most in zip(plain.least, plain.most, strict=True)]
    assert max(doubt, default=0) < 0.01


@pytest.mark.parametrize("masks", MASKS)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    form=st.sampled_from(FORMS),
    levels=st.sampled_from([None, 4, 64]),
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    resize=st.sampled_from(["rounded", "truncated"]),
    limit=st.integers(1, 30),
    step=st.sampled_from([2, 4, 8]),
)
def test_any_outputs_equal_the_reference(masks, seed, form, levels, size, resize, limit, step):
    raw, table = in_form(form, *random_heads(seed, 24, levels, step))
    if not raw["output0"].size:
        return
    # Said, since a few numbers of rows can be read in two ways: 21 rows of 13 are also 13 of 21.
    table["predictions"] = "end_to_end" if form.startswith("end to end") else "raw"
    decoder = bound(raw, masks=masks, resize=resize, **table)
    found = decoder(raw, INTAKE.frame(*size), Wanted(max_detections=limit))
    assert_same(found, reference(form, raw, *size, masks, resize, limit=limit))


def test_a_graph_of_full_size():
    intake = Intake(LETTERBOX, "images", "nchw", (640, 640), np.float32)
    frame = intake.frame(60, 91)
    rows, prototypes = make_heads(1, 24, frame)
    raw = {"output0": rows[None], "output1": prototypes[None]}
    found = bound(raw, intake, 80)(raw, frame)
    plain = oracle.suppressed(oracle.raw_candidates(rows.T, 80))
    assert_same(found, oracle.decode(plain, prototypes, 60, 91, (640, 640)), some=20)


def test_a_pixel_of_one_half_is_on():
    """An image of half the content's size: each pixel is the mean of four."""
    rows, prototypes = one_detection((48, 32, 30, 22))
    raw, _ = in_form("raw", rows, prototypes)
    mask = pixels(bound(raw)(raw, INTAKE.frame(32, 48)).masks[0])
    box = mask[10:22, 16:32]  # of 21 … 43 and 33 … 63: all four edges are the middle of a pixel
    assert [box[0].sum(), box[-1].sum(), box[:, 0].sum(), box[:, -1].sum()] == [14, 14, 10, 10]
    assert mask.sum() == box.sum() == box.size - 4  # a corner has one of four
    truncated = pixels(bound(raw, resize="truncated")(raw, INTAKE.frame(32, 48)).masks[0])
    assert truncated.sum() == (12 - 2) * (16 - 2)


def test_the_ways_of_making_masks_differ_as_published():
    """Of a box filled to its edges: cut among prototypes it bleeds, or stays under one half."""
    rows, prototypes = one_detection((50, 30, 42, 26))
    raw, _ = in_form("raw", rows, prototypes)
    area = {way: bound(raw, masks=way)(raw, INTAKE.frame(64, 96)).masks[0].area for way in MASKS}
    assert area["upsampled"] == 42 * 26
    assert area["logits"] > area["probabilities"] != area["upsampled"]


def one_detection(box, score=0.9):
    rows = np.zeros((4 + CLASSES + DEPTH, 40), np.float32)
    rows[:4, 7], rows[6, 7], rows[4 + CLASSES :, 7] = box, score, 1
    return rows, np.ones((DEPTH, INPUT[0] // 4, INPUT[1] // 4), np.float32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("threshold", [0, 0.25, 0.3, 0.5, 0.7, 1])
def test_a_threshold_is_a_filter_of_the_answer(form, threshold):
    raw, table = in_form(form, *random_heads(4, levels=20))
    decoder, frame = bound(raw, **table), INTAKE.frame(50, 60)
    whole = [row for row in as_rows(decoder(raw, frame)) if row[1] >= threshold]
    assert as_rows(decoder(raw, frame, Wanted(threshold=threshold))) == whole


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("classes", [{0, 3}, {4}, set(), {0, 1, 2, 3, 4}, {2, 99}])
def test_classes_that_are_kept(form, classes):
    rows, prototypes = random_heads(5)
    rows[:2] = np.clip(rows[:2], 10, 50)  # in the image, or what is out of it takes a place
    rows[2:4] = abs(rows[2:4]) + 4
    raw, table = in_form(form, rows, prototypes)
    decoder, frame = bound(raw, **table), INTAKE.frame(64, 96)
    whole = [row for row in as_rows(decoder(raw, frame)) if row[2] in classes]
    kept = frozenset(classes)
    assert as_rows(decoder(raw, frame, Wanted(keep_classes=kept))) == whole
    few = decoder(raw, frame, Wanted(max_detections=3, keep_classes=kept))
    assert len(few) + few.dropped == 3 or as_rows(few) == whole
    assert as_rows(few) == whole[: len(few)]


@pytest.mark.parametrize(
    ("table", "options"),
    [
        ({"score_threshold": 0.6}, {"threshold": 0.6}),
        ({"nms_iou": 0.2}, {"iou": 0.2}),
        ({"multi_label": True}, {"multi_label": True}),
        ({"max_candidates": 9}, {"candidates": 9}),
        ({"max_detections": 4}, {"limit": 4}),
        ({"masks": "logits"}, {"masks": "logits"}),
        ({"resize": "truncated"}, {"resize": "truncated"}),
    ],
)
def test_every_option_counts(table, options):
    raw, _ = in_form("raw", *random_heads(6))
    frame = INTAKE.frame(97, 203)
    found = bound(raw, **table)(raw, frame)
    assert_same(found, reference("raw", raw, 97, 203, **options), some=3)
    assert as_rows(found) != as_rows(bound(raw)(raw, frame))


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("part", ["output0", "output1"])
def test_what_is_not_finite_makes_no_harm(form, masks, bad, part):
    raw, table = in_form(form, *random_heads(7))
    decoder, frame = bound(raw, masks=masks, **table), INTAKE.frame(50, 60)
    rng = np.random.default_rng(1)
    raw[part] = np.where(rng.random(raw[part].shape) < 0.05, np.float32(bad), raw[part])
    found = decoder(raw, frame)
    assert len(found) > 2
    raw[part] = np.full_like(raw[part], bad)
    found = decoder(raw, frame)
    if np.isnan(bad):
        assert len(found) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_costs_only_itself(bad):
    rows, prototypes = random_heads(8)
    rows[4 : 4 + CLASSES][np.random.default_rng(8).random((CLASSES, 45)) < 0.3] = bad
    raw, _ = in_form("raw", rows, prototypes)
    found = bound(raw)(raw, INTAKE.frame(50, 60))
    assert_same(found, reference("raw", raw, 50, 60), some=10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_coefficients_that_are_not_finite_make_no_mask(bad):
    rows, prototypes = one_detection((48, 32, 20, 20))
    rows[-1, 7] = bad
    raw, _ = in_form("raw", rows, prototypes)
    found = bound(raw)(raw, INTAKE.frame(50, 60))
    assert (len(found), found.dropped) == (0, 1)


@pytest.mark.parametrize("kind", [-1, 5, 1e9, 1.5, np.nan, np.inf])
def test_a_class_out_of_range_is_no_detection(kind):
    raw, _ = in_form("end to end", *one_detection((48, 32, 20, 20)))
    decoder, frame = bound(raw), INTAKE.frame(50, 60)
    assert len(decoder(raw, frame)) == 1
    raw["output0"][0, :, 5] = kind
    assert len(decoder(raw, frame)) == 0


@pytest.mark.parametrize("form", FORMS)
def test_no_detections(form):
    rows, prototypes = random_heads(9)
    raw, table = in_form(form, rows, prototypes)
    end = form.startswith("end to end")
    raw["output0"] = raw["output0"][:, :0] if end else np.zeros_like(raw["output0"])
    found = bound(in_form(form, rows, prototypes)[0], **table)(raw, INTAKE.frame(61, 97))
    assert (len(found), found.dropped) == (0, 0)


@pytest.mark.parametrize("form", ["raw", "end to end"])
def test_ten_thousand_detections(form):
    rng = np.random.default_rng(9)
    rows = rng.uniform(0.3, 1, (4 + CLASSES + DEPTH, 10_000)).astype(np.float32)
    rows[:2] = rng.uniform(0, 64, (2, 10_000))
    raw, _ = in_form(form, rows, np.ones((DEPTH, 16, 24), np.float32))
    found = bound(raw)(raw, INTAKE.frame(64, 96), Wanted(max_detections=2_000))
    assert len(found) + found.dropped == 2_000


@pytest.mark.parametrize(
    ("why", "box", "expected"),
    [
        ("clipped", (0, 30, 60, 100), (0, 0, 30, 64)),
        ("reversed", (40, 30, -20, 10), None),
        ("without width", (40, 30, 0, 10), None),
        ("outside", (200, 30, 20, 10), None),
        ("far outside", (3e38, 3e38, 1, 1), None),
        ("over all", (48, 32, 3e38, 3e38), (0, 0, 96, 64)),
    ],
)
@pytest.mark.parametrize("masks", MASKS)
def test_one_box(why, box, expected, masks):
    raw, _ = in_form("raw", *one_detection(box))
    found = bound(raw, masks=masks)(raw, INTAKE.frame(64, 96))
    assert found.dropped == 0
    assert found.boxes.tolist() == ([list(map(float, expected))] if expected else [])


@pytest.mark.parametrize("masks", MASKS)
def test_an_empty_mask_is_dropped_and_counted(masks):
    rows, prototypes = one_detection((48, 32, 20, 20))
    raw, _ = in_form("raw", rows, -prototypes)
    found = bound(raw, masks=masks)(raw, INTAKE.frame(64, 96))
    assert (len(found), found.dropped) == (0, 1)


def test_the_threshold_is_to_be_exceeded():
    for score, count in ((0.25, 0), (np.nextafter(np.float32(0.25), np.float32(1)), 1)):
        raw, _ = in_form("raw", *one_detection((48, 32, 20, 20), score))
        assert len(bound(raw)(raw, INTAKE.frame(64, 96))) == count


@pytest.mark.parametrize("form", FORMS)
def test_the_outputs_are_never_written_into(form):
    raw, table = in_form(form, *random_heads(1))
    for array in raw.values():
        array.setflags(write=False)
    for masks in MASKS:
        assert len(bound(raw, masks=masks, **table)(raw, INTAKE.frame(50, 60)))


def tensors(predictions, prototypes, *others):
    shapes = {"output0": predictions, "output1": prototypes} | dict(others)
    return [Tensor(name, shape, "float") for name, shape in shapes.items() if shape is not None]


@pytest.mark.parametrize(
    ("why", "predictions", "prototypes", "classes", "form", "expected"),
    [
        ("v8", (1, 116, 8400), (1, 32, 160, 160), 80, None, ("raw", True, False)),
        ("NHWC", (1, 116, 8400), (1, 160, 160, 32), 80, None, ("raw", True, True)),
        ("both turned", (1, 8400, 116), (1, 160, 160, 32), 80, None, ("raw", False, True)),
        ("26", (1, 300, 38), (1, 32, 160, 160), 80, None, ("end_to_end", False, False)),
        ("another depth", (1, 100, 8400), (1, 16, 160, 160), 80, None, ("raw", True, False)),
        ("open", (None, 116, None), (None, 32, None, None), 80, None, ("raw", True, False)),
        ("open 26", (None, None, 38), (None, 32, None, None), 80, None,
         ("end_to_end", False, False)),
        ("two classes", (1, 38, 8400), (1, 32, 160, 160), 2, None, ("raw", True, False)),
        ("two classes, 26", (1, 300, 38), (1, 32, 160, 160), 2, None,
         ("end_to_end", False, False)),
        ("two classes, said raw", (1, 300, 38), (1, 32, 160, 160), 2, "raw",
         ("raw", False, False)),
    ],
)  # fmt: skip
def test_outputs_are_found_by_shape_in_any_order(
    why, predictions, prototypes, classes, form, expected
):
    intake = Intake(LETTERBOX, "images", "nchw", (640, 640), np.float32)
    table = {} if form is None else {"predictions": form}
    for order in (1, -1):
        given = tensors(predictions, prototypes)[::order]
        decoder = bind(given, table, classes, intake)
        flat, planes = decoder.outputs.values()
        assert (flat.tensor.name, planes.tensor.name) == ("output0", "output1")
        assert (decoder.form, flat.order == (2, 1), planes.way == 1) == expected


@pytest.mark.parametrize(
    ("says", "predictions", "prototypes", "others", "table"),
    [
        ("type of predictions", None, (1, 7, 16, 24), (), {}),
        ("type of prototypes", (1, 16, 60), None, (), {}),
        ("'x' is surplus", (1, 16, 60), (1, 7, 16, 24), [("x", (1, 5))], {}),
        ("'x' is surplus", (1, 16, 60), (1, 7, 16, 24), [("x", (1, 5, 5))], {}),
        ("type of predictions", (2, 16, 60), (2, 7, 16, 24), (), {}),
        ("no 2 outputs agree", (1, 16, 60), (1, 9, 16, 24), (), {}),
        ("no 2 outputs agree", (1, 18, 60), (1, 7, 16, 24), (), {}),
        ("no 2 outputs agree", (1, None, 60), (1, 7, 16, 24), (), {}),
        ("no 2 outputs agree", (1, 16, 60), (1, None, 16, 24), (), {}),
        ("no 2 outputs agree", (1, 16, 60), (1, 7, 16, 24), (), {"predictions": "end_to_end"}),
        ("order of its axes", (1, 16, 16), (1, 7, 16, 24), (), {}),
        ("order of its axes", (1, 16, 60), (1, 7, 16, 7), (), {}),
        ("do not fit its input.*17×24", (1, 16, 60), (1, 7, 17, 24), (), {}),
        ("not valid .*unknown field `nsm`", (1, 16, 60), (1, 7, 16, 24), (), {"nsm": 1}),
        ("not valid .*resize", (1, 16, 60), (1, 7, 16, 24), (), {"resize": "old"}),
        ("not valid .*masks", (1, 16, 60), (1, 7, 16, 24), (), {"masks": "old"}),
        ("not valid .*nms_iou", (1, 16, 60), (1, 7, 16, 24), (), {"nms_iou": 1.5}),
        ("not valid .*max_detections", (1, 16, 60), (1, 7, 16, 24), (), {"max_detections": 0}),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(says, predictions, prototypes, others, table):
    with pytest.raises(ModelMismatch, match=says) as refused:
        bind(tensors(predictions, prototypes, *others), table, CLASSES, INTAKE)
    assert "\n" not in str(refused.value)
    assert "expected" in str(refused.value)


def test_prototypes_that_do_not_fit_when_run_are_refused():
    raw, _ = in_form("raw", *random_heads(0))
    decoder = bind(tensors((1, 16, None), (1, 7, None, None)), {}, CLASSES, INTAKE)
    raw["output1"] = raw["output1"][:, :, :-1]
    with pytest.raises(ModelMismatch, match="do not fit its input"):
        decoder(raw, INTAKE.frame(50, 60))
