"""A damaged checkpoint is refused by name and changes nothing: flipped bits, cuts, insertions of the golden files."""

import random
from pathlib import Path

import pytest
import torch
from test_checkpoint_contents import GOLDEN, _golden_network

from subspaces import Subspace

MUTATIONS = 400
STRIDE = 11  # of the single-bit flips; all 24,000 of the three files, and 10,000 mutations, were tried by hand


def _mutated(data: bytes, rng: random.Random) -> bytes:
    """A cut, some other bytes, bytes left out, or bytes put in."""
    changed, kind = bytearray(data), rng.randrange(4)
    at = rng.randrange(len(changed))
    if kind == 0:
        return bytes(changed[:at])
    if kind == 1:
        for _ in range(rng.randrange(1, 9)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    elif kind == 2:
        del changed[at : at + rng.randrange(1, 40)]
    else:
        changed[at:at] = rng.randbytes(rng.randrange(1, 20))
    return bytes(changed)


def _variants(data: bytes) -> list[bytes]:
    rng, found = random.Random(0), []
    for bit in range(0, len(data) * 8, STRIDE):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        found.append(bytes(flipped))
    return found + [_mutated(data, rng) for _ in range(MUTATIONS)]


def _refusal(model: torch.nn.Module, path: Path) -> str | None:
    """The words of the ValueError that loading ends in, if it does."""
    try:
        Subspace.load(model, path)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", ["plain", "said", "own-origin"])
def test_no_damage_loads_silently_wrong(name, tmp_path):
    source = GOLDEN / f"checkpoint-v2-{name}.safetensors"
    base = {key: tensor.clone() for key, tensor in _golden_network().state_dict().items()}
    whole = Subspace.load(_golden_network(), source).model.state_dict()
    path: Path = tmp_path / "damaged.safetensors"
    refused = 0
    for data in _variants(source.read_bytes()):
        path.write_bytes(data)
        model = _golden_network()
        told = _refusal(model, path)
        if told is not None:
            assert str(path) in told
            left = model.state_dict()
            assert left.keys() == base.keys()
            assert all(torch.equal(left[key], base[key]) for key in base)
            refused += 1
        else:  # a space in the header of the container, say
            assert all(torch.equal(model.state_dict()[key], whole[key]) for key in whole)
    assert refused > 0.98 * len(_variants(source.read_bytes()))
