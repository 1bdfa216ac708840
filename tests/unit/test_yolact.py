"""The YOLACT decoder equals the plain reference in every published form, and refuses misfits."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cards import InputSpec
from tasks.graph_file import Tensor
from tests.oracles import yolact as oracle
from tests.oracles.yolact_heads import Heads, make_heads
from tests.pixels import decode as pixels
from worker.detections import ModelMismatch, Wanted
from worker.intake import Intake
from worker.yolact import bind, make_priors

CLASSES = 5
INPUT = (48, 64)
INTAKE = Intake(InputSpec(), "image", "nchw", INPUT, np.float32)
FRAME = SimpleNamespace(image_height=61, image_width=97)
SCALES, RATIOS = (8, 16, 32), (1, 0.5)
# Centre x, centre y, width, height: of a 48 × 64 input 6·8, 3·4 and 2·2 places of two sides each.
PRIORS = np.array(
    [
        [(x + 0.5) / columns, (y + 0.5) / rows, side / 64, side / 64]
        for (rows, columns), scale in zip(((6, 8), (3, 4), (2, 2)), SCALES, strict=True)
        for y in range(rows)
        for x in range(columns)
        for side in (scale * ratio**0.5 for ratio in RATIOS)
    ],
    dtype=np.float32,
)
ANCHORS = len(PRIORS)


def small_heads(seed=0, objects=8, levels=None):
    made = make_heads(
        seed, objects, anchors=ANCHORS, classes=CLASSES, cells=17, depth=16, anchors_each=9
    )
    if not levels:
        return made
    # An int8 model's outputs come in steps: coarse boxes, many scores that tie.
    scores = (np.round(made.scores * levels) / levels).astype(np.float32)
    boxes = (np.round(made.boxes * levels) / levels).astype(np.float32)
    return made._replace(scores=scores, boxes=boxes)


def crowd(seed):
    """Boxes that all overlap some, with high scores and masks that are never empty."""
    rng = np.random.default_rng(seed)
    corner, side = rng.uniform(0, 0.7, (ANCHORS, 2)), rng.uniform(0.1, 0.3, (ANCHORS, 2))
    return Heads(
        np.hstack([corner, corner + side]).astype(np.float32),
        rng.uniform(0, 1, (ANCHORS, CLASSES + 1)).astype(np.float32) ** 4,
        rng.uniform(0.1, 1, (ANCHORS, 16)).astype(np.float32),
        rng.uniform(0.1, 3, (17, 17, 16)).astype(np.float32),
    )


def bound(raw, categories=CLASSES, **table):
    return bind(
        [Tensor(name, array.shape, "float") for name, array in raw.items()],
        table,
        categories,
        INTAKE,
    )


def batched(**arrays):
    return {name: np.ascontiguousarray(array)[None] for name, array in arrays.items()}


def form_a(heads):
    """Decoded boxes, no background, scores turned; in the order of the TFLite example."""
    return batched(
        identity=heads.boxes,
        identity_1=heads.scores[:, 1:].T,
        identity_2=heads.prototypes,
        identity_3=heads.coefficients,
    ), {}


def form_b(heads):
    """Decoded boxes with background, in the order of Open Model Zoo's ONNX."""
    return batched(
        conf=heads.scores,
        mask=heads.coefficients,
        proto=np.moveaxis(heads.prototypes, 2, 0),
        boxes=heads.boxes,
    ), {}


def offsets(heads, priors):
    """What the network would have put out for these boxes; reversed ones can't be said so."""
    corners = heads.boxes.astype(np.float64).reshape(-1, 2, 2)
    low, high = corners.min(axis=1), corners.max(axis=1)
    size = np.maximum(high - low, 1e-3)
    centre = (low + high) / 2
    place = (centre - priors[:, :2]) / priors[:, 2:] / 0.1
    return np.hstack([place, np.log(size / priors[:, 2:]) / 0.2]).astype(np.float32)


def form_g(heads, **priors):
    """The authors' own graph: offsets, beside their priors or not, softmax with background."""
    raw = batched(
        loc=offsets(heads, PRIORS),
        conf=heads.scores,
        mask=heads.coefficients,
        proto=heads.prototypes,
    )
    made = {} if priors else {"prior_scales": SCALES, "prior_ratios": RATIOS}
    return {**raw, **priors}, {"boxes": "loc", **made}


FORMS = {
    "A": form_a,
    "B": form_b,
    "G": form_g,
    "G with priors": lambda heads: form_g(heads, priors=PRIORS),
    "G with priors in a batch": lambda heads: form_g(heads, my_priors=PRIORS[None]),
}


