"""COCO box and mask AP of a checkpoint or an exported graph, with pycocotools."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from data import DataError, Dataset, Sample, load_dataset, read_image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SCORE_FLOOR, NMS_IOU = 0.05, 0.5
PER_CLASS, PER_IMAGE = 200, 100


@dataclass(frozen=True)
class Outputs:
    """One image, decoded: N anchors, C classes, k prototypes of side P."""

    boxes: np.ndarray  # (N, 4) normalised xyxy
    scores: np.ndarray  # (C, N) without background
    masks: np.ndarray  # (N, k)
    proto: np.ndarray  # (P, P, k)


Predict = Callable[[np.ndarray], Outputs]  # of an (S, S, 3) RGB uint8 image


def detect(out: Outputs, least: float = SCORE_FLOOR) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fast NMS per class; anchors, classes and scores of at most 100 detections, best first.

    An anchor with one class over the floor keeps its other classes too, as YOLACT's evaluation
    does. `least` leaves those out, which is quicker and costs a little AP.
    """
    likely = out.scores.max(0) > SCORE_FLOOR
    index = likely.nonzero()[0]
    anchors, classes, scores = [], [], []
    for number, row in enumerate(out.scores[:, index]):
        order = np.argsort(-row, kind="stable")[:PER_CLASS]
        boxes = out.boxes[index[order]]
        overlap = np.triu(box_iou(boxes), 1)
        kept = order[overlap.max(0, initial=0) <= NMS_IOU]
        anchors.append(index[kept])
        classes.append(np.full(len(kept), number))
        scores.append(row[kept])
    joined = np.concatenate(scores)
    best = np.argsort(-joined, kind="stable")[:PER_IMAGE]
    best = best[joined[best] > least]
    return np.concatenate(anchors)[best], np.concatenate(classes)[best], joined[best]


def box_iou(boxes: np.ndarray) -> np.ndarray:
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clip(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(-1)
    return shared / np.maximum(area[:, None] + area[None] - shared, 1e-12)


def draw_mask(
    box: np.ndarray, coefficients: np.ndarray, proto: np.ndarray, height: int, width: int
) -> np.ndarray:
    """(H, W) uint8: sigmoid, cropped to the box and a cell around, upsampled, over one half."""
    side = proto.shape[0]
    soft = 1 / (1 + np.exp(-(proto @ coefficients)))
    x1, y1 = np.maximum(box[:2] * side - 1, 0)
    x2, y2 = np.minimum(box[2:] * side + 1, side)
    cell = np.arange(side)
    inside = ((cell >= y1) & (cell < y2))[:, None] & ((cell >= x1) & (cell < x2))
    soft = (soft * inside).astype(np.float32)
    return (cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5).astype(
        np.uint8
    )


def results(
    predict: Predict,
    size: int,
    dataset: Dataset,
    samples: list[Sample],
    names: list[str] | None = None,
    least: float = SCORE_FLOOR,
) -> list[Any]:
    """A COCO results list; detections with empty masks are left out.

    `names` are the model's classes where they may differ from the dataset's categories.
    """
    ids = {category["name"]: category["id"] for category in dataset.categories}
    category_ids = [c["id"] for c in dataset.categories]
    if names is not None:
        category_ids = [ids.get(name) for name in names]
    found = []
    for sample in samples:
        image = read_image(sample)
        out = predict(cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR))
        anchors, classes, scores = detect(out, least)
        for anchor, number, score in zip(anchors, classes, scores, strict=True):
            box = out.boxes[anchor]
            mask = draw_mask(box, out.masks[anchor], out.proto, sample.height, sample.width)
            encoded = rle.encode(np.asfortranarray(mask))
            if category_ids[number] is None or not mask.any():
                continue
            x1, y1, x2, y2 = (
                box.clip(0, 1) * [sample.width, sample.height, sample.width, sample.height]
            ).tolist()
            found.append(
                {
                    "image_id": sample.id,
                    "category_id": category_ids[number],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(score),
                    "segmentation": {**encoded, "counts": encoded["counts"].decode("ascii")},
                }
            )
    return found


def average_precision(
    dataset: Dataset, samples: list[Sample], found: list[Any]
) -> dict[str, float]:
    """Box and mask AP, AP50 and AP75 over these samples, by pycocotools."""
    names = ("", "50", "75", "_small", "_medium", "_large")
    scores = {f"{kind}_ap{name}": 0.0 for kind in ("box", "mask") for name in names}
    if not found:
        return scores
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(dataset.document))
        truth.createIndex()
        answers = truth.loadRes(found)
        for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
            judge = COCOeval(truth, answers, iou_type)
            judge.params.imgIds = sorted(sample.id for sample in samples)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
            for name, value in zip(names, judge.stats[:6], strict=True):
                scores[f"{kind}_ap{name}"] = float(value)
    return scores


def onnx_predictor(path: Path) -> tuple[Predict, int]:
    """Form A on onnxruntime (normalisation in the graph), and its input size."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()

    def predict(pixels: np.ndarray) -> Outputs:
        tensor = pixels.transpose(2, 0, 1)[None].astype(np.float32)
        names = ["boxes", "scores", "masks", "proto"]
        boxes, scores, masks, proto = session.run(names, {image.name: tensor})
        return Outputs(boxes[0], scores[0], masks[0], proto[0])

    return predict, int(image.shape[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a checkpoint (.pt) or a form A graph (.onnx)")
    parser.add_argument("--data", type=Path, required=True, help="COCO instance file")
    parser.add_argument("--images", type=Path, help="where its images are, if not beside it")
    args = parser.parse_args()
    try:
        dataset = load_dataset(args.data, args.images)
    except DataError as exc:
        raise SystemExit(str(exc)) from None
    names = None  # a graph does not say; its classes are taken for the file's, in order of id
    if args.model.suffix == ".onnx":
        predict, size = onnx_predictor(args.model)
    else:
        from checkpoints import load_network, network_predictor

        network, categories = load_network(args.model)
        names = [category["name"] for category in categories]
        predict, size = network_predictor(network), network.config.size
    samples = list(dataset.samples)
    found = results(predict, size, dataset, samples, names)
    for name, value in average_precision(dataset, samples, found).items():
        print(f"{name:16} {value:.4f}")


if __name__ == "__main__":
    main()
