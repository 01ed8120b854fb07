"""How many dimensions does a folder of images need, one folder per class? First: python make_data.py"""

from torch import nn

import subspaces as ss


def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 4))


if __name__ == "__main__":
    found = ss.intrinsic_dimension(network, "data/images", size=8, epochs=15, lr=1e-2)
    print(found)
