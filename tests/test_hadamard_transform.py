"""The transform against its definition by bit parities, and its algebra."""

import pytest
import torch

from subspaces.kernels.hadamard import hadamard_transform, next_power_of_two


@pytest.mark.parametrize("m", [1, 2, 4, 64, 128, 512, 4096, 8192])
def test_transform_is_the_sylvester_matrix(m):
    rows = torch.randint(0, m, (5,))
    x = torch.randn(3, m, dtype=torch.float64)
    parity = torch.tensor([[(int(r) & b).bit_count() & 1 for b in range(m)] for r in rows])
    assert torch.allclose(hadamard_transform(x)[:, rows], x @ (1.0 - 2.0 * parity).double().T)


@pytest.mark.parametrize("m", [2, 128, 1024])
def test_transform_is_its_own_adjoint_and_inverse_up_to_m(m):
    x, y = torch.randn(2, m, dtype=torch.float64)
    assert torch.allclose(hadamard_transform(x) @ y, x @ hadamard_transform(y))
    assert torch.allclose(hadamard_transform(hadamard_transform(x)), m * x)


@pytest.mark.parametrize("shape", [(3, 1), (2, 3, 64), (700, 256), (3, 1024), (0, 8)])
def test_sums_and_differences_are_made_at_ascending_strides(shape):
    x = torch.randn(shape)
    expected = x.clone()
    for h in [1 << k for k in range(shape[-1].bit_length() - 1)]:
        pairs = expected.reshape(*shape[:-1], shape[-1] // (2 * h), 2, h)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        expected = torch.stack((a + b, a - b), dim=-2).reshape(shape)
    assert torch.equal(hadamard_transform(x), expected)
    assert torch.equal(hadamard_transform(x.T.contiguous().T) if x.dim() == 2 else hadamard_transform(x), expected)


def test_transform_refuses_other_lengths():
    with pytest.raises(ValueError, match="must be a power of two"):
        hadamard_transform(torch.ones(3))


@pytest.mark.parametrize("exponent", [29, 31, 39, 47, 51])
def test_next_power_of_two_is_exact_where_floating_logarithms_are_not(exponent):
    assert next_power_of_two(2**exponent) == 2**exponent
    assert next_power_of_two(2**exponent + 1) == 2 ** (exponent + 1)
