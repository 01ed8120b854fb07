"""A bounded `make torture`: some kills of each command, with all the checks of the long one."""

import random
from collections import Counter
from pathlib import Path

import pytest
from torture import Tally, Zygote, torture

KILLS = {"dimension": 3, "train": 5, "transition": 2, "reproduce": 2}


@pytest.mark.parametrize("seed", [1])
def test_no_kill_loses_a_run_or_does_one_twice_or_changes_the_answer(tmp_path: Path, seed):
    tally = Tally()
    with Zygote(tmp_path) as zygote:
        for command in KILLS:
            torture(zygote, command, KILLS[command], tmp_path, tally, random.Random(seed))
    assert tally.faults == []
    kills = Counter()
    for (command, _), count in tally.kills.items():
        kills[command] += count
    assert all(kills[command] >= least for command, least in KILLS.items())
    assert sum(tally.in_hand.values()) > 0
