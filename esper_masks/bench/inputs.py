"""Random inputs of the rows; every call with the same arguments gives the same ones."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import esper_masks as em
from esper_masks.bench.lifecycles import MASKED

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


def random_given(engine: em.MaskEngine, batch: int) -> dict[str, Any]:
    """What else an engine is given: the rows of its rules, and masks of the heads in ``MASKED``, half of them legal."""
    generator = torch.Generator().manual_seed(3)
    rows = {
        name: torch.randint(0, 3, (batch,), generator=generator) > 1
        if domain is bool
        else torch.randint(0, 3, (batch,), generator=generator, dtype=torch.int32)
        for name, domain in engine.rules.row_features.items()
    }
    masks = {
        head: torch.rand(batch, len(engine.slot_ids), engine.layout.head(head).size, generator=generator) < 0.5
        for head in MASKED.get(engine.rules.name, ())
    }
    given = {"row": rows, "head_masks": masks}
    return {
        name: {key: value.to(engine.device) for key, value in tensors.items()}
        for name, tensors in given.items()
        if tensors
    }


def random_logits(batch: int, columns: int, layout: str, device: torch.device | str = "cpu") -> Tensor:
    """Logits ``[batch, columns]``, in memory as a case's layout says."""
    logits = torch.randn(batch, columns, generator=torch.Generator(device).manual_seed(1), device=device)
    return logits.T.contiguous().T if layout == "batch-last" else logits


def state_dicts(engine: em.MaskEngine, states: Tensor) -> list[dict[str, tuple[int, ...] | None]]:
    """Packed states as the loops take them: slot -> features, None for an empty one."""
    empty = int(engine.rules.empty)
    return [
        {slot: None if seed[0] == empty else tuple(seed) for slot, seed in zip(engine.slot_ids, env)}
        for env in states.tolist()
    ]


class Head:
    """One head: logits, a mask of which about 60 % is legal, and one legal action a row."""

    def __init__(self, width: int, batch: int, layout: str = "row-major"):
        generator = torch.Generator().manual_seed(width)
        self.logits = random_logits(batch, width, layout)
        self.mask = torch.rand(batch, width, generator=generator) < 0.6
        sure = torch.randint(width, (batch, 1), generator=generator)
        self.mask.scatter_(1, sure, True)  # every row has a legal action
        self.action = torch.rand(batch, width, generator=generator).masked_fill_(~self.mask, -1).argmax(1)


class Decision:
    """Whole decisions of a batch: slot states and seed totals, logits side by side, and what is made of them.

    Args:
        engine: for which rules and slots; it makes the masks.
        batch: environments.
        layout: of the logits.
    """

    def __init__(self, engine: em.MaskEngine, batch: int, layout: str = "row-major"):
        self.engine = engine
        self.states, self.totals = random_states(engine, batch)
        self.given = random_given(engine, batch)
        self.logits = random_logits(batch, engine.layout.logit_size, layout, engine.device)

    @cached_property
    def masks(self) -> em.ActionMasks:
        """The masks as words."""
        masks: em.ActionMasks = self.engine(self.states, self.totals, **self.given)
        return masks

    @cached_property
    def head_masks(self) -> list[Tensor]:
        """The masks unpacked, bool ``[batch, n]`` for each head."""
        return [self.masks[head] for head in self.masks]

    @cached_property
    def flat(self) -> tuple[list[int], Tensor]:
        """The sizes of the heads, and their masks side by side."""
        return [mask.shape[-1] for mask in self.head_masks], torch.cat(self.head_masks, -1)

    @cached_property
    def action(self) -> Tensor:
        """One legal whole action a row; a head that its op ignores holds a value that is legal by itself."""
        device = self.logits.device
        generator = torch.Generator(device).manual_seed(2)
        noise = torch.rand(len(self.logits), len(self.head_masks), generator=generator, device=device)
        drawn = em.FactoredCategorical(self.logits, self.masks).sample(noise=noise)
        legal = [mask.gather(1, one[:, None])[:, 0] for mask, one in zip(self.head_masks, drawn.unbind(-1))]
        first = [mask.int().argmax(1) for mask in self.head_masks]
        return torch.where(torch.stack(legal, -1), drawn, torch.stack(first, -1))

    @cached_property
    def dicts(self) -> list[dict[str, tuple[int, ...] | None]]:
        """The states as the loops take them."""
        return state_dicts(self.engine, self.states)
