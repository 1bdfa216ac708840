"""Networks on disk: atomic writes, loading for use, and starting from another class list."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batches import normalise
from evaluate import Outputs, Predict
from network import Config, Yolact, decode_boxes

CLASS_LAYERS = ("head.classes.", "semantic.")


def save_atomically(content: dict[str, Any], path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def pack(
    config: Config, categories: tuple[dict[str, Any], ...], weights: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """What a network needs to be used or trained further; plain values and tensors only."""
    return {"config": asdict(config), "categories": list(categories), "weights": weights}


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def load_network(path: Path) -> tuple[Yolact, list[dict[str, Any]]]:
    content = read(path)
    network = Yolact(Config(**content["config"]))
    network.load_state_dict(content["weights"])
    return network.eval(), content["categories"]


def start_from(path: Path, categories: tuple[dict[str, Any], ...]) -> Yolact:
    """The network of a checkpoint for other categories.

    The class layers are kept only if the category names are the same in the same order.
    """
    content = read(path)
    network = Yolact(replace(Config(**content["config"]), classes=len(categories)))
    weights = content["weights"]
    names = [[category["name"] for category in c] for c in (content["categories"], categories)]
    if names[0] != names[1]:
        weights = {k: v for k, v in weights.items() if not k.startswith(CLASS_LAYERS)}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    if unexpected or not all(name.startswith(CLASS_LAYERS) for name in missing):
        raise ValueError(f"{path} does not hold the weights that its configuration asks for.")
    return network


def network_predictor(network: Yolact) -> Predict:
    network.eval()

    @torch.inference_mode()
    def predict(pixels: np.ndarray) -> Outputs:
        raw = network(normalise(torch.from_numpy(pixels)[None], network.config))
        return Outputs(
            decode_boxes(raw.loc[0], network.priors).numpy(),
            raw.logits[0].softmax(-1)[:, 1:].T.numpy(),
            raw.coefficients[0].numpy(),
            raw.prototypes[0].permute(1, 2, 0).numpy(),
        )

    return predict
