"""Programs that tests compile, export, capture and run on a GPU, and what goes into them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import kl_divergence

import esper_masks as em
from tests.helpers import assert_near, random_states

Program = Callable[..., tuple[Tensor, ...]]

BATCHES = (5, 7, 300)  # the first must not equal another size: torch takes equal sizes for one until it learns better
ENGINES = {
    name: em.MaskEngine(em.ruleset(name.split("/")[0]), [f"s{i}" for i in range(int((name + "/3").split("/")[1]))])
    for name in ("esper-2025-12", "esper-2026-06", "esper-2025-12/64")
}
KINDS = ["13", "1000", "esper-2025-12", "esper-2026-06", "esper-2025-12/64"]  # the second stacked, the last with slabs


def consume(masks: em.ActionMasks) -> tuple[Tensor, ...]:
    """Everything a policy may ask of masks."""
    only = torch.arange(len(masks.layout.ops), device=masks.device) != 1
    style = torch.arange(masks["style"].shape[-1], device=masks.device) != 2
    narrow = masks.restrict(op=only, style=style)
    rows = masks.select(torch.arange(2, device=masks.device))
    both = em.ActionMasks.cat([masks, narrow])
    stored = em.ActionMasks.from_words(masks.layout, masks.slot_words.to(torch.uint8))
    return (
        *(masks[head] for head in masks),
        masks.slot_by_op,
        masks.flat(),
        masks.joint(),
        masks.forced,
        narrow.joint(),
        narrow["slot"],
        narrow.count(),
        rows.flat(),
        both.forced,
        em.ActionMasks.stack([masks, masks]).op_words,
        stored.op_words,
    )


def use_everything(dist: Any, other: Any, noise: Tensor) -> list[Tensor]:
    """Everything a policy may ask of a distribution."""
    action = dist.sample(noise=noise)
    dist.sample((2,))
    together = dist.expand((2, *dist.batch_shape)).sample(noise=torch.stack([noise, 1 - noise]))
    results = [dist.mode, dist.log_prob(action), dist.entropy(), dist.raw_entropy(), dist.perplexity(), dist.faults]
    results += [dist.expand((2, *dist.batch_shape)).mode, dist[1:3].mode, kl_divergence(dist, other)]
    if isinstance(dist, em.FactoredCategorical):
        results += [dist.head_log_probs(action), dist.head_entropies(), dist.legal(action)]
    else:
        results += [dist.probs, dist.log_probs]
    return [action, together, *results]


def whole(logits: Any, masks: em.ActionMasks, noise: Tensor, validate: Any = "raise") -> tuple[Tensor, ...]:
    dist = em.FactoredCategorical(logits, masks, validate=validate)
    action = dist.sample(noise=noise)
    entropies = dist.raw_entropy(), dist.entropy(), dist.head_entropies()
    return action, dist.mode, dist.faults, dist.legal(action), dist.log_prob(action), *entropies


def one(logits: Tensor, mask: Tensor, noise: Tensor, validate: Any = "raise") -> tuple[Tensor, ...]:
    dist = em.MaskedCategorical(logits, mask, validate=validate, min_prob=1e-4)
    action = dist.sample(noise=noise)
    return action, dist.mode, dist.faults, dist.faults, dist.log_prob(action), dist.entropy(), dist.probs


def inputs(kind: str, batch: int, seed: int = 0) -> tuple[Any, Any, Tensor]:
    """Arguments of a decision; kinds are widths, or rules and slots."""
    generator = torch.Generator().manual_seed(seed)
    if kind.isdecimal():
        mask = torch.rand(batch, int(kind), generator=generator) < 0.5
        mask[:, 0] = True
        return torch.randn(batch, int(kind), generator=generator), mask, torch.rand(batch, generator=generator)
    engine = ENGINES[kind]
    masks = engine(random_states(engine, batch, seed=seed))
    columns = sum(head.size for head in engine.layout.heads)
    noise = torch.rand(batch, len(masks), generator=generator)
    return torch.randn(batch, columns, generator=generator), masks, noise


def program_of(kind: str) -> Program:
    return one if kind.isdecimal() else whole


def assert_same(ours: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for mine, other in zip(ours, expected, strict=True):
        if mine.is_floating_point():
            assert_near(mine, other.detach(), tolerance=1e-5)
        else:
            assert torch.equal(mine, other)
