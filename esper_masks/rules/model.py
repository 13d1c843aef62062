"""A lifecycle as data: stages, transitions, ops, gates and heads. Standard library only.

Nothing here computes a mask. ``masks`` compiles a rule set into lookup tensors, ``reference`` reads it with plain
loops; both see the same data, so changing one transition changes the masks of both.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

from esper_masks.errors import RulesError
from esper_masks.rules import checks
from esper_masks.rules.fields import FrozenMapping, Member, take_fields
from esper_masks.rules.fingerprint import fingerprint_of
from esper_masks.rules.gates import Gate, Scope, gates_of
from esper_masks.rules.names import AGE, OP, STAGE
from esper_masks.rules.parts import Head, Op


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
        features: features of a slot state beyond ``stage`` and ``age`` -> the enum of their values; 0 when empty.
        switches: name -> its values, the first being the default.
        slot_ids: the slots an engine has when it is given none.

    Raises:
        RulesError: a field of another type, or rules that contradict themselves; names the part and the reason.
    """

    name: str
    stages: type[IntEnum]
    transitions: Mapping[Member, Sequence[IntEnum]]
    empty: IntEnum
    op_rules: Sequence[Op]
    heads: Sequence[Head]
    features: Mapping[str, type[IntEnum]] = FrozenMapping()
    switches: Mapping[str, Sequence[Any]] = FrozenMapping()
    slot_ids: Sequence[str] = ()

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
        yield from checks.in_heads(self.head_names)
        for op in self.op_rules:
            scope = Scope(self.stages, self.legal_stages(op.id), self.features, self.switches)
            reasons = checks.in_op(op, scope, self.transitions, self.head_names)
            yield from (f"op {op.name} {reason}" for reason in reasons)
        for head in self.heads:
            yield from checks.in_head(head, self.op_rules, self.switches)
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

    @cached_property
    def gates(self) -> tuple[tuple[Gate, ...], ...]:
        """What each op needs besides a stage, in the order in which a reason is looked for; by the number of the op."""
        return tuple(tuple(gates_of(op)) for op in self.op_rules)

    @cached_property
    def _legal_stages(self) -> tuple[frozenset[IntEnum], ...]:
        return tuple(self._derive_stages(op) for op in self.op_rules)

    def _derive_stages(self, op: Op) -> frozenset[IntEnum]:
        if op.disabled:
            return frozenset()
        if op.always:
            return frozenset(self.stages)
        entering = (stage for stage in self.stages if op.enters in self.transitions[stage])
        return frozenset((*entering, *op.moves, *op.acts_in))

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
        return dataclasses.replace(
            self,
            op_rules=tuple(_resolve_op(op, setting) for op in self.op_rules),
            heads=tuple(_resolve_head(head, setting) for head in self.heads),
            switches=FrozenMapping(),
        )

    def __getstate__(self) -> dict[str, Any]:
        derived = [name for name, what in vars(MaskRules).items() if isinstance(what, cached_property)]
        return {name: value for name, value in vars(self).items() if name not in derived}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the rules, names included: 64 hexadecimal digits. See ``rules.fingerprint``."""
        return fingerprint_of(self)


def _resolve_op(op: Op, setting: Mapping[str, object]) -> Op:
    changes = (gate.resolve(setting) for gate in gates_of(op))
    return dataclasses.replace(op, **{field: value for change in changes for field, value in change.items()})


def _resolve_head(head: Head, setting: Mapping[str, object]) -> Head:
    if head.switch is None or not isinstance(head.legal, Mapping):
        return head
    return dataclasses.replace(head, legal=head.legal[setting[head.switch]], switch=None)
