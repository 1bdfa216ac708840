"""Suppression equals the plain definition, with ties, at any limit, and on what is not finite."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import yolact as oracle
from worker.nms import fast_nms, greedy_nms, total_order


def candidates(seed, count, classes=3, levels=None, spread=1.0):
    """Boxes that overlap often; with `levels`, scores tie as those of an int8 model do."""
    rng = np.random.default_rng(seed)
    corner, side = rng.uniform(0, spread, (count, 2)), rng.uniform(0.05, 0.5, (count, 2))
    boxes = np.hstack([corner, corner + side]).astype(np.float32)
    scores = rng.random(count).astype(np.float32)
    if levels:
        scores = (np.floor(scores * levels) / levels).astype(np.float32)
        boxes = (np.round(boxes * 8) / 8).astype(np.float32)
    return boxes, scores, rng.integers(0, classes, count)


seeds = st.integers(0, 2**32)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(0, 60), st.sampled_from([None, 1, 4]), st.integers(0, 70))
def test_fast_nms_is_its_definition(seed, count, levels, limit):
    made = candidates(seed, count, levels=levels)
    for top_k in (1, 5, 200):
        found = fast_nms(made, iou=0.5, top_k=top_k, limit=limit)
        assert found.tolist() == oracle.fast_nms(*made, 0.5, top_k, limit)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(0, 60), st.sampled_from([None, 1, 4]), st.integers(0, 70), st.booleans())
def test_greedy_nms_is_its_definition(seed, count, levels, limit, across):
    made = candidates(seed, count, levels=levels)
    found = greedy_nms(made, iou=0.5, limit=limit, across=across)
    assert found.tolist() == oracle.greedy_nms(*made, 0.5, limit, across)


@pytest.mark.parametrize("limit", [1, 3, 10, 500])
@pytest.mark.parametrize("levels", [None, 1, 6])
def test_a_limit_is_the_head_of_the_whole(limit, levels):
    made = candidates(3, 400, levels=levels)
    whole = fast_nms(made, iou=0.3, top_k=50, limit=400)
    assert fast_nms(made, iou=0.3, top_k=50, limit=limit).tolist() == whole[:limit].tolist()
    whole = greedy_nms(made, iou=0.3, limit=None)
    assert greedy_nms(made, iou=0.3, limit=limit).tolist() == whole[:limit].tolist()


def test_a_limit_looks_past_a_crowd_that_is_all_suppressed():
    boxes = np.array([box(0)] * 50 + [box(9), box(7), box(5)], dtype=np.float32)
    scores = np.linspace(0.9, 0.1, 53)
    classes = np.zeros(53, dtype=np.int64)
    assert fast_nms((boxes, scores, classes), iou=0.5, top_k=200, limit=3).tolist() == [0, 50, 51]
    assert greedy_nms((boxes, scores, classes), iou=0.5, limit=3).tolist() == [0, 50, 51]


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([None, 1, 4]))
def test_the_order_of_the_input_only_breaks_ties_of_equals(seed, levels):
    boxes, scores, classes = candidates(seed, 40, levels=levels)
    turn = np.random.default_rng(seed).permutation(40)
    for nms in (
        lambda *c: fast_nms(c, iou=0.5, top_k=200, limit=100),
        lambda *c: greedy_nms(c, iou=0.5, limit=100),
    ):
        one = nms(boxes, scores, classes)
        other = turn[nms(boxes[turn], scores[turn], classes[turn])]
        assert (boxes[one] == boxes[other]).all()
        assert (scores[one] == scores[other]).all()
        assert (classes[one] == classes[other]).all()


def box(x, width=1.0):
    return [x, 0, x + width, 1]


@pytest.mark.parametrize(
    ("why", "boxes", "fast", "greedy"),
    [
        ("an overlap of exactly the threshold stays", [box(0), box(0, 0.5)], [0, 1], [0, 1]),
        ("one over it goes", [box(0), box(0, 0.51)], [0], [0]),
        (
            "in Fast NMS the suppressed one still suppresses",
            [box(0), box(0.3), box(0.6)],
            [0],
            [0, 2],
        ),
        ("touching boxes do not overlap", [box(0), box(1)], [0, 1], [0, 1]),
        ("the same box twice", [box(0), box(0)], [0], [0]),
        ("boxes without area, which have no overlap", [box(0, 0), box(0, 0)], [0], [0]),
        ("nothing", [], [], []),
    ],
)
def test_hand_made_overlaps(why, boxes, fast, greedy):
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.5, len(boxes)).astype(np.float32)
    classes = np.zeros(len(boxes), dtype=np.int64)
    assert fast_nms((boxes, scores, classes), iou=0.5, top_k=200, limit=9).tolist() == fast
    assert greedy_nms((boxes, scores, classes), iou=0.5, limit=9).tolist() == greedy
    # Other classes do not suppress each other, unless told to.
    apart = np.arange(len(boxes))
    assert len(fast_nms((boxes, scores, apart), iou=0.5, top_k=200, limit=9)) == len(boxes)
    assert len(greedy_nms((boxes, scores, apart), iou=0.5, limit=9)) == len(boxes)
    across = greedy_nms((boxes, scores, apart), iou=0.5, limit=9, across=True)
    assert across.tolist() == greedy


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["score", "box"])
@pytest.mark.parametrize("limit", [1, 2, 100])
def test_what_is_not_finite_is_dropped_and_suppresses_nothing(bad, place, limit):
    boxes, scores, classes = candidates(5, 30)
    expected = fast_nms((boxes[1:], scores[1:], classes[1:]), iou=0.5, top_k=200, limit=limit) + 1
    scores[0] = 2
    if place == "score":
        scores[0] = bad
    else:
        boxes[0, 2] = bad
    found = fast_nms((boxes, scores, classes), iou=0.5, top_k=200, limit=limit)
    assert found.tolist() == expected.tolist()
    expected = oracle.greedy_nms(boxes, scores, classes, 0.5, limit)
    assert 0 not in expected
    assert greedy_nms((boxes, scores, classes), iou=0.5, limit=limit).tolist() == expected


def test_huge_boxes_overflow_without_a_word():
    boxes = np.array([[-3e38, -3e38, 3e38, 3e38], [0, 0, 3e38, 3e38]], dtype=np.float32)
    found = fast_nms((boxes, np.ones(2), np.zeros(2, int)), iou=0.5, top_k=9, limit=9)
    assert found.tolist() == oracle.fast_nms(boxes, np.ones(2), np.zeros(2, int), 0.5, 9, 9)


def test_the_total_order_is_score_then_coordinates_then_class_then_index():
    rows = [
        # x1 y1 x2 y2 score class
        (0, 0, 1, 1, 0.9, 5),
        (0, 0, 1, 1, 0.9, 2),
        (0, 0, 1, 1, 0.5, 0),
        (-0.0, 0, 1, 0.5, 0.9, 9),
        (0, 0, 1, 1, 0.9, 2),
        (-1, 3, 3, 3, 0.9, 9),
        (5, 5, 6, 6, 0.95, 9),
    ]
    table = np.array(rows)
    order = total_order(table[:, :4], table[:, 4], table[:, 5].astype(int))
    assert order.tolist() == [6, 5, 3, 1, 4, 0, 2]


@pytest.mark.parametrize("levels", [None, 1, 16])
def test_ten_thousand_candidates_are_no_trouble(levels):
    made = candidates(1, 10_000, classes=80, levels=levels, spread=20)
    began = time.perf_counter()
    for found in (
        fast_nms(made, iou=0.5, top_k=200, limit=100),
        greedy_nms(made, iou=0.5, limit=100, across=True),
    ):
        assert len(found) == 100
        ranked = total_order(made[0][found], made[1][found], made[2][found])
        assert ranked.tolist() == list(range(100))
    assert len(fast_nms(made, iou=0.5, top_k=200, limit=10_000)) > 5_000
    assert time.perf_counter() - began < 10
