"""How many dimensions does a regression on a table need? First: python make_data.py"""

from torch import nn

import subspaces as ss


def network():
    return nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))


if __name__ == "__main__":
    found = ss.intrinsic_dimension(
        network, "data/prices.csv", target="price", loss="mse", score="r2", epochs=60, lr=5e-3, schedule="cosine"
    )
    print(found)
