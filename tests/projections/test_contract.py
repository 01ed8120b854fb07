"""One contract for every projection: linear, adjoint, dense, scaled, of full rank, addressable, the same everywhere."""

import hashlib
import itertools
import json
from pathlib import Path

import pytest
import torch

from subspaces.kernels import native_library
from subspaces.projections import PROJECTIONS, Basis, Projection, from_spec, make_blocks, make_projection

GOLDEN = Path(__file__).parents[1] / "golden" / "projections.json"
SIZES = [(1, 1), (1, 7), (7, 7), (5, 64), (20, 300), (64, 256), (100, 1000), (3, 1027), (300, 515), (520, 700)]


def _basis(d: int, D: int, seed: int) -> Projection:
    generator = torch.Generator().manual_seed(seed)
    return Basis(torch.linalg.qr(torch.randn(D, d, generator=generator)).Q)


def _blocks(d: int, D: int, seed: int) -> Projection:
    if D < 3 or d < 2:
        return make_blocks("hadamard", d, [[(0, D)]], seed)
    cut, end = max(1, D // 5), D - max(1, D // 4)
    return make_blocks("hadamard", d, [[(cut, end)], [(0, cut), (end, D)]], seed)


def _make(kind: str, options: dict):
    return lambda d, D, seed: make_projection(kind, d, D, seed, **options)


# every kind of the registry, its options, and the kinds that are made from data: a new entry is picked up by itself
MAKERS = {kind: _make(kind, {}) for kind in PROJECTIONS}
MAKERS |= {
    "hadamard-1024": _make("hadamard", {"block": 1024}),
    "hadamard-8": _make("hadamard", {"block": 8}),
    "dense-gaussian": _make("dense", {"entries": "gaussian"}),
    "fastfood-global": _make("fastfood", {"block": "global"}),
    "fastfood-rademacher": _make("fastfood", {"diagonal": "rademacher"}),
    "fastjl-dense": _make("fastjl", {"points": 1000, "c": 3.0}),
    "basis": _basis,
    "blocks": _blocks,
}
KINDS = pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS.keys())
SIZE = pytest.mark.parametrize(("d", "D"), SIZES, ids=[f"{d}-{D}" for d, D in SIZES])


@pytest.fixture(params=["reference", "native"])
def backend(request, monkeypatch):
    """The plain-torch definition alone, or with the C kernels that every machine with a compiler has."""
    if request.param == "reference":
        monkeypatch.setattr(native_library, "available", lambda: False)
    else:
        assert native_library.available(), native_library.why_not()
    return request.param


def _exact(P: Projection) -> float:
    """What float64 leaves of rounding: bases are held in float32."""
    return 1e-10


@KINDS
@SIZE
def test_lift_and_adjoint_are_the_dense_matrix_and_its_transpose(maker, d, D):
    P = maker(d, D, 3)
    M = P.to_dense(torch.float64)
    w, v = torch.randn(2, d, dtype=torch.float64)
    g = torch.randn(D, dtype=torch.float64)
    assert M.shape == (D, d)
    assert torch.allclose(P(w), M @ w, atol=_exact(P))
    assert torch.allclose(P.adjoint(g), M.T @ g, atol=_exact(P))
    assert torch.allclose(P(2 * w - 3 * v), 2 * P(w) - 3 * P(v), atol=_exact(P))
    assert torch.allclose(P(w) @ g, w @ P.adjoint(g))


