"""No host read, an op count that the batch does not change, and scores that it does not change either."""

from typing import Any

import pytest
import torch
from torch.distributions import kl_divergence

import esper_masks as em
from esper_masks.distributions import forms
from tests.helpers import HOST_READS, OpRecorder
from tests.programs import inputs, use_everything


@pytest.mark.parametrize("kind", ["13", "esper-2026-06"])
@pytest.mark.parametrize("floor", [0.0, 0.01, 0.3])
def test_nothing_reads_the_device(kind: str, floor: float) -> None:
    make = em.MaskedCategorical if kind.isdecimal() else em.FactoredCategorical
    logits, masks, noise = inputs(kind, 20)
    for validate, reads in (("flag", False), ("off", False), ("raise", True)):
        settings: dict[str, Any] = {"validate": validate, "min_prob": floor, "active": torch.arange(20) != 4}
        with OpRecorder() as recorder:
            dist = make(logits, masks, **settings)
            use_everything(dist, make(logits + 1, masks, **settings), noise)
        assert any(name in op for op in recorder.ops for name in HOST_READS) == reads


@pytest.mark.parametrize("kind", ["13", "esper-2026-06"])
def test_a_row_without_batch_axes_reads_nothing_either(kind: str) -> None:
    make = em.MaskedCategorical if kind.isdecimal() else em.FactoredCategorical
    logits, masks, noise = inputs(kind, 3)
    logits, masks = logits[0], masks[0] if kind.isdecimal() else masks.select(0)
    with OpRecorder() as recorder:
        dist = make(logits, masks, validate="flag", min_prob=0.01)
        action = dist.sample(noise=noise[0])
        results = [dist.mode, dist.log_prob(action), dist.entropy(), dist.raw_entropy(), kl_divergence(dist, dist)]
        results += [dist.legal(action), dist.head_entropies()] if len(action.shape) else []
    assert not any(name in op for op in recorder.ops for name in HOST_READS)
    assert all(result.isfinite().all() for result in results)


def test_op_count_of_a_whole_decision() -> None:
    """Eight heads: construction, sample, log-probability, all entropies; heads one by one take about 1,000 ops."""

    def ops(batch: int, entropy: str = "raw_entropy", min_prob: Any = None, by_op: bool = False) -> list[str]:
        logits, masks, _ = inputs("esper-2026-06", batch)
        sizes = {head.name: head.size for head in masks.layout.heads}
        if by_op:
            logits = {name: torch.zeros(batch, *[6] * (name != "op"), size) for name, size in sizes.items()}
            em.FactoredCategorical(logits, masks)  # makes its tables
        with OpRecorder() as recorder:
            dist = em.FactoredCategorical(logits, masks, min_prob=min_prob, validate="flag")
            action = dist.sample()
            dist.log_prob(action), getattr(dist, entropy)(), dist.head_entropies()
        return recorder.ops

    # quick passes over the choices are more ops, each of which takes a tenth of the time; few rows need fewer of them
    assert len(ops(2)) <= 160
    assert ops(2) == ops(3)
    assert len(ops(2)) < len(ops(1000)) <= 180
    assert ops(1000) == ops(1500)
    with forms.use("stacked"):
        assert len(ops(2)) <= 120
        assert len(ops(2, "entropy")) <= 120
        assert len(ops(2, by_op=True)) <= 120
        assert ops(2) == ops(1000) == ops(0)
    assert len(ops(2, min_prob=0.01)) <= 120
    assert len(ops(2, min_prob={"op": 0.01})) <= 120
    assert len(ops(2, min_prob=0.3)) <= 120
    assert ops(2, min_prob=0.07) == ops(2, min_prob=0.01)  # thirteen blueprints can have it


# -- the ratio ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("floor", [None, 0.01])
@pytest.mark.parametrize("name", ["esper-2025-12", "esper-2026-06"])
def test_the_ratio_before_the_first_step_is_one(name: str, floor: float | None) -> None:
    """Rollout step by step without gradients, update on ``[time, batch]`` and on minibatches with them."""
    for batch in (1, 7, 33, 64):
        steps = [inputs(name, batch, seed) for seed in range(5)]
        actions, old = [], []
        with torch.no_grad():
            for logits, masks, _ in steps:
                dist = em.FactoredCategorical(logits, masks, min_prob=floor, validate="flag")
                actions.append(dist.sample())
                old.append(dist.log_prob(actions[-1]))
        masks = em.ActionMasks.stack([step[1] for step in steps])
        logits = torch.stack([step[0] for step in steps]).requires_grad_()
        dist = em.FactoredCategorical(logits, masks, min_prob=floor, validate="flag")
        assert torch.equal(dist.log_prob(torch.stack(actions)), torch.stack(old))
        for step, action, scores in zip(steps, actions, old):
            rows = torch.randperm(batch)[: (batch + 2) // 3]
            part = em.FactoredCategorical(step[0][rows].requires_grad_(), step[1].select(rows), min_prob=floor)
            assert torch.equal(part.log_prob(action[rows]), scores[rows])


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("width", [4, 13, 1000])
def test_the_ratio_of_one_head(width: int) -> None:
    for batch in (7, 33, 64):
        logits, mask, _ = inputs(str(width), batch)
        for layout in (logits, logits.T.contiguous().T):
            with torch.no_grad():
                dist = em.MaskedCategorical(layout, mask)
                action = dist.sample()
                old = dist.log_prob(action)
            rows = torch.randperm(batch)[: batch // 2]
            again = em.MaskedCategorical(layout.clone().requires_grad_(), mask)
            assert torch.equal(again.log_prob(action), old)
            part = layout.T[:, rows].contiguous().T if layout.stride(0) == 1 else layout[rows]
            assert torch.equal(
                em.MaskedCategorical(part.requires_grad_(), mask[rows]).log_prob(action[rows]), old[rows]
            )