def reference(raw, table, height, width, **options):
    """The plain answer to the same outputs, whichever form they have."""
    boxes = raw.get("boxes", raw.get("identity"))
    if boxes is None:
        boxes = oracle.decode_offsets(raw["loc"][0], PRIORS)[None]
    scores = raw["conf"][0] if "conf" in raw else raw["identity_1"][0].T
    prototypes = raw["proto"][0] if "proto" in raw else raw["identity_2"][0]
    if prototypes.shape[0] != prototypes.shape[1]:
        prototypes = np.moveaxis(prototypes, 0, 2)
    return oracle.decode(
        boxes[0],
        scores[:, 1:] if "conf" in raw else scores,
        (raw["mask"] if "mask" in raw else raw["identity_3"])[0],
        prototypes,
        height,
        width,
        **options,
    )


def assert_same(found, plain):
    seen = [index for index, surface in enumerate(plain.surfaces) if (surface > 0.5).any()]
    assert found.dropped == len(plain.surfaces) - len(seen)
    assert found.classes.tolist() == plain.classes[seen].tolist()
    np.testing.assert_allclose(found.scores, plain.scores[seen], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, plain.boxes[seen], atol=1e-4)
    for mask, index in zip(found.masks, seen, strict=True):
        surface = plain.surfaces[index]
        differs = pixels(mask) != (surface > 0.5)
        assert (abs(surface[differs] - 0.5) < 1e-6).all()


def as_rows(found):
    return list(
        zip(
            found.boxes.tolist(),
            found.scores.tolist(),
            found.classes.tolist(),
            found.masks,
            strict=True,
        )
    )


@pytest.mark.parametrize("nms", ["fast", "per_class", "agnostic"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_each_form_equals_the_reference(form, nms, seed):
    raw, table = FORMS[form](small_heads(seed))
    found = bound(raw, nms=nms, **table)(raw, FRAME)
    assert len(found) > 2
    assert_same(found, reference(raw, table, 61, 97, nms=nms))


@pytest.mark.parametrize("nms", ["fast", "per_class", "agnostic"])
@pytest.mark.parametrize("limit", [1, 10, 100, 1000])
def test_a_crowd_equals_the_reference(nms, limit):
    raw, table = form_b(crowd(limit))
    found = bound(raw, nms=nms)(raw, FRAME, Wanted(max_detections=limit))
    assert len(found) == limit or len(found) > 20
    assert_same(found, reference(raw, table, 61, 97, nms=nms, limit=limit))


@pytest.mark.parametrize("nms", ["fast", "per_class", "agnostic"])
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    objects=st.integers(0, 8),
    levels=st.sampled_from([None, 4, 16, 256]),
    limit=st.integers(1, 30),
)
def test_any_heads_equal_the_reference(nms, seed, objects, levels, limit):
    raw, table = form_a(small_heads(seed, objects, levels))
    found = bound(raw, nms=nms, max_detections=limit, **table)(raw, FRAME)
    assert_same(found, reference(raw, table, 61, 97, nms=nms, limit=limit))


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (480, 640)])
def test_any_image_size(size):
    raw, table = form_b(small_heads(2))
    frame = SimpleNamespace(image_height=size[0], image_width=size[1])
    assert_same(bound(raw)(raw, frame), reference(raw, table, *size))


@pytest.mark.parametrize("objects", [24, 83])
def test_a_graph_of_full_size(objects):
    """19,248 anchors of 80 classes; the reference is slow, so its own filter comes first."""
    heads = make_heads(objects, objects)
    some = heads.scores[:, 1:].max(axis=1) > 0.3
    raw, _ = form_b(heads)
    found = bound(raw, categories=80)(raw, FRAME, Wanted(threshold=0.3))
    scores = np.where(heads.scores[some] >= 0.3, heads.scores[some], np.float32(-1))[:, 1:]
    plain = oracle.decode(
        heads.boxes[some], scores, heads.coefficients[some], heads.prototypes, 61, 97
    )
    assert len(found) + found.dropped >= objects
    assert_same(found, plain)


@pytest.mark.parametrize("nms", ["fast", "per_class", "agnostic"])
@pytest.mark.parametrize("levels", [None, 20])
@pytest.mark.parametrize("threshold", [0, 0.01, 0.05, 0.25, 0.3, 0.7, 1])
def test_a_threshold_is_a_filter_of_the_answer(nms, levels, threshold):
    raw, table = form_b(small_heads(3, levels=levels))
    decoder = bound(raw, nms=nms, **table)
    whole = [row for row in as_rows(decoder(raw, FRAME)) if row[1] >= threshold]
    assert as_rows(decoder(raw, FRAME, Wanted(threshold=threshold))) == whole


