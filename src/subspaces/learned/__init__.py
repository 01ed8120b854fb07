"""Learned subspaces: trajectories, the bases taken from them, tickets. See docs/learned-subspaces.md."""
