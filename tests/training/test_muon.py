from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tiny_transformer.training.muon import Muon, _iterate, orthogonalize

pytestmark = pytest.mark.requirement("training.muon")

SHAPES = [(16, 16), (16, 16), (24, 8), (8, 40), (16, 16), (24, 8)]


def _matrices(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def _trained(make: type[torch.optim.Optimizer], steps: int) -> list[Tensor]:
    parameters = [torch.nn.Parameter(matrix) for matrix in _matrices(0)]
    optimizer = make(parameters, lr=0.02, momentum=0.9, weight_decay=0.1)  # pyright: ignore[reportCallIssue]
    for step in range(steps):
        for parameter, gradient in zip(parameters, _matrices(1 + step), strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def test_it_updates_as_pytorchs_muon_does_up_to_its_bfloat16() -> None:
    ours, theirs = _trained(Muon, 4), _trained(torch.optim.Muon, 4)
    for before, mine, other in zip(_matrices(0), ours, theirs, strict=True):
        moved = (other - before).norm()
        assert moved > 0.1
        assert (mine - other).norm() < 0.02 * moved


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 48)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int]) -> None:
    stack = torch.randn(5, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    left, singular, right = torch.linalg.svd(stack, full_matrices=False)
    stack = (left * singular.clamp_min(0.3)[:, None]) @ right
    found = orthogonalize(stack)
    kept = left.mT @ found @ right.mT  # diagonal where the directions stay
    diagonal = torch.diagonal(kept, dim1=-2, dim2=-1)
    assert torch.allclose(kept, torch.diag_embed(diagonal), atol=1e-10)
    assert diagonal.min() > 0.6 and diagonal.max() < 1.3


def test_a_matrix_does_not_depend_on_those_beside_it() -> None:
    stack = torch.randn(6, 12, 20, generator=torch.Generator().manual_seed(4))
    alone = torch.cat([orthogonalize(matrix[None]) for matrix in stack])
    assert torch.allclose(orthogonalize(stack), alone, atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (20, 40)])
def test_the_short_way_for_long_matrices_gives_what_the_plain_one_does(
    shape: tuple[int, int],
) -> None:
    stack = torch.randn(3, *shape, generator=torch.Generator().manual_seed(6))
    stack[1, :, 3:] *= 1e-3  # a few directions far above the rest
    tall = shape[0] > shape[1]
    rows = stack.mT if tall else stack
    exact = _iterate(rows.double() / rows.double().norm(dim=(-2, -1), keepdim=True))
    found = orthogonalize(stack).double()
    assert torch.allclose(found.mT if tall else found, exact, atol=1e-3)


def test_zeros_stay_zeros() -> None:
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 5)), torch.zeros(2, 3, 5))


def test_the_scale_of_a_gradient_does_not_matter() -> None:
    stack = torch.randn(2, 9, 9, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(orthogonalize(stack * 1e-3), orthogonalize(stack), atol=1e-4)


def test_parameters_without_a_gradient_stay_and_vectors_are_refused() -> None:
    still, moving = (torch.nn.Parameter(torch.ones(3, 3)) for _ in range(2))
    optimizer = Muon([still, moving], weight_decay=0.1)
    moving.grad = torch.eye(3)
    optimizer.step()
    assert torch.equal(still, torch.ones(3, 3))
    assert not torch.equal(moving, torch.ones(3, 3))
    assert still not in optimizer.state
    with pytest.raises(ValueError, match=r"got a parameter of \(3,\)"):
        Muon([torch.nn.Parameter(torch.ones(3))])
