"""One environment at a time: Python integers for the words, cached rows for the masks.

A batch of one through tensors pays for two dozen kernel launches. Here an environment costs a few integer operations a
slot, then copies of masks that were unpacked once. Words and masks come from the engine's own tables.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from esper_masks.engine import MaskEngine
from esper_masks.masks import ActionMasks
from esper_masks.tables import BELOW

S = TypeVar("S")

KEPT_ROWS = 4096  # masks of so many different environments are kept, about 1 kB each


class Seed(Protocol):
    """What a slot holds. Features beyond stage and age are attributes of the same name."""

    @property
    def stage(self) -> int: ...

    @property
    def seed_age_epochs(self) -> int: ...


class OneEnvironment:
    """The masks of an engine, for one environment.

    A slot without a seed is empty. A seed whose stage is that of empty slots, or no stage at all, is occupied and
    inert.

    Args:
        engine: any engine on the CPU.
    """

    def __init__(self, engine: MaskEngine):
        rules, words = engine.rules, engine.stage_words.tolist()
        self.engine, self.slot_ids = engine, engine.slot_ids
        self.empty, self.inert = words[BELOW + rules.empty], words[0]
        self.by_stage = {int(stage): words[BELOW + stage] for stage in rules.stages if stage != rules.empty}
        self.ages, self.blocks = engine.gates.ages, engine.gates.blocks
        self.features = [(rules.feature_names[column], value, ops) for column, value, ops in engine.gates.features]
        self.seed_limited, self.all_ops = engine.gates.seed_limited, engine.layout.all_ops
        self.unconditional = engine.layout.unconditional
        self._rows = lru_cache(KEPT_ROWS)(self._unpack)

    def masks(
        self, seeds: Mapping[str, Seed | None], enabled: Collection[str], total: int, limit: int
    ) -> dict[str, Tensor]:
        """Head -> bool ``[n]``, and ``"slot_by_op"`` -> bool ``[ops, slots]``; the caller's to change.

        Args:
            seeds: slot id -> its seed, None for an empty slot; a slot that is missing is empty.
            enabled: ids of the slots that count; those that do not exist are ignored.
            total: seeds germinated so far.
            limit: seed limit; 0 or less for none.
        """
        words, union = [], 0
        for slot_id in self.slot_ids:
            word = 0
            if slot_id in enabled:
                seed = seeds.get(slot_id)
                word = self.empty if seed is None else self._word(seed)
                union |= word
            words.append(word)
        kept = self.all_ops
        if 0 < limit <= total:
            kept &= ~self.seed_limited
        for bit, ops in self.blocks:
            if union & bit:
                kept &= ~ops
        rows = self._rows(union & kept | self.unconditional, *[word & kept for word in words])
        return {name: mask.clone() for name, mask in rows.items()}

    def _word(self, seed: Seed) -> int:
        word: int = self.by_stage.get(seed.stage, self.inert)
        age = seed.seed_age_epochs
        for lowest, ops in self.ages:
            if age < lowest:
                word &= ~ops
        for name, value, ops in self.features:
            if getattr(seed, name) != value:
                word &= ~ops
        return word

    def _unpack(self, op_word: int, *slot_words: int) -> dict[str, Tensor]:
        words = torch.tensor(slot_words, dtype=torch.int32)
        return unpacked(ActionMasks(self.engine.layout, words, torch.tensor(op_word, dtype=torch.int32)))


def batch_masks(
    engine: MaskEngine,
    batch: Sequence[Mapping[str, Seed | None]],
    enabled: Collection[str],
    totals: Sequence[int],
    limit: int,
) -> dict[str, Tensor]:
    """The same of many environments, ``[batch, ...]`` on the engine's device."""
    rules, slot_ids = engine.rules, engine.slot_ids
    empty = (int(rules.empty), 0, *[0] * len(rules.features))
    rows = [
        [empty if (seed := seeds.get(slot_id)) is None else _row(seed, rules.empty, rules.features) for seeds in batch]
        for slot_id in slot_ids
    ]  # by slot, so that the states are batch-last in memory
    states = torch.tensor(rows, dtype=torch.int32).view(len(slot_ids), len(batch), len(empty)).permute(1, 0, 2)
    states = states.to(engine.device, non_blocking=True)
    on = torch.tensor([slot_id in enabled for slot_id in slot_ids]).to(engine.device)
    counts = torch.tensor(totals, dtype=torch.int64).to(engine.device)
    return unpacked(engine(states, counts, max_seeds=limit, enabled=on))


def from_reports(
    reports: Mapping[str, Any], slots: Sequence[str], empty: int, make: Callable[[Any], S]
) -> dict[str, S | None]:
    """Slot id -> seed, from reports that have a ``.stage``; None without a report, or for one of the empty stage."""
    found = {slot_id: reports.get(slot_id) for slot_id in slots}
    return {
        slot_id: None if report is None or int(report.stage) == empty else make(report)
        for slot_id, report in found.items()
    }


def check_totals(totals: Sequence[int] | None, batch: int) -> Sequence[int]:
    """Seeds germinated in each environment, 0 by default; ``ValueError`` for another number of environments."""
    if totals is not None and len(totals) != batch:
        raise ValueError(f"total_seeds_list has {len(totals)} entries for {batch} environments")
    return [0] * batch if totals is None else totals


def unpacked(masks: ActionMasks) -> dict[str, Tensor]:
    """All masks as tensors of their own."""
    every = {**masks, "slot_by_op": masks.slot_by_op}
    return {name: mask.clone(memory_format=torch.contiguous_format) for name, mask in every.items()}


def _row(seed: Seed, empty: int, features: Mapping[str, Any]) -> tuple[int, ...]:
    stage = -1 if seed.stage == empty else seed.stage  # -1: occupied and inert
    return (int(stage), int(seed.seed_age_epochs), *(int(getattr(seed, name)) for name in features))
