"""lightning.Trainer, as it comes, trains the coordinates as the hand-written loop does."""

import pytest
import torch
from torch import nn

from subspaces import Subspace

pytestmark = [
    pytest.mark.lightning,
    pytest.mark.filterwarnings(
        "ignore:.isinstance.treespec, LeafSpec:FutureWarning",  # Lightning's own
        "ignore:The 'train_dataloader' does not have many workers",
    ),
]


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("root", ["network", "self"])
def test_fit_trains_to_the_bits_of_the_loop_by_hand(root, held):
    from lit import Classifier, by_hand, fit

    module = Classifier(root, held)
    fit(module)
    assert torch.equal(module.w, by_hand())
    assert type(module).__name__ == "Classifier"


@pytest.mark.parametrize(
    ("options", "hand"),
    [
        ({"gradient_clip_val": 0.02}, {"clip": lambda ps: nn.utils.clip_grad_norm_(ps, 0.02)}),
        (
            {"gradient_clip_val": 0.005, "gradient_clip_algorithm": "value"},
            {"clip": lambda ps: nn.utils.clip_grad_value_(ps, 0.005)},
        ),
        ({"accumulate_grad_batches": 5}, {"accumulate": 5}),
        ({"precision": "bf16-mixed"}, {"autocast": True}),
    ],
    ids=["clipping by norm", "clipping by value", "accumulation", "mixed precision"],
)
@pytest.mark.parametrize("root", ["network", "self"])
def test_every_option_gives_the_bits_of_the_loop_by_hand(root, options, hand):
    from lit import Classifier, by_hand, fit

    module = Classifier(root)
    fit(module, **options)
    assert torch.equal(module.w, by_hand(**hand))


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
@pytest.mark.parametrize("rate", [3e-2, 1e-6])  # after steps of 1e-6 the point is θ₀ but for rounding
@pytest.mark.parametrize("root", ["network", "self"])
def test_ckpt_path_goes_on_to_the_same_bits(tmp_path, root, rate, precision):
    from lit import Classifier, fit

    whole, first, again = (Classifier(root, held=True, rate=rate) for _ in range(3))
    fit(whole, precision=precision)
    fit(first, max_epochs=1, precision=precision).save_checkpoint(tmp_path / "half.ckpt")
    fit(again, tmp_path / "half.ckpt", precision=precision)
    assert whole.w.dtype is torch.float32
    assert torch.equal(again.w, whole.w)
    assert not torch.equal(first.w, whole.w)
    mine = again.state_dict()
    assert all(torch.equal(tensor, mine[name]) for name, tensor in whole.state_dict().items())


@pytest.mark.parametrize("root", ["network", "self"])
def test_load_from_checkpoint_gives_the_trained_module(tmp_path, root):
    from lit import Classifier, examples, fit

    module = Classifier(root, held=True)
    fit(module).save_checkpoint(tmp_path / "end.ckpt")
    loaded = Classifier.load_from_checkpoint(tmp_path / "end.ckpt")
    x, _ = examples()
    assert torch.equal(loaded.w, module.w)
    assert torch.equal(loaded.net(x), module.net(x))
    assert loaded.subspace.coordinates is loaded.w


def test_manual_optimisation_gives_the_bits_of_the_loop_by_hand():
    from lit import Classifier, by_hand, fit

    class Manual(Classifier):
        def __init__(self):
            super().__init__("self")
            self.automatic_optimization = False

        def training_step(self, batch, index):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, index))
            self.clip_gradients(optimizer, 0.02, "norm")
            optimizer.step()

    module = Manual()
    fit(module)
    assert torch.equal(module.w, by_hand(clip=lambda ps: nn.utils.clip_grad_norm_(ps, 0.02)))


def test_a_subspace_made_in_configure_model_is_trained():
    from lit import Classifier, by_hand, fit, network

    class Late(Classifier):
        def __init__(self):
            super().__init__()
            self.net = network()

        def configure_model(self):
            if not hasattr(self, "subspace"):
                self.subspace = Subspace(self.net, d=20)

    module = Late()
    fit(module)
    assert torch.equal(module.w, by_hand())


def test_fabric_trains_saves_and_loads(tmp_path):
    from lightning.fabric import Fabric
    from lit import BATCH, EPOCHS, RATE, by_hand, examples, network

    fabric, (x, y) = Fabric(accelerator="cpu", devices=1), examples()
    subspace, other = Subspace(network(), d=20), Subspace(network(), d=20)
    optimizer = torch.optim.Adam(subspace.model.parameters(), lr=RATE)
    model, optimizer = fabric.setup(subspace.model, optimizer)
    for start in [*range(0, len(x), BATCH)] * EPOCHS:
        rows = slice(start, start + BATCH)
        fabric.backward(nn.functional.cross_entropy(model(x[rows]), y[rows]))
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(subspace.coordinates, by_hand())
    fabric.save(tmp_path / "state", {"model": model})
    fabric.load(tmp_path / "state", {"model": fabric.setup(other.model)})
    assert torch.equal(other.coordinates, subspace.coordinates)


@pytest.mark.parametrize("average", ["EMA", "SWA"])
@pytest.mark.parametrize("root", ["network", "self"])
def test_averages_of_weights_are_those_of_w(root, average):
    from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
    from lit import Classifier, by_hand, fit

    swa = StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1, annealing_epochs=1)
    module = Classifier(root, held=True)
    fit(module, callbacks=[EMAWeightAveraging(decay=0.5) if average == "EMA" else swa])
    averaged = module.w.detach().clone()
    assert not torch.equal(averaged, by_hand())
    theta = {name: tensor.clone() for name, tensor in module.net.named_parameters()}
    module.subspace.sync()
    moved = [
        float((tensor.detach() - theta[name].detach()).abs().max()) for name, tensor in module.net.named_parameters()
    ]
    assert max(moved) < 1e-6  # θ was averaged too: it is θ₀ + P w but for rounding


def test_the_trained_module_is_a_plain_file_of_coordinates(tmp_path):
    from lit import Classifier, examples, fit, network

    module = Classifier(held=True)
    fit(module)
    module.subspace.save(tmp_path / "w.safetensors")
    loaded = Subspace.load(network(), tmp_path / "w.safetensors")
    x, _ = examples()
    assert torch.equal(loaded.model(x), module.net(x))
