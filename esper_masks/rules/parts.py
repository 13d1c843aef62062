"""The parts of a rule set: one ``Op`` for each op, one ``Head`` for each factor of the action."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from esper_masks.errors import RulesError
from esper_masks.rules.fields import FrozenMapping, Member, show, take_fields


@dataclass(frozen=True)
class Op:
    """Where one op is legal, and which heads of the action it uses.

    An op is legal in an enabled slot when the slot's stage is one of its stages and every gate passes. Its stages are
    derived: those from which ``enters`` is a valid transition, the sources of ``moves``, and ``acts_in``.

    Args:
        id: the member of the op enum; its value is the op's index, and its bit in a word.
        always: legal in every enabled slot whatever it holds and, if it uses no slot, in a row without an enabled slot;
            excludes gates. One such op without a slot is needed, so that no row is without a legal action.
        enters: the one stage this op moves a seed to.
        moves: stage -> stage, for an op whose target depends on the source. Each edge must be a transition.
        acts_in: stages in which the op acts without moving the seed.
        min_age: lowest age (the ``age`` feature, in the unit of the caller's clock) at which the op is legal.
        max_age: highest age at which the op is legal.
        requires: feature -> the value it must have.
        waived_by: switch that, when true, waives ``requires``.
        disabled_by: switch that, when true, makes the op illegal everywhere.
        disabled: the op keeps its index and is never legal.
        seed_limit: illegal once ``total_seeds`` has reached ``max_seeds``.
        blocked_by: stages that forbid the op in every slot while any enabled slot is in one of them.
        uses: heads that the op reads; all others take their canonical value. ``op`` itself is understood.

    Raises:
        RulesError: a field of another type; names the op, the field, the value and what was wanted.
    """

    id: IntEnum
    always: bool = False
    enters: IntEnum | None = None
    moves: Mapping[Member, IntEnum] = FrozenMapping()
    acts_in: Sequence[IntEnum] = ()
    min_age: int | None = None
    max_age: int | None = field(default=None, kw_only=True)  # so that the others keep their positions
    requires: Mapping[str, IntEnum] = FrozenMapping()
    waived_by: str | None = None
    disabled_by: str | None = None
    disabled: bool = False
    seed_limit: bool = False
    blocked_by: Sequence[IntEnum] = ()
    uses: Sequence[str] = ()

    def __post_init__(self) -> None:
        take_fields(self, Op, f"op {show(self.id)}")

    @property
    def name(self) -> str:
        return self.id.name


@dataclass(frozen=True)
class Head:
    """One factor of the action. The heads named ``slot`` and ``op`` take their choices from the engine and the ops.

    Args:
        name: unique within the rules.
        choices: names, in index order.
        legal: the choices that may ever be taken; None for all. With ``switch``, a mapping value -> choices.
        switch: the switch whose value selects from ``legal``.
        closed: the choices that are legal while no op of ``opened_by`` is. None: the head does not depend on ops.
        opened_by: ops that open the head; by default those that use it.
        by_op: op -> choices legal under that op, for a head whose mask depends on the op (a static table).
        canonical: the value of the head when the op ignores it; by default the first choice.

    Raises:
        RulesError: a field of another type; names the head, the field, the value and what was wanted.
    """

    name: str
    choices: Sequence[str] = ()
    legal: Sequence[str] | Mapping[Any, Sequence[str]] | None = None
    switch: str | None = None
    closed: Sequence[str] | None = None
    opened_by: Sequence[IntEnum] = ()
    by_op: Mapping[Member, Sequence[str]] = FrozenMapping()
    canonical: str | None = None

    def __post_init__(self) -> None:
        take_fields(self, Head, f"head {self.name!r}")

    @property
    def open_choices(self) -> Sequence[str]:
        """The choices that may ever be taken, once the rules are resolved."""
        if isinstance(self.legal, Mapping):
            raise RulesError(f"head {self.name!r} depends on the switch {self.switch!r}: resolve the rules first")
        return self.choices if self.legal is None else self.legal
