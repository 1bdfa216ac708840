"""YOLACT: backbone, feature pyramid, prototypes and one prediction head shared by all levels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil, sqrt

import torch
from backbones import BACKBONES, conv_block
from torch import Tensor, nn
from torch.nn import functional as F

VARIANCE_CENTRE, VARIANCE_SIZE = 0.1, 0.2


@dataclass(frozen=True)
class Config:
    """Everything that fixes the graph; stored in each checkpoint."""

    classes: int
    size: int = 550
    backbone: str = "mobilenetv2"
    width: float = 1.0
    features: int = 256
    prototypes: int = 32
    proto_features: int = 256
    # For each doubling after the first, the prototypes also see a backbone map of that stride.
    proto_skips: tuple[int, ...] = ()
    mean: tuple[float, float, float] = (123.68, 116.78, 103.94)  # RGB, of 0..255
    std: tuple[float, float, float] = (58.40, 57.12, 57.38)
    scales: tuple[tuple[float, ...], ...] = tuple(  # square anchors per level, px of the input
        (s, s * sqrt(0.5), s * sqrt(2)) for s in (24, 48, 96, 192, 384)
    )
    # The authors' layers, for their weights: prototypes without batch normalisation, and no ReLU
    # after the strided convolutions of the pyramid.
    published: bool = False

    @property
    def levels(self) -> tuple[int, ...]:
        """Side of each pyramid level, halved and rounded up from the input."""
        first = ceil(ceil(ceil(self.size / 2) / 2) / 2)
        sides = [first]
        for _ in self.scales[1:]:
            sides.append(ceil(sides[-1] / 2))
        return tuple(sides)

    @property
    def anchors(self) -> int:
        return len(self.scales[0])

    @property
    def proto_size(self) -> int:
        return self.levels[0] * 2 ** (1 + len(self.proto_skips))


SHAPES = Config(
    classes=6,
    size=224,
    width=0.5,
    features=64,
    prototypes=16,
    proto_features=64,
    proto_skips=(4,),
    scales=((13, 18), (26, 37), (52, 74), (105, 148)),
)
EDGE = Config(classes=80)
RESNET50 = Config(classes=80, backbone="resnet50")


class Pyramid(nn.Module):
    """C3..C5 to P3..; coarser levels come from stride-2 convolutions."""

    def __init__(
        self, channels: tuple[int, ...], features: int, levels: int, relu_down: bool
    ) -> None:
        super().__init__()
        self.relu_down = relu_down
        self.lateral = nn.ModuleList(nn.Conv2d(c, features, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(features, features, 3, padding=1) for _ in channels)
        self.down = nn.ModuleList(
            nn.Conv2d(features, features, 3, 2, 1) for _ in range(levels - len(channels))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        found: list[Tensor] = []
        above: Tensor | None = None
        for lateral, fine in zip(reversed(self.lateral), reversed(maps), strict=True):
            mixed = lateral(fine)
            if above is not None:
                mixed = mixed + F.interpolate(above, _side(mixed), mode="bilinear")
            above = mixed
            found.insert(0, mixed)
        found = [F.relu(s(m)) for s, m in zip(self.smooth, found, strict=True)]
        for down in self.down:
            coarser = down(found[-1])
            found.append(F.relu(coarser) if self.relu_down else coarser)
        return found


def plain_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True))


class Protonet(nn.Module):
    """P3 to ReLU prototypes at twice its side, or more with skips from finer backbone maps."""

    def __init__(self, config: Config, skip_channels: tuple[int, ...]) -> None:
        super().__init__()
        wide = config.proto_features
        block = plain_block if config.published else conv_block
        self.trunk = nn.Sequential(
            block(config.features, wide), block(wide, wide), block(wide, wide)
        )
        widths = [wide // 2**i for i in range(len(skip_channels) + 1)]
        self.skips = nn.ModuleList(
            nn.Conv2d(c, w, 1) for c, w in zip(skip_channels, widths, strict=False)
        )
        self.steps = nn.ModuleList(block(w, n) for w, n in pairwise(widths))
        self.last = block(widths[-1], widths[-1])
        self.out = nn.Conv2d(widths[-1], config.prototypes, 1)

    def forward(self, finest: Tensor, fine: list[Tensor]) -> Tensor:
        x = _double(self.trunk(finest))
        for skip, step, detail in zip(self.skips, self.steps, fine, strict=True):
            x = _double(step(x + skip(detail)))
        return F.relu(self.out(self.last(x)))


class Head(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        wide, a = config.features, config.anchors
        # No batch normalisation: each level would train by its own statistics and be used with all.
        self.shared = nn.Sequential(nn.Conv2d(wide, wide, 3, padding=1), nn.ReLU(inplace=True))
        self.boxes = nn.Conv2d(wide, a * 4, 3, padding=1)
        self.classes = nn.Conv2d(wide, a * (config.classes + 1), 3, padding=1)
        self.masks = nn.Conv2d(wide, a * config.prototypes, 3, padding=1)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.shared(level)
        return self.boxes(x), self.classes(x), self.masks(x)


@dataclass
class Raw:
    """What the network says before any decoding; N anchors, C classes, k prototypes."""

    loc: Tensor  # (B, N, 4)
    logits: Tensor  # (B, N, 1 + C), background first
    coefficients: Tensor  # (B, N, k) after tanh
    prototypes: Tensor  # (B, k, P, P) after ReLU
    semantic: Tensor | None = None  # (B, C, P3, P3), training only


class Yolact(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.backbone = BACKBONES[config.backbone](config.width)
        channels: dict[int, int] = self.backbone.channels
        self.pyramid = Pyramid(
            tuple(channels[s] for s in (8, 16, 32)),
            config.features,
            len(config.scales),
            relu_down=not config.published,
        )
        skips = tuple(channels[s] for s in config.proto_skips)
        self.protonet = Protonet(config, skips)
        self.head = Head(config)
        self.semantic = nn.Conv2d(config.features, config.classes, 1)
        self.register_buffer("priors", make_priors(config), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Raw:
        maps = self.backbone(image)
        levels = self.pyramid([maps[s] for s in (8, 16, 32)])
        heads = [self.head(level) for level in levels]
        loc, logits, coefficients = (
            torch.cat([_rows(part, width) for part in parts], 1)
            for parts, width in zip(
                zip(*heads, strict=True),
                (4, self.config.classes + 1, self.config.prototypes),
                strict=True,
            )
        )
        prototypes = self.protonet(levels[0], [maps[s] for s in self.config.proto_skips])
        semantic = self.semantic(levels[0]) if self.training else None
        return Raw(loc, logits, torch.tanh(coefficients), prototypes, semantic)


def make_priors(config: Config) -> Tensor:
    """(N, 4) cx, cy, w, h, normalised; order: level, row, column, scale."""
    rows = []
    for side, scales in zip(config.levels, config.scales, strict=True):
        for j in range(side):
            for i in range(side):
                for scale in scales:
                    edge = scale / config.size
                    rows.append(((i + 0.5) / side, (j + 0.5) / side, edge, edge))
    return torch.tensor(rows, dtype=torch.float32)


def decode_boxes(loc: Tensor, priors: Tensor) -> Tensor:
    """(..., N, 4) offsets and (N, 4) priors to normalised xyxy, unclipped."""
    centre = priors[:, :2] + loc[..., :2] * VARIANCE_CENTRE * priors[:, 2:]
    size = priors[:, 2:] * torch.exp(loc[..., 2:] * VARIANCE_SIZE)
    corner = centre - size / 2
    return torch.cat([corner, corner + size], -1)


def encode_boxes(xyxy: Tensor, priors: Tensor) -> Tensor:
    """The inverse of `decode_boxes`."""
    centre = ((xyxy[..., :2] + xyxy[..., 2:]) / 2 - priors[:, :2]) / priors[:, 2:]
    size = ((xyxy[..., 2:] - xyxy[..., :2]).clamp(min=1e-6) / priors[:, 2:]).log()
    return torch.cat([centre / VARIANCE_CENTRE, size / VARIANCE_SIZE], -1)


def _double(x: Tensor) -> Tensor:
    height, width = _side(x)
    return F.interpolate(x, (2 * height, 2 * width), mode="bilinear")


def _side(x: Tensor) -> tuple[int, int]:
    return int(x.shape[2]), int(x.shape[3])  # plain numbers keep shape arithmetic out of exports


def _rows(x: Tensor, width: int) -> Tensor:
    """(B, A·width, H, W) to (B, H·W·A, width)."""
    batch, channels, height, across = (int(n) for n in x.shape)
    return x.permute(0, 2, 3, 1).reshape(batch, height * across * channels // width, width)
