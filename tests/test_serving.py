"""One base, many files: swapped in place, switched off, averaged, mixed in one batch, written as LoRA adapters."""

import json

import pytest
import torch
from torch import nn

from subspaces import Subspace

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # PEFT's own
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True but:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True.:UserWarning"),
]
SPACES = {
    "lora": {"space": "lora", "rank": 2},
    "lora-xs": {"space": "lora-xs", "rank": 2},
    "layer-kronecker": {"space": "layer-kronecker", "rank": 3},
    "all": {},
}
EVERY = pytest.mark.parametrize("options", SPACES.values(), ids=SPACES.keys())
LOW = pytest.mark.parametrize("options", list(SPACES.values())[:3], ids=list(SPACES)[:3])


class _Net(nn.Module):
    """Tokens with places, a layer over all, a part that is flattened, and a small head."""

    def __init__(self, tied: bool = False):
        super().__init__()
        self.embed, self.places = nn.Embedding(40, 16), nn.Embedding(6, 16)
        self.norm, self.mid, self.out = nn.LayerNorm(16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.conv, self.head = nn.Conv1d(16, 16, 3, padding=1), nn.Linear(16, 3)

    def forward(self, tokens):
        n, length = tokens.shape
        x = self.norm(self.embed(tokens) + self.places(torch.arange(length)[None]))
        x = x + self.out(torch.tanh(self.mid(x.flatten(0, 1)))).view(n, length, -1)
        return self.head(self.conv(x.transpose(1, 2)).mean(2))


TOKENS = torch.arange(30).view(5, 6) % 40


def _net():
    torch.manual_seed(0)
    return _Net().eval()


@pytest.fixture
def files(tmp_path):
    """Files of three customers, and the outputs for each of them."""

    def make(options, count=3):
        subspace, paths, outputs = Subspace(_net(), d=12, **options), [], []
        for k in range(count):
            subspace.move_to(torch.randn(12, generator=torch.Generator().manual_seed(k)))
            paths.append(tmp_path / f"{k}.safetensors")
            subspace.save(paths[-1])
            outputs.append(subspace.model(TOKENS).detach())
        subspace.move_to(torch.zeros(12))
        return subspace, paths, outputs

    return make


@EVERY
def test_a_batch_of_mixed_customers_is_that_of_each_by_itself(options, files):
    subspace, paths, outputs = files(options)
    w = subspace.coordinates.detach().clone()
    mixed = subspace.mixed(paths)
    who = [2, 0, 0, 1, 2]
    got = mixed(who, TOKENS)
    torch.testing.assert_close(got, torch.stack([outputs[k][row] for row, k in enumerate(who)]), rtol=1e-4, atol=1e-5)
    assert not torch.equal(outputs[0][0], outputs[2][0])
    torch.testing.assert_close(mixed(torch.tensor([1]), TOKENS[3:4]), outputs[1][3:4], rtol=1e-4, atol=1e-5)
    assert torch.equal(subspace.coordinates, w)
    assert all("forward" not in vars(module) for module in subspace.model.modules())
    with subspace.off():
        assert torch.equal(subspace.model(TOKENS), _net()(TOKENS))


def test_what_cannot_be_mixed_is_refused_and_leaves_the_model_as_it_was(files, tmp_path):
    subspace, paths, _ = files(SPACES["lora"])
    mixed = subspace.mixed(paths[:2])
    for who in ([], [0, 2, 0, 0, 0], [-1] * 5):
        with pytest.raises(ValueError, match="`who` must name one of 2 files"):
            mixed(who, TOKENS)
    with pytest.raises(ValueError, match="`who` must have one entry for each row of the batch; got 4"):
        mixed([0, 0, 1, 1], TOKENS)
    assert torch.equal(subspace.model(TOKENS), _net()(TOKENS))
    with pytest.raises(ValueError, match="`files` must be one file or more"):
        subspace.mixed([])
    with_head = Subspace(_net(), d=12, rank=2, space="lora", exclude="head.*")
    with torch.no_grad():
        with_head.model.head.bias += 1
    with_head.save(tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match=r"must hold coordinates alone to be mixed in one pass; got 'head\.bias'"):
        with_head.mixed([tmp_path / "head.safetensors"])


@EVERY
def test_files_are_averaged_by_their_coordinates(options, files):
    subspace, paths, _ = files(options)
    found = []
    for path in paths:
        subspace.swap(path)
        found.append(subspace.coordinates.detach().clone())
    subspace.average(paths[:2], [3, 1])
    torch.testing.assert_close(subspace.coordinates.detach(), 0.75 * found[0] + 0.25 * found[1])
    subspace.average(paths)
    torch.testing.assert_close(subspace.coordinates.detach(), sum(found) / 3)
    before = subspace.coordinates.detach().clone()
    for paths_, weights in ((paths, [1.0]), ([], None), (paths[:2], [1, -1])):
        with pytest.raises(ValueError, match="`weights` must be a number for each of"):
            subspace.average(paths_, weights)
    assert torch.equal(subspace.coordinates, before)


def test_buffers_and_heads_are_averaged_too(tmp_path):
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

    subspace = Subspace(make(), d=4, exclude="2.*")
    paths = []
    for k in (1.0, 2.0):
        with torch.no_grad():
            subspace.model[2].bias.fill_(k)
        subspace.model(torch.full((4, 8), k) + torch.randn(4, 8))
        paths.append(tmp_path / f"{k}.safetensors")
        subspace.save(paths[-1])
        if k == 1.0:
            first = subspace.model[1].running_mean.clone()
    second = subspace.model[1].running_mean.clone()
    subspace.average(paths)
    torch.testing.assert_close(subspace.model[1].running_mean, (first + second) / 2)
    assert subspace.model[2].bias.tolist() == [1.5, 1.5]


@EVERY
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_swap_goes_to_the_numbers_of_a_short_file(options, dtype, files, tmp_path):
    subspace, paths, outputs = files(options)
    subspace.swap(paths[1])
    assert torch.equal(subspace.model(TOKENS), outputs[1])
    subspace.save(tmp_path / "short.safetensors", dtype=dtype)
    subspace.swap(paths[0])
    subspace.swap(tmp_path / "short.safetensors")
    spread = (subspace.model(TOKENS).detach() - outputs[1]).norm() / outputs[1].norm()
    assert 0 < float(spread) < 0.02


def test_the_hash_of_frozen_weights_is_made_again_only_when_they_change(files, monkeypatch):
    from subspaces.subspace import frozen

    subspace, paths, _ = files(SPACES["lora"])
    subspace.swap(paths[0])
    made = []
    monkeypatch.setattr(frozen, "digest_of", lambda tensors: made.append(1) or "another")
    subspace.swap(paths[1])
    assert not made
    with torch.no_grad():
        subspace.model.mid.base += 1
    with pytest.raises(ValueError, match="must be of the projection"):
        subspace.swap(paths[0])
    assert made == [1]


def test_the_base_is_named_in_the_file_and_a_mismatch_is_told(tmp_path):
    class Config:
        _name_or_path, _commit_hash = "some/base", "abc123"

    def make(name="some/base", add=0.0):
        model = _net()
        model.config = Config()
        model.config._name_or_path = name
        with torch.no_grad():
            model.mid.weight += add
        return model

    for options in ({}, {"space": "lora", "rank": 2}):
        Subspace(make(), d=4, **options).save(tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match="trained from 'some/base' at revision abc123; the model is 'other/base'"):
            Subspace.load(make("other/base", 0.1), tmp_path / "a.safetensors")
        Subspace.load(make("other/base"), tmp_path / "a.safetensors")  # the same numbers are the same base


# ---- LoRA adapters


@pytest.mark.peft
@EVERY
def test_peft_loads_what_to_lora_writes(options, files, tmp_path):
    from peft import PeftModel

    subspace, paths, outputs = files(options)
    subspace.swap(paths[1])
    adapter = subspace.to_lora(tmp_path / "adapter", rank=None if options else 15)
    loaded = PeftModel.from_pretrained(_net(), tmp_path / "adapter").eval()
    assert set(adapter.layers) >= {"mid", "out"}
    if options:
        assert adapter.error == 0
        torch.testing.assert_close(loaded(TOKENS), outputs[1], rtol=1e-4, atol=1e-5)
    else:
        assert 0 < adapter.error < 0.3  # of 16 singular values 15
        for name in ("mid", "embed", "out"):
            change = subspace.model.get_submodule(name).weight.detach() - _net().get_submodule(name).weight
            got = loaded.base_model.model.get_submodule(name).get_delta_weight("default")
            assert float((got.detach() - change.detach()).norm() / change.detach().norm()) < 0.3
        assert torch.equal(loaded.base_model.model.norm.weight, subspace.model.norm.weight)
    merged = loaded.merge_and_unload()
    assert type(merged.mid) is nn.Linear
    assert adapter.bytes == (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size


@pytest.mark.peft
@pytest.mark.hf
@LOW
def test_an_adapter_of_a_language_model_with_tied_tables_is_exact(options, tmp_path):
    from peft import PeftModel
    from transformers import GPT2Config, GPT2LMHeadModel

    def make():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
        )
        return GPT2LMHeadModel(config).eval()

    options = {**options, "only": "*h.0.*"} if options["space"] == "lora-xs" else options
    if options["space"] == "layer-kronecker":  # has no layer of this model
        with pytest.raises(ValueError, match="has no such layer"):
            Subspace(make(), d=10, **options)
        return
    subspace = Subspace(make(), d=10, **options)
    subspace.move_to(torch.linspace(-1, 1, 10))
    out = subspace.model(TOKENS).logits
    subspace.to_lora(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] is True
    loaded = PeftModel.from_pretrained(make(), tmp_path).eval()
    torch.testing.assert_close(loaded(TOKENS).logits, out, rtol=1e-4, atol=1e-4)


def test_an_adapter_needs_a_layer_within_a_model(tmp_path):
    subspace = Subspace(nn.Linear(16, 24), d=4, space="lora", rank=2)
    with pytest.raises(ValueError, match="got one that is a layer itself"):
        subspace.to_lora(tmp_path / "a")
    with pytest.raises(ValueError, match="`rank` must be a positive integer or None; got 0"):
        subspace.to_lora(tmp_path / "a", rank=0)
