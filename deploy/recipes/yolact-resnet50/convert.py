"""The authors' YOLACT weights (.pth) as ONNX, as OpenVINO IR and as a card that names both.

Both graphs give conf (1,N,81) with background first, mask, proto and boxes (normalised xyxy). The
ONNX takes normalised RGB, the IR takes BGR levels 0..255. Both must find the same in one picture
before anything is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import numpy as np
import onnxruntime
import original
from original import MEAN, STD, WeightsError, load_original

from evaluate import Outputs, box_iou, detect, draw_mask  # isort: skip  (of the sibling recipe)
from export import FORMS, export  # isort: skip
from fullsize import build, picture  # isort: skip

# Where its reporter cannot be imported, openvino does not tell Google Analytics of its import.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino  # noqa: E402
from openvino.preprocess import ColorFormat, PrePostProcessor  # noqa: E402

INPUT = "input.1"  # as Open Model Zoo's conversion calls it
NAMES = FORMS["background"]
SCORE = 0.3  # of the detections that both graphs must find
SCORES_WITHIN = {"fp32": 1e-3, "fp16": 0.1}
SAME_BOX = 0.7  # IoU; half precision may prefer a neighbouring anchor

Raw = dict[str, np.ndarray]


class Comparison(NamedTuple):
    detections: int  # of the first graph
    alone: int  # in either graph, without a counterpart in the other
    pixels: int  # between the masks of a pair, at most, at the size of the input
    outputs: dict[str, float]  # the largest difference of each


def write_ir(graph: Path, ir: Path, precision: str) -> None:
    """`ir` (.xml, with its .bin beside it): the graph behind a normalisation of BGR levels."""
    steps = PrePostProcessor(openvino.Core().read_model(graph))
    image = steps.input()
    image.tensor().set_layout(openvino.Layout("NCHW")).set_color_format(ColorFormat.BGR)
    image.preprocess().convert_color(ColorFormat.RGB).mean(list(MEAN)).scale(list(STD))
    image.model().set_layout(openvino.Layout("NCHW"))
    openvino.save_model(steps.build(), ir, compress_to_fp16=precision == "fp16")


def run_onnx(graph: Path, rgb: np.ndarray) -> Raw:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    tensor = ((rgb - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)[None]
    return dict(zip(NAMES, session.run(NAMES, {INPUT: tensor}), strict=True))


def run_ir(ir: Path, rgb: np.ndarray) -> Raw:
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # else bf16 on a CPU that multiplies it
    compiled = openvino.Core().compile_model(ir, "CPU", exact)
    answer = compiled({INPUT: rgb[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)})
    return {name: answer[name] for name in NAMES}


def compare(first: Raw, second: Raw, side: int, within: float) -> Comparison:
    one, two = (_found(raw, SCORE, side) for raw in (first, second))
    pairs = [*_pixels_apart(one, _found(second, SCORE - within, side))]
    pairs += _pixels_apart(two, _found(first, SCORE - within, side))
    outputs = {name: float(np.abs(first[name] - second[name]).max()) for name in NAMES}
    pixels = max((pair for pair in pairs if pair is not None), default=0)
    return Comparison(len(one), pairs.count(None), pixels, outputs)


def _found(raw: Raw, least: float, side: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Class, box and mask of each detection."""
    out = Outputs(raw["boxes"][0], raw["conf"][0, :, 1:].T, raw["mask"][0], raw["proto"][0])
    anchors, classes, _ = detect(out, least)
    return [
        (number, out.boxes[a], draw_mask(out.boxes[a], out.masks[a], out.proto, side, side))
        for a, number in zip(anchors, classes, strict=True)
    ]


def _pixels_apart(these: list, those: list) -> Iterator[int | None]:
    """How far the mask of each is from that of its counterpart; None where it has none."""
    for number, box, mask in these:
        alike = [
            (box_iou(np.stack([box, other]))[0, 1], int((mask != its_mask).sum()))
            for its_number, other, its_mask in those
            if its_number == number
        ]
        overlap, pixels = max(alike, default=(0, 0))
        yield pixels if overlap >= SAME_BOX else None


