"""What an import costs: nothing that training in a subspace does not need."""

import subprocess
import sys

HEAVY = ("torch._dynamo", "torch._inductor", "scipy", "sympy", "matplotlib", "sklearn", "rich", "tyro", "transformers")


ROOMS = {
    "bounded_json", "checkpoint", "container", "errors", "files", "kernels", "layout", "optim", "processes",
    "projections", "registry", "spread", "subspace",
}  # fmt: skip
"""What a subspace is made of: no task, no training loop, no learned subspaces."""


def test_a_subspace_is_imported_without_what_it_does_not_need():
    code = "import sys; from subspaces import Subspace; import subspaces.optim; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    alone = "import sys, torch; print(*sys.modules)"
    before = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in HEAVY if name in loaded and name not in before]
    added = set(loaded) - set(before)
    assert len(added) < 100
    assert {name.split(".")[1] for name in added if name.startswith("subspaces.")} == ROOMS
