"""Random inputs that the suites share; every call with the same seed gives the same ones."""

import torch
from torch import Tensor

import esper_masks as em

LIMIT = 3  # seeds


def random_states(engine: em.MaskEngine, batch: int) -> tuple[Tensor, Tensor]:
    """Packed states of any stage and age, and seed totals around ``LIMIT``, which decides in some rows."""
    generator = torch.Generator().manual_seed(0)
    states = engine.empty_slots(batch)
    stages = torch.tensor([int(stage) for stage in engine.rules.stages])
    picks = torch.randint(len(stages), states.shape[:-1], generator=generator)
    states[..., 0] = stages[picks].to(states)
    states[..., 1] = torch.randint(0, 9, states.shape[:-1], generator=generator).to(states)
    for column in range(2, states.shape[-1]):
        states[..., column] = torch.randint(0, 3, states.shape[:-1], generator=generator).to(states)
    return states, torch.randint(0, 6, (batch,), generator=generator, dtype=torch.int32).to(engine.device)


def state_dicts(engine: em.MaskEngine, states: Tensor) -> list[dict[str, tuple[int, ...] | None]]:
    """Packed states as the loops take them: slot -> features, None for an empty one."""
    empty = int(engine.rules.empty)
    return [
        {slot: None if seed[0] == empty else tuple(seed) for slot, seed in zip(engine.slot_ids, env)}
        for env in states.tolist()
    ]


class Head:
    """One head: logits, a mask of which about 60 % is legal, and one legal action a row."""

    def __init__(self, width: int, batch: int):
        generator = torch.Generator().manual_seed(width)
        self.logits = torch.randn(batch, width, generator=generator)
        self.mask = torch.rand(batch, width, generator=generator) < 0.6
        sure = torch.randint(width, (batch, 1), generator=generator)
        self.mask.scatter_(1, sure, True)  # every row has a legal action
        self.action = torch.rand(batch, width, generator=generator).masked_fill_(~self.mask, -1).argmax(1)


class Decision:
    """All heads of a rule set: logits side by side, the masks in three forms, and one legal whole action a row.

    Attributes:
        masks: the words.
        head_masks: the same unpacked, a bool mask ``[batch, n]`` for each head.
        flat: head sizes, and the same masks side by side.
        action: legal as a whole; a head that its op ignores holds a value that is legal by itself.
    """

    def __init__(self, rules: str, batch: int, device: str = "cpu"):
        ids = [f"slot{i}" for i in range(3)]
        self.engine = em.MaskEngine(em.ruleset(rules), ids, max_seeds=LIMIT, device=device)
        self.masks = self.engine(*random_states(self.engine, batch))
        self.head_masks = tuple(self.masks[head] for head in self.masks)
        self.sizes = [mask.shape[-1] for mask in self.head_masks]
        self.flat = (self.sizes, torch.cat(self.head_masks, -1))
        generator = torch.Generator().manual_seed(0)
        self.logits = torch.randn(batch, sum(self.sizes), generator=generator).to(device)
        noise = torch.rand(batch, len(self.sizes), generator=generator).to(device)
        drawn = em.FactoredCategorical(self.logits, self.masks).sample(noise=noise)
        self.action = torch.stack([_legal(a, m) for a, m in zip(drawn.unbind(-1), self.head_masks)], -1)


def _legal(action: Tensor, mask: Tensor) -> Tensor:
    """An action, or the first legal one where it is illegal: a head that is ignored may hold anything."""
    return torch.where(mask.gather(1, action[:, None])[:, 0], action, mask.int().argmax(1))
