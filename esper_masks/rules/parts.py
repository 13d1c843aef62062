"""The parts of a rule set: one ``Op`` for each op, one ``Head`` for each factor of the action."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, Any, NamedTuple

from esper_masks.errors import RulesError
from esper_masks.rules.fields import FrozenMapping, Member, show, take_fields
from esper_masks.rules.guards import Feature
from esper_masks.rules.judged import Guard
from esper_masks.rules.names import SLOT, STAGE

FeatureChoices = tuple[str, Mapping[Any, Sequence[str]]]  # a feature, and value -> choices
ByFeature = Annotated[FeatureChoices | Sequence[FeatureChoices], Sequence[FeatureChoices]]


class SlotTable(NamedTuple):
    """The choices that a feature of the slot leaves to a head."""

    reads: str  # the feature, or ``stage``
    choices: Mapping[int, tuple[int, ...]]  # value -> their indices; a value that is not in it leaves none


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
        when: guards, all of which must pass: ``Feature``, ``Age``, ``Count``, ``Row``, ``Kind``, ``Unless``, ``Any``.
            The fields above from ``min_age`` on are short forms, which are looked at before them.
        sets: feature -> the value that the slot has afterwards, see ``MaskEngine.successors``. Masks do not depend on
            it.

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
    when: Sequence[Guard] = field(default=(), kw_only=True)
    sets: Mapping[str, Any] = field(default=FrozenMapping(), kw_only=True)

    def __post_init__(self) -> None:
        take_fields(self, Op, f"op {show(self.id)}")

    @property
    def name(self) -> str:
        return self.id.name

    @property
    def names_stages(self) -> bool:
        return self.enters is not None or bool(self.moves or self.acts_in)

    @property
    def in_slot(self) -> bool:
        """Whether the op is legal in slots; if not, it is legal by its guards alone, whatever the slots hold."""
        return SLOT in self.uses or self.names_stages

    @property
    def judges(self) -> tuple[Guard, ...]:
        """The guards that are looked at once the stage fits; those of the stage itself have narrowed the stages."""
        return tuple(guard for guard in self.when if not narrows(guard))


def narrows(guard: Guard) -> bool:
    """Whether a guard says nothing but which stages do."""
    return isinstance(guard, Feature) and guard.name == STAGE


def narrowed(stages: Iterable[IntEnum], guards: Iterable[Guard], of: type[IntEnum]) -> frozenset[IntEnum]:
    """The stages that guards of the stage leave."""
    own = [guard.bounds for guard in guards if isinstance(guard, Feature) and guard.name == STAGE]
    return frozenset(stage for stage in stages if all(bounds.allows(stage, of, stage) for bounds in own))


@dataclass(frozen=True)
class Head:
    """One factor of the action. The heads named ``slot`` and ``op`` take their choices from the engine and the ops.

    What ``legal``, ``by_op``, ``by_stage`` and ``by_feature`` leave are the choices in all of them.

    Args:
        name: unique within the rules.
        choices: names, in index order.
        legal: the choices that may ever be taken; None for all. With ``switch``, a mapping value -> choices.
        switch: the switch whose value selects from ``legal``.
        closed: the choices that are legal while no op of ``opened_by`` is. None: the head does not depend on ops.
        opened_by: ops that open the head; by default those that use it.
        by_op: op -> choices legal under that op, for a head whose mask depends on the op (a static table).
        canonical: the value of the head when the op ignores it; by default the first choice.
        by_stage: stage of the slot -> choices legal in it. Every stage of an op that uses the head has an entry; an
            empty one, written out, closes the op there.
        by_feature: a feature of the slot and, for each of its values, the choices legal there; a value that is not
            named leaves none. Or several such pairs.

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
    by_stage: Mapping[Member, Sequence[str]] = field(default=FrozenMapping(), kw_only=True)
    by_feature: ByFeature = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.by_feature, Sequence) and self.by_feature and isinstance(self.by_feature[0], str):
            object.__setattr__(self, "by_feature", (self.by_feature,))
        take_fields(self, Head, f"head {self.name!r}")

    @property
    def open_choices(self) -> Sequence[str]:
        """The choices that may ever be taken, once the rules are resolved."""
        if isinstance(self.legal, Mapping):
            raise RulesError(f"head {self.name!r} depends on the switch {self.switch!r}: resolve the rules first")
        return self.choices if self.legal is None else self.legal

    @property
    def feature_choices(self) -> tuple[FeatureChoices, ...]:
        """``by_feature`` as pairs."""
        pairs: Any = self.by_feature
        return tuple(pairs)

    @property
    def by_slot(self) -> bool:
        """Whether the rules give it choices of its own in each slot."""
        return bool(self.by_stage or self.by_feature)

    @property
    def dynamic(self) -> bool:
        """Whether the rules give it choices that depend on the state."""
        return self.by_slot

    @property
    def slot_tables(self) -> tuple[SlotTable, ...]:
        """What ``by_stage`` and ``by_feature`` leave, in numbers; only a choice that is in all of them is legal."""
        tables = [(STAGE, self.by_stage)] if self.by_stage else []
        return tuple(
            SlotTable(
                reads,
                {int(value): tuple(sorted(map(self.choices.index, names))) for value, names in by_value.items()},
            )
            for reads, by_value in (*tables, *self.feature_choices)
        )


