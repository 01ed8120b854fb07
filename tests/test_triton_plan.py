"""Windows of rows for the Triton kernels: every row of every tensor in exactly one window, whatever the tensors."""

import random

import pytest

from subspaces.kernels.triton_plan import ALIGN, TILE, plan_rows


def covered(plan, sizes):
    """How often each tensor's rows are met, going through the windows as the kernels do."""
    met = [0] * len(sizes)
    pairs = plan.tensors.tolist()
    for row, packed, first, last in plan.windows.tolist():
        row, lo, hi = row * ALIGN, packed & 255, (packed >> 8) & 8191
        for t in range(first, last):
            start, length = pairs[t]
            met[plan.order[t]] += max(0, min(start + length - row, hi) - max(start - row, lo))
    return met


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("gaps", [True, False])
def test_every_row_is_met_once(seed, gaps):
    draw = random.Random(seed)
    sizes = [draw.choice([0, 1, 7, 300, 5_000, 20_000]) for _ in range(draw.randint(1, 8))]
    starts, row = [], draw.choice([0, 3, 5_000, 2**36])
    for size in sizes:
        starts.append(row)
        row += size + draw.choice([0, 0, 0, 9, 30_000])
    D, block = row + draw.choice([0, 1, 777]), 1 << draw.randint(0, 12)
    shuffled = list(range(len(sizes)))
    draw.shuffle(shuffled)
    sizes, starts = [sizes[i] for i in shuffled], [starts[i] for i in shuffled]
    plan = plan_rows(max(D, 1), block, starts, sizes, gaps)
    assert covered(plan, sizes) == sizes
    served = [last > first for *_, first, last in plan.windows.tolist()]
    assert all(served) or not gaps


def test_windows_without_gaps_follow_one_another():
    plan = plan_rows(100_000, 256, [10, 60_000], [5, 30_000], gaps=False)
    rows = [row * ALIGN for row, *_ in plan.windows.tolist()]
    assert rows == list(range(0, 90_112, TILE))
    assert (plan.begin, plan.end, plan.dense) == (0, 90_112, len(rows))


def test_small_tensors_share_a_window():
    plan = plan_rows(4_096, 256, list(range(0, 4_096, 64)), [64] * 64, gaps=True)
    assert plan.windows.tolist() == [[0, (TILE << 8) + (8 << 24), 0, 64]]


def test_rows_after_the_whole_blocks_are_windows_by_binary_digits():
    plan = plan_rows(256 + 64 + 2, 256, [0], [322], gaps=True)
    whole, large, small = plan.windows.tolist()
    assert whole == [0, (256 << 8) + (8 << 24), 0, 1]
    assert large == [2, (64 << 8) + (6 << 24), 0, 1]
    assert small == [2, 64 + (66 << 8) + (1 << 24), 0, 1]


@pytest.mark.parametrize(("starts", "words"), [([0, 5], "keep tensors apart"), ([0, 95], "leave room")])
def test_bad_rows_are_refused(starts, words):
    with pytest.raises(ValueError, match=words):
        plan_rows(100, 16, starts, [10, 10], gaps=True)
