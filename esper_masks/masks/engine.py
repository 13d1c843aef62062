"""The engine: slot states in, masks out, one gather and a few word operations for the whole batch."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from esper_masks.actions.joint import JointActions
from esper_masks.actions.layout import build_layout
from esper_masks.actions.tables import layout_tables
from esper_masks.checks import from_numpy
from esper_masks.errors import RulesError, SlotStateError
from esper_masks.masks import slots as slot_states
from esper_masks.masks.checkpoints import UnderRules
from esper_masks.masks.checks import (
    check_counts,
    check_enabled,
    check_enabled_ids,
    check_limit,
    check_slot_ids,
    check_states,
)
from esper_masks.masks.masks import ActionMasks
from esper_masks.masks.stage_words import build_stage_rows, build_stage_words, or_over_slots, words_of_stages
from esper_masks.reference.explain import Explanation, explain
from esper_masks.rules import MaskRules
from esper_masks.rules.gates import Row, build_program


class MaskEngine(UnderRules, nn.Module):
    """Masks of every environment of a batch, from the states of its slots.

        for env, op, slot in product(range(batch), ops, range(slots)):
            slot_by_op[env, op, slot] == (reference.forbids(rules, op, states[env], slot, ...) is None)

    >>> import esper_masks as em
    >>> engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    >>> states = engine.pack_slots([{"mid": em.SlotState(stage=4, age=2)}])
    >>> engine(states)["op"]
    tensor([[ True,  True,  True, False]])

    Args:
        rules: a rule set.
        slot_ids: names of the slots, in the order of the slot head; by default those of the rules.
        enabled: ids of the slots that count; by default all.
        max_seeds: seed limit for every environment; 0 or less for none.
        device: where the tables live; by default on torch's default device.
        switches: the rule set's switches, by name.

    Raises:
        RulesError: a switch that the rules do not have, or a seed limit for rules without a limited op.
        SlotStateError: no slot ids, or repeated ones; ``enabled`` is empty, or names an unknown slot.
    """

    stage_words: Tensor  # int32 [1 + stages + 1]
    default_enabled: Tensor  # bool [slots]

    def __init__(
        self,
        rules: MaskRules,
        slot_ids: Sequence[str] | None = None,
        *,
        enabled: Iterable[str] | None = None,
        max_seeds: int = 0,
        device: torch.device | str | None = None,
        **switches: object,
    ):
        super().__init__()
        if not isinstance(rules, MaskRules):
            raise RulesError(f"wanted MaskRules, got {type(rules).__name__}; ruleset(name) gives one")
        ids = check_slot_ids(rules.slot_ids if slot_ids is None else slot_ids)
        self.rules = rules.resolve(**switches)
        self.fingerprint = self.rules.fingerprint
        self.feature_names = self.rules.feature_names  # torch 2.11 cannot trace the property
        self.layout = build_layout(self.rules, ids)
        self.joint_actions = JointActions(self.layout)
        self.program = build_program(self.rules.op_rules, self.feature_names)
        self.stage_rows = build_stage_rows(self.rules)
        if isinstance(max_seeds, Tensor):
            raise SlotStateError("max_seeds must be an int here; one limit for each environment goes to the call")
        check_limit(self.rules, self.program.limited, max_seeds)
        self.max_seeds = max_seeds
        self.enabled_ids = ids if enabled is None else check_enabled_ids(enabled, ids)
        place = torch.get_default_device() if device is None else torch.device(device)
        stage_words, default_enabled = self._build_tables()
        self.register_buffer("stage_words", stage_words.to(place), persistent=False)
        self.register_buffer("default_enabled", default_enabled.to(place), persistent=False)
        layout_tables(self.layout, self.device)  # before any trace or capture

    def _build_tables(self) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.device("cpu"):  # an engine made for a rollout may serve an update
            return build_stage_words(self.rules), torch.tensor([s in self.enabled_ids for s in self.slot_ids])

    def forward(
        self,
        states: Tensor,
        total_seeds: Tensor | None = None,
        *,
        max_seeds: int | Tensor | None = None,
        enabled: Tensor | None = None,
    ) -> ActionMasks:
        """Masks of a batch. A value that is not a stage counts as an occupied slot in which only WAIT is legal.

        Args:
            states: int32, int16 or int64 ``[..., slots, features]``, any strides; features as in
                ``rules.feature_names``.
            total_seeds: integer ``[...]``, seeds germinated so far; needed under a limit.
            max_seeds: limit, an int or integer ``[...]``; 0 or less for none; by default the engine's.
            enabled: bool ``[slots]`` or ``[..., slots]``, a tensor or a numpy array; by default the engine's.

        Returns: masks with the leading shape of ``states``.
        Raises:
            SlotStateError: shape, dtype or device that does not fit, or a limit without totals; before any work.
        """
        enabled = from_numpy(enabled, self.device)
        limit = self.max_seeds if max_seeds is None else max_seeds
        limited = self._check_inputs(states, total_seeds, limit, enabled)
        if states.dtype == torch.int16:
            states = states.int()  # a threshold of the rules may be beyond int16
        words = words_of_stages(states[..., 0], self.stage_words, self.stage_rows)  # [..., slots]
        for column, compare, value, ops in self.program.slot:
            words = torch.where(compare(states[..., column], value), words & ~ops, words)
        if enabled is not None:
            words = words * enabled
        elif len(self.enabled_ids) < len(self.slot_ids):
            words = words * self.default_enabled
        union = or_over_slots(words)  # [...]
        if limited and total_seeds is not None and total_seeds.dtype == torch.int16:
            total_seeds = total_seeds.int()
        row = Row(union, total_seeds, limit, each=isinstance(limit, Tensor))
        vetoes = []
        for closed, bit, ops in self.program.row:
            if (veto := closed(row, bit)) is not None:
                vetoes.append(veto.int() * ops)
        if vetoes:
            vetoed = vetoes[0]
            for veto in vetoes[1:]:
                vetoed = vetoed | veto
            kept = vetoed ^ self.layout.all_ops
            words = words & kept.unsqueeze(-1)
            union = union & kept
        return ActionMasks(self.layout, words, union | self.layout.unconditional)

    # -- states -------------------------------------------------------------------------------------------------------

    @property
    def slot_ids(self) -> tuple[str, ...]:
        return self.layout.slot_ids

    @property
    def device(self) -> torch.device:
        return self.stage_words.device

    def pack_slots(self, batch: Iterable[slot_states.SlotMapping]) -> Tensor:
        """Slot states of a batch from Python objects, in one pass and one transfer.

        Args:
            batch: one mapping per environment, slot id -> ``SlotState``, or None for an empty slot; a slot that is not
                in the mapping is empty.

        Returns: int32 ``[batch, slots, features]`` on the engine's device.
        Raises:
            SlotStateError: an unknown slot id, or a value that is neither a 32-bit integer nor a name, with its place.
        """
        return slot_states.pack_slots(self.rules, self.slot_ids, batch, self.device)

    def empty_slots(self, batch: int) -> Tensor:
        """States in which every slot is empty, in the memory layout the engine likes.

        Returns: int32 ``[batch, slots, features]``.
        """
        states = slot_states.allocate_states(batch, len(self.slot_ids), len(self.feature_names), self.device)
        states.zero_()
        states[..., 0].fill_(int(self.rules.empty))
        return states

    def check_slots(self, states: Tensor) -> None:
        """Raise if a state holds a value that the rules do not know. Reads the device; not for the hot path.

        Raises:
            SlotStateError: names the environment, slot, feature and value; also what ``forward`` raises for.
        """
        self._check_inputs(states, None, 0, None)
        slot_states.check_slots(self.rules, self.slot_ids, states)

    def explain(
        self,
        states: Tensor,
        env: int | tuple[int, ...] = 0,
        total_seeds: Tensor | None = None,
        *,
        max_seeds: int | Tensor | None = None,
        enabled: Tensor | None = None,
    ) -> Explanation:
        """Why each op is legal or not in each slot of one environment, by the rules themselves. Reads the device.

        >>> import esper_masks as em
        >>> engine = em.MaskEngine(em.ruleset("esper-2025-12"))
        >>> print(engine.explain(engine.pack_slots([{"mid": em.SlotState(stage=4, age=0)}])))
        WAIT: legal
        GERMINATE early, late: legal
        GERMINATE mid: stage BLENDING, needs DORMANT
        CULL early, late: stage DORMANT, needs GERMINATED, TRAINING, BLENDING or PROBATIONARY
        CULL mid: age 0 < 1
        FOSSILIZE early, late: stage DORMANT, needs PROBATIONARY
        FOSSILIZE mid: stage BLENDING, needs PROBATIONARY

        Args:
            states: see ``forward``.
            env: index of the environment in the leading axes.
            total_seeds: see ``forward``.
            max_seeds: see ``forward``.
            enabled: see ``forward``.

        Raises:
            SlotStateError: what ``forward`` raises for, or no such environment.
        """
        enabled = from_numpy(enabled, self.device)
        limit = self.max_seeds if max_seeds is None else max_seeds
        self._check_inputs(states, total_seeds, limit, enabled)
        index, batch = env if isinstance(env, tuple) else (env,), states.shape[:-2]
        fits = len(index) == len(batch) and all(type(i) is int and 0 <= i < size for i, size in zip(index, batch))
        if not fits:
            raise SlotStateError(
                f"there is no environment {env}: states of shape {tuple(states.shape)} have {tuple(batch)}"
            )
        on = self.default_enabled if enabled is None else enabled
        return explain(
            self.rules,
            states[index].tolist(),
            self.slot_ids,
            enabled=(on if on.ndim == 1 else on[index]).tolist(),
            total_seeds=None if total_seeds is None else int(total_seeds[index]),
            max_seeds=int(limit[index]) if isinstance(limit, Tensor) else limit,
        )

    def _apply(self, fn: Any, recurse: bool = True) -> "MaskEngine":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch has no types here
        stage_words, default_enabled = self._build_tables()
        self.stage_words.copy_(stage_words)  # `to_empty` leaves memory as it finds it
        self.default_enabled.copy_(default_enabled)
        layout_tables(self.layout, self.device)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch has no types here
        layout_tables(self.layout, self.device)

    def _check_inputs(
        self, states: Tensor, total_seeds: Tensor | None, limit: int | Tensor, enabled: Tensor | None
    ) -> bool:
        """Raise for metadata that does not fit; return whether a seed limit applies."""
        check_states(self.feature_names, self.slot_ids, states, self.device)
        batch = states.shape[:-2]
        if enabled is not None:
            check_enabled(enabled, states.shape[:-1], self.device)
        if isinstance(limit, Tensor):
            check_counts("max_seeds", limit, batch, self.device)
        if total_seeds is not None:
            check_counts("total_seeds", total_seeds, batch, self.device)
        check_limit(self.rules, self.program.limited, limit)
        if not isinstance(limit, Tensor) and limit <= 0:
            return False
        if total_seeds is None:
            raise SlotStateError(
                "there is a seed limit, so the engine needs total_seeds: seeds germinated so far, [...]"
            )
        return True

    def extra_repr(self) -> str:
        return f"{self.rules.name}, slots=({', '.join(self.slot_ids)}), max_seeds={self.max_seeds}"
