"""A checkpoint as an ONNX graph, in one of YOLACT's three output forms.

edge        boxes (1,N,4) xyxy, scores (1,C,N) without background, masks (1,N,k), proto (1,P,P,k);
            takes RGB 0..255, normalisation is in the graph
background  conf (1,N,1+C) with background first, mask, proto, boxes; takes normalised RGB
raw         loc (1,N,4), conf, mask, proto, priors (N,4) as cx, cy, w, h; takes normalised RGB
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import onnx
import torch
from checkpoints import load_network
from network import Raw, Yolact, decode_boxes
from torch import Tensor, nn

OPSET = 17
FORMS = {
    "edge": ("boxes", "scores", "masks", "proto"),
    "background": ("conf", "mask", "proto", "boxes"),
    "raw": ("loc", "conf", "mask", "proto", "priors"),
}


class Edge(nn.Module):
    def __init__(self, network: Yolact) -> None:
        super().__init__()
        self.network = network
        for name in ("mean", "std"):
            values = torch.tensor(getattr(network.config, name)).view(1, 3, 1, 1)
            self.register_buffer(name, values)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        raw = self.network((image - self.mean) / self.std)
        scores = raw.logits.softmax(-1)[..., 1:].transpose(1, 2)
        boxes = decode_boxes(raw.loc, self.network.priors)
        return boxes, scores, raw.coefficients, _channels_last(raw)


class Background(nn.Module):
    def __init__(self, network: Yolact) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        raw = self.network(image)
        boxes = decode_boxes(raw.loc, self.network.priors)
        return raw.logits.softmax(-1), raw.coefficients, _channels_last(raw), boxes


class Undecoded(nn.Module):
    def __init__(self, network: Yolact) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        raw = self.network(image)
        conf = raw.logits.softmax(-1)
        # An identity, or the exporter would not name a constant as an output.
        priors = self.network.priors + 0 * raw.loc[0]
        return raw.loc, conf, raw.coefficients, _channels_last(raw), priors


WRAPPERS: dict[str, type[nn.Module]] = {"edge": Edge, "background": Background, "raw": Undecoded}


def export(network: Yolact, form: str, path: Path, picture: str = "image") -> None:
    """Write `path` in one step; batch 1, fp32, batch normalisation folded by the exporter.

    `picture` is what the graph calls its input.
    """
    side = network.config.size
    partial = path.with_name(path.name + ".partial")
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated, but the one that folds and emits plain operators.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            WRAPPERS[form](network).eval(),
            (torch.zeros(1, 3, side, side),),
            str(partial),
            input_names=[picture],
            output_names=list(FORMS[form]),
            opset_version=OPSET,
            dynamo=False,
        )
    onnx.checker.check_model(onnx.load(partial))
    partial.replace(path)


def _channels_last(raw: Raw) -> Tensor:
    return raw.prototypes.permute(0, 2, 3, 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("onnx", type=Path, help="the file to write")
    parser.add_argument("--form", choices=FORMS, default="edge")
    args = parser.parse_args()
    network, categories = load_network(args.checkpoint)
    export(network, args.form, args.onnx)
    config = network.config
    print(
        f"{args.onnx}: {args.onnx.stat().st_size / 1e6:.2f} MB, input {config.size}x{config.size}"
    )
    print("classes: " + ", ".join(category["name"] for category in categories))
    if args.form != "edge":
        print(f"expects RGB less {config.mean}, divided by {config.std}")


if __name__ == "__main__":
    main()