@KINDS
@SIZE
def test_rows_are_addressable_and_add_up(maker, d, D):
    P = maker(d, D, 5)
    w, g = torch.randn(d, dtype=torch.float64), torch.randn(D, dtype=torch.float64)
    whole, edges = P(w), sorted({0, D // 7, D // 3, D // 2, D - 1, D})
    parts = [P.lift_rows(w, a, b) for a, b in itertools.pairwise(edges)]
    folded = sum(P.adjoint_rows(g[a:b], a) for a, b in itertools.pairwise(edges))
    assert torch.allclose(torch.cat(parts), whole, atol=_exact(P))
    assert torch.allclose(torch.as_tensor(folded), P.adjoint(g), atol=_exact(P))
    assert P.lift_rows(w, D // 2, D // 2).shape == (0,)


@pytest.mark.parametrize("kind", ["hadamard", "hadamard-1024", "onehot", "dense", "sparse"])
@pytest.mark.parametrize("first", [2**31 - 1500, 2**32 - 1500, 2**33 - 2940])
def test_shards_beyond_32_bits_are_the_rows_of_the_whole(kind, first, backend):
    """Rows of a map of a model with 8.6 billion parameters, in shards: float32 by the backend, float64 as defined."""
    n, d, D = 3000, 3 if kind == "sparse" else 70, 2**33 + 77
    P = MAKERS[kind](d, D, 9)
    w, g = torch.randn(d), torch.randn(n)
    edges = [first, first + 1, first + 1411, first + 1500, first + n]
    whole = P.lift_rows(w.double(), first, first + n)
    shards = [P.lift_rows(w, a, b).double() for a, b in itertools.pairwise(edges)]
    assert torch.allclose(torch.cat(shards), whole, atol=1e-9)
    folded = sum(P.adjoint_rows(g[a - first : b - first], a).double() for a, b in itertools.pairwise(edges))
    assert torch.allclose(torch.as_tensor(folded), P.adjoint_rows(g.double(), first), atol=1e-8)
    assert torch.allclose(g.double() @ whole, w.double() @ torch.as_tensor(folded), atol=1e-7)
    tensor = torch.zeros(n, dtype=torch.bfloat16)
    P.write_([tensor], [first], w)
    assert torch.allclose(tensor.double(), whole, rtol=2.0**-8, atol=1e-9)


@KINDS
def test_columns_have_the_norm_that_is_promised(maker):
    d, D = 60, 2500
    squares = torch.stack([maker(d, D, seed).to_dense(torch.float64).square().sum(0) for seed in range(4)])
    expected = sum(maker(d, D, seed).column_norm ** 2 for seed in range(4)) / 4
    assert squares.mean() == pytest.approx(expected, rel=0.01)
    if maker is not MAKERS["fastjl-published"]:
        assert expected == 1.0


@KINDS
@SIZE
def test_isometries_are_exact(maker, d, D):
    P = maker(d, D, 1)
    M = P.to_dense(torch.float64)
    if P.isometry:
        assert (M.T @ M - torch.eye(d, dtype=torch.float64)).abs().max() < 2e-6
    else:  # near isometries still keep the mean squared length
        assert M.square().sum() / d == pytest.approx(P.column_norm**2, rel=0.35)


@KINDS
def test_rank_is_d_and_frozen_rows_are_reported(maker):
    for d, D in [(1, 50), (40, 400), (256, 256), (300, 1000)]:
        P = maker(d, D, 2)
        M = P.to_dense(torch.float64)
        frozen = int((M.abs() < 1e-12).all(dim=1).sum())
        assert P.frozen_rows() == frozen
        if P.kind != "fastjl-published":  # which freezes rows until the rank suffers: that is its published fault
            assert torch.linalg.matrix_rank(M) == d or d > D - frozen or 2 * d > D


@KINDS
def test_the_same_seed_gives_the_same_map_and_another_seed_another(maker):
    w = torch.randn(30)
    state = torch.random.get_rng_state()
    first = maker(30, 700, 8)(w)
    torch.manual_seed(99)
    assert torch.equal(first, maker(30, 700, 8)(w))
    assert not torch.equal(first, maker(30, 700, 9)(w))
    assert not torch.equal(first, maker(30, 700, 8 + (1 << 32))(w)) or maker in (MAKERS["basis"], MAKERS["blocks"])
    torch.random.set_rng_state(state)


@KINDS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_low_precision_agrees_with_double(maker, dtype):
    P = maker(50, 900, 4)
    w, g = torch.randn(50).to(dtype), torch.randn(900).to(dtype)
    lifted, folded = P(w), P.adjoint(g)
    assert lifted.dtype == folded.dtype == dtype
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float32: 1e-5}[dtype]
    for low, high in [(lifted, P(w.double())), (folded, P.adjoint(g.double()))]:
        assert (low.double() - high).norm() < tolerance * high.norm()


@KINDS
def test_chunks_agree_with_the_whole(maker, monkeypatch):
    P, w, g = maker(37, 1111, 6), torch.randn(37, dtype=torch.float64), torch.randn(1111, dtype=torch.float64)
    lifted, folded = P(w), P.adjoint(g)
    monkeypatch.setattr("subspaces.projections.backends.reference.CHUNK_ROWS", 100)
    fresh = maker(37, 1111, 6)
    assert torch.allclose(fresh(w), lifted, atol=_exact(P))
    assert torch.allclose(fresh.adjoint(g), folded, atol=_exact(P))


@KINDS
def test_batches_of_any_shape(maker):
    P = maker(12, 130, 0)
    w = torch.randn(2, 3, 12, dtype=torch.float64)
    assert torch.allclose(P(w)[1, 2], P(w[1, 2]))
    assert P.adjoint(P(w)).shape == (2, 3, 12)
    assert torch.func.vmap(P)(w[0]).shape == (3, 130)


@KINDS
def test_derivatives_of_first_and_second_order(maker):
    P = maker(4, 30, 1)
    w = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(P, (w,))
    assert torch.autograd.gradgradcheck(lambda w: P(w).pow(3), (w,))
    M = P.to_dense(torch.float64)
    assert torch.allclose(torch.func.jacrev(P)(w.detach()), M)
    assert torch.allclose(torch.func.jacfwd(P)(w.detach()), M)
    hessian = torch.func.hessian(lambda w: P(w).square().sum())(w.detach())
    assert torch.allclose(hessian, 2 * M.T @ M)


@KINDS
def test_segments_written_and_folded_equal_the_flat_map(maker, backend):
    P = maker(25, 600, 2)
    w = torch.randn(25)
    shapes = [(10, 7), (3,), (5, 5, 5), (402,)]
    starts = [0, 70, 73, 198]
    origins = [torch.randn(shape) for shape in shapes]
    tensors = [torch.empty(shape) for shape in shapes]
    P.write_(tensors, starts, w, origins)
    flat = torch.cat([o.reshape(-1) for o in origins]) + P(w)
    assert torch.allclose(torch.cat([t.reshape(-1) for t in tensors]), flat, atol=1e-5)
    P.write_(tensors, starts, -w)
    assert torch.allclose(
        torch.cat([(t - o).reshape(-1) for t, o in zip(tensors, origins, strict=True)]).norm() / 600,
        torch.tensor(0.0),
        atol=1e-6,
    )
    gradients = [torch.randn(shape) for shape in shapes]
    out = torch.ones(25)
    P.fold_(out, gradients, starts)
    assert torch.allclose(out - 1, P.adjoint(torch.cat([g.reshape(-1) for g in gradients])), atol=1e-4)


@KINDS
def test_segments_may_be_half_precision_and_in_any_memory_order(maker, backend):
    P = maker(25, 600, 2)
    w = torch.randn(25)
    origin = torch.randn(5, 3, 5, 8).bfloat16().to(memory_format=torch.channels_last)
    tensor = torch.empty_like(origin)
    P.write_([tensor], [0], w, [origin])
    expected = (origin.float().reshape(-1) + P(w)).bfloat16()
    assert torch.allclose(tensor.reshape(-1).float(), expected.float(), rtol=1e-2, atol=1e-4)
    out = torch.zeros(25)
    P.fold_(out, [origin], [0])
    assert torch.allclose(out, P.adjoint(origin.float().reshape(-1)), atol=1e-3)


@KINDS
@SIZE
def test_every_backend_agrees_with_the_definition_in_double(maker, d, D, backend):
    P = maker(d, D, 21)
    w, g = torch.randn(d), torch.randn(D)
    lifted, folded = P(w.double()), P.adjoint(g.double())
    assert (P(w) - lifted).norm() <= 2e-6 * lifted.norm()
    assert (P.adjoint(g) - folded).norm() <= 2e-5 * folded.norm()
    a, b = D // 3, D - D // 4
    assert torch.allclose(P.lift_rows(w, a, b).double(), lifted[a:b], atol=1e-5)
    assert torch.allclose(P.adjoint_rows(g[a:b], a).double(), P.adjoint_rows(g[a:b].double(), a), atol=1e-4)


@KINDS
def test_spec_rebuilds_the_map(maker):
    P = maker(33, 400, 12)
    spec = json.loads(json.dumps(P.spec))
    if P.kind == "basis":
        with pytest.raises(ValueError, match="needs its data"):
            from_spec(spec)
        return
    again = from_spec(spec)
    assert again == P
    w = torch.randn(33)
    assert torch.equal(again(w), P(w))


@KINDS
def test_cost_and_memory_are_told(maker):
    P = maker(40, 2000, 0)
    assert P.multiply_adds >= 1
    assert 0 <= P.stored_bytes <= 8 * 40 * 2000
    assert type(P).__name__ in repr(P)


def _digest(P: Projection) -> str:
    """Hash of the matrix in units of 2⁻²⁰: rounding of the last bits of float64 does not reach it."""
    scaled = (P.to_dense(torch.float64) * 2**20).round().to(torch.int32)
    return hashlib.sha256(scaled.numpy().astype("<i4").tobytes()).hexdigest()


@KINDS
def test_golden_bits(maker, request):
    """The checked-in matrices: a change of any number breaks every stored checkpoint."""
    name = request.node.callspec.id
    golden = json.loads(GOLDEN.read_text())
    for key, entry in golden[name].items():
        d, D, seed = map(int, key.split("-"))
        P = maker(d, D, seed)
        head = P.to_dense(torch.float64).reshape(-1)[:8]
        assert torch.allclose(head, torch.tensor(entry["head"], dtype=torch.float64), atol=2e-6)
        if P.portable_bits:
            assert _digest(P) == entry["sha256"]


def test_golden_file_covers_every_kind():
    assert set(json.loads(GOLDEN.read_text())) == set(MAKERS)


@pytest.mark.parametrize(("d", "D"), [(0, 5), (6, 5), (-1, 5), (1, 0)])
def test_dimensions_out_of_range_are_refused(d, D):
    for kind in PROJECTIONS:
        with pytest.raises(ValueError, match=r"`[dD]` must be"):
            make_projection(kind, d, D)


def test_names_and_options_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'hadamard'"):
        make_projection("hadamrd", 2, 10)
    with pytest.raises(TypeError, match="no such option"):
        make_projection("dense", 2, 10, density=0.1)
    with pytest.raises(ValueError, match="`block` must be a power of two"):
        make_projection("hadamard", 2, 10, block=12)
    with pytest.raises(ValueError, match="`entries` must be one of"):
        make_projection("dense", 2, 10, entries="normal")


def test_wrong_shapes_are_refused():
    P = make_projection("hadamard", 4, 20)
    with pytest.raises(ValueError, match="`w` must have 4 numbers"):
        P(torch.ones(5))
    with pytest.raises(ValueError, match="`g` must have 20 numbers"):
        P.adjoint(torch.ones(4))
    with pytest.raises(TypeError, match="floating-point"):
        P(torch.ones(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="`start`"):
        P.adjoint_rows(torch.ones(4), 18)


def write_golden() -> None:
    """Rewrite the golden file. A change of it is a new spec version."""
    golden = {}
    for name, maker in MAKERS.items():
        golden[name] = {}
        for d, D, seed in [(1, 5, 0), (7, 100, 1), (50, 1000, 2**63 + 5), (300, 700, 12345)]:
            P = maker(d, D, seed % 2**62 if name == "basis" else seed)
            head = [round(x, 9) for x in P.to_dense(torch.float64).reshape(-1)[:8].tolist()]
            golden[name][f"{d}-{D}-{seed % 2**62 if name == 'basis' else seed}"] = {
                "head": head,
                "sha256": _digest(P) if P.portable_bits else "",
            }
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    write_golden()
    print(f"wrote {GOLDEN}")
