"""The authors' weights: what their tensors are called, their checksum, and a network made of them.

Names and layers are those of yolact.py and backbone.py in dbolya/yolact and, for MobileNetV2, in
haotian-liu/yolact_edge.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "yolact"))
from checkpoints import save_atomically
from network import Config, Yolact

# Of the pixels, RGB 0..255: Open Model Zoo's figures, which the authors' code rounds.
MEAN, STD = (123.675, 116.78, 103.94), (58.395, 57.12, 57.375)

# Our layers (patterns, of which the first counts) and theirs. Their lists start at the coarsest
# level, and between the convolutions of proto_net lie activations and the doubling.
SHARED = {
    **{rf"pyramid\.lateral\.{i}": f"fpn.lat_layers.{2 - i}" for i in range(3)},
    **{rf"pyramid\.smooth\.{i}": f"fpn.pred_layers.{2 - i}" for i in range(3)},
    r"pyramid\.down": "fpn.downsample_layers",
    **{rf"protonet\.trunk\.{i}\.0": f"proto_net.{2 * i}" for i in range(3)},
    r"protonet\.last\.0": "proto_net.8",
    r"protonet\.out": "proto_net.10",
    r"head\.shared": "prediction_layers.0.upfeature",
    r"head\.boxes": "prediction_layers.0.bbox_layer",
    r"head\.classes": "prediction_layers.0.conf_layer",
    r"head\.masks": "prediction_layers.0.mask_layer",
    r"semantic": "semantic_seg_conv",
}
PARTS = tuple(enumerate(("conv", "bn")))
RESNET = {
    **{rf"backbone\.stem\.0\.{part}": f"backbone.{kind}1" for part, kind in PARTS},
    **{
        rf"backbone\.stages\.(\d)\.(\d+)\.layers\.{i}\.{part}": (
            rf"backbone.layers.\1.\2.{kind}{i + 1}"
        )
        for i in range(3)
        for part, kind in PARTS
    },
    r"backbone\.stages\.(\d)\.(\d+)\.shortcut": r"backbone.layers.\1.\2.downsample",
}
MOBILENET = {
    r"backbone\.stem": "backbone.layers.0",
    # A block's last convolution and normalisation are no block of their own; row 0 does not widen.
    **{
        rf"backbone\.rows\.{row}\.(\d)\.layers\.{last}\.{part}": (
            rf"backbone.layers.{row + 1}.\1.conv.{last + part}"
        )
        for row, last in enumerate((1, 2, 2, 2, 2, 2))
        for part, _ in PARTS
    },
    **{
        rf"backbone\.rows\.{row}\.(\d)\.layers": rf"backbone.layers.{row + 1}.\1.conv"
        for row in range(6)
    },
}
BACKBONES = {"resnet50": RESNET, "resnet101": RESNET, "mobilenetv2": MOBILENET}

# Counters of training, copies and levels of YOLACT 1.0, and what MobileNetV2 has after C5.
IDLE = re.compile(
    r".*num_batches_tracked|backbone\.layer\d|fpn\.downsample_layers\.[2-9]|backbone\.layers\.[78]\."
)
PUBLISHED = {  # SHA-384 of the files of which it is known
    "resnet50": "7ef5b5367fd30871c77814500bbecbaf32f0a9e5721bba0a1cc4479e78e4d6ed"
    "25363ebfe6982b94189a11da1e45cf78"
}


class WeightsError(Exception):
    """Weights that cannot be converted, in one sentence."""


def configuration(backbone: str) -> Config:
    return Config(80, backbone=backbone, mean=MEAN, std=STD, published=True)


def digest_of(path: Path) -> str:
    try:
        return hashlib.sha384(path.read_bytes()).hexdigest()
    except OSError as exc:
        raise WeightsError(f"{path} cannot be read: {exc.strerror}") from exc


def check_published(path: Path, backbone: str, digest: str) -> None:
    """Raise WeightsError unless these are, to the byte, the weights that the authors published."""
    if digest == PUBLISHED.get(backbone):
        return
    reason = f"{path} is not the file that was published: its SHA-384 is {digest}"
    if backbone not in PUBLISHED:
        reason = f"no checksum of published weights with {backbone} is known"
    raise WeightsError(f"{reason}. Give --any-weights to convert what you trust")


def load_original(path: Path, config: Config) -> Yolact:
    """The network of a .pth in the authors' layout."""
    network = Yolact(config)
    keys, values = _keys_by_name(network), network.state_dict()
    # YOLACT-Edge may split the pyramid in two.
    read = {re.sub(r"^fpn_phase_[12]\.", "fpn.", name): each for name, each in _read(path).items()}
    found = {name: value for name, value in read.items() if not IDLE.match(name)}
    problems = {
        "missing": [name for name in keys if name not in found],
        "surplus": [name for name in found if name not in keys],
        "of another shape": [
            f"{name} {tuple(found[name].shape)} for {tuple(values[key].shape)}"
            for name, key in keys.items()
            if name in found and found[name].shape != values[key].shape
        ],
    }
    said = "; ".join(f"{len(n)} {what}: {_listed(n)}" for what, n in problems.items() if n)
    if said:
        asked = f"YOLACT with {config.backbone} and {config.classes} classes"
        raise WeightsError(f"{path} does not fit {asked}: {said}")
    network.load_state_dict({keys[name]: value for name, value in found.items()}, strict=False)
    return network.eval()


def save_original(network: Yolact, path: Path) -> None:
    values = network.state_dict()
    save_atomically({name: values[key] for name, key in _keys_by_name(network).items()}, path)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as exc:
        reason = str(exc).partition("\n")[0]
        raise WeightsError(f"{path} cannot be read as weights: {reason}") from exc
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path} is not a table of tensors by name, as the authors save it")
    return content


def _keys_by_name(network: Yolact) -> dict[str, str]:
    rules = SHARED | BACKBONES[network.config.backbone]
    keys = [key for key in network.state_dict() if not IDLE.match(key)]
    return {_original_name(key, rules): key for key in keys}


def _original_name(key: str, rules: dict[str, str]) -> str:
    for ours, theirs in rules.items():
        name, changed = re.subn(rf"^{ours}\.", f"{theirs}.", key)
        if changed:
            return name
    raise KeyError(key)


def _listed(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
