"""The search for the smallest d whose expected score passes a threshold: a pure algorithm on (d, seed) → score.

`search.search` is the loop, `search.ThresholdSearch` the ask/tell engine, `estimate` its result, `fidelity` early
stopping and rate tuning. See docs/decision-rule.md.
"""
