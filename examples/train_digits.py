"""Train a network on handwritten digits with 300 numbers, save them, and rebuild it from the file.

python examples/train_digits.py
"""

import tempfile
from pathlib import Path

import torch
from torch.nn import functional

from subspaces import Subspace
from subspaces.tasks import get_task


def accuracy(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == y).float().mean())


def main() -> None:
    torch.set_num_threads(1)
    task = get_task("digits-fc")
    data = task.load_data()
    model = task.build_model(seed=0)
    subspace = Subspace(model, d=300, seed=0)
    print(subspace.summary())

    optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(4e-3, "adam"))
    order = torch.Generator().manual_seed(0)
    for _ in range(20):
        for batch in torch.randperm(len(data.train_x), generator=order).split(64):
            loss = functional.cross_entropy(model(data.train_x[batch]), data.train_y[batch])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    print(f"test accuracy {accuracy(model, data.test_x, data.test_y):.1%}")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.safetensors"
        subspace.save(path, extra={"task": "digits-fc", "seed_model": 0})
        again = Subspace.load(task.build_model(seed=0), path)
        size = path.stat().st_size
    print(f"rebuilt from {size:,} bytes: test accuracy {accuracy(again.model, data.test_x, data.test_y):.1%}")


if __name__ == "__main__":
    main()
