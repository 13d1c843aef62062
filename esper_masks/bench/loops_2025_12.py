"""The masks of ``esper-2025-12`` as loops, twice: as such programs are written, and as well as a loop can be written.

Both take one dict per environment, slot id -> ``(stage, age)`` or None for an empty slot.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from esper_masks.rulesets.esper_2025_12 import MIN_CULL_AGE, VALID_TRANSITIONS, LifecycleOp, SeedStage

Slots = Mapping[str, tuple[int, int] | None]

BLUEPRINTS, BLENDS = 5, 3
WAIT, GERMINATE, CULL, FOSSILIZE = (int(op) for op in LifecycleOp)
CULLABLE = frozenset(int(s) for s, to in VALID_TRANSITIONS.items() if SeedStage.CULLED in to)
FOSSILIZABLE = frozenset(int(s) for s, to in VALID_TRANSITIONS.items() if SeedStage.FOSSILIZED in to)


def env_masks(
    slots: Slots, slot_ids: Sequence[str], enabled: Sequence[str], total: int, limit: int
) -> dict[str, Tensor]:
    """One environment, four small tensors filled element by element."""
    position = {slot_id: i for i, slot_id in enumerate(slot_ids)}
    slot_mask = torch.zeros(len(slot_ids), dtype=torch.bool)
    for slot_id in enabled:
        slot_mask[position[slot_id]] = True
    blueprint_mask = torch.ones(BLUEPRINTS, dtype=torch.bool)
    blueprint_mask[0] = False
    blend_mask = torch.ones(BLENDS, dtype=torch.bool)
    op_mask = torch.zeros(len(LifecycleOp), dtype=torch.bool)
    op_mask[WAIT] = True
    if any(slots.get(slot_id) is None for slot_id in enabled) and (limit <= 0 or total < limit):
        op_mask[GERMINATE] = True
    for slot_id in enabled:
        seed = slots.get(slot_id)
        if seed is None:
            continue
        stage, age = seed
        if stage in FOSSILIZABLE:
            op_mask[FOSSILIZE] = True
        if stage in CULLABLE and age >= MIN_CULL_AGE:
            op_mask[CULL] = True
    return {"slot": slot_mask, "blueprint": blueprint_mask, "blend": blend_mask, "op": op_mask}


OP_ROWS = [[bool(word >> op & 1) for op in range(len(LifecycleOp))] for word in range(1 << len(LifecycleOp))]
STAGE_WORDS = {int(s): (int(s) in FOSSILIZABLE) << FOSSILIZE | (int(s) in CULLABLE) << CULL for s in SeedStage}


def one_tensor(
    batch: Sequence[Slots], slot_ids: Sequence[str], enabled: Sequence[str], totals: Sequence[int], limit: int
) -> dict[str, Tensor]:
    """The best loop: ints only, rows looked up, one tensor per head at the end."""
    words, young = STAGE_WORDS, ~(1 << CULL)
    rows = []
    for slots, total in zip(batch, totals):
        word = 1 << WAIT
        for slot_id in enabled:
            seed = slots[slot_id]
            if seed is None:
                if limit <= 0 or total < limit:
                    word |= 1 << GERMINATE
            elif seed[1] >= MIN_CULL_AGE:
                word |= words[seed[0]]
            else:
                word |= words[seed[0]] & young
        rows.append(OP_ROWS[word])
    count = len(rows)
    slot = torch.tensor([slot_id in enabled for slot_id in slot_ids])
    return {
        "slot": slot.expand(count, -1),
        "blueprint": torch.tensor([False] + [True] * (BLUEPRINTS - 1)).expand(count, -1),
        "blend": torch.ones(BLENDS, dtype=torch.bool).expand(count, -1),
        "op": torch.tensor(rows),
    }
