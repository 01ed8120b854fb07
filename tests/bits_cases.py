"""θ = θ₀ + P w of every seeded kind, in every way that the library computes it, as hashes of its bits.

    python tests/bits_cases.py [KIND …] [--some]   # one line of JSON: {case: {dtype: sha256}}; --some: of one size

The environment chooses what computes: SUBSPACES_NATIVE, SUBSPACES_NATIVE_ISA, ATEN_CPU_CAPABILITY, TRITON_INTERPRET.
`test_bits` compares with `tests/golden/theta.json`, which `--golden` writes; it needs torch and this library only.
"""

import hashlib
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from subspaces.kernels.random_bits import words
from subspaces.projections import Projection, make_blocks, make_projection

GOLDEN = Path(__file__).with_name("golden") / "theta.json"
DTYPES = ("float32", "float64", "bfloat16", "float16")
SIZES = {"few": (7, 300, 2**63 + 5), "some": (60, 1003, 1), "many": (530, 1031, 12345)}  # d, D, seed
KINDS = {
    "hadamard": {},
    "hadamard-8": {"block": 8},
    "hadamard-512": {"block": 512},
    "onehot": {},
    "dense": {},
    "dense-gaussian": {"entries": "gaussian"},
    "orthonormal": {},
    "sparse": {},
    "fastfood": {},
    "fastfood-global": {"block": "global"},
    "fastfood-rademacher": {"diagonal": "rademacher"},
    "fastjl": {},
    "fastjl-3": {"points": 1000, "c": 3.0},
    "fastjl-published": {},
    "kronecker": {},
    "coordinates": {},
    **{f"blocks-{kind}-{by}": {"allocation": by} for kind, by in (("hadamard", "size"), ("dense", "sqrt"))},
    "blocks-onehot-even": {"allocation": "even"},
}
CASES = {f"{kind}/{size}": (kind, size) for kind in KINDS for size in SIZES}


def numbers(n: int, seed: int) -> torch.Tensor:
    """n exact numbers in [−8, 8) of very different sizes, in float64 and held by float32."""
    signed = (words(seed, 1 << 40, 0, n) >> 8).double() * 2.0**-23 - 1
    return signed * torch.tensor([8.0, 1.0, 0.125, 1e0, 2.0**-9, 4.0, 0.5], dtype=torch.float64).repeat(n // 7 + 1)[:n]


def groups(D: int) -> list[list[tuple[int, int]]]:
    """Rows of the parts of a `blocks` map: the second lies around the first."""
    cut, end = D // 5, D - D // 4
    return [[(cut, end)], [(0, cut), (end, D)]]


def projection(name: str, size: str) -> Projection:
    d, D, seed = SIZES[size]
    options = dict(KINDS[name])
    if name.startswith("blocks-"):
        return make_blocks(name.split("-")[1], d, groups(D), seed, **options)
    kind = name if name == "fastjl-published" else name.split("-")[0]
    sizes = [D - 40, 1, 39] if kind == "fastjl-published" else None
    return make_projection(kind, d, D, seed, sizes=sizes, **options)


def point(case: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """w, in float64 for float64 tensors and else in float32, and θ₀."""
    d, D, seed = SIZES[CASES[case][1]]
    w = numbers(d, seed).to(torch.float64 if dtype == torch.float64 else torch.float32)
    return w, numbers(D, seed + 1).to(dtype)


def ways(P: Projection, w: torch.Tensor, origin: torch.Tensor) -> dict[str, torch.Tensor]:
    """θ as the paths of the library make it."""
    D, found = P.D, {}
    edges = [0, 1, D // 3, D // 3 + 17, D - 20, D]
    parts = list(itertools.pairwise(edges))

    def added(rows: torch.Tensor) -> torch.Tensor:
        return (origin.to(rows.dtype) + rows).to(origin.dtype)

    def written(tensors: list[torch.Tensor], starts: list[int], origins: list[torch.Tensor] | None) -> torch.Tensor:
        P.write_(tensors, starts, w, origins)
        return torch.cat(tensors)

    starts, origins = edges[:-1], [origin[a:b].clone() for a, b in parts]
    found["lift"] = added(P(w))
    found["shards"] = added(torch.cat([P.lift_rows(w, a, b) for a, b in parts]))
    found["batch"] = added(P(torch.stack((2 * w, w, -w)))[1])
    found["strided"] = added(P(torch.stack((w, w), 1)[:, 0]))
    found["vmap"] = added(torch.func.vmap(P)(torch.stack((w, w)))[1])
    found["written"] = written([torch.empty_like(origin)], [0], [origin])
    found["tensors"] = written([torch.empty_like(o) for o in origins], starts, origins)
    found["added"] = written([o.clone() for o in origins], starts, None)
    last = torch.empty_like(origins[-1])
    P.write_([last], [starts[-1]], w, [origins[-1]])
    found["one tensor"] = torch.cat([found["written"][: starts[-1]], last])
    ready = P.prepare(w, tensors := [torch.empty_like(o) for o in origins], starts, origins)
    if ready is not None:
        ready.write_(w)
        found["prepared"] = torch.cat(tensors)
    return found


def digest(theta: torch.Tensor) -> str:
    return hashlib.sha256(theta.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:32]


def found(case: str, dtypes: tuple[str, ...] = DTYPES, triton: bool = False) -> dict[str, str]:
    """The hash of θ for each dtype, or the ways that differ."""
    P, hashes = projection(*CASES[case]), {}
    for part in [P, *getattr(P, "parts", [])] if triton else []:
        part.forms["native"] = None  # the CPU tensors of the interpreter are not for the C kernels
        refuse: Any = None
        part._lift = refuse  # nor may the reference be asked
    for name in dtypes:
        made = {way: digest(theta) for way, theta in ways(P, *point(case, getattr(torch, name))).items()}
        most = made["lift"]
        wrong = [way for way, value in made.items() if value != most]
        hashes[name] = most if not wrong else f"{', '.join(wrong)} differ from the lift"
    return hashes


def main(arguments: list[str]) -> None:
    triton = os.environ.get("TRITON_INTERPRET") == "1"
    kinds = [a for a in arguments if not a.startswith("--")] or list(KINDS)
    dtypes = ("float32",) if triton else DTYPES
    sizes = ["some"] if "--some" in arguments else list(SIZES)
    result = {
        case: found(case, dtypes, triton) for case, (kind, size) in CASES.items() if kind in kinds and size in sizes
    }
    if "--golden" in arguments:
        GOLDEN.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("BITS_THREADS", "1")))
    main(sys.argv[1:])
