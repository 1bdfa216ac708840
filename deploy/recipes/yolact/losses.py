"""Matching of anchors to truth, and YOLACT's losses plus an overlap term on the boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from data import CROWD
from network import Raw, decode_boxes, encode_boxes
from torch import Tensor
from torch.nn import functional as F

POSITIVE_IOU, NEGATIVE_IOU, CROWD_SHARE = 0.5, 0.4, 0.7
NEGATIVES_PER_POSITIVE = 3
MASKS_PER_IMAGE = 24  # positives whose masks are drawn, to bound memory
PADDING = -1  # label of rows that only fill the batch
IGNORED = -1


@dataclass(frozen=True)
class Weights:
    boxes: float = 3.0
    overlap: float = 4.0
    classes: float = 1.0
    masks: float = 6.125
    semantic: float = 1.0


@dataclass
class Truth:
    """One batch of instances, padded to the same number G."""

    boxes: Tensor  # (B, G, 4) normalised xyxy
    labels: Tensor  # (B, G) class index, PADDING or CROWD
    masks: Tensor  # (B, G, P, P) uint8, share of each prototype cell that is covered, 0..255


def match(truth: Truth, priors: Tensor) -> tuple[Tensor, Tensor]:
    """Classes (B, N): 1 + class, 0 background, IGNORED; and the instance of each anchor (B, N)."""
    anchors = torch.cat([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], 1)
    shared = intersection(truth.boxes[:, :, None], anchors)  # (B, G, N)
    anchor_area = priors[:, 2] * priors[:, 3]
    overlap = shared / (area(truth.boxes)[:, :, None] + anchor_area - shared).clamp(min=1e-9)
    real = truth.labels >= 0
    overlap = overlap * real[:, :, None]
    best, owner = overlap.max(1)
    batch, row = real.nonzero(as_tuple=True)
    favourite = overlap.argmax(2)[batch, row]  # each instance gets its best anchor at any overlap
    best[batch, favourite] = 2.0
    owner[batch, favourite] = row
    classes = truth.labels.gather(1, owner) + 1
    classes[best < POSITIVE_IOU] = IGNORED
    classes[best < NEGATIVE_IOU] = 0
    in_crowd = (shared / anchor_area) * (truth.labels == CROWD)[:, :, None]
    classes[(classes == 0) & (in_crowd.amax(1) > CROWD_SHARE)] = IGNORED
    return classes, owner


def losses(raw: Raw, truth: Truth, priors: Tensor, weights: Weights) -> dict[str, Tensor]:
    """Weighted losses by name; their sum is what training lowers."""
    classes, owner = match(truth, priors)
    positive = classes > 0
    image, anchor = positive.nonzero(as_tuple=True)
    count = max(len(image), 1)
    loc = raw.loc.float()[image, anchor]
    target = truth.boxes[image, owner[image, anchor]]
    predicted = decode_boxes(loc, priors[anchor])
    smooth = F.smooth_l1_loss(loc, encode_boxes(target, priors[anchor]), reduction="sum")
    gap = (1 - generalised_iou(predicted, target)).sum()
    quality = torch.zeros_like(raw.loc[..., 0], dtype=torch.float32)
    quality[image, anchor] = iou(predicted.detach(), target)
    return {
        "boxes": weights.boxes * smooth / count,
        "overlap": weights.overlap * gap / count,
        "classes": weights.classes * class_loss(raw.logits.float(), classes, quality) / count,
        "masks": weights.masks * mask_loss(raw, truth, owner, positive),
        "semantic": weights.semantic * semantic_loss(raw, truth),
    }


def class_loss(logits: Tensor, classes: Tensor, quality: Tensor) -> Tensor:
    """Cross-entropy over positives and the hardest negatives, summed.

    A positive's target is its box's overlap with the truth, the rest going to background, so that
    of several boxes of one instance the tightest scores highest and survives.
    """
    likely = F.log_softmax(logits, -1)
    positive, negative = classes > 0, classes == 0
    found = likely.gather(2, classes.clamp(min=0)[..., None])[..., 0]
    right = -(quality * found + (1 - quality) * likely[..., 0])[positive].sum()
    wrong = torch.where(negative, -likely[..., 0], -1.0).detach()
    rank = wrong.argsort(1, descending=True).argsort(1)
    quota = (NEGATIVES_PER_POSITIVE * positive.sum(1, keepdim=True)).clamp(min=1)
    return right - likely[..., 0][negative & (rank < quota)].sum()


def mask_loss(raw: Raw, truth: Truth, owner: Tensor, positive: Tensor) -> Tensor:
    """Cross-entropy within the true box, per pixel of the box, mean over positives."""
    total = raw.loc.new_zeros((), dtype=torch.float32)
    drawn = 0
    # unbind, since the gradient of indexing fills a whole batch with zeros for each image
    pictures = zip(raw.prototypes.float().unbind(), raw.coefficients.float().unbind(), strict=True)
    for index, (prototypes, coefficients) in enumerate(pictures):
        chosen = positive[index].nonzero()[:, 0]
        if len(chosen) > MASKS_PER_IMAGE:
            even = torch.linspace(0, len(chosen) - 1, MASKS_PER_IMAGE).long()
            chosen = chosen[even]
        if not len(chosen):
            continue
        rows = owner[index, chosen]
        logits = torch.einsum("nk,kyx->nyx", coefficients[chosen], prototypes)
        target = truth.masks[index, rows].float() / 255
        boxes = truth.boxes[index, rows]
        wrong = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        inside = crop(boxes, logits.shape[-1])
        pixels = (area(boxes) * logits.shape[-1] ** 2).clamp(min=1)
        total = total + ((wrong * inside).sum((1, 2)) / pixels).sum()
        drawn += len(chosen)
    return total / max(drawn, 1)


def semantic_loss(raw: Raw, truth: Truth) -> Tensor:
    """Which classes cover each cell of the finest level, as independent yes-or-no questions."""
    assert raw.semantic is not None
    classes, side = raw.semantic.shape[1:3]
    share = F.adaptive_avg_pool2d(truth.masks.float() / 255, side)  # (B, G, side, side)
    one_hot = F.one_hot(truth.labels.clamp(min=0), classes) * (truth.labels >= 0)[..., None]
    cover = torch.einsum("bgyx,bgc->bcyx", share, one_hot.float()).clamp(max=1)
    return F.binary_cross_entropy_with_logits(raw.semantic.float(), cover)


def crop(boxes: Tensor, side: int) -> Tensor:
    """(n, side, side) bool: cells within each normalised box, padded by one cell."""
    low = (boxes[:, :2] * side - 1).clamp(min=0)
    high = (boxes[:, 2:] * side + 1).clamp(max=side)
    cell = torch.arange(side, device=boxes.device)
    across = (cell >= low[:, :1]) & (cell < high[:, :1])
    down = (cell >= low[:, 1:]) & (cell < high[:, 1:])
    return down[:, :, None] & across[:, None, :]


def area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    low = torch.maximum(a[..., :2], b[..., :2])
    return (torch.minimum(a[..., 2:], b[..., 2:]) - low).clamp(min=0).prod(-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    shared = intersection(a, b)
    return shared / (area(a) + area(b) - shared).clamp(min=1e-9)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    shared = intersection(a, b)
    union = (area(a) + area(b) - shared).clamp(min=1e-9)
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    hull = (high - low).prod(-1).clamp(min=1e-9)
    return shared / union - (hull - union) / hull