@pytest.mark.parametrize("nms", ["fast", "per_class", "agnostic"])
@pytest.mark.parametrize("classes", [{0, 3}, {4}, set(), {0, 1, 2, 3, 4}, {2, 99}])
def test_classes_that_are_kept(nms, classes):
    raw, table = form_b(crowd(4))
    decoder = bound(raw, nms=nms, **table)
    whole = [
        row for row in as_rows(decoder(raw, FRAME, Wanted(max_detections=999))) if row[2] in classes
    ]
    kept = frozenset(classes)
    assert as_rows(decoder(raw, FRAME, Wanted(max_detections=999, keep_classes=kept))) == whole
    # Classes that are not kept take no place.
    few = decoder(raw, FRAME, Wanted(max_detections=3, keep_classes=kept))
    assert as_rows(few) == whole[:3]


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_the_best_are_kept(limit):
    raw, table = form_b(crowd(5))
    decoder = bound(raw, **table)
    assert (
        as_rows(decoder(raw, FRAME, Wanted(max_detections=limit)))
        == as_rows(decoder(raw, FRAME))[:limit]
    )
    assert as_rows(bound(raw, max_detections=limit, **table)(raw, FRAME)) == as_rows(
        decoder(raw, FRAME, Wanted(max_detections=limit))
    )


