"""The engine: slot states in, masks out, one gather and a few word operations for the whole batch."""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from esper_masks.actions.joint import JointActions
from esper_masks.actions.layout import build_layout
from esper_masks.actions.tables import choice_bits, layout_tables
from esper_masks.checks import from_numpy
from esper_masks.errors import RulesError, SlotStateError
from esper_masks.masks import slots as slot_states
from esper_masks.masks.checkpoints import UnderRules
from esper_masks.masks.checks import (
    check_constraint,
    check_counts,
    check_enabled,
    check_enabled_ids,
    check_head_masks,
    check_kinds,
    check_limit,
    check_restrict,
    check_rows,
    check_sets,
    check_slot_ids,
    check_slots_suffice,
    check_states,
    constraint_axes,
)
from esper_masks.masks.choices import build_lookups, look_up_choices, pack_choices, words_of
from esper_masks.masks.closing import Closing
from esper_masks.masks.masks import ActionMasks
from esper_masks.masks.program import build_program
from esper_masks.masks.stage_words import build_rows, build_table, look_up
from esper_masks.masks.successors import build_changes, take
from esper_masks.reference.explain import Explanation, explain
from esper_masks.rules import MaskRules


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
        kinds: name -> ids of the slots of that kind; by default those of the rules.
        device: where the tables live; by default on torch's default device.
        switches: the rule set's switches, by name.

    Raises:
        RulesError: a switch that the rules do not have, a seed limit for rules without a limited op, or too few slots
            for what a guard wants to count.
        SlotStateError: no slot ids, or repeated ones; ``enabled`` is empty, or names an unknown slot; a kind that rules
            need and that is missing, or that names an unknown slot.
    """

    stage_words: Tensor  # int32 or int64 [1 + stages + 1]
    default_enabled: Tensor  # bool [slots]
    of_kind: Tensor  # bool [kinds, slots], the kinds that the program reads
    others: Tensor  # int32 [slots, k], each slot's choice words of all others

    def __init__(
        self,
        rules: MaskRules,
        slot_ids: Sequence[str] | None = None,
        *,
        enabled: Iterable[str] | None = None,
        max_seeds: int = 0,
        kinds: Mapping[str, Sequence[str]] | None = None,
        device: torch.device | str | None = None,
        **switches: object,
    ):
        super().__init__()
        if not isinstance(rules, MaskRules):
            raise RulesError(f"wanted MaskRules, got {type(rules).__name__}; ruleset(name) gives one")
        ids = check_slot_ids(rules.slot_ids if slot_ids is None else slot_ids)
        self.rules = rules.resolve(**switches)
        # how each switch was set; ``self.rules`` have none left
        self.switches = {name: switches.get(name, values[0]) for name, values in rules.switches.items()}
        self.fingerprint = self.rules.fingerprint
        self.feature_names = self.rules.feature_names  # torch 2.11 cannot trace the property
        self.layout = build_layout(self.rules, ids)
        self.joint_actions = JointActions(self.layout)
        self.program = build_program(self.rules)
        self.changes = build_changes(self.rules)
        self.kinds = check_kinds(self.rules, self.program, ids, kinds)
        check_slots_suffice(self.rules, ids, self.kinds)
        self.stage_rows = [build_rows(words) for words in zip(*self.program.stages)]
        self.lookups = {head.name: build_lookups(self.rules, head) for head in self.rules.heads if head.slot_tables}
        if isinstance(max_seeds, Tensor):
            raise SlotStateError("max_seeds must be an int here; one limit for each environment goes to the call")
        check_limit(self.rules, self.program.limited, max_seeds)
        self.max_seeds = max_seeds
        self.enabled_ids = ids if enabled is None else check_enabled_ids(enabled, ids)
        place = torch.get_default_device() if device is None else torch.device(device)
        for name, table in self._build_tables().items():
            self.register_buffer(name, table.to(place), persistent=False)
        layout_tables(self.layout, self.device)  # before any trace or capture

    def told(self) -> tuple[Any, ...]:
        """All that code which is compiled for this engine is constant to, but for its layout."""
        names = self.feature_names, self.enabled_ids, self.kinds, tuple(self.rules.row_features)
        numbers = self.max_seeds, self.program, self.changes, self.stage_rows, self.lookups
        tables = [(name, table.dtype, tuple(table.shape)) for name, table in self.named_buffers()]
        return self.fingerprint, names, numbers, tables

    def _build_tables(self) -> dict[str, Tensor]:
        with torch.inference_mode(False), torch.device("cpu"):  # an engine made for a rollout may serve an update
            of_kind = [
                [any(slot in self.kinds[kind] for kind in kinds) for slot in self.slot_ids]
                for kinds in self.program.kinds
            ]
            stages = [build_table(words, self.layout.word_dtype) for words in zip(*self.program.stages)]
            tables = {
                "stage_words": stages[0],
                "default_enabled": torch.tensor([slot in self.enabled_ids for slot in self.slot_ids]),
                "of_kind": torch.tensor(of_kind, dtype=torch.bool).view(len(of_kind), len(self.slot_ids)),
            }
            for at, table in enumerate(stages[1:], 1):
                tables[f"stage_words_{at}"] = table
            for at, change in enumerate(self.changes.of_heads):
                tables[f"edges_{at}"] = torch.tensor(change.edges, dtype=torch.int32)
            for head, lookups in self.lookups.items():
                for at, lookup in enumerate(lookups):
                    if lookup.words is not None:
                        words = [build_table(row, torch.int32) for row in lookup.words]
                        tables[self._choice_table(head, at)] = torch.stack(words)
            if any(target.distinct for target in self.program.targets):
                others = ~torch.eye(len(self.slot_ids), dtype=torch.bool)
                tables["others"] = pack_choices(others, choice_bits(others.device))
            return tables

    def forward(
        self,
        states: Tensor,
        total_seeds: Tensor | None = None,
        *,
        max_seeds: int | Tensor | None = None,
        enabled: Tensor | None = None,
        row: Mapping[str, Tensor] | None = None,
        head_masks: Mapping[str, Tensor] | None = None,
        restrict: Mapping[str, Tensor] | None = None,
    ) -> ActionMasks:
        """Masks of a batch. A value that is not a stage counts as an occupied slot in which only WAIT is legal.

        Args:
            states: int32, int16 or int64 ``[..., slots, features]``, any strides; features as in
                ``rules.feature_names``.
            total_seeds: integer ``[...]``, seeds germinated so far; needed under a limit.
            max_seeds: limit, an int or integer ``[...]``; 0 or less for none; by default the engine's.
            enabled: bool ``[slots]`` or ``[..., slots]``, a tensor or a numpy array; by default the engine's.
            row: name -> bool or integer ``[...]``, the values of each environment that guards read.
            head_masks: name of a head other than op and slot -> bool ``[..., n]`` or ``[..., slots, n]``, the choices
                that the caller leaves, with exactly the leading axes of ``states``.
            restrict: what ``masks.restrict`` takes, by name; applied last.

        Returns: masks with the leading shape of ``states``.
        Raises:
            SlotStateError: shape, dtype or device that does not fit, or a limit without totals; before any work.
            ValueError, KeyError: see ``ActionMasks.restrict``.
        """
        program, layout, device = self.program, self.layout, self.device
        enabled = from_numpy(enabled, device)
        limit = self.max_seeds if max_seeds is None else max_seeds
        limited = self._check_inputs(states, total_seeds, limit, enabled)
        batch, rows, given = (
            states.shape[:-2],
            {},
            [],
        )  # a small batch is all dispatch: what is not asked for is left out
        if row is not None or program.rows:
            rows = check_rows(row, self.rules.row_features, program.rows, batch, device)
        if head_masks is not None:
            given = check_head_masks(head_masks, layout, batch, device)
        constraints = check_restrict(restrict)
        if states.dtype == torch.int16:
            states = states.int()  # a threshold of the rules may be beyond int16
        if limited and total_seeds is not None and total_seeds.dtype == torch.int16:
            total_seeds = total_seeds.int()
        closing = Closing(states, rows, self.of_kind, total_seeds, limit)
        words, op_words = self._words(closing, enabled)
        left = self._choices(states, words)
        left += [(head, by_slot, words_of(mask, self._choice_bits)) for head, by_slot, mask in given]
        slot_words = words[0]
        if program.strips:
            slot_words, op_words = slot_words & layout.all_ops, op_words & layout.all_ops
        masks = ActionMasks.of_state(layout, slot_words, op_words | layout.unconditional, left)
        return masks.restrict(**constraints) if constraints else masks

    def successors(
        self,
        states: Tensor,
        actions: Tensor,
        total_seeds: Tensor | None = None,
        *,
        max_seeds: int | Tensor | None = None,
        enabled: Tensor | None = None,
        row: Mapping[str, Tensor] | None = None,
        head_masks: Mapping[str, Tensor] | None = None,
        restrict: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The states that whole actions lead to by the rules alone, and which of the actions are legal.

        It is the op and nothing else; no time passes. What a slot holds follows from what slots held before:

            legal[env] == engine(states, ...).permits(actions)[env]
            for head, moves, sets in op of actions[env]:     # slot: edges and sets of the op; second slots: their own
                slot = actions[env, head]
                stage = moves.get(stages[env, slot])         # if there is none, the slot keeps its stage
                if the slot leaves or enters ``empty``: all else is 0, the age too
                if it is not empty now: its features are as sets says, all else is kept

        An illegal action changes nothing, and an op changes no slot that it does not use. Rules may say more than one
        change of a slot only where none contradicts another; one that empties it wins over one that sets features.

        >>> import esper_masks as em
        >>> engine = em.MaskEngine(em.ruleset("esper-2025-12"))
        >>> states = engine.pack_slots([{"mid": em.SlotState("BLENDING", age=2)}, {}])
        >>> after, legal = engine.successors(states, torch.tensor([[1, 0, 0, 2], [1, 0, 0, 2]]))  # CULL mid
        >>> legal, after[0].tolist()
        (tensor([ True, False]), [[1, 0], [8, 2], [1, 0]])

        Args:
            states: see ``forward``.
            actions: integer ``[*sample, ..., heads]``, any number of actions for each state. Heads that the op ignores
                may hold anything.
            total_seeds: see ``forward``. Counting the seeds of the successors is up to the caller.
            max_seeds: see ``forward``.
            enabled: see ``forward``.
            row: see ``forward``.
            head_masks: see ``forward``.
            restrict: see ``forward``.

        Returns: states ``[*sample, ..., slots, features]``, a new tensor of the same dtype and memory layout; bool
            ``[*sample, ...]``.
        Raises:
            SlotStateError: what ``forward`` raises for, or int16 states under rules that set a larger value.
            ValueError: actions that are no integers or have another shape; see ``ActionMasks.restrict``.
            KeyError: see ``ActionMasks.restrict``.
        """
        masks = self(
            states,
            total_seeds,
            max_seeds=max_seeds,
            enabled=enabled,
            row=row,
            head_masks=head_masks,
            restrict=restrict,
        )
        check_sets(self.rules, self.changes, states)
        legal = masks.permits(actions)
        values = dict(zip(self.layout.head_names, actions.long().unbind(-1)))
        tables = [getattr(self, f"edges_{at}") for at in range(len(self.changes.of_heads))]
        return take(states, values, legal, self.changes, tables), legal

    def _words(self, closing: Closing, enabled: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """What gates leave: words of slots, ``[..., slots]`` each, and that of the ops, ``[...]``; helper bits stay."""
        program, layout = self.program, self.layout
        words = look_up(closing.states[..., 0], self._stage_tables, self.stage_rows)
        for test, clears in program.slots:
            words = _less(words, closing.in_slots(test), clears)
        if enabled is not None:
            words = [word * enabled for word in words]
        elif len(self.enabled_ids) < len(layout.slot_ids):
            words = [word * self.default_enabled for word in words]
        closing.words = words
        for test, clears in program.counts:
            words = _less(words, closing.in_slots(test), clears)
        closing.words = words = list(words)
        op_words = closing.union(0)
        if layout.free:
            op_words = op_words | layout.free
        wide = layout.word_dtype == torch.int64
        closed: dict[int, Tensor] = {}  # the bits of environments in which a test is closed, of each word that has any
        for test, clears in program.envs:
            if (veto := closing.in_envs(test)) is not None:
                for at, bits in enumerate(clears):
                    if bits:
                        no = (veto.long() if wide else veto.int()) * bits
                        closed[at] = closed[at] | no if at in closed else no
        for at, no in closed.items():
            kept = no ^ program.subjects[at]
            words[at] = words[at] & kept.unsqueeze(-1)
            if at == 0:
                op_words = op_words & kept
        return words, op_words

    def _choices(self, states: Tensor, words: Sequence[Tensor]) -> list[tuple[str, bool, Tensor]]:
        """Each head whose choices depend on the state, whether they are of each slot, and its choice words."""
        made = []
        for head, lookups in self.lookups.items():
            tables = [getattr(self, self._choice_table(head, at), None) for at in range(len(lookups))]
            left = [look_up_choices(states, lookup, table) for lookup, table in zip(lookups, tables)]
            made.append((head, True, reduce(torch.bitwise_and, left)))
        for head, (at, bit), distinct in self.program.targets:
            slots = pack_choices((words[at] & bit) != 0, self._choice_bits)
            made.append((head, distinct, self._others_of(slots) if distinct else slots))
        return made

    def _others_of(self, choices: Tensor) -> Tensor:
        """Slots as choice words, ``[..., k]``, less the own slot in each: ``[..., slots, k]``, batch-last in memory."""
        words = choices.movedim(-1, 0)  # [k, ...]
        others = self.others.view(*self.others.shape, *[1] * (words.ndim - 1))
        return (words & others).movedim((0, 1), (-2, -1))

    @property
    def _stage_tables(self) -> list[Tensor]:
        more = range(1, len(self.stage_rows))
        return [self.stage_words, *[getattr(self, f"stage_words_{at}") for at in more]]

    @property
    def _choice_bits(self) -> Tensor:
        return layout_tables(self.layout, self.device).choice_bits

    def _choice_table(self, head: str, at: int) -> str:
        """What the table of a lookup is called among the buffers."""
        return f"choices_{self.layout.position(head)}_{at}"

    # -- states -------------------------------------------------------------------------------------------------------

    @property
    def slot_ids(self) -> tuple[str, ...]:
        return self.layout.slot_ids

    @property
    def device(self) -> torch.device:
        stage_words: Any = self._buffers["stage_words"]  # as an attribute it takes thrice as long
        device: torch.device = stage_words.device
        return device

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
        row: Mapping[str, Tensor] | None = None,
        head_masks: Mapping[str, Tensor] | None = None,
        restrict: Mapping[str, Tensor] | None = None,
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
            row: see ``forward``.
            head_masks: see ``forward``.
            restrict: see ``forward``.

        Raises:
            SlotStateError: what ``forward`` raises for, or no such environment.
            ValueError, KeyError: see ``ActionMasks.restrict``.
        """
        enabled = from_numpy(enabled, self.device)
        limit = self.max_seeds if max_seeds is None else max_seeds
        self._check_inputs(states, total_seeds, limit, enabled)
        rows = check_rows(row, self.rules.row_features, self.program.rows, states.shape[:-2], self.device)
        given = check_head_masks(head_masks, self.layout, states.shape[:-2], self.device)
        constraints = check_restrict(restrict)
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
            row={name: int(values[index]) for name, values in rows.items()},
            kinds={kind: [self.slot_ids.index(slot) for slot in slots] for kind, slots in self.kinds.items()},
            head_masks={head: mask[index].tolist() for head, _, mask in given},
            restrict={
                name: check_constraint(self.layout, name, mask, batch, self.device)
                .expand(*batch, *constraint_axes(self.layout, name))[index]
                .tolist()
                for name, mask in constraints.items()
            },
        )

    def _apply(self, fn: Any, recurse: bool = True) -> "MaskEngine":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch has no types here
        for name, table in self._build_tables().items():
            getattr(self, name).copy_(table)  # `to_empty` leaves memory as it finds it
        layout_tables(self.layout, self.device)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch has no types here
        layout_tables(self.layout, self.device)

    def _check_inputs(
        self, states: Tensor, total_seeds: Tensor | None, limit: int | Tensor, enabled: Tensor | None
    ) -> bool:
        """Raise for metadata that does not fit; return whether a seed limit applies."""
        device = self.device
        check_states(self.feature_names, self.layout.slot_ids, states, device)
        batch = states.shape[:-2]
        if enabled is not None:
            check_enabled(enabled, states.shape[:-1], device)
        if isinstance(limit, Tensor):
            check_counts("max_seeds", limit, batch, device)
        if total_seeds is not None:
            check_counts("total_seeds", total_seeds, batch, device)
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


def _less(words: list[Tensor], closed: Tensor, clears: Sequence[int]) -> list[Tensor]:
    """Words without the bits that are cleared where a test is closed."""
    return [torch.where(closed, word & ~bits, word) if bits else word for word, bits in zip(words, clears)]
