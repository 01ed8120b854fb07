"""Runs on disk: done once, written whole, shared by processes (`run`, `claims`); workers and clusters (`sweep`)."""
