"""How many dimensions does it take to tell two subjects of short texts apart? First: python make_data.py"""

from torch import nn

import subspaces as ss


def network():
    return nn.Sequential(nn.EmbeddingBag(2**15, 16, padding_idx=0), nn.Linear(16, 2))


if __name__ == "__main__":
    found = ss.intrinsic_dimension(
        network, "data/sentences.tsv", text="sentence", target="subject", length=16, epochs=15, lr=1e-2
    )
    print(found)
