"""A LightningModule with a network in a subspace, its data, and the loop by hand for both."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from by_hand import ByHand
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from subspaces import Subspace

BATCH, EPOCHS, RATE, DIMENSION = 4, 2, 3e-2, 20


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3))


def examples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(40, 6, generator=generator), torch.randint(0, 3, (40,), generator=generator)


class Classifier(lightning.LightningModule):
    """As a user writes it.

    Args:
        root: which module is in the subspace: the network, or this module with all it holds.
        held: the subspace is an attribute too.
    """

    def __init__(self, root: str = "network", held: bool = False, rate: float = RATE):
        super().__init__()
        self.save_hyperparameters()
        self.net = network()
        subspace = Subspace(self if root == "self" else self.net, d=DIMENSION)
        if held:
            self.subspace = subspace

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["rate"])

    @property
    def w(self) -> Tensor:
        """The one parameter that trains."""
        (found,) = [p for p in self.parameters() if p.requires_grad]
        return found


def fit(module: Any, resume: Any = None, **options: Any) -> lightning.Trainer:
    """Lightning's own loop over the data, in order."""
    usual = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": EPOCHS,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(**{**usual, **options})
    trainer.fit(module, DataLoader(TensorDataset(*examples()), batch_size=BATCH), ckpt_path=resume)
    return trainer


def by_hand(clip: Any = None, accumulate: int = 1, autocast: bool = False) -> Tensor:
    hand = ByHand(network(), DIMENSION)
    groups = [group for _ in range(EPOCHS) for group in _losses(accumulate, autocast)]
    return hand.train(groups, torch.optim.Adam([hand.w], lr=RATE), clip)


def _losses(accumulate: int, autocast: bool) -> list[Sequence[Callable[[nn.Module], Tensor]]]:
    x, y = examples()

    def of(start: int) -> Callable[[nn.Module], Tensor]:
        def loss(model: nn.Module) -> Tensor:
            rows = slice(start, start + BATCH)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                return F.cross_entropy(model(x[rows]), y[rows]) / accumulate

        return loss

    every = [of(start) for start in range(0, len(x), BATCH)]
    return [every[i : i + accumulate] for i in range(0, len(every), accumulate)]
