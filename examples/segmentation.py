"""How many dimensions does a segmentation need, judged by the mean overlap of its masks? First: python make_data.py"""

from torch import nn

import subspaces as ss


def network():
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 3, padding=1))


if __name__ == "__main__":
    found = ss.intrinsic_dimension(network, "data/masks.npz", target="y", classes=True, score="iou", epochs=15, lr=1e-2)
    print(found)