@dataclass(frozen=True)
class SlotHead(Head):
    """A second slot of the action: a head whose choices are the enabled slots.

    A slot is a choice where it is enabled, its stage is one of ``moves`` if there are any, and every guard passes. The
    guards judge this slot, not the slot of the op.

    >>> import esper_masks as em
    >>> em.SlotHead("target", when=(em.Kind("foe"),)).by_slot
    False

    Args:
        name: unique within the rules.
        when: guards, as those of an op; ``Count(of="others")`` leaves out the target, ``Kind`` is that of the target.
        distinct: another slot than that of the op.
        moves: stage -> stage, of the target; each edge must be a transition.
        sets: feature -> the value that the target has afterwards, see ``MaskEngine.successors``. Masks do not depend on
            it.

    Raises:
        RulesError: a field of another type; names the head, the field, the value and what was wanted.
    """

    # what a head with choices of its own has stays at its default
    choices: Sequence[str] = field(default=(), init=False, repr=False)
    legal: Sequence[str] | Mapping[Any, Sequence[str]] | None = field(default=None, init=False, repr=False)
    switch: str | None = field(default=None, init=False, repr=False)
    closed: Sequence[str] | None = field(default=None, init=False, repr=False)
    opened_by: Sequence[IntEnum] = field(default=(), init=False, repr=False)
    by_op: Mapping[Member, Sequence[str]] = field(default=FrozenMapping(), init=False, repr=False)
    canonical: str | None = field(default=None, init=False, repr=False)
    by_stage: Mapping[Member, Sequence[str]] = field(default=FrozenMapping(), init=False, repr=False)
    by_feature: ByFeature = field(default=(), init=False, repr=False)
    when: Sequence[Guard] = field(default=(), kw_only=True)
    distinct: bool = field(default=False, kw_only=True)
    moves: Mapping[Member, IntEnum] = field(default=FrozenMapping(), kw_only=True)
    sets: Mapping[str, Any] = field(default=FrozenMapping(), kw_only=True)

    def __post_init__(self) -> None:
        take_fields(self, SlotHead, f"head {self.name!r}")

    @property
    def by_slot(self) -> bool:
        return self.distinct

    @property
    def dynamic(self) -> bool:
        return True

    @property
    def judges(self) -> tuple[Guard, ...]:
        """The guards that are looked at once the stage of the target fits."""
        return tuple(guard for guard in self.when if not narrows(guard))
