"""How many dimensions does it take to memorise labels that mean nothing? Judged on the training examples themselves."""

import torch
from torch import nn

import subspaces as ss

x, y = torch.randn(200, 20, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 4


def network():
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 4))


if __name__ == "__main__":
    found = ss.intrinsic_dimension(network, (x, y), judged_on="train", baseline=1.0, epochs=200, lr=1e-2)
    print(found)
