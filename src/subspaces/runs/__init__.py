"""Runs on disk: done once, written whole, shared by processes (`run`, `claims`), in pools of workers and on clusters (`sweep`)."""