def test_every_option_counts():
    raw, table = form_b(crowd(0))
    plain = reference(raw, table, 61, 97, threshold=0.1, least=0.9, top_k=5, limit=18)
    options = {"nms_iou": 0.1, "score_threshold": 0.9, "top_k": 5, "max_detections": 18}
    found = bound(raw, **options)(raw, FRAME)
    assert_same(found, plain)
    for name in options:
        others = {key: value for key, value in options.items() if key != name}
        assert as_rows(bound(raw, **others)(raw, FRAME)) != as_rows(found), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("nms", ["fast", "per_class", "agnostic"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["boxes", "scores", "coefficients", "prototypes"])
def test_what_is_not_finite_makes_no_detection(form, nms, bad, part):
    raw, table = FORMS[form](small_heads(6))
    decoder = bound(raw, nms=nms, **table)
    name = decoder.outputs[part].tensor.name
    rng = np.random.default_rng(1)
    raw[name] = np.where(rng.random(raw[name].shape) < 0.02, np.float32(bad), raw[name])
    found = decoder(raw, FRAME)
    assert np.isfinite(found.scores).all()
    raw[name] = np.full_like(raw[name], bad)
    if part != "prototypes" or np.isnan(bad):
        assert len(decoder(raw, FRAME)) == 0


@pytest.mark.parametrize("nms", ["fast", "per_class", "agnostic"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_costs_only_itself(nms, bad):
    heads = crowd(7)
    heads.scores[np.random.default_rng(7).random(heads.scores.shape) < 0.3] = bad
    raw, table = form_b(heads)
    found = bound(raw, nms=nms)(raw, FRAME)
    assert len(found) > 20
    assert_same(found, reference(raw, table, 61, 97, nms=nms))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_coefficients_that_are_not_finite_make_no_mask(bad):
    raw, _ = form_b(crowd(8))
    expected = as_rows(bound(raw)(raw, FRAME))
    best = raw["conf"][0, :, 1:].max(axis=1).argmax()
    raw["mask"][0, best, 3] = bad
    found = bound(raw)(raw, FRAME)
    assert 1 <= found.dropped == len(expected) - len(found)
    assert as_rows(found) == [row for row in expected if row in as_rows(found)]


@pytest.mark.parametrize("nms", ["fast", "per_class", "agnostic"])
@pytest.mark.parametrize(
    ("why", "score", "count"),
    [("under", 0.0499, 0), ("at, which is not over", 0.05, 0), ("over by a hair", 0.0501, 1)],
)
def test_the_threshold_of_the_card(why, score, count, nms):
    heads = one_detection((0.1, 0.1, 0.5, 0.5))
    heads.scores[40, 3] = score
    raw, _ = form_b(heads)
    assert len(bound(raw, nms=nms)(raw, FRAME, Wanted(threshold=0.01))) == count


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("nms", ["fast", "per_class", "agnostic"])
def test_no_detections(form, nms):
    heads = small_heads(8)
    nothing = np.zeros_like(heads.scores)
    nothing[:, 0] = 1
    raw, table = FORMS[form](heads._replace(scores=nothing))
    found = bound(raw, nms=nms, **table)(raw, FRAME)
    assert len(found) == 0
    assert found.dropped == 0


@pytest.mark.parametrize(
    ("nms", "expected"), [("fast", 200 * CLASSES), ("per_class", 2_000), ("agnostic", 2_000)]
)
def test_ten_thousand_detections(nms, expected):
    rng = np.random.default_rng(9)
    corner = rng.uniform(0, 0.99, (10_000, 2))
    raw, _ = form_b(
        Heads(
            np.hstack([corner, corner + 0.0002]).astype(np.float32),
            rng.uniform(0.1, 1, (10_000, CLASSES + 1)).astype(np.float32),
            rng.uniform(-1, 1, (10_000, 8)).astype(np.float32),
            rng.uniform(0, 3, (17, 17, 8)).astype(np.float32),
        )
    )
    found = bound(raw, nms=nms)(raw, FRAME, Wanted(max_detections=2_000))
    assert len(found) + found.dropped == expected


@pytest.mark.parametrize(
    ("why", "box", "expected"),
    [
        ("clipped", (-0.5, 0.2, 0.5, 1.5), (0, 12.2, 48.5, 61)),
        ("reversed", (0.5, 0.6, 0.25, 0.2), (24.25, 12.2, 48.5, 36.6)),
        ("without width", (0.5, 0.2, 0.5, 0.6), None),
        ("outside", (1.1, 0.2, 1.5, 0.6), None),
        ("touching from outside", (1.0, 0.2, 1.5, 0.6), None),
        ("far outside", (3e37, 3e37, 3e38, 3e38), None),
        ("over all", (-3e38, -3e38, 3e38, 3e38), (0, 0, 97, 61)),
    ],
)
def test_one_box(why, box, expected):
    raw, _ = form_b(one_detection(box))
    found = bound(raw)(raw, FRAME, Wanted(threshold=0.5))
    assert found.dropped == 0
    if expected is None:
        assert len(found) == 0
    else:
        np.testing.assert_allclose(found.boxes, [expected], atol=1e-4)


def test_an_empty_mask_is_dropped_and_counted():
    heads = one_detection((0.1, 0.1, 0.5, 0.5))
    raw, _ = form_b(heads._replace(coefficients=-heads.coefficients))
    found = bound(raw)(raw, FRAME, Wanted(threshold=0.5))
    assert (len(found), found.dropped) == (0, 1)


def one_detection(box):
    boxes = np.zeros((ANCHORS, 4), dtype=np.float32)
    scores = np.zeros((ANCHORS, CLASSES + 1), dtype=np.float32)
    boxes[40], scores[40, 3] = box, 0.9
    ones = np.ones((ANCHORS, 8), dtype=np.float32)
    return Heads(boxes, scores, ones, np.ones((17, 17, 8), dtype=np.float32))


@pytest.mark.parametrize("form", FORMS)
def test_the_outputs_are_never_written_into(form):
    raw, table = FORMS[form](small_heads(1))
    for array in raw.values():
        array.setflags(write=False)
    assert len(bound(raw, **table)(raw, FRAME))


def test_priors_of_the_published_network():
    priors = make_priors((550, 550), (24, 48, 96, 192, 384), (1, 0.5, 2))
    assert priors.shape == (19248, 4)
    # Level, row, column, ratio; the height is the width.
    np.testing.assert_allclose(priors[0], [0.5 / 69, 0.5 / 69, 24 / 550, 24 / 550], rtol=1e-6)
    np.testing.assert_allclose(priors[1, 2:], [24 * 0.5**0.5 / 550] * 2, rtol=1e-6)
    np.testing.assert_allclose(priors[2, 2:], [24 * 2**0.5 / 550] * 2, rtol=1e-6)
    np.testing.assert_allclose(priors[3, :2], [1.5 / 69, 0.5 / 69], rtol=1e-6)
    np.testing.assert_allclose(priors[69 * 3, :2], [0.5 / 69, 1.5 / 69], rtol=1e-6)
    np.testing.assert_allclose(priors[69 * 69 * 3, 2], 48 / 550, rtol=1e-6)
    np.testing.assert_allclose(priors[-3], [0.9, 0.9, 384 / 550, 384 / 550], rtol=1e-6)


def names(decoder):
    return [reading.tensor.name for reading in decoder.outputs.values()]


GOOD = {"b": (1, 100, 4), "s": (1, 100, 6), "c": (1, 100, 8), "p": (1, 17, 19, 8)}


def tensors(**changes):
    shapes = {**GOOD, **changes}
    return [Tensor(name, shape, "float") for name, shape in shapes.items() if shape is not None]


@pytest.mark.parametrize(
    ("why", "changes", "turned"),
    [
        ("the plain shapes", {}, ""),
        ("without background", {"s": (1, 100, 5)}, ""),
        ("scores turned", {"s": (1, 6, 100)}, "scores"),
        ("prototypes turned", {"p": (1, 8, 17, 19)}, "prototypes"),
        ("batch left open", {"b": (None, 100, 4), "p": (None, 17, 19, 8)}, ""),
        ("anchors left open", {"b": (1, None, 4), "s": (1, None, 6), "c": (1, None, 8)}, ""),
        ("anchors and scores turned", {"b": (1, None, 4), "s": (1, 6, None)}, "scores"),
        ("the size of the prototypes left open", {"p": (1, None, None, 8)}, ""),
        ("the same, turned", {"p": (1, 8, None, None)}, "prototypes"),
    ],
)
def test_outputs_are_found_by_shape_in_any_order(why, changes, turned):
    for order in (1, -1):
        decoder = bind(tensors(**changes)[::order], {}, CLASSES, INTAKE)
        assert names(decoder) == ["b", "s", "c", "p"]
        ways = {role: reading.way for role, reading in decoder.outputs.items()}
        assert [role for role, way in ways.items() if way] == ([turned] if turned else [])


@pytest.mark.parametrize(
    ("says", "changes", "table"),
    [
        ("no output has the name, shape and type of prototypes", {"p": None}, {}),
        ("no output has the name, shape and type of prototypes", {"p": (1, 17, 19)}, {}),
        ("no output has the name, shape and type of scores", {"s": (1, 100, 21)}, {}),
        ("no output has the name, shape and type of boxes", {"b": (1, 100, 5)}, {}),
        ("no output has the name, shape and type of boxes", {"b": (2, 100, 4)}, {}),
        ("no 4 outputs agree", {"c": (1, 100, 9)}, {}),
        ("no 4 outputs agree", {"s": (1, 99, 6)}, {}),
        ("no 4 outputs agree", {"c": None}, {}),
        ("no 4 outputs agree", {"s": None, "c": (1, 100, 6), "p": (1, 9, 9, 6)}, {}),
        ("output 'segm' is surplus", {"segm": (1, 5, 69, 69)}, {}),
        ("output 'priors' is surplus", {"priors": (100, 4)}, {}),
        (
            "no output has the name, shape and type of priors",
            {"x": (100, 5)},
            {"boxes": "loc", "outputs": {"priors": "x"}},
        ),
        ("no 5 outputs agree", {}, {"boxes": "loc"}),
        ("no 5 outputs agree", {"priors": (99, 4)}, {"boxes": "loc"}),
        ("b and b2 could be boxes in more than one way", {"b2": (1, 100, 4)}, {}),
        (
            "c and s could be scores in more than one way",
            {"c": (1, 100, 6), "p": (1, 17, 19, 6)},
            {},
        ),
        ("order of its axes", {"p": (1, 8, 8, 8)}, {}),
        ("order of its axes", {"s": (1, 6, 6), "b": (1, 6, 4), "c": (1, 6, 8)}, {}),
        ("no output has the name, shape and type of scores", {"s": (1, 100, None)}, {}),
        (
            "no output has the name, shape and type of prototypes",
            {"c": (1, 100, None), "p": (1, None, None, None)},
            {},
        ),
        ("no output has the name, shape and type of scores", {}, {"outputs": {"scores": "x"}}),
        ("no output has the name, shape and type of scores", {}, {"outputs": {"scores": "p"}}),
        ("table is not valid .*unknown field `nsm`", {}, {"nsm": "fast"}),
        ("table is not valid .*nms", {}, {"nms": "soft"}),
        ("table is not valid .*nms_iou", {}, {"nms_iou": 1.5}),
        ("table is not valid .*max_detections", {}, {"max_detections": 0}),
        ("table is not valid .*outputs", {}, {"outputs": {"masks": "c"}}),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(says, changes, table):
    with pytest.raises(ModelMismatch, match=says) as refused:
        bind(tensors(**changes), table, CLASSES, INTAKE)
    assert "\n" not in str(refused.value)
    assert "expected" in str(refused.value)
    assert "found" in str(refused.value)


def test_the_refusal_names_what_is_expected_and_found():
    with pytest.raises(ModelMismatch) as refused:
        bind(tensors(s=(1, 100, 21)), {}, 80, INTAKE)
    for part in (
        "(1, N, 80 or 81)",
        "prototypes (1, P, Q, K) or (1, K, P, Q)",
        "s (1×100×21 float)",
    ):
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("why", "changes", "said"),
    [
        (
            "as many classes as coefficients",
            {"c": (1, 100, 6), "p": (1, 17, 19, 6)},
            {"scores": "s"},
        ),
        ("as many classes as coordinates", {"s": (1, 100, 4), "b": (1, 100, 4)}, {"boxes": "b"}),
        (
            "outputs beside the four named are let be",
            {"segm": (1, 5, 69, 69), "b2": (1, 100, 4)},
            {"boxes": "b", "scores": "s", "coefficients": "c", "prototypes": "p"},
        ),
    ],
)
def test_names_settle_what_shapes_do_not(why, changes, said):
    categories = 3 if changes.get("s") else CLASSES
    with pytest.raises(ModelMismatch):
        bind(tensors(**changes), {}, categories, INTAKE)
    found = bind(tensors(**changes), {"outputs": said}, categories, INTAKE)
    assert names(found) == ["b", "s", "c", "p"]


def test_outputs_that_disagree_when_run_are_refused():
    raw, table = form_b(small_heads(0))
    decoder = bound(raw, **table)
    raw["mask"] = raw["mask"][:, 1:]
    with pytest.raises(ModelMismatch, match="do not belong together"):
        decoder(raw, FRAME)
    raw, table = form_g(small_heads(0), priors=PRIORS)
    decoder = bound(raw, **table)
    raw["priors"] = raw["priors"][1:]
    with pytest.raises(ModelMismatch, match="do not belong together"):
        decoder(raw, FRAME)


def test_priors_are_told_from_boxes_by_their_rank():
    found = bind(tensors(any_name=(100, 4)), {"boxes": "loc"}, CLASSES, INTAKE)
    assert names(found) == ["b", "s", "c", "p", "any_name"]


@pytest.mark.parametrize("shape", [(100, 4), (1, 100, 4)])
@pytest.mark.parametrize(
    ("boxes", "priors", "said"),
    [
        ("b", "the_priors", {}),
        ("prior_boxes", "priors", {"boxes": "prior_boxes"}),
        ("b", "b2", {"priors": "b2"}),
    ],
)
def test_priors_are_told_from_boxes_by_their_name(boxes, priors, said, shape):
    given = tensors(**{"b": None, boxes: (1, 100, 4), priors: shape})
    found = bind(given, {"boxes": "loc", "outputs": said}, CLASSES, INTAKE)
    assert sorted(names(found)) == sorted(["s", "c", "p", boxes, priors])
    assert found.outputs["priors"].tensor.name == priors


def test_made_priors_have_to_be_as_many_as_the_anchors():
    raw, table = form_g(small_heads(0))
    with pytest.raises(ModelMismatch, match="no 5 outputs agree") as refused:
        bound(raw, boxes="loc")
    assert "priors made of prior_scales and prior_ratios (198×4 float32)" in str(refused.value)
    open_sizes = [
        Tensor(name, array.shape if name == "proto" else (1, None, *array.shape[2:]), "float")
        for name, array in raw.items()
    ]
    decoder = bind(open_sizes, table, CLASSES, INTAKE)
    assert len(decoder(raw, FRAME)) > 2
    fewer = {name: array if name == "proto" else array[:, 1:] for name, array in raw.items()}
    with pytest.raises(ModelMismatch, match="do not belong together"):
        decoder(fewer, FRAME)


def test_priors_are_made_beside_outputs_that_nothing_needs():
    raw, table = form_g(small_heads(0))
    more = {**raw, "flat": raw["conf"][0], "priority": raw["conf"]}
    with pytest.raises(ModelMismatch, match="could be scores in more than one way"):
        bound(more, **table)
    four = {"boxes": "loc", "scores": "conf", "coefficients": "mask", "prototypes": "proto"}
    assert names(bound(more, **table, outputs=four))[:4] == list(four.values())


def test_boxes_are_parts_of_a_stretched_picture():
    intake = Intake(InputSpec(fit="pad"), "image", "nchw", INPUT, np.float32)
    with pytest.raises(ModelMismatch, match="stretched"):
        bind(tensors(), {}, CLASSES, intake)
