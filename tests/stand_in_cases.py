"""What must hold on an accelerator, on the stand-in: functions that raise where it does not. See `test_stand_in`.

Run as a script it works them off in one process (the stand-in must be there before the first backward pass) and prints
one JSON object, name → traceback or "".
"""

import contextlib
import copy
import json
import sys
import tempfile
import traceback
from collections.abc import Callable

import stand_in
import torch
from small_network import small_batch, small_network
from training import Interrupt, curves

import subspaces
from subspaces import Subspace
from subspaces.optim import adam
from subspaces.projections import PROJECTIONS, make_projection
from subspaces.runs.run import Run
from subspaces.runs.train import train
from subspaces.training.callbacks import Callback

CASES: dict[str, Callable[[], None]] = {}


def case(function: Callable[[], None]) -> Callable[[], None]:
    CASES[function.__name__] = function
    return function


def _refuses(call: Callable[[], object], why: str = "same device") -> bool:
    try:
        call()
    except RuntimeError as error:
        return why in str(error)
    return False


# ---- the stand-in itself


@case
def tensors_of_two_devices_are_refused():
    here, there, cpu = torch.ones(3, device="standin"), torch.ones(3, device="standin:1"), torch.ones(3)
    assert _refuses(lambda: here + there)
    assert _refuses(lambda: here + cpu)
    assert _refuses(lambda: torch.zeros(()).add_(here.sum()))  # a number on the CPU may be read, not written
    assert torch.equal((here + torch.tensor(2.0)).cpu(), torch.full((3,), 3.0))
    assert torch.equal(cpu[torch.tensor([0, 2])], here[torch.tensor([0, 2])].cpu())


@case
def waits_and_copies_are_seen():
    with stand_in.watched() as log:
        x = torch.ones(3, device="standin")
        y = (x * 2).sum()
    assert log.waits == log.copies == []
    with stand_in.watched() as log:
        float(y)
        torch.ones(3).to("standin").cpu()
    assert log.copies == ["host to device", "device to host"]
    assert len(log.waits) == 3


@case
def a_captured_block_is_done_again_without_its_python():
    graph, x, factor = stand_in.Graph(), torch.ones(3, device="standin"), 2.0
    with graph.captured():
        y = x * factor
        y.add_(1)
    x.fill_(5)
    graph.replay()
    assert torch.equal(y.cpu(), torch.full((3,), 11.0))
    with graph.captured():
        for wait in (lambda: float(y[0]), lambda: x.cpu(), lambda: torch.ones(3).to("standin")):
            assert _refuses(wait, "capturing")


# ---- training runs


def _run(**options) -> list[dict]:
    config = Run.of("digits-fc", **{"d": 100, "epochs": 2, **options})
    return curves(train(config))


def _close(rows: list[dict], expected: list[dict]) -> bool:
    pairs = [(row[name], value) for row, right in zip(rows, expected, strict=True) for name, value in right.items()]
    return all(a == b or abs(a - b) < 1e-4 * (1 + abs(b)) for a, b in pairs)


@case
def a_run_in_a_subspace_ends_as_on_the_cpu():
    assert _close(_run(device="standin"), _run())


@case
def a_direct_run_ends_as_on_the_cpu():
    assert _close(_run(device="standin", d=None), _run(d=None))


@case
def an_interrupted_run_goes_on():
    config = Run.of("digits-fc", d=100, epochs=2, device="standin", record_trace=True)
    whole = train(config)
    with tempfile.TemporaryDirectory() as folder:
        try:
            train(config, folder=folder, callbacks=[Interrupt(30)])
            raise AssertionError("the run was not interrupted")
        except KeyboardInterrupt:
            resumed = train(config, folder=folder)
    assert resumed.trace == whole.trace
    assert curves(resumed) == curves(whole)


@case
def tensors_on_several_devices_are_written_and_folded_where_they_are():
    P, sizes = make_projection("hadamard", 20, 600, 3), [100, 200, 300]
    starts, w = [0, 100, 300], torch.randn(20)
    places = ["standin", "standin:1", "standin"]
    theta = [torch.randn(n).to(place) for n, place in zip(sizes, places, strict=True)]
    origin = [t.clone() for t in theta]
    out = torch.zeros(20, device="standin:1")
    P.write_(theta, starts, w.to("standin"), origin)
    P.fold_(out, theta, starts)
    whole = torch.cat([t.cpu() for t in origin]) + P(w)
    assert torch.allclose(torch.cat([t.cpu() for t in theta]), whole, atol=1e-6)
    assert torch.allclose(out.cpu(), P.adjoint(whole), atol=1e-5)


