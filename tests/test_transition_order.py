"""A transition's runs and answer do not depend on which run ends first, nor on interruptions."""

import random

import pytest

from subspaces.transition.search import TransitionSearch


def _value(d: int, seed: int) -> float:
    """A loss that falls with d, with the scatter of seeds."""
    return 30.0 / d * (1 + 0.1 * ((7 * d + 13 * seed) % 11 - 5) / 5)


def _search(ahead: int | None) -> TransitionSearch:
    return TransitionSearch([0.1, 0.5], d_min=4, d_max=1024, first=5, budget=18, max_runs=4, ahead=ahead)


def _course(workers: int, order: random.Random, ahead: int | None = 2, known: dict | None = None) -> dict:
    """All runs of a search whose workers end in a random order; `known` ones are told when they are asked for."""
    search, in_hand = _search(ahead), []
    done: dict[tuple[int, int], float] = {}

    def asked() -> list[tuple[int, int]]:
        new = []
        while len(in_hand) + len(new) < workers and (one := search.ask(1)):
            if known is not None and one[0] in known:
                done[one[0]] = known[one[0]]
                search.tell(*one[0], known[one[0]])
            else:
                new += one
        return new

    while True:
        in_hand += asked()
        if not in_hand:
            break
        place = in_hand.pop(order.randrange(len(in_hand)))
        done[place] = _value(*place)
        search.tell(*place, done[place])
    assert search.done
    return done


def test_forty_orders_of_ends_make_the_same_runs():
    first = _course(1, random.Random(0))
    assert 10 < len(first) <= 30
    for seed in range(20):
        assert _course(2, random.Random(seed)) == first
    for seed in range(20):
        assert _course(1 + seed % 2, random.Random(seed)).keys() == first.keys()


def test_the_order_mattered_without_it():
    found = {tuple(sorted(_course(2, random.Random(seed), ahead=None))) for seed in range(12)}
    assert len(found) > 1


def test_an_interrupted_search_repeats_its_course():
    whole = _course(2, random.Random(3))
    for kept in range(1, len(whole), 5):
        known = dict(random.Random(kept).sample(sorted(whole.items()), kept))
        assert _course(2, random.Random(kept), known=known) == whole


def test_more_workers_are_another_question_with_one_answer():
    first = _course(4, random.Random(0), ahead=4)
    assert all(_course(4, random.Random(seed), ahead=4) == first for seed in range(8))


def test_all_that_was_told_counts_in_the_answer():
    search = _search(2)
    for d, seed in search.ask(5):
        search.tell(d, seed, _value(d, seed))
    assert len(search.outcomes) == 5
    with pytest.raises(ValueError, match="told before"):
        search.tell(4, 0, 99.0)


def test_ahead_is_at_least_one():
    with pytest.raises(ValueError, match="`ahead` must be at least 1; got 0"):
        _search(0)
