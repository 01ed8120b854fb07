"""Parts of `gpu.py` that say whether it works: the machine, a smoke test, correctness, training runs."""

import importlib.util
import multiprocessing
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from common import commit, source_hash
from gpu_common import Bench, captured, main, warm_up
from torch import nn

from subspaces import Subspace
from subspaces.kernels import native_library, triton_library
from subspaces.optim import Adam
from subspaces.projections import PROJECTIONS, make_projection

_WANTED = ("tyro", "beartype", "jaxtyping", "safetensors", "rich", "matplotlib", "pytest", "triton")


def environment(bench: Bench) -> None:
    """The machine, versions and what is not there; why kernels are not used, if they are not."""
    facts: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    facts |= {name: _version(name) for name in ("triton", "numpy")}
    facts["absent"] = " ".join(name for name in _WANTED if importlib.util.find_spec(name) is None)
    facts |= {"native": native_library.isa(), "native_not": native_library.why_not()}
    facts |= {"triton_kernels": triton_library.available(), "triton_not": triton_library.why_not()}
    facts |= {"commit": commit(), "source": source_hash(), "gpu": "none (rehearsal)"}
    if bench.device.type == "cuda":
        about = torch.cuda.get_device_properties(0)
        facts |= {"gpu": about.name, "multiprocessors": about.multi_processor_count, "cuda": torch.version.cuda}
        facts |= {"memory_GB": about.total_memory / 1e9, "capability": f"{about.major}.{about.minor}"}
    bench.row(**facts)


def _version(name: str) -> str:
    if importlib.util.find_spec(name) is None:
        return "absent"
    return importlib.import_module(name).__version__


# ---- kernels


def smoke(bench: Bench) -> None:
    """Lift and adjoint of one tensor against float64, and how long the first call takes."""
    d, D = bench.pick((1_000, 100_000), (300, 6_000))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        bench.attempt(lambda dtype=dtype: _smoke(bench, d, D, dtype), dtype=str(dtype)[6:])


def _smoke(bench: Bench, d: int, D: int, dtype: torch.dtype) -> None:
    P, Q = make_projection("hadamard", d, D, 1), make_projection("hadamard", d, D, 1)
    w, origin = torch.randn(d), torch.randn(D).to(dtype)
    theta, out = torch.full((D,), torch.nan, dtype=dtype, device=bench.device), torch.zeros(d, device=bench.device)
    begin = time.perf_counter()
    P.write_([theta], [0], w.to(bench.device), [origin.to(bench.device)])
    bench.wait()
    middle = time.perf_counter()
    P.fold_(out, [origin.to(bench.device)], [0])
    bench.wait()
    end = time.perf_counter()
    with torch.no_grad():
        exact = origin.double() + Q(w.double())
        lift = float((theta.cpu().double() - exact).norm() / exact.norm())
        fold = float((out.cpu().double() - Q.adjoint(origin.double())).norm() / out.cpu().norm())
    used = triton_library.available()
    for call, error, seconds in (("lift", lift, middle - begin), ("adjoint", fold, end - middle)):
        bench.row(call=call, dtype=str(dtype)[6:], error=error, first_s=seconds, triton=used, d=d, D=D)


def correctness(bench: Bench) -> None:
    """The contract cases of the tests, and what only a device can show: each a row with `right`."""
    checks: dict[str, Callable[[Bench], object]] = {
        "unaligned views": _unaligned,
        "adjoint twice is equal to the bit": _twice,
        "device after wrapping, then remove": _moved,
        "steps as on the CPU": _steps,
    }
    if bench.device.type == "cuda":
        checks |= {"side stream": _side_stream, "graph replay": _graph, "a whole step as a graph": _captured}
    for name, check in checks.items():
        bench.attempt(lambda n=name, c=check: bench.row(check=n, right=bool(c(bench))), check=name)
    bench.attempt(lambda: _contract(bench), check="contract cases")


