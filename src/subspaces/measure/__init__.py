"""Real runs fed to the pure algorithms: intrinsic dimension, phase transition, extraction of learned subspaces."""
