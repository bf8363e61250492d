"""The CIFAR-10 ResNets of He et al. (CVPR 2016, section 4.2) with parameter-free shortcuts."""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut that subsamples and zero-pads the channels."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shrinks = stride != 1 or into != out
        self.pad = out // 4

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.shrinks:
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return nn.functional.relu(y + x)


class CifarResNet(nn.Module):
    """6n + 2 layers for 32x32 images of 10 classes."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, n, 1)
        self.layer2 = self._stage(16, 32, n, 2)
        self.layer3 = self._stage(32, 64, n, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(into: int, out: int, n: int, stride: int) -> nn.Sequential:
        rest = [Block(out, out, 1) for _ in range(n - 1)]
        return nn.Sequential(Block(into, out, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def resnet20() -> nn.Module:
    """20 layers."""
    return CifarResNet(3)


def resnet32() -> nn.Module:
    """32 layers."""
    return CifarResNet(5)


def resnet44() -> nn.Module:
    """44 layers."""
    return CifarResNet(7)


def resnet56() -> nn.Module:
    """56 layers."""
    return CifarResNet(9)
