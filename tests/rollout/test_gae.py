"""Advantages against a loop over Python numbers."""

import pytest
import torch

from esper_masks.rollout.training.gae import gae


@pytest.mark.parametrize(("gamma", "weight"), [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0)])
def test_equals_a_loop(gamma: float, weight: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(9, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    terminated, last = torch.rand(9, 5, generator=generator) < 0.3, torch.randn(5, dtype=torch.float64)
    advantages, returns = gae(rewards, values, terminated, last, gamma, weight)
    for env in range(5):
        for start in range(9):
            expected, factor = 0.0, 1.0
            for step in range(start, 9):
                ended = bool(terminated[step, env])
                following = 0.0 if ended else float(last[env] if step == 8 else values[step + 1, env])
                expected += factor * (float(rewards[step, env]) + gamma * following - float(values[step, env]))
                factor *= gamma * weight
                if ended:
                    break
            assert float(advantages[start, env]) == pytest.approx(expected, abs=1e-12)
    assert torch.equal(returns, advantages + values)


def test_with_full_weight_it_is_the_return() -> None:
    rewards = torch.tensor([[1.0], [2.0], [4.0]])
    _, returns = gae(rewards, torch.randn(3, 1), torch.tensor([[False], [False], [True]]), torch.ones(1), 0.5, 1.0)
    torch.testing.assert_close(returns, torch.tensor([[3.0], [4.0], [4.0]]))


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"rewards \(3, 2\), values \(3, 1\)"):
        gae(torch.zeros(3, 2), torch.zeros(3, 1), torch.zeros(3, 2, dtype=torch.bool), torch.zeros(2), 1, 1)
    with pytest.raises(ValueError, match="terminated must be bool"):
        gae(*(torch.zeros(3, 2) for _ in range(3)), torch.zeros(2), 1, 1)
