"""A lifecycle as data: stages, transitions, ops, gates and heads. Standard library only.

Nothing here computes a mask. ``masks`` compiles a rule set into lookup tensors, ``reference`` reads it with plain
loops; both see the same data, so changing one transition changes the masks of both.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

from esper_masks.errors import RulesError
from esper_masks.rules import checks, head_checks
from esper_masks.rules.combined import resolved
from esper_masks.rules.fields import Domain, FrozenMapping, Member, take_fields
from esper_masks.rules.fingerprint import fingerprint_of
from esper_masks.rules.gates import GATES, Gate, gates_of
from esper_masks.rules.judged import Guard, Scope
from esper_masks.rules.names import AGE, OP, STAGE
from esper_masks.rules.parts import Head, Op, SlotHead, narrowed


@dataclass(frozen=True)
class MaskRules:
    """A complete, checked rule set. Sequences and mappings are frozen on the way in.

    Args:
        name: what errors and reports call it.
        stages: enum of the stages; values are what a slot state holds, 0 to 254, gaps allowed.
        transitions: stage -> the stages it may move to. Every stage has an entry, if an empty one.
        empty: the stage of a slot that holds no seed.
        op_rules: one ``Op`` for each member of the op enum, whose values are 0, 1, 2, ...
        heads: in the order of the action vector; exactly one is called ``slot`` and one ``op``.
        features: features of a slot state beyond ``stage`` and ``age`` -> the enum of their values, int or bool; 0 when
            empty.
        switches: name -> its values, the first being the default.
        slot_ids: the slots an engine has when it is given none.
        row_features: values of an environment, not of a slot, that guards read -> their enum, int or bool.
        kinds: name -> the slots of that kind, for an engine that is given no kinds.

    Raises:
        RulesError: a field of another type, or rules that contradict themselves; names the part and the reason.
    """

    name: str
    stages: type[IntEnum]
    transitions: Mapping[Member, Sequence[IntEnum]]
    empty: IntEnum
    op_rules: Sequence[Op]
    heads: Sequence[Head]
    features: Mapping[str, Domain] = FrozenMapping()
    switches: Mapping[str, Sequence[Any]] = FrozenMapping()
    slot_ids: Sequence[str] = ()
    row_features: Mapping[str, Domain] = FrozenMapping()
    kinds: Mapping[str, Sequence[str]] = FrozenMapping()

    def __post_init__(self) -> None:
        take_fields(self, MaskRules, f"rules {self.name!r}")
        self._refuse(checks.in_op_numbers(self.op_rules))
        object.__setattr__(self, "op_rules", tuple(sorted(self.op_rules, key=lambda op: op.id)))
        self._refuse(self._contradictions())

    def _refuse(self, reasons: Iterator[str]) -> None:
        for reason in reasons:
            raise RulesError(f"rules {self.name!r}: {reason}")

    def _contradictions(self) -> Iterator[str]:
        yield from checks.in_stages(self.stages, self.transitions, self.empty)
        yield from checks.in_features(self.features)
        yield from checks.in_switches(self.switches)
        yield from checks.in_rows(self.row_features, self.switches)
        yield from checks.in_kinds(self.kinds, self.slot_ids)
        yield from head_checks.in_heads(self.heads)
        heads = {head.name: head for head in self.heads}
        for op, scope in zip(self.op_rules, self.scopes):
            reasons = checks.in_op(op, scope, self.transitions, heads, self.empty)
            yield from (f"op {op.name} {reason}" for reason in reasons)
        for head in self.heads:
            if isinstance(head, SlotHead):
                reasons = head_checks.in_slot_head(head, self.target_scopes[head.name], self.transitions, self.empty)
            else:
                reasons = head_checks.in_head(head, self.op_rules, self.switches, self.features, self.stages)
            yield from (f"head {head.name!r}{reason}" for reason in reasons)
        for op in self.op_rules:
            used = [heads[name] for name in op.uses]
            reasons = head_checks.in_use(op, used, self.legal_stages(op.id), self.target_scopes)
            yield from (f"op {op.name} {reason}" for reason in reasons)
        yield from checks.in_ops(self.op_rules)
        if len(set(self.slot_ids)) != len(self.slot_ids):
            yield f"slot ids repeat: {', '.join(self.slot_ids)}"

    @property
    def ops(self) -> type[IntEnum]:
        """The op enum: names, and the index that is both a value of the op head and a bit of a word."""
        return type(self.op_rules[0].id)

    @property
    def op_names(self) -> tuple[str, ...]:
        return tuple(op.name for op in self.op_rules)

    @property
    def head_names(self) -> tuple[str, ...]:
        return tuple(head.name for head in self.heads)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The columns of a slot state: ``("stage", "age", *features)``."""
        return (STAGE, AGE, *self.features)

    @property
    def relevance(self) -> dict[IntEnum, frozenset[str]]:
        """The heads each op uses, ``op`` among them."""
        return {op.id: frozenset((OP, *op.uses)) for op in self.op_rules}

    def head(self, name: str) -> Head:
        for head in self.heads:
            if head.name == name:
                return head
        raise RulesError(f"{self.name} has no head {name!r}; its heads are {', '.join(self.head_names)}")

    def legal_stages(self, op: IntEnum) -> frozenset[IntEnum]:
        """Stages in which an op is legal before any gate, derived from the transitions."""
        return self._legal_stages[op]

    def edges(self, op: IntEnum) -> dict[IntEnum, IntEnum]:
        """Stage -> the stage to which an op moves a slot from there, where it may be legal; it stays in all others."""
        enters, moves = self.op_rules[op].enters, self.op_rules[op].moves
        made = {}
        for stage in self.legal_stages(op):
            if stage in moves:
                made[stage] = moves[stage]
            elif enters is not None and enters in self.transitions[stage]:
                made[stage] = enters
        return made

    @property
    def slot_heads(self) -> tuple[SlotHead, ...]:
        """The heads whose choices are slots, beside ``slot`` itself."""
        return tuple(head for head in self.heads if isinstance(head, SlotHead))

    @cached_property
    def scopes(self) -> tuple[Scope, ...]:
        """What the rules around each op have, for its gates."""
        return tuple(self._scope(self.legal_stages(op.id), op.in_slot) for op in self.op_rules)

    @cached_property
    def target_scopes(self) -> dict[str, Scope]:
        """Name of each of ``slot_heads`` -> what the rules have around it, for its guards.

        ``legal`` are the stages of a target: the sources of ``moves``, or all, less what guards of the stage exclude.
        """
        return {head.name: self._target_scope(head) for head in self.slot_heads}

    def _target_scope(self, head: SlotHead) -> Scope:
        return self._scope(narrowed(head.moves or self.stages, head.when, self.stages), True)

    def _scope(self, legal: frozenset[IntEnum], in_slot: bool) -> Scope:
        return Scope(self.stages, legal, self.features, self.switches, self.row_features, self.kinds, in_slot)

    @cached_property
    def gates(self) -> tuple[tuple[Guard, ...], ...]:
        """What each op needs besides a stage, in the order in which a reason is looked for; by the number of the op."""
        return tuple(tuple(gates_of(op)) for op in self.op_rules)

    def judged(self) -> Iterator[tuple[str, Sequence[Guard], Scope]]:
        """What could never be if its guards did not pass, with these and with what the rules have around it."""
        for op, scope in zip(self.op_rules, self.scopes):
            if not op.disabled:
                yield f"op {op.name} could never be legal", op.when, scope
        used = {name for op in self.op_rules if not op.disabled for name in op.uses}
        for head in self.slot_heads:
            if head.name in used:
                yield f"head {head.name!r} could never have a choice", head.when, self.target_scopes[head.name]

    @cached_property
    def _legal_stages(self) -> tuple[frozenset[IntEnum], ...]:
        return tuple(self._derive_stages(op) for op in self.op_rules)

    def _derive_stages(self, op: Op) -> frozenset[IntEnum]:
        if op.disabled:
            return frozenset()
        if op.always or not op.in_slot:
            return frozenset(self.stages)
        entering = (stage for stage in self.stages if op.enters in self.transitions[stage])
        return narrowed((*entering, *op.moves, *op.acts_in), op.when, self.stages)

    def resolve(self, /, **switches: object) -> "MaskRules":
        """The same rules with every switch set, so that nothing downstream knows of switches.

        Raises:
            RulesError: a switch that these rules do not have, or a value that the switch does not.
        """
        known = ", ".join(f"{name}={values[0]!r}" for name, values in self.switches.items()) or "none"
        for name, value in switches.items():
            if name not in self.switches:
                raise RulesError(f"{self.name} has no rule switch {name!r}; it has: {known}")
            if not any(type(value) is type(allowed) and value == allowed for allowed in self.switches[name]):
                raise RulesError(
                    f"{self.name}: switch {name}={value!r} is not one of {', '.join(map(repr, self.switches[name]))}"
                )
        setting = {name: switches.get(name, values[0]) for name, values in self.switches.items()}
        heads = [_resolve_head(head, setting) for head in self.heads]
        never = {
            head.name: dataclasses.replace(head, when=())
            for head in heads
            if isinstance(head, SlotHead) and self._has_no_choice(head)
        }
        return dataclasses.replace(
            self,
            op_rules=tuple(self._resolve_op(op, setting, never) for op in self.op_rules),
            heads=tuple(never.get(head.name, head) for head in heads),
            switches=FrozenMapping(),
        )

    def _has_no_choice(self, head: SlotHead) -> bool:
        """Whether switches have left a second slot guards that no slot meets."""
        scope = self._target_scope(head)
        return not scope.legal or any(checks.never_met(head.when, scope))

    def _resolve_op(self, op: Op, setting: Mapping[str, object], never: Collection[str]) -> Op:
        """The op once switches are set; disabled if it uses one of the heads that ``never`` have a choice."""
        changes: dict[str, Any] = {"when": resolved(op.when, setting)}
        for gate in gates_of(op):
            if isinstance(gate, Gate):
                changes |= gate.resolve(setting)
        made = dataclasses.replace(op, **changes)
        return self._possible(made, op) if set(op.uses).isdisjoint(never) else _never(made)

    def _possible(self, made: Op, op: Op) -> Op:
        """An op that was made of another by switches; disabled if its guards contradict one another now."""
        if made == op or made.disabled or op.always:
            return made
        if not (made.in_slot or made.uses or any(gates_of(made))):
            return dataclasses.replace(made, always=True)
        scope = self._scope(self._derive_stages(made), made.in_slot)
        if scope.legal and not any(checks.never_met((*gates_of(made), *made.when), scope)):
            return made
        return _never(made)

    def __getstate__(self) -> dict[str, Any]:
        derived = [name for name, what in vars(MaskRules).items() if isinstance(what, cached_property)]
        return {name: value for name, value in vars(self).items() if name not in derived}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the rules, names included: 64 hexadecimal digits. See ``rules.fingerprint``."""
        return fingerprint_of(self)


def _resolve_head(head: Head, setting: Mapping[str, object]) -> Head:
    if isinstance(head, SlotHead):
        return dataclasses.replace(head, when=resolved(head.when, setting))
    if head.switch is None or not isinstance(head.legal, Mapping):
        return head
    return dataclasses.replace(head, legal=head.legal[setting[head.switch]], switch=None)


def _never(op: Op) -> Op:
    """The op, disabled, and without the gates that made it so."""
    bare = {field: getattr(Op, field) for gate in GATES for field in gate.fields}
    return dataclasses.replace(op, **bare, when=(), always=False, disabled=True)
