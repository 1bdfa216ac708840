"""Full-size YOLACT graphs with seeded random weights, for benchmarks; they know nothing.

Batch normalisation is settled on seeded pictures, and the class layer is scaled and weighed so that
about a dozen instances survive on an ordinary picture, as with a trained network: decoding,
suppression and masks then cost what they really cost.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from batches import normalise
from evaluate import Outputs, detect
from export import export
from network import EDGE, RESNET50, Config, Raw, Yolact, decode_boxes
from scenes import SHAPES, STRANGERS, draw_scene
from torch import Tensor, nn

GRAPHS: dict[str, tuple[Config, str, int]] = {  # network, output form, a seed that gives 5 to 25
    "edge": (EDGE, "edge", 1),
    "resnet50": (RESNET50, "background", 3),
}
SCORE = 0.3
WANTED = 12  # instances over SCORE per picture, on average
CONTRAST = 2.0  # spread of the class scores' logits
PICTURES = 6


def build(config: Config, seed: int) -> Yolact:
    """A network whose activations and class scores are spread like a trained one's."""
    torch.manual_seed(seed)
    network = Yolact(config)
    pictures = [picture(seed, index, config.size) for index in range(PICTURES)]
    settle(network, pictures)
    spread_heads(network, pictures)
    weigh_background(network, pictures)
    return network.eval()


def picture(seed: int, index: int, size: int) -> np.ndarray:
    """RGB (S, S, 3): a scene of shapes and blotches of every size, as busy as a photograph."""
    rng = np.random.default_rng([seed, index])
    canvas = cv2.resize(draw_scene(rng, SHAPES + STRANGERS)[0], (size, size)).astype(np.float32)
    for power in range(2, 9):
        blotches = rng.standard_normal((2**power, 2**power, 3), dtype=np.float32)
        smooth = cv2.resize(blotches, (size, size), interpolation=cv2.INTER_LINEAR)
        canvas += smooth * np.float32(rng.uniform(5, 25))
    return np.clip(canvas, 0, 255).astype(np.uint8)


@torch.inference_mode()
def settle(network: Yolact, pictures: list[np.ndarray]) -> None:
    """Give batch normalisation the statistics of these pictures."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain mean over all that it sees
    network.train()
    network(_batch(network, pictures))
    network.eval()


@torch.inference_mode()
def spread_heads(network: Yolact, pictures: list[np.ndarray]) -> None:
    """Scale each output channel of the heads to a useful spread."""
    raw = network(_batch(network, pictures))
    for layer, values, spread in (
        (network.head.boxes, raw.loc, 1.0),
        (network.head.classes, raw.logits, CONTRAST),
        (network.head.masks, raw.coefficients.atanh(), 1.0),
    ):
        channels = values.reshape(-1, layer.out_channels)
        layer.weight.mul_((spread / channels.std(0).clamp(min=1e-6))[:, None, None, None])


@torch.inference_mode()
def weigh_background(network: Yolact, pictures: list[np.ndarray]) -> None:
    """Let the background's logit be the mean activation around an anchor, times what leaves WANTED.

    A constant bias would be passed by everything on a busier picture and by nothing on a calmer
    one; the mean activation grows with the picture's contrast as the class logits do.
    """
    layer = network.head.classes
    width = network.config.classes + 1
    layer.weight[::width] = 1 / layer.weight[0].numel()
    raws = [network(_batch(network, [image])) for image in pictures]
    low, high = 0.0, 1000.0
    for _ in range(16):
        factor = (low + high) / 2
        if np.median([survivors(network, raw, factor) for raw in raws]) > WANTED:
            low = factor
        else:
            high = factor
    layer.weight[::width] *= factor


def survivors(network: Yolact, raw: Raw, factor: float = 1.0) -> int:
    """Instances over SCORE of one picture, were the background's logit multiplied by `factor`."""
    logits = raw.logits[0].clone()
    logits[:, 0] *= factor
    boxes = decode_boxes(raw.loc[0], network.priors).numpy()
    scores = logits.softmax(-1)[:, 1:].T.numpy()
    return len(detect(Outputs(boxes, scores, raw.coefficients[0].numpy(), np.empty(0)), SCORE)[0])


def _batch(network: Yolact, pictures: list[np.ndarray]) -> Tensor:
    return normalise(torch.from_numpy(np.stack(pictures)), network.config)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("graph", choices=GRAPHS)
    parser.add_argument("onnx", type=Path, help="the file to write")
    parser.add_argument("--seed", type=int, help="of the weights")
    parser.add_argument("--try-on", type=Path, nargs="*", default=[], help="count instances here")
    args = parser.parse_args()
    config, form, seed = GRAPHS[args.graph]
    network = build(config, seed if args.seed is None else args.seed)
    args.onnx.parent.mkdir(parents=True, exist_ok=True)
    export(network, form, args.onnx)
    print(f"{args.onnx}: {args.onnx.stat().st_size / 1e6:.1f} MB, form {form}")
    for path in args.try_on:
        image = cv2.imread(str(path))
        if image is None:
            raise SystemExit(f"{path} cannot be read as an image.")
        pixels = np.ascontiguousarray(image[..., ::-1])
        pixels = cv2.resize(pixels, (config.size, config.size), interpolation=cv2.INTER_LINEAR)
        with torch.inference_mode():
            raw = network(_batch(network, [pixels]))
        print(f"{path}: {survivors(network, raw)} instances over {SCORE}")


if __name__ == "__main__":
    main()