def card_text(backbone: str, note: str, onnx: Path, ir: Path, precision: str) -> str:
    whole = hashlib.sha256(ir.read_bytes() + ir.with_suffix(".bin").read_bytes())
    return f"""name = "yolact-{backbone}"
family = "yolact"
source = "https://github.com/dbolya/yolact"
categories = "coco80"

[input]
color = "rgb"
mean = {list(MEAN)}
std = {list(STD)}

[facts]
backbone = "{backbone}"
notes = {json.dumps(note)}

[[builds]]
file = "{onnx.name}"
precision = "fp32"
sha256 = "{hashlib.sha256(onnx.read_bytes()).hexdigest()}"

[[builds]]
file = "{ir.name}"
precision = "{precision}"
sha256 = "{whole.hexdigest()}"
input = {{ color = "bgr" }} # the rest is in the graph
"""


def convert(
    weights: Path, backbone: str, out: Path, precision: str, rgb: np.ndarray, note: str
) -> None:
    """Write the ONNX, the IR and the card into `out`, if the two graphs agree on the picture."""
    network = load_original(weights, original.configuration(backbone))
    with TemporaryDirectory(dir=out, prefix=".partial-") as folder:
        onnx, xml, binary, card = (
            Path(folder, f"yolact-{backbone}.{suffix}") for suffix in ("onnx", "xml", "bin", "toml")
        )
        export(network, "background", onnx, INPUT)
        write_ir(onnx, xml, precision)
        within = SCORES_WITHIN[precision]
        raws = run_onnx(onnx, rgb), run_ir(xml, rgb)
        compared = compare(*raws, network.config.size, within)
        print(f"ONNX Runtime and OpenVINO find {compared.detections} over {SCORE}, ", end="")
        print(f"{compared.alone} in one only; masks within {compared.pixels} pixels, ", end="")
        print(", ".join(f"{name} within {far:.1e}" for name, far in compared.outputs.items()))
        if compared.alone or not compared.outputs["conf"] <= within:
            raise WeightsError("the IR does not find what the ONNX finds: nothing is kept")
        card.write_text(card_text(backbone, note, onnx, xml, precision), "utf-8")
        for made in (onnx, binary, xml, card):
            print(f"{out / made.name}: {made.stat().st_size:,} bytes")
            made.replace(out / made.name)


def read_picture(path: Path, side: int) -> np.ndarray:
    image = cv2.imread(str(path))
    if image is None:
        raise WeightsError(f"{path} cannot be read as an image")
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)[..., ::-1]


def run(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    config = original.configuration(args.backbone)
    weights = args.weights or args.out / f"yolact-{args.backbone}-random.pth"
    if args.weights is None:
        original.save_original(build(config, args.random), weights)
    digest = original.digest_of(weights)
    if args.weights is not None and not args.any_weights:
        original.check_published(weights, args.backbone, digest)
    about = "" if args.weights else f", random weights of seed {args.random} that know nothing"
    rgb = picture(args.random or 0, 0, config.size)
    if args.picture is not None:
        rgb = read_picture(args.picture, config.size)
    note = f"Converted from {weights.name} (SHA-384 {digest}){about}."
    convert(weights, args.backbone, args.out, "fp16" if args.fp16 else "fp32", rgb, note)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("weights", type=Path, nargs="?", help="the authors' .pth")
    source.add_argument("--random", type=int, metavar="SEED", help="make a .pth that knows nothing")
    parser.add_argument("--backbone", choices=original.BACKBONES, default="resnet50")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--any-weights", action="store_true", help="also others than the published")
    parser.add_argument("--fp16", action="store_true", help="halve the IR's weights")
    parser.add_argument("--picture", type=Path, help="what to compare on (else a synthetic scene)")
    begun = time.monotonic()
    try:
        run(parser.parse_args())
    except WeightsError as exc:
        raise SystemExit(f"{exc}.") from None
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
