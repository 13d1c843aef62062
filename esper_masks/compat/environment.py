"""What both generations have in common; and one environment at a time: Python integers for words, kept rows for masks.

A batch of one through tensors pays for two dozen kernel launches. Here an environment costs a few integer operations a
slot, then copies of masks that were unpacked once. Words and masks come from the engine's own tables.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import gt, lt, ne
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks
from esper_masks.masks.stage_words import BELOW
from esper_masks.rules import MaskRules
from esper_masks.rules.bounds import Runs, outside
from esper_masks.rules.gates import Env
from esper_masks.rules.names import INT32, OP, SLOT, SLOT_BY_OP

S = TypeVar("S")
Setting = tuple[tuple[str, ...], *tuple[tuple[str, Any], ...]]  # ids of the slots; then switches, by name
Device = torch.device | str | None  # None: the CPU

KEPT_ENGINES = 64  # of different slots, switches and devices
KEPT_ROWS = 1024  # masks of so many different words are kept, each well below 1 kB
NO_STAGE = -1  # occupied and inert


class Seed(Protocol):
    """What a slot holds. Features beyond stage and age are attributes of the same name."""

    @property
    def stage(self) -> int: ...

    @property
    def seed_age_epochs(self) -> int: ...


Seeds = Mapping[str, Seed | None]  # slot id -> its seed, None for an empty slot
Batch = Sequence[Seeds]  # those of each environment


class OneEnvironment:
    """The masks of an engine, for one environment.

    A slot without a seed is empty. A seed whose stage is that of empty slots, or no stage at all, is occupied and
    inert.

    Args:
        engine: an engine on the CPU, of rules that have no more than those of the original programs.
        pairs: whether masks have ``slot_by_op``.
    """

    def __init__(self, engine: MaskEngine, pairs: bool):
        rules, words = engine.rules, engine.stage_words.tolist()
        self.layout, self.slot_ids, self.pairs = engine.layout, engine.slot_ids, pairs
        self.empty, self.inert = words[BELOW + rules.empty], words[0]
        self.by_stage = {int(stage): words[BELOW + stage] for stage in rules.stages if stage != rules.empty}
        names = ["stage", "seed_age_epochs", *rules.features]
        self.slot_steps = [
            (names[step.test.column], *_comparison(step.test.runs), step.clears[0]) for step in engine.program.slots
        ]
        self.env_steps = [(step.test.closed, step.test.bit, step.clears[0]) for step in engine.program.envs]
        self.all_ops = engine.layout.all_ops
        self.unconditional = engine.layout.unconditional
        self._heads = lru_cache(KEPT_ROWS)(self._make_heads)
        self._slots = lru_cache(KEPT_ROWS)(self._make_slots)

    def masks(self, seeds: Seeds, enabled: Sequence[str], total: int, limit: int, device: Device) -> dict[str, Tensor]:
        """Head -> bool ``[n]`` and, with ``pairs``, ``"slot_by_op"`` -> bool ``[ops, slots]``; the caller's to change.

        Args:
            seeds: a slot that is missing is empty.
            enabled: ids of the slots that count; those that do not exist are ignored.
            total: seeds germinated so far.
            limit: seed limit; 0 or less for none.
            device: where the masks go.
        """
        words, union, on = [], 0, []
        for slot_id in self.slot_ids:
            word = 0
            if slot_id in enabled:
                seed = seeds.get(slot_id)
                word = self.empty if seed is None else self._word(seed)
                union |= word
            words.append(word)
            on.append(word != 0)
        kept, env = self.all_ops, Env(union, total, limit)
        for closed, bit, ops in self.env_steps:
            if closed(env, 0 if bit is None else bit[1]):
                kept &= ~ops
        result = {SLOT: self._slots(*on).clone()}
        if self.pairs:
            result[SLOT_BY_OP] = torch.stack([self._heads(word & kept)[OP] for word in words], -1)
        for name, mask in self._heads(union & kept | self.unconditional).items():
            result[name] = mask.clone()
        return result if device is None else {name: mask.to(device) for name, mask in result.items()}

    def _word(self, seed: Seed) -> int:
        word: int = self.by_stage.get(seed.stage, self.inert)
        for name, compare, value, ops in self.slot_steps:
            if compare(getattr(seed, name), value):
                word &= ~ops
        return word

    # every word has the ops that are always legal, so one that is not 0 tells an enabled slot; an ambient default
    # device must not find its way into what is kept

    def _make_heads(self, op_word: int) -> dict[str, Tensor]:
        with torch.device("cpu"):
            words = torch.zeros(len(self.slot_ids), dtype=torch.int32)
            masks = ActionMasks(self.layout, words, torch.tensor(op_word, dtype=torch.int32))
            return {name: masks[name].clone() for name in masks if name != SLOT}

    def _make_slots(self, *on: bool) -> Tensor:
        return torch.tensor(on, device="cpu")


def _comparison(runs: Runs) -> tuple[Callable[[Any, Any], Any], Any]:
    """What tells, of a number and the second of the two, whether it lies outside: one operator where that will do."""
    [(least, most), *further] = runs
    if further or (least != most and None not in (least, most)):
        return outside, runs
    if least == most:
        return ne, least
    return (lt, least) if most is None else (gt, most)


class Generation:
    """The masks of a generation of programs, for any of its slots and switches. Engines are kept.

    Args:
        rules: the rule set.
        pairs: whether masks have ``slot_by_op``.

    Attributes:
        one: a setting -> ``OneEnvironment``.
    """

    def __init__(self, rules: MaskRules, *, pairs: bool):
        self.rules, self.pairs = rules, pairs
        self._engine = lru_cache(KEPT_ENGINES)(self._make_engine)
        self.one = lru_cache(KEPT_ENGINES)(self._make_one)

    def batch_masks(
        self, setting: Setting, batch: Batch, enabled: Sequence[str], totals: Sequence[int], limit: int, device: Device
    ) -> dict[str, Tensor]:
        """Masks of many environments, ``[batch, ...]``, computed on the device; see ``OneEnvironment.masks``."""
        engine = self._engine(setting, "cpu" if device is None else str(torch.device(device)))
        rules, slot_ids = engine.rules, engine.slot_ids
        stages = {int(stage) for stage in rules.stages if stage != rules.empty}
        features = [(name, {int(value) for value in values}) for name, values in rules.features.items()]

        def row(seed: Seed | None) -> tuple[int, ...]:
            """What is none of the rules' values becomes one that passes no gate, as it does for one environment."""
            if seed is None:
                return empty
            stage, others = seed.stage, [(getattr(seed, name), known) for name, known in features]
            return (
                int(stage) if stage in stages else NO_STAGE,
                within_int32(seed.seed_age_epochs),
                *(int(value) if value in known else -1 for value, known in others),
            )

        empty = (int(rules.empty), 0, *[0] * len(features))
        is_enabled = [slot_id in enabled for slot_id in slot_ids]
        rows = [
            [row(seeds.get(slot_id)) for seeds in batch] if used else [empty] * len(batch)
            for slot_id, used in zip(slot_ids, is_enabled)
        ]  # by slot, so that the states are batch-last in memory
        states = torch.tensor(rows, dtype=torch.int32, device="cpu").view(len(slot_ids), len(batch), len(empty))
        on = torch.tensor(is_enabled, device=engine.device)
        counts = torch.tensor([within_int32(total) for total in totals], dtype=torch.int32, device=engine.device)
        masks = engine(states.permute(1, 0, 2).to(engine.device), counts, max_seeds=within_int32(limit), enabled=on)
        every = {SLOT: masks[SLOT], SLOT_BY_OP: masks.slot_by_op, **masks} if self.pairs else masks
        return {name: mask.clone(memory_format=torch.contiguous_format) for name, mask in every.items()}

    def _make_engine(self, setting: Setting, device: str) -> MaskEngine:
        slot_ids, *switches = setting
        with torch.device("cpu"):  # whatever the ambient default device is
            return MaskEngine(self.rules, slot_ids, device=device, **dict(switches))

    def _make_one(self, setting: Setting) -> OneEnvironment:
        return OneEnvironment(self._engine(setting, "cpu"), self.pairs)