@case
def coordinates_on_the_cpu_are_taken_to_the_tensors():
    P, w, theta = make_projection("onehot", 20, 600, 3), torch.randn(20), torch.zeros(600, device="standin")
    P.write_([theta], [0], w)
    out = torch.zeros(20)
    P.fold_(out, [theta], [0])
    assert torch.allclose(out, w, atol=1e-6)


@case
def every_kind_of_projection_is_the_same_on_the_device():
    for kind in PROJECTIONS:
        P, w, g = make_projection(kind, 20, 400, 3, sizes=[100, 300]), torch.randn(20), torch.randn(400)
        assert torch.allclose(P(w.to("standin")).cpu(), P(w), atol=1e-6), kind
        assert torch.allclose(P.adjoint(g.to("standin")).cpu(), P.adjoint(g), atol=1e-5), kind


# sums whose order is left to the threads of a GPU (torch.use_deterministic_algorithms has the list)
_SCATTERED = ("index_add", "scatter_add", "scatter_reduce", "accumulate", "histc")


@case
def no_sum_of_a_map_depends_on_the_order_of_threads():
    for kind in PROJECTIONS:
        P = make_projection(kind, 20, 400, 3, sizes=[100, 300])
        w, g = torch.randn(20, device="standin"), torch.randn(400, device="standin")
        with stand_in.watched() as log:
            P(w)
            P.adjoint(g)
            P.adjoint_rows(g[70:333], 70)
        found = [call for call in log.calls if any(name in call for name in _SCATTERED)]
        assert found == [], (kind, found)


# ---- optimisers


def _trained(
    device: str, then: str = "", state: dict | None = None, graphed: bool = False, steps: int = 6, **options
) -> tuple[torch.Tensor, subspaces.optim.Adam]:
    """w after some steps of our Adam on a small network, moved to a device before the first one, and the optimiser."""
    torch.manual_seed(1)
    subspace = Subspace(small_network().to(device), 20)
    optimizer = subspaces.optim.Adam(subspace.parameters(), lr=0.05, **options)
    subspace.model.to(then or device)
    if state is not None:
        optimizer.load_state_dict(state)
    x, y = (part.to(then or device) for part in small_batch())

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(subspace.model(x), y).backward()
        optimizer.step()

    graph = stand_in.Graph()
    for number in range(steps):
        if graphed and number > 2:
            graph.replay()
        else:
            with graph.captured() if graphed and number == 2 else contextlib.nullcontext():
                step()
    theta, named = subspace.theta(subspace.coordinates), dict(subspace.model.named_parameters())
    assert all(torch.allclose(named[name].detach().cpu(), t.detach().cpu(), atol=1e-5) for name, t in theta.items())
    return subspace.coordinates.detach().cpu(), optimizer


@contextlib.contextmanager
def _fused_here():
    adam.FUSED.add("standin")
    try:
        yield
    finally:
        adam.FUSED.discard("standin")


@case
def a_step_of_our_adam_is_fused_on_the_device():
    with _fused_here():
        subspace = Subspace(small_network().to("standin"), 20)
        optimizer = subspaces.optim.Adam(subspace.parameters(), lr=0.05)
        x, y = (part.to("standin") for part in small_batch())
        for _ in range(3):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(subspace.model(x), y).backward()
            with stand_in.watched() as log:
                optimizer.step()
    calls = [call for call in log.calls if any(name in call for name in ("adam", "sqrt", "addc", "lerp", "foreach"))]
    assert calls == ["aten::_foreach_add_", "aten::_fused_adam_"], log.calls  # the count of steps, and all else
    assert log.waits == []


@case
def our_adam_takes_the_steps_of_the_cpu():
    exact, at_home = _trained("cpu")
    with _fused_here():
        found, away = _trained("standin")
        assert torch.allclose(found, exact, atol=1e-5)
        assert torch.allclose(_trained("standin:1", then="standin")[0], exact, atol=1e-5)
        asked, one_by_one = _trained("standin", foreach=False)
        assert torch.allclose(asked, exact, atol=1e-5)
        assert one_by_one.param_groups[0]["fused"] is None
        kept = copy.deepcopy(at_home.state_dict())  # torch takes tensors of the same place as they are
        longer = _trained("cpu", state=at_home.state_dict())[0]
        assert torch.allclose(_trained("standin", state=kept)[0], longer, atol=1e-5)
        assert torch.allclose(_trained("cpu", state=away.state_dict())[0], longer, atol=1e-5)


@case
def a_whole_step_can_be_captured_and_done_again():
    eager, _ = _trained("standin", capturable=True, fused=True)
    assert torch.equal(_trained("standin", graphed=True, capturable=True, fused=True)[0], eager)
    assert not torch.equal(_trained("standin", graphed=True, capturable=True, fused=True, steps=7)[0], eager)


