"""The generator against its published vectors, and the rules that every projection rests on."""

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.special import ndtri

from subspaces.kernels import random_bits as rb

ZERO = torch.zeros(1, dtype=torch.int64)
# Known answers of Random123 (Salmon et al. 2011): counter, key, output.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_published_vectors_of_philox(counter, key, output):
    block = rb.philox_block(tuple(ZERO + word for word in counter), key)
    assert tuple(int(word) for word in block) == output


def _scalar_philox(counter, key):
    """The same generator in Python integers, written apart from the tensors."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(c[0] * 0xD2511F53, 2**32)
        high1, low1 = divmod(c[2] * 0xCD9E8D57, 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_published_vectors_of_the_scalar_twin(counter, key, output):
    assert tuple(_scalar_philox(counter, key)) == output


def test_words_place_seed_and_stream_in_key_and_counter():
    seed, stream, block = 0xFEDCBA9876543210, 0x8877665544332211, (5 << 32) | 0xFFFFFFFE
    expected = []
    for b in range(block, block + 4):  # across a carry of the low counter word
        counter = (b % 2**32, b >> 32, stream % 2**32, stream >> 32)
        expected += _scalar_philox(counter, (seed % 2**32, seed >> 32))
    assert rb.words(seed, stream, 4 * block + 1, 14).tolist() == expected[1:15]


@pytest.mark.parametrize("make", [rb.words, rb.sign_bits, rb.gaussians], ids=["words", "signs", "gaussians"])
def test_any_stretch_equals_the_part_of_a_longer_one(make):
    whole = make(7, rb.SIGNS, 0, 300)
    for start, count in [(0, 1), (1, 1), (3, 100), (31, 2), (129, 171), (299, 1), (5, 0)]:
        assert torch.equal(make(7, rb.SIGNS, start, count), whole[start : start + count])


def test_streams_and_seeds_differ():
    base = rb.words(0, 1, 0, 64)
    assert not torch.equal(base, rb.words(1, 1, 0, 64))
    assert not torch.equal(base, rb.words(0, 2, 0, 64))
    assert not torch.equal(base, rb.words(1 << 32, 1, 0, 64))
    assert not torch.equal(base, rb.words(0, 1 | (1 << 32), 0, 64))


def test_gaussian_table_is_the_rounded_quantile_function():
    table = rb._table("cpu").numpy()
    quantiles = ndtri((np.arange(4096) + 0.5) / 4096) * 2**16
    assert np.array_equal(table, np.rint(quantiles).astype(np.int64))
    digest = hashlib.sha256(table.astype("<i4").tobytes()).hexdigest()
    assert digest == "d0bbcec5220f555ddeb50c2e044e0664b180bf6f4971410db7b859dbb715ad9f"


def test_gaussians_have_the_moments_of_the_normal_law():
    x = rb.gaussians(3, rb.GAUSSIAN, 0, 200_000).double() * rb.GAUSSIAN_ONE
    assert abs(x.mean()) < 4 / math.sqrt(len(x))
    assert abs(x.square().mean() - 1) < 0.015
    assert abs(x.pow(4).mean() - 3) < 0.1


def test_slots_are_in_range_and_uniform():
    drawn = rb.slots(5, rb.SLOTS, 0, 10, 50_000)
    counts = drawn.bincount(minlength=10)
    assert len(counts) == 10
    assert (counts - 5000).abs().max() < 5 * math.sqrt(5000)
    sizes = torch.tensor([1, 2, 3, 2**31 - 1])
    assert (rb.slots(5, rb.SLOTS, 0, sizes) < sizes).all()


def test_permutations_are_permutations_and_rows_are_independent():
    drawn = rb.permutation(1, rb.PERMUTATION, 0, 64, rows=8)
    assert torch.equal(drawn.sort(dim=1).values, torch.arange(64).expand(8, 64))
    assert len({tuple(row.tolist()) for row in drawn}) == 8
    assert torch.equal(rb.permutation(1, rb.PERMUTATION, 3 * 64, 64)[0], drawn[3])


def test_signs_are_balanced():
    assert abs(int(rb.signs(11, rb.SIGNS, 0, 100_000).sum())) < 4 * math.sqrt(100_000)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(ValueError, match="`seed` must be between 0 and"):
        rb.check_seed(seed)


@pytest.mark.parametrize("seed", [1.0, "1", True])
def test_seeds_of_another_type_are_refused(seed):
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        rb.check_seed(seed)


def test_bits_do_not_depend_on_threads_or_on_the_global_state():
    code = (
        "import torch, hashlib; torch.set_num_threads({}); torch.manual_seed({});"
        "from subspaces.kernels.random_bits import *;"
        "print(hashlib.sha256(words(9, 3, 5, 100_000).numpy().tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code.format(threads, threads)], capture_output=True, text=True, check=True
        ).stdout
        for threads in (1, 2)
    }
    assert len(digests) == 1
