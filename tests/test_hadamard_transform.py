"""The transform against its definition by bit parities, and its algebra."""

import pytest
import torch

from subspaces.kernels.hadamard import hadamard_matrix, hadamard_transform, next_power_of_two


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


def test_matrix_and_transform_refuse_other_lengths():
    with pytest.raises(ValueError, match="must be a power of two"):
        hadamard_transform(torch.ones(3))
    with pytest.raises(ValueError, match="`m` must be a power of two"):
        hadamard_matrix(12)


@pytest.mark.parametrize("exponent", [29, 31, 39, 47, 51])
def test_next_power_of_two_is_exact_where_floating_logarithms_are_not(exponent):
    assert next_power_of_two(2**exponent) == 2**exponent
    assert next_power_of_two(2**exponent + 1) == 2 ** (exponent + 1)