def _contract(bench: Bench) -> None:
    """The sections of tests/triton_cases.py; a rehearsal takes a few."""
    import triton_cases  # pyright: ignore[reportMissingImports]  of tests/

    sections = ["shared", "odd", "projection", "blocks", "several", "errors", "failing"]
    for name in bench.pick(sections, sections[:1]):
        bench.row(check=f"section {name}", found=str(triton_cases.SECTIONS[name](bench.device.type)))
    cases = bench.pick(triton_cases.CASES, triton_cases.CASES[:2])
    worst = {"lift": 0.0, "added": 0.0, "fold": 0.0}
    for case, found in zip(cases, _worked(bench, cases), strict=True):
        worst = {name: max(value, found[name]) for name, value in worst.items()}
        if not found["deterministic"] or max(found["lift"], found["added"], found["fold"]) > 1:
            bench.row(check="contract case", right=False, case=str(case), **found)
    bench.row(check="contract cases", right=max(worst.values()) <= 1, count=len(cases), **worst)


def _worked(bench: Bench, cases: list) -> Iterator[dict]:
    """What was found in each case; on a GPU by eight processes, for nearly all of the time goes into compiling."""
    if bench.rehearse:
        yield from map(_case, cases)
        return
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        yield from pool.imap(_case, cases, chunksize=1)


def _case(case: tuple) -> dict:
    import triton_cases  # pyright: ignore[reportMissingImports]  of tests/

    return triton_cases.work("cuda" if torch.cuda.is_available() else "cpu", *case)


def _unaligned(bench: Bench) -> bool:
    """Tensors that begin at 4, 8 and 12 bytes."""
    D = 5_000
    for shift in (1, 2, 3):
        P, w = make_projection("hadamard", 100, D, 2), torch.randn(100)
        memory = torch.zeros(D + 8, device=bench.device)
        P.write_([memory[shift : shift + D]], [0], w.to(bench.device))
        out = torch.zeros(100, device=bench.device)
        P.fold_(out, [memory[shift : shift + D]], [0])
        if not torch.allclose(out.cpu(), w, atol=1e-5) or memory[:shift].any() or memory[shift + D :].any():
            return False
    return True


def _twice(bench: Bench) -> bool:
    D = bench.pick(3_000_000, 6_000)
    for d in bench.pick((1_000, 10_000), (300,)):
        P, g = make_projection("hadamard", d, D, 2), torch.randn(D, device=bench.device)
        outs = [torch.zeros(d, device=bench.device) for _ in range(2)]
        for out in outs:
            P.fold_(out, [g], [0])
        if not torch.equal(*outs):
            return False
    kinds = [make_projection(kind, 100, 5_000, 2, sizes=[3_000, 2_000]) for kind in PROJECTIONS]
    return all(torch.equal(*(P.adjoint(g[:5_000]) for _ in range(2))) for P in kinds)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 7))


def _trained(bench: Bench, device: torch.device, steps: int = 5) -> Subspace:
    subspace = Subspace(_network().to(device), 50)
    optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(1e-3))
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(16, 3, 8, 8, generator=generator).to(device)
        optimizer.zero_grad()
        subspace.model(x).square().mean().backward()
        optimizer.step()
    return subspace


def _steps(bench: Bench) -> bool:
    ours, exact = _trained(bench, bench.device), _trained(bench, torch.device("cpu"))
    return torch.allclose(ours.coordinates.detach().cpu(), exact.coordinates.detach(), rtol=1e-2, atol=1e-4)


def _moved(bench: Bench) -> bool:
    """`.to(device)` after wrapping, and at once `remove`: θ is that of the CPU."""
    subspace = Subspace(_network(), 50)
    with torch.no_grad():
        subspace.coordinates.normal_()
    expected = [t.detach().clone() for t in subspace.theta(subspace.coordinates).values()]
    names = list(subspace.layout.names)
    subspace.model.to(bench.device)
    model = subspace.remove()
    named = dict(model.named_parameters())
    return all(torch.allclose(named[n].detach().cpu(), t, atol=1e-5) for n, t in zip(names, expected, strict=True))


