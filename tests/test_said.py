"""DID and SAID (Aghajanyan et al. 2020) on a transformer: what a layer is, and the gradient against autograd's."""

import json

import pytest
import torch
from tiny_texts import save_bert
from torch import nn

from subspaces import Subspace
from subspaces.runs.resolve import scale_of
from subspaces.runs.run import Run
from subspaces.subspace.groups import layers_of

ROBERTA = (  # names of RobertaForSequenceClassification, whose public SAID has a multiple per tensor
    *(f"roberta.embeddings.{name}" for name in ("word_embeddings.weight", "position_embeddings.weight",
      "token_type_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias")),
    *(f"roberta.encoder.layer.{k}.{module}.{leaf}" for k in range(24) for module in ("attention.self.query",
      "attention.self.key", "attention.self.value", "attention.output.dense", "attention.output.LayerNorm",
      "intermediate.dense", "output.dense", "output.LayerNorm") for leaf in ("weight", "bias")),
    *(f"classifier.{name}.{leaf}" for name in ("dense", "out_proj") for leaf in ("weight", "bias")),
)  # fmt: skip


def told(names, scales):
    return [sorted(names[i] for i in group) for group in layers_of(names, scales)]


def test_a_block_is_a_numbered_layer_with_all_that_is_in_it():
    assert len(ROBERTA) == 393
    assert len(layers_of(ROBERTA, "module")) == 198
    blocks = told(ROBERTA, "block")
    assert [len(block) for block in blocks] == [5, *[16] * 24, 4]
    assert blocks[-1] == sorted(name for name in ROBERTA if name.startswith("classifier."))
    gpt = ["transformer.h.0.attn.c.weight", "transformer.h.1.mlp.c.weight", "transformer.wte.weight",
           "transformer.ln_f.weight", "score.weight"]  # fmt: skip
    assert len(layers_of(gpt, "block")) == 5


def test_without_numbered_parts_inside_others_a_block_is_a_module():
    for names in (["0.weight", "0.bias", "2.weight"], ["weight"], ["a.weight", "a.bias", "b.weight"]):
        assert layers_of(names, "block") == layers_of(names, "module")
    assert len(layers_of(["a.x.weight", "a.y.weight"], "block")) == 1


@pytest.fixture
def bert(tmp_path):
    from transformers import AutoModelForSequenceClassification

    return (
        AutoModelForSequenceClassification.from_pretrained(save_bert(tmp_path / "bert"), num_labels=2).double().eval()
    )


def theta_by_hand(leaf, subspace, origin, layers):
    """θ₀ + λ_i P w of each tensor, from the matrix P."""
    d, dense = subspace.projection.d, subspace.projection.to_dense().double()
    starts = [0, *torch.tensor([p.numel() for p in origin.values()]).cumsum(0).tolist()]
    scale = {i: leaf[d + k] for k, group in enumerate(layers) for i in group}
    moves = {name: torch.ones_like(p) for name, p in origin.items()}
    moves["bert.embeddings.word_embeddings.weight"][0] = 0  # the row of padding, which no training moves
    return {
        name: p + moves[name] * (scale.get(i, 1.0) * (dense[starts[i] : starts[i + 1]] @ leaf[:d])).view(p.shape)
        for i, (name, p) in enumerate(origin.items())
    }