def within_int32(value: float) -> int:
    """The nearest 32-bit integer: ages, totals and limits are only compared."""
    return int(min(max(value, INT32[0]), INT32[-1]))


def check_totals(totals: Any, batch: int) -> Sequence[int]:
    """One total for each environment of a batch, 0 by default; ``ValueError`` for another number of them."""
    given: Sequence[int] = [0] * batch if totals is None else totals.tolist() if hasattr(totals, "tolist") else totals
    if len(given) != batch:
        raise ValueError(
            f"total_seeds_list has length {len(given)} for {batch} environments; wanted one total for each"
        )
    return given


def enabled_ids(enabled: Iterable[str]) -> tuple[str, ...]:
    """Ids of the enabled slots; ``ValueError`` for one name where a collection is wanted."""
    if isinstance(enabled, str):
        raise ValueError(f"enabled_slots must be a collection of slot ids, got the text {enabled!r}")
    return tuple(enabled)


def from_reports(
    reports: Mapping[str, Any], slots: Iterable[str], make: Callable[[Any], S | None]
) -> dict[str, S | None]:
    """Slot id -> what is made of its report; None without one."""
    found = {slot_id: reports.get(slot_id) for slot_id in slots}
    return {slot_id: None if report is None else make(report) for slot_id, report in found.items()}
