"""Recipes of published tables run, judged and written down: `run.reproduce`."""