@pytest.mark.text
@pytest.mark.parametrize("projection", ["fastfood", "hadamard"])
@pytest.mark.parametrize("scales", [None, "block"])
def test_the_gradient_is_that_of_autograd_for_every_tensor_and_every_multiple(projection, scales, bert):
    origin = {name: p.detach().clone() for name, p in sorted(bert.named_parameters())}
    said = {} if scales is None else {"layer_scale": True, "scale_of": scales}
    subspace = Subspace(bert, d=20, projection=projection, **said)
    layers = [] if scales is None else layers_of(list(origin), scales)
    assert subspace.projection.d + len(layers) == 20
    assert len(layers) in (0, 3 + 3)  # embeddings, pooler and head beside the three layers
    with torch.no_grad():
        subspace.coordinates[: subspace.projection.d].normal_().mul_(0.1)
        subspace.coordinates[subspace.projection.d :].uniform_(0.5, 2.0)
    leaf = subspace.coordinates.detach().clone().requires_grad_(True)
    theta = theta_by_hand(leaf, subspace, origin, layers)
    x = {"input_ids": torch.randint(5, 18, (4, 9)), "attention_mask": torch.ones(4, 9, dtype=torch.int64)}
    y = torch.tensor([0, 1, 1, 0])
    nn.functional.cross_entropy(bert(**x).logits, y).backward()
    got = subspace.coordinates.grad.clone()
    moved = {name: p.detach().clone() for name, p in bert.named_parameters()}
    subspace.remove(keep=False)
    assert all(torch.allclose(theta[name], moved[name], atol=1e-6) for name in theta)
    nn.functional.cross_entropy(torch.func.functional_call(bert, theta, (), x).logits, y).backward()
    torch.testing.assert_close(got, leaf.grad, rtol=1e-4, atol=1e-7)
    assert bool((leaf.grad != 0).all())


@pytest.mark.text
def test_more_numbers_than_layers_are_asked_for(bert):
    with pytest.raises(ValueError, match="`d` must exceed the 6 layer scales that count in it; got 6"):
        Subspace(bert, d=6, layer_scale=True, scale_of="block")
    assert Subspace(bert, d=7, layer_scale=True, scale_of="block").projection.d == 1


def two_blocks():
    return nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), nn.Linear(6, 2))


def test_a_file_says_what_its_multiples_belong_to(tmp_path):
    for scales, multiples in (("module", 3), ("block", 2)):
        torch.manual_seed(0)
        model = two_blocks()
        subspace = Subspace(model, d=9, layer_scale=True, scale_of=scales)
        assert (subspace.scale_of, subspace.d - subspace.projection.d) == (scales, multiples)
        with torch.no_grad():
            subspace.coordinates.add_(torch.linspace(0, 1, 9))
        subspace.save(tmp_path / "w.safetensors")
        torch.manual_seed(0)
        loaded = Subspace.load(two_blocks(), tmp_path / "w.safetensors")
        assert loaded.scale_of == scales
        assert torch.equal(loaded.model(torch.ones(1, 6)), model(torch.ones(1, 6)))
        size = int.from_bytes((tmp_path / "w.safetensors").read_bytes()[:8], "little")
        header = (tmp_path / "w.safetensors").read_bytes()[8 : 8 + size].decode()
        assert ("scale_of" in header) == (scales == "block")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"scale_of": "block"}, "`scale_of` must go with `layer_scale`; got 'block' without"),
        ({"layer_scale": True, "scale_of": "blocks"}, "`scale_of` must be one of block, module; got 'blocks'"),
    ],
)
def test_a_wrong_kind_of_layer_is_told(options, told):
    with pytest.raises(ValueError) as error:
        Subspace(two_blocks(), d=9, **options)
    assert told in str(error.value)


def test_a_run_on_texts_has_a_multiple_per_block_and_others_per_module():
    assert scale_of(Run.of("mrpc", d=100, layer_scale=True)) == "block"
    assert scale_of(Run.of("mrpc", d=100, layer_scale=True, scale_of="module")) == "module"
    assert scale_of(Run.of("digits-fc", d=100, layer_scale=True)) == "module"
    assert scale_of(Run.of("mrpc", d=100)) == "module"
    with pytest.raises(ValueError, match="`scale_of` must go with `layer_scale`"):
        Run.of("mrpc", d=100, scale_of="block").space.refuse_dead_options()
    assert "scale_of" not in json.dumps(Run.of("mrpc", d=100, layer_scale=True).identity())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"rank": 2}, "`rank` must go with a space of factors; got 2 without"),
        ({"space": "lora", "rank": 2, "projection_options": ("rank=3",)}, "`rank` must be given once"),
        ({"space": "lora", "d": None}, "`space` must go with `d`"),
    ],
)
def test_words_of_a_space_without_effect_are_told(words, told):
    with pytest.raises(ValueError) as error:
        Run.of("digits-fc", **{"d": 20, **words}).space.refuse_dead_options()
    assert told in str(error.value)