def _side_stream(bench: Bench) -> bool:
    """Work begun on one stream and gone on with on another, as autograd and users of streams do."""
    P, w = make_projection("hadamard", 100, 50_000, 2), torch.randn(100, device=bench.device)
    theta, out = torch.zeros(50_000, device=bench.device), torch.zeros(100, device=bench.device)
    P.write_([theta], [0], w, [torch.zeros_like(theta)])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        P.write_([theta], [0], 2 * w, [torch.zeros_like(theta)])
        P.fold_(out, [theta], [0])
    torch.cuda.current_stream().wait_stream(stream)
    return torch.allclose(out, 2 * w, atol=1e-4)


def _graph(bench: Bench) -> bool:
    """Lift and adjoint captured once and replayed with other coordinates."""
    P, w = make_projection("hadamard", 100, 50_000, 2), torch.randn(100, device=bench.device)
    theta, origin = torch.zeros(50_000, device=bench.device), torch.zeros(50_000, device=bench.device)
    out, origins = torch.zeros(100, device=bench.device), [origin]

    def step() -> None:
        out.zero_()
        P.write_([theta], [0], w, origins)
        P.fold_(out, [theta], [0])

    replay = captured(step)
    w.copy_(torch.randn(100))
    replay()
    torch.cuda.synchronize()
    return torch.allclose(out, w, atol=1e-4)


def _captured(bench: Bench) -> bool:
    """Steps of our Adam, captured once and replayed, bring w where eager ones do."""
    found = []
    for graphed in (False, True):
        subspace = Subspace(_network().to(bench.device), 50)
        optimizer = Adam(subspace.parameters(), lr=subspace.lr(1e-3), capturable=True)
        x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1)).to(bench.device)

        def step(subspace: Subspace = subspace, optimizer: Adam = optimizer, x: torch.Tensor = x) -> None:
            optimizer.zero_grad()
            subspace.model(x).square().mean().backward()
            optimizer.step()

        if graphed:
            again = captured(step)
        else:
            warm_up(step)
            again = step
        for _ in range(6):
            again()
        found.append(subspace.coordinates.detach().cpu())
    return torch.allclose(*found, rtol=1e-3, atol=1e-5)


# ---- training


def train(bench: Bench) -> None:
    """`train digits-fc --d 100` on the device and on the CPU; and steps that may not wait."""
    bench.attempt(lambda: _without_waiting(bench), check="steps without waiting")
    if importlib.util.find_spec("tyro") is None:
        bench.row(check="digits-fc", status="not run", reason="needs tyro, not there")
        return
    bench.attempt(lambda: _digits(bench), check="digits-fc")


def _digits(bench: Bench) -> None:
    from subspaces.runs.run import Run
    from subspaces.runs.train import train as run

    scores = {}
    for device in dict.fromkeys(("cpu", bench.device.type)):
        result = run(Run.of("digits-fc", d=100, epochs=bench.pick(20, 1), device=device))
        scores[device] = result.score
        bench.row(check="digits-fc", device=device, score=result.score, seconds=result.seconds, ended=result.status)
    same = abs(scores["cpu"] - scores[bench.device.type]) < 0.03
    bench.row(check="digits-fc as on the CPU", right=same)


def _without_waiting(bench: Bench) -> None:
    """Whole steps with every wait of the host an error."""
    subspace = _trained(bench, bench.device)
    optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(1e-3), fused=bench.device.type == "cuda")
    x = torch.randn(16, 3, 8, 8, device=bench.device)

    def step() -> None:
        optimizer.zero_grad()
        subspace.model(x).square().mean().backward()
        optimizer.step()

    for _ in range(3):
        step()
    if bench.device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            step()
    finally:
        if bench.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    bench.row(check="steps without waiting", right=True)


if __name__ == "__main__":
    main({"environment": environment, "smoke": smoke, "correctness": correctness, "train": train})