def _moved(act: Callable[[Subspace], object]) -> None:
    """What is done first after the model went to the other device, without a forward pass: θ = θ₀ + P w holds there."""
    subspace = Subspace(small_network().to("standin"), 20)
    with torch.no_grad():
        subspace.coordinates.copy_(torch.randn(20).to("standin"))
    expected = {name: tensor.detach().cpu() for name, tensor in subspace.theta(subspace.coordinates).items()}
    subspace.model.to("standin:1")
    act(subspace)
    named = dict(subspace.model.named_parameters())
    for name, tensor in expected.items():
        assert str(named[name].device) == "standin:1", name
        assert torch.allclose(named[name].detach().cpu(), tensor, atol=1e-5), name


@case
def a_moved_model_can_be_synced():
    _moved(lambda subspace: subspace.sync())


@case
def a_moved_model_can_be_removed_from_its_subspace():
    _moved(lambda subspace: subspace.remove())


@case
def a_moved_model_can_have_its_origin_moved():
    _moved(lambda subspace: subspace.move_origin())


@case
def a_moved_model_can_be_saved():
    with tempfile.TemporaryDirectory() as folder:
        _moved(lambda subspace: subspace.save(f"{folder}/subspace.safetensors"))


@case
def theta_zero_goes_to_the_host_for_its_hash_once():
    subspace = Subspace(small_network().to("standin"), 20)
    with tempfile.TemporaryDirectory() as folder, stand_in.watched() as first:
        subspace.save(f"{folder}/a.safetensors")
    with tempfile.TemporaryDirectory() as folder, stand_in.watched() as second:
        subspace.save(f"{folder}/b.safetensors")
    assert sum(first.numbers) >= subspace.D
    assert sum(second.numbers) < subspace.D / 2, second.numbers


@case
def a_moved_model_can_be_run():
    _moved(lambda subspace: subspace.model(small_batch()[0].to("standin:1")))


@case
def a_model_on_two_devices_is_written_where_it_is():
    layers = list(small_network().children())
    for number, layer in enumerate(layers):
        layer.to("standin" if number < 4 else "standin:1")
    subspace, plain, w = Subspace(torch.nn.Sequential(*layers), 20), Subspace(small_network(), 20), torch.randn(20)
    with torch.no_grad():
        subspace.coordinates.copy_(w.to(subspace.coordinates.device))
        plain.coordinates.copy_(w)
    subspace.sync()
    plain.sync()
    named = dict(subspace.model.named_parameters())
    for name in plain.layout.names:
        expected = dict(plain.model.named_parameters())[name]
        assert torch.allclose(named[name].detach().cpu(), expected.detach(), atol=1e-5), name


class _Watch(Callback):
    """Logs what happens between two steps in the middle of an epoch."""

    def __init__(self) -> None:
        self.log, self._block = None, None

    def step(self, state, loss) -> None:
        if state.step == 10:
            self._block = stand_in.watched()
            self.log = self._block.__enter__()
        elif state.step == 15 and self._block is not None:
            self._block.__exit__(None, None, None)
            self._block = None


def _watched(folder: str | None = None, **options) -> stand_in.Log:
    watch = _Watch()
    config = Run.of("digits-fc", **{"d": 100, "epochs": 1, "device": "standin", **options})
    train(config, folder=folder, callbacks=[watch])
    assert watch.log is not None
    return watch.log


@case
def a_steady_step_waits_for_nothing():
    log = _watched()
    assert log.waits == [], log.waits
    assert log.copies == []
    assert len(log.calls) > 50  # five steps were seen


@case
def steps_between_two_samples_of_a_recording_wait_for_nothing():
    with tempfile.TemporaryDirectory() as folder:
        log = _watched(folder, d=None, record="16")
    assert log.waits == [], log.waits


@case
def steps_with_other_kinds_wait_for_nothing():
    for kind in ("onehot", "dense", "orthonormal", "sparse", "fastfood", "kronecker", "coordinates"):
        log = _watched(projection=kind)
        assert log.waits == [], (kind, log.waits)
    for blocks in ("layer", "tensor"):
        log = _watched(blocks=blocks)
        assert log.waits == [], (blocks, log.waits)


@case
def a_trace_is_recorded_without_waiting():
    log = _watched(record_trace=True)
    assert log.waits == [], log.waits


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {}
    for name in sys.argv[1:] or CASES:
        torch.manual_seed(0)
        try:
            CASES[name]()
            found[name] = ""
        except BaseException:
            found[name] = traceback.format_exc()
    print(json.dumps(found))
