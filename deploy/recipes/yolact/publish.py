"""A checkpoint as a model that maskmill runs: the ONNX, and its card with the AP measured on it."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from checkpoints import load_network
from data import DataError, load_dataset
from evaluate import average_precision, onnx_predictor, results
from export import export
from network import Yolact


def card_text(
    name: str, network: Yolact, categories: list[dict[str, Any]], graph: Path, on: str, ap: dict
) -> str:
    """TOML by hand: a card is short, and its comments are for people."""
    backbone = network.config.backbone
    rows = [
        f"    {{ id = {each['id']}, name = {json.dumps(each['name'])} }}," for each in categories
    ]
    parameters = sum(each.numel() for each in network.parameters())
    box, mask = round(ap["box_ap"], 4), round(ap["mask_ap"], 4)
    mean = round((box + mask) / 2, 4)
    return f"""name = {json.dumps(name)}
family = "yolact"
source = "deploy/recipes/yolact"
categories = [
{chr(10).join(rows)}
]

# The graph normalises by itself and wants RGB levels, 0…255.
[input]
color = "rgb"

[facts]
backbone = {json.dumps(f"{backbone}, width {network.config.width}")}
parameters = "{parameters:,}"

[[builds]]
file = {json.dumps(graph.name)}
precision = "fp32"
sha256 = "{hashlib.sha256(graph.read_bytes()).hexdigest()}"
ap = [
    {{ box = {box}, mask = {mask}, mean = {mean}, source = "measured", on = {json.dumps(on)} }},
]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--data", type=Path, required=True, help="COCO file that training never saw"
    )
    parser.add_argument("--images", type=Path, help="where its images are, if not beside it")
    parser.add_argument("--name", required=True, help="of the model and its files")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    args = parser.parse_args()
    try:
        dataset = load_dataset(args.data, args.images)
    except DataError as exc:
        raise SystemExit(str(exc)) from None
    network, categories = load_network(args.checkpoint)
    args.out.mkdir(parents=True, exist_ok=True)
    graph = args.out / f"{args.name}.onnx"
    export(network, "edge", graph)
    names = [category["name"] for category in categories]
    found = results(*onnx_predictor(graph), dataset, dataset.samples, names, least=0.0)
    ap = average_precision(dataset, dataset.samples, found)
    on = f"{args.data.parent.name}/{args.data.name}, {len(dataset.samples)} images"
    card = args.out / f"{args.name}.toml"
    card.write_text(card_text(args.name, network, categories, graph, on, ap))
    print(f"{card}: box AP {ap['box_ap']:.3f}, mask AP {ap['mask_ap']:.3f} on {on}")


if __name__ == "__main__":
    main()
