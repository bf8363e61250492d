"""Networks as a user might write them: one that edgewf takes, and ones that it refuses."""

import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self, classes=4, norm=True, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, 2)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.fc = nn.Linear(8, classes)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


class Two(Classifier):
    def forward(self, x):
        y = super().forward(x)
        return y, y * 2


class Heads(Classifier):
    def forward(self, x):
        y = super().forward(x)
        return {"aux": [y[:, :3], None], "main": y}


class Labelled(Classifier):
    """As Hugging Face's classifiers answer."""

    def forward(self, x):
        return {"loss": None, "logits": super().forward(x)}


class TwoInputs(Classifier):
    def forward(self, x, z):
        return super().forward(x) + z


class Broken(Classifier):
    def forward(self, x):
        raise ValueError("boom in forward")


class Undecided(Classifier):
    def forward(self, x):
        y = super().forward(x)
        return y if y.sum() > 0 else -y


def tiny():
    torch.manual_seed(0)
    return Classifier()


def lazy():
    import beside

    return beside.build()


def gray():
    return Classifier(channels=1)


def without_norm():
    return Classifier(norm=False)


def layer_norm():
    return nn.Sequential(nn.Conv2d(3, 8, 32), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 4))


def detector():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(2))


def one_class():
    return Classifier(classes=1)


def segmenter():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))


def wide_pictures_only():
    return nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 32 * 32, 4))


def fails():
    raise ValueError("boom while building")


def needs_more(width):
    return Classifier()


def text():
    return "a network"


number = 3


class TwoHeads(Classifier):
    """As distilled networks answer once they are trained."""

    def __init__(self, classes=4):
        super().__init__(classes)
        self.distilled = nn.Linear(8, classes)

    def forward(self, x):
        y = self.norm(self.conv(x)).relu().mean((2, 3))
        return (self.fc(y) + self.distilled(y)) / 2


class Relative(Classifier):
    """Attention whose exporter names axes with capital letters."""

    def forward(self, x):
        y = self.norm(self.conv(x)).relu()
        y = torch.einsum("BCHI,BCHJ->BCIJ", y, y)
        return self.fc(y.mean((2, 3)))
