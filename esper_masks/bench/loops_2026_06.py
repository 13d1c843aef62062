"""The masks of ``esper-2026-06`` as loops, twice: as such programs are written, and as well as a loop can be written.

Both take one dict per environment, slot id -> ``(stage, age, alpha_mode)`` or None for an empty slot.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from esper_masks.rulesets.esper_2026_06 import (
    MIN_PRUNE_AGE,
    RULES,
    VALID_TRANSITIONS,
    AlphaMode,
    LifecycleOp,
    SeedStage,
)

Slots = Mapping[str, tuple[int, int, int] | None]

WAIT, GERMINATE, SET_ALPHA, PRUNE, FOSSILIZE, ADVANCE = (int(op) for op in LifecycleOp)
BLOCKING = frozenset(map(int, RULES.op_rules[GERMINATE].blocked_by))
PRUNABLE = frozenset(int(s) for s, to in VALID_TRANSITIONS.items() if SeedStage.PRUNED in to)
FOSSILIZABLE = frozenset(int(s) for s, to in VALID_TRANSITIONS.items() if SeedStage.FOSSILIZED in to)
RETARGETABLE = frozenset((int(SeedStage.BLENDING), int(SeedStage.HOLDING)))
ADVANCEABLE = frozenset((int(SeedStage.GERMINATED), int(SeedStage.TRAINING), int(SeedStage.BLENDING)))
CNN_BLUEPRINTS = range(1, 8)
SIZES = {head.name: len(head.choices) for head in RULES.heads if head.choices}
CLOSED = {"style": 2, "alpha_target": 2}  # the one choice left while neither GERMINATE nor SET_ALPHA_TARGET is legal
OPS = len(LifecycleOp)


def env_masks(
    slots: Slots, slot_ids: Sequence[str], enabled: Sequence[str], total: int, limit: int
) -> dict[str, Tensor]:
    """One environment, nine small tensors filled element by element (cnn topology, no switches)."""
    position = {slot_id: i for i, slot_id in enumerate(slot_ids)}
    masks = {"slot": torch.zeros(len(slot_ids), dtype=torch.bool)}
    for slot_id in enabled:
        masks["slot"][position[slot_id]] = True
    masks["blueprint"] = torch.zeros(SIZES["blueprint"], dtype=torch.bool)
    for blueprint in CNN_BLUEPRINTS:
        masks["blueprint"][blueprint] = True
    for head in ("style", "tempo", "alpha_target", "alpha_speed", "alpha_curve"):
        masks[head] = torch.ones(SIZES[head], dtype=torch.bool)
    by_op = torch.zeros(OPS, len(slot_ids), dtype=torch.bool)
    seeds = [slots.get(slot_id) for slot_id in enabled]
    blocked = any(seed is not None and seed[0] in BLOCKING for seed in seeds)
    for slot_id in enabled:
        slot, seed = position[slot_id], slots.get(slot_id)
        by_op[WAIT, slot] = True
        if seed is None:
            if not blocked and (limit <= 0 or total < limit):
                by_op[GERMINATE, slot] = True
            continue
        stage, age, alpha_mode = seed
        if stage in RETARGETABLE and alpha_mode == AlphaMode.HOLD:
            by_op[SET_ALPHA, slot] = True
        if stage in PRUNABLE and age >= MIN_PRUNE_AGE and alpha_mode == AlphaMode.HOLD:
            by_op[PRUNE, slot] = True
        if stage in FOSSILIZABLE:
            by_op[FOSSILIZE, slot] = True
        if stage in ADVANCEABLE:
            by_op[ADVANCE, slot] = True
    masks["op"] = by_op.any(dim=1)
    if not (masks["op"][GERMINATE] or masks["op"][SET_ALPHA]):
        for head, choice in CLOSED.items():
            masks[head][:] = False
            masks[head][choice] = True
    masks["slot_by_op"] = by_op
    return masks


def _seed_word(stage: int, old: bool, hold: bool) -> int:
    return (
        1 << WAIT
        | (stage in RETARGETABLE and hold) << SET_ALPHA
        | (stage in PRUNABLE and old and hold) << PRUNE
        | (stage in FOSSILIZABLE) << FOSSILIZE
        | (stage in ADVANCEABLE) << ADVANCE
    )


SEED_WORDS = {seed: _seed_word(*seed) for seed in product(map(int, SeedStage), (False, True), (False, True))}
ALWAYS = {head: [True] * size for head, size in SIZES.items()}  # of heads that do not depend on the slots
ALWAYS["blueprint"] = [blueprint in CNN_BLUEPRINTS for blueprint in range(SIZES["blueprint"])]
OP_ROWS = [[bool(word >> op & 1) for op in range(OPS)] for word in range(1 << OPS)]


def one_tensor(
    batch: Sequence[Slots], slot_ids: Sequence[str], enabled: Sequence[str], totals: Sequence[int], limit: int
) -> dict[str, Tensor]:
    """The best loop: ints only, rows looked up, one tensor per head at the end."""
    is_enabled = [slot_id in enabled for slot_id in slot_ids]
    op_rows, slot_rows = [], []
    for slots, total in zip(batch, totals):
        words = []
        blocked = limit > 0 and total >= limit
        for slot_id, on in zip(slot_ids, is_enabled):
            seed = slots[slot_id]
            if not on:
                words.append(0)
            elif seed is None:
                words.append(1 << WAIT | 1 << GERMINATE)
            else:
                stage, age, alpha_mode = seed
                blocked = blocked or stage in BLOCKING
                words.append(SEED_WORDS[stage, age >= MIN_PRUNE_AGE, alpha_mode == 0])
        union = 0
        if blocked:
            words = [word & ~(1 << GERMINATE) for word in words]
        for word in words:
            union |= word
        op_rows.append(OP_ROWS[union])
        slot_rows.append([OP_ROWS[word] for word in words])
    count = len(op_rows)
    op = torch.tensor(op_rows)
    is_open = op[:, GERMINATE] | op[:, SET_ALPHA]
    masks = {head: torch.tensor(mask).expand(count, -1) for head, mask in {"slot": is_enabled, **ALWAYS}.items()}
    for head, choice in CLOSED.items():
        masks[head] = is_open[:, None] | (torch.arange(SIZES[head]) == choice)
    masks["op"] = op
    masks["slot_by_op"] = torch.tensor(slot_rows).transpose(1, 2)
    return masks
