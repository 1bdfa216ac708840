"""Backbones: MobileNetV2 of any width and ResNet. Both return maps by stride."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

# expansion, channels, repeats, stride; the published network's last row feeds nothing here
MOBILENET_ROWS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
)


def conv_block(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution, batch normalisation, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if activation is not None:
        layers.append(activation(inplace=True))
    return nn.Sequential(*layers)


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        widen = [conv_block(inputs, wide, 1, activation=nn.ReLU6)] if expansion > 1 else []
        self.layers = nn.Sequential(
            *widen,
            conv_block(wide, wide, 3, stride, groups=wide, activation=nn.ReLU6),
            conv_block(wide, outputs, 1, activation=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNetV2(nn.Module):
    """Maps of strides 2 to 32 (16, 24, 32, 64 and 160 channels at width 1)."""

    def __init__(self, width: float) -> None:
        super().__init__()
        inputs = _multiple_of_8(32 * width)
        self.stem = conv_block(3, inputs, 3, 2, activation=nn.ReLU6)
        self.rows = nn.ModuleList()
        self.strides: list[int] = []
        self.channels: dict[int, int] = {}
        reached = 2
        for expansion, channels, repeats, stride in MOBILENET_ROWS:
            outputs = _multiple_of_8(channels * width)
            row = []
            for repeat in range(repeats):
                row.append(
                    InvertedResidual(inputs, outputs, expansion, stride if repeat == 0 else 1)
                )
                inputs = outputs
            self.rows.append(nn.Sequential(*row))
            reached *= stride
            self.strides.append(reached)
            self.channels.setdefault(reached, outputs)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        x = self.stem(x)
        maps: dict[int, Tensor] = {}
        for row, stride in zip(self.rows, self.strides, strict=True):
            x = row(x)
            maps.setdefault(stride, x)  # YOLACT-Edge takes the 64 channels of stride 16, not the 96
        return maps


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, middle: int, stride: int) -> None:
        super().__init__()
        outputs = middle * 4
        self.layers = nn.Sequential(
            conv_block(inputs, middle, 1),
            conv_block(middle, middle, 3, stride),
            conv_block(middle, outputs, 1, activation=None),
        )
        self.shortcut = (
            conv_block(inputs, outputs, 1, stride, activation=None)
            if stride > 1 or inputs != outputs
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Maps of strides 4, 8, 16 and 32 (256, 512, 1024 and 2048 channels)."""

    def __init__(self, width: float, depths: tuple[int, ...]) -> None:
        super().__init__()
        inputs = _multiple_of_8(64 * width)
        self.stem = nn.Sequential(conv_block(3, inputs, 7, 2), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList()
        self.channels: dict[int, int] = {}
        for index, repeats in enumerate(depths):
            middle = _multiple_of_8(64 * 2**index * width)
            blocks = []
            for repeat in range(repeats):
                blocks.append(Bottleneck(inputs, middle, 2 if repeat == 0 and index else 1))
                inputs = middle * 4
            self.stages.append(nn.Sequential(*blocks))
            self.channels[4 * 2**index] = inputs

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        x = self.stem(x)
        maps: dict[int, Tensor] = {}
        for stride, stage in zip((4, 8, 16, 32), self.stages, strict=True):
            x = stage(x)
            maps[stride] = x
        return maps


def _multiple_of_8(channels: float) -> int:
    """MobileNet's rounding: to a multiple of 8, never losing more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


BACKBONES: dict[str, Callable[[float], nn.Module]] = {
    "mobilenetv2": MobileNetV2,
    "resnet50": partial(ResNet, depths=(3, 4, 6, 3)),
    "resnet101": partial(ResNet, depths=(3, 4, 23, 3)),
}
