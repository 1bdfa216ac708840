"""Batches of examples, made one ahead by a thread; batch i of a seed is always the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Empty, Full, Queue

import cv2
import numpy as np
import torch
from augment import Augmentation, Example, make_example
from data import Dataset, Sample
from losses import PADDING, Truth
from network import Config
from torch import Tensor

cv2.setNumThreads(1)  # the cores belong to the network
Batch = tuple[Tensor, Truth]


def batch_samples(samples: list[Sample], step: int, size: int, seed: int) -> list[Sample]:
    """The samples of one step: each epoch is another permutation, and none is left out."""
    chosen = []
    for place in range(step * size, (step + 1) * size):
        epoch, index = divmod(place, len(samples))
        chosen.append((epoch, index))
    orders = {
        epoch: np.random.default_rng([seed, epoch]).permutation(len(samples))
        for epoch in {epoch for epoch, _ in chosen}
    }
    return [samples[orders[epoch][index]] for epoch, index in chosen]


def make_batch(
    dataset: Dataset,
    samples: list[Sample],
    step: int,
    size: int,
    seed: int,
    how: Augmentation,
    config: Config,
) -> Batch:
    examples = []
    for place, sample in enumerate(batch_samples(samples, step, size, seed)):
        rng = np.random.default_rng([seed, step, place])
        examples.append(make_example(dataset, sample, rng, how, config.size, config.proto_size))
    return collate(examples, config)


def collate(examples: list[Example], config: Config) -> Batch:
    rows = max(1, *(len(e.labels) for e in examples))
    boxes = np.zeros((len(examples), rows, 4), np.float32)
    labels = np.full((len(examples), rows), PADDING, np.int64)
    masks = np.zeros((len(examples), rows, config.proto_size, config.proto_size), np.uint8)
    for index, example in enumerate(examples):
        count = len(example.labels)
        boxes[index, :count] = example.boxes
        labels[index, :count] = example.labels
        masks[index, :count] = example.masks
    images = torch.from_numpy(np.stack([e.image for e in examples]))  # (B, S, S, 3)
    truth = Truth(*(torch.from_numpy(part) for part in (boxes, labels, masks)))
    return normalise(images, config), truth


def normalise(images: Tensor, config: Config) -> Tensor:
    """RGB uint8 (B, S, S, 3) to the network's input (B, 3, S, S), channels last in memory."""
    side = images.shape[2]
    rows = images.reshape(-1, side * 3).float()  # long rows, since broadcasting over 3 is slow
    rows.sub_(torch.tensor(config.mean).repeat(side)).div_(torch.tensor(config.std).repeat(side))
    return rows.view(images.shape).permute(0, 3, 1, 2)


def ahead(make: Callable[[int], Batch], start: int) -> Iterator[Batch]:
    """make(start), make(start + 1), … prepared by a thread while the caller works."""
    ready: Queue[Batch | BaseException] = Queue(maxsize=3)
    stop = threading.Event()

    def fill() -> None:
        step = start
        while not stop.is_set():
            try:
                item: Batch | BaseException = make(step)
            except Exception as exc:  # noqa: BLE001 - raised again where the batch is asked for
                item = exc
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.2)
                    break
                except Full:
                    continue
            step += 1

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        while thread.is_alive():
            try:
                ready.get(timeout=0.05)
            except Empty:
                thread.join(0.05)
