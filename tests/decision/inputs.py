"""What goes into a decision, and the decision as its pieces make it."""

from typing import Any

import torch
from torch import Tensor

import esper_masks as em
from tests.helpers import random_states, seeded

BATCH = 50


def engine_of(rules: str = "esper-2025-12", **settings: Any) -> em.MaskEngine:
    return em.MaskEngine(em.ruleset(rules), **settings)


def inputs(engine: em.MaskEngine, batch: int = BATCH, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """States, logits and noise."""
    generator = seeded(seed)
    columns = sum(head.size for head in engine.layout.heads)
    logits = torch.randn(batch, columns, generator=generator)
    return random_states(engine, batch, seed), logits, torch.rand(batch, len(engine.layout.heads), generator=generator)


def composed(engine: em.MaskEngine, states: Tensor, logits: Tensor, noise: Tensor, **settings: Any) -> em.Decision:
    masks = engine(states)
    joint = em.FactoredCategorical(logits, masks, validate="flag", **settings)
    actions = joint.sample(noise=noise)
    return em.Decision(actions, joint.log_prob(actions), masks.slot_words, joint.raw_entropy())


def graphs(step: em.DecisionStep) -> int:
    """How many graphs a compiled step has made."""
    return sum(len(graphs.made or ()) for run in step.runs.values() for graphs in run.graphs.values())
