"""Guards: conditions of an op or of a second slot, one class a guard, with all that anyone knows of it.

Those that combine others are in ``combined``.

A guard is data, and it answers by itself: what contradicts the rules around it, its verdict in plain Python for the
oracle, its sentences for people, and in ``closes`` the arithmetic of the engine. Verdict and arithmetic share the
fields and nothing else, so that the oracle can catch the engine. Of an op with

    when=(Feature("task", in_=(Task.UNSET, Task.VERIFY)), Age(at_least={Stage.ACTIVE: 5}), Count((READY,), at_least=3))

with tasks UNSET 0, VERIFY 2, and READY 4 the engine gets

    InSlot("task", ((0, 0), (2, 2)))              closed where (task != 0) & (task != 2)
    InSlot("age", ((5, None),), stage=ACTIVE)     closed where (age < 5) & (stage == ACTIVE)
    InCount(frozenset({READY}), others=True, ((3, None),))    closed where the number of other slots in READY is < 3
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

from esper_masks.rules.bounds import Bounds, Runs
from esper_masks.rules.fields import Member, Number, either, name_of, take_fields, values_of
from esper_masks.rules.judged import Guard, InCount, InKind, InRow, InSlot, Place, Scope
from esper_masks.rules.names import AGE, INT32, STAGE


class Bounded(Guard):
    """A guard that compares one number. The base of those that do."""

    @property
    def bounds(self) -> Bounds:
        """What the number has to be."""
        raise NotImplementedError

    @property
    def subject(self) -> str:
        """What is compared, in words; guards with the same words compare the same."""
        raise NotImplementedError

    def domain(self, scope: Scope) -> Any:
        """What the number may be at all."""
        return int

    @property
    def compares(self) -> object:
        """Guards for which it is equal compare the same number."""
        return type(self), self.subject

    def impossible(self, scope: Scope) -> Iterator[str]:
        """Reasons to refuse the bounds themselves, in the stages of the op."""
        yield from self.bounds.contradictions(self.subject, self.domain(scope))
        if stages := self.bounds.by_stage:
            yield from scope.not_stages(stages)
            if not scope.in_slot:
                yield f"has bounds by stage on {self.subject}, and acts in no slot"
        yield from never_together((self,), scope)


def never_together(guards: Sequence[Bounded], scope: Scope) -> Iterator[str]:
    """The reason why some guards of one number cannot all pass, in a stage of the op or at all."""
    by_stage = scope.in_slot and any(guard.bounds.by_stage for guard in guards)
    stages: Sequence[IntEnum | None] = sorted(scope.legal) if by_stage else (None,)
    if closed := [stage for stage in stages if not _some_number_passes(guards, scope, stage)]:
        named = [stage.name for stage in closed if stage is not None and len(closed) < len(stages)]
        where, take = (f" in {either(named)}", "; take the stage from the op") if named else ("", "")
        domain = guards[0].domain(scope)
        needs = " and ".join(guard.bounds.needs(domain, closed[0]) for guard in guards)
        yield f"can never be legal{where}: {guards[0].subject} would have to be {needs}{take}"


def _some_number_passes(guards: Sequence[Bounded], scope: Scope, stage: int | None) -> bool:
    domain = guards[0].domain(scope)
    numbers = values_of(domain)
    if numbers is None:  # the lowest that passes is a lower end, or stands behind one that does not pass
        bounds = [guard.bounds for guard in guards]
        ends = {0 if isinstance(guards[0], Count) else INT32[0], *(b.ends(stage)[0] for b in bounds)}
        listed = {int(value) for b in bounds for value in b.among or ()}
        behind = {int(value) + 1 for b in bounds for value in b.never or ()}
        numbers = tuple(end for end in {*ends, *listed, *behind} if end is not None and end in INT32)
        if isinstance(guards[0], Count):
            numbers = tuple(number for number in numbers if number >= 0)
    return any(all(guard.bounds.allows(number, domain, stage) for guard in guards) for number in numbers)


@dataclass(frozen=True)
class Feature(Bounded):
    """A feature of the slot, the stage among them, must be one of some values, or lie between bounds.

    >>> import esper_masks as em
    >>> em.Feature("restarts", at_most=4)
    Feature(name='restarts', in_=None, not_in=None, at_least=None, at_most=4)

    Args:
        name: a feature of the rules, or ``"stage"``, which narrows the stages of the op.
        in_: the values that do. None: all.
        not_in: the values that do not. A number that is none of an enum's values never does.
        at_least: the lowest value that does, a number or a member, or stage -> that value; a stage that is not named
            has no bound.
        at_most: the highest, in the same way.

    Raises:
        RulesError: a field of another type.
    """

    name: str
    in_: Sequence[Any] | None = field(default=None, kw_only=True)
    not_in: Sequence[Any] | None = field(default=None, kw_only=True)
    at_least: Number | Mapping[Member, Number] | None = field(default=None, kw_only=True)
    at_most: Number | Mapping[Member, Number] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        take_fields(self, Feature, f"Feature({self.name!r})")

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.in_, self.not_in, self.at_least, self.at_most)

    @property
    def subject(self) -> str:
        return f"feature {self.name!r}"

    def domain(self, scope: Scope) -> Any:
        return scope.stages if self.name == STAGE else scope.features[self.name]

    def contradictions(self, scope: Scope) -> Iterator[str]:
        if not scope.in_slot:
            yield f"acts in no slot, so it can have no guard on the feature {self.name!r}"
        elif self.name != STAGE and self.name not in scope.features:
            hint = "; Age guards the age" if self.name == AGE else ""
            yield f"guards the feature {self.name!r}; the features are: {', '.join((STAGE, *scope.features))}{hint}"
        else:
            yield from self.impossible(scope)

    def verdict(self, place: Place, scope: Scope) -> str | None:
        value, stage, domain = place.slot[self.name], place.slot[STAGE], self.domain(scope)
        if self.bounds.allows(value, domain, stage):
            return None
        return f"{self.name} {name_of(domain, value)}, {self.bounds.demand(domain, stage)}"

    def sentences(self) -> Iterator[str]:
        yield from self.bounds.told(self.name)

    def closes(self, scope: Scope) -> Iterator[InSlot]:
        for runs, stage in runs_by_stage(self.bounds, self.domain(scope), scope):
            yield InSlot(self.name, runs, stage)


@dataclass(frozen=True)
class Age(Bounded):
    """The age of the slot must lie between bounds.

    Args:
        at_least: the lowest age that does, or stage -> that age; a stage that is not named has no bound.
        at_most: the highest, in the same way.

    Raises:
        RulesError: a field of another type.
    """

    at_least: int | Mapping[Member, int] | None = field(default=None, kw_only=True)
    at_most: int | Mapping[Member, int] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        take_fields(self, Age, "Age")

    @property
    def bounds(self) -> Bounds:
        return Bounds(least=self.at_least, most=self.at_most)

    @property
    def subject(self) -> str:
        return AGE

    def contradictions(self, scope: Scope) -> Iterator[str]:
        if scope.in_slot:
            yield from self.impossible(scope)
        else:
            yield "acts in no slot, so it can have no guard on the age"

    def verdict(self, place: Place, scope: Scope) -> str | None:
        age, (least, most) = place.slot[AGE], self.bounds.ends(place.slot[STAGE])
        if least is not None and age < least:
            return f"age {age} < {least}"
        return f"age {age} > {most}" if most is not None and age > most else None

    def sentences(self) -> Iterator[str]:
        yield from self.bounds.told(AGE)

    def closes(self, scope: Scope) -> Iterator[InSlot]:
        for runs, stage in runs_by_stage(self.bounds, int, scope):
            yield InSlot(AGE, runs, stage)


def runs_by_stage(bounds: Bounds, domain: Any, scope: Scope) -> Iterator[tuple[Runs, int | None]]:
    """The runs for all stages, with None, and for each stage that has bounds of its own.

    Of stages in which the op does not act there are none: nothing need pass there, so there may be no run at all.
    """
    if bounds.by_stage and not scope.legal:
        return
    for stage in (*(stage for stage in bounds.by_stage if stage in scope.legal), None):
        if (runs := bounds.runs(domain, stage)) is not None:
            yield runs, stage


@dataclass(frozen=True)
class Count(Bounded):
    """The number of enabled slots in some stages must lie between bounds.

    Args:
        stages: the stages that count.
        of: "all" slots, or the "others", less the slot that is judged.
        kind: the kind of the slots that count; None for all.
        at_least: the lowest number that does, or stage of the judged slot -> that number; a stage that is not named has
            no bound.
        at_most: the highest, in the same way.

    Raises:
        RulesError: a field of another type.
    """

    stages: Sequence[IntEnum]
    of: Literal["all", "others"] = field(kw_only=True)
    kind: str | None = field(default=None, kw_only=True)
    at_least: int | Mapping[Member, int] | None = field(default=None, kw_only=True)
    at_most: int | Mapping[Member, int] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        take_fields(self, Count, "Count")

    @property
    def bounds(self) -> Bounds:
        return Bounds(least=self.at_least, most=self.at_most)

    @property
    def subject(self) -> str:
        return f"the number of {self._what}"

    @property
    def compares(self) -> object:
        return Count, frozenset(self.stages), self.of, self.kind

    @property
    def _what(self) -> str:
        kind = "" if self.kind is None else f" of kind {self.kind}"
        elsewhere = " elsewhere" if self.of == "others" else ""
        return f"{either(stage.name for stage in self.stages)}{kind}{elsewhere}"

    def contradictions(self, scope: Scope) -> Iterator[str]:
        if not self.stages:
            yield "counts slots in no stage"
        yield from scope.not_stages(self.stages)
        if self.kind is not None:
            yield from scope.not_a_kind(self.kind)
        if self.of == "others" and not scope.in_slot:
            yield 'acts in no slot, so it can only count of="all"'
        ends = [self.bounds.ends(stage) for stage in self.bounds.by_stage or (None,)]
        if any(most is not None and most < 0 for _, most in ends):
            yield f"can never be legal: {self.subject} is never below 0"
        elif scope.in_slot and self.of == "all" and self.kind is None and scope.legal:
            most_in = [self.bounds.ends(stage)[1] if stage in self.stages else None for stage in scope.legal]
            if all(most == 0 for most in most_in):
                yield f'can never be legal: the slot itself is one of {self.subject}; count of="others"'
        yield from self.impossible(scope)
        if all((least or 0) <= 0 and most is None for least, most in ends):
            yield f"asks {self.subject} to be at least 0, which it always is"

    def verdict(self, place: Place, scope: Scope) -> str | None:
        number = 0
        for slot, (row, enabled) in enumerate(zip(place.slots, place.enabled)):
            counted = enabled and row[0] in self.stages and not (self.of == "others" and slot == place.at)
            if counted and (self.kind is None or slot in place.kinds[self.kind]):
                number += 1
        stage = place.slot.get(STAGE)
        if self.bounds.allows(number, int, stage):
            return None
        return f"{number} {self._what}, {self.bounds.demand(int, stage)}"

    def sentences(self) -> Iterator[str]:
        yield from self.bounds.told(f"slots in {self._what}")

    def closes(self, scope: Scope) -> Iterator[InCount]:
        for runs, stage in runs_by_stage(self.bounds, int, scope):
            yield InCount(frozenset(self.stages), self.of == "others", runs, stage, kind=self.kind)


@dataclass(frozen=True)
class Row(Bounded):
    """A value of the environment, not of a slot, must be one of some values, or lie between bounds.

    Args:
        name: one of the rules' ``row_features``.
        in_: the values that do. None: all.
        not_in: the values that do not. A number that is none of an enum's values never does.
        at_least: the lowest value that does, a number or a member.
        at_most: the highest, in the same way.

    Raises:
        RulesError: a field of another type.
    """

    name: str
    in_: Sequence[Any] | None = field(default=None, kw_only=True)
    not_in: Sequence[Any] | None = field(default=None, kw_only=True)
    at_least: Number | None = field(default=None, kw_only=True)
    at_most: Number | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        take_fields(self, Row, f"Row({self.name!r})")

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.in_, self.not_in, self.at_least, self.at_most)

    @property
    def subject(self) -> str:
        return f"row {self.name!r}"

    def domain(self, scope: Scope) -> Any:
        return scope.rows[self.name]

    def contradictions(self, scope: Scope) -> Iterator[str]:
        if self.name not in scope.rows:
            yield f"guards the row {self.name!r}; row_features has: {', '.join(scope.rows) or 'none'}"
        else:
            yield from self.impossible(scope)

    def verdict(self, place: Place, scope: Scope) -> str | None:
        value, domain = place.row(self.name), scope.rows[self.name]
        value = bool(value) if domain is bool else value  # whatever integer stands for True
        if self.bounds.allows(value, domain, None):
            return None
        return f"{self.name} {name_of(domain, value)}, {self.bounds.demand(domain)}"

    def sentences(self) -> Iterator[str]:
        yield from self.bounds.told(self.name)

    def closes(self, scope: Scope) -> Iterator[InRow]:
        if (runs := self.bounds.runs(scope.rows[self.name])) is not None:
            yield InRow(self.name, runs)


@dataclass(frozen=True, init=False)
class Kind(Guard):
    """The slot must be of a kind, or of one of several.

    >>> import esper_masks as em
    >>> em.Kind("cpu", "gpu")
    Kind(names=('cpu', 'gpu'))

    Args:
        names: one or more of the rules' ``kinds``.

    Raises:
        RulesError: a name that is no string.
    """

    names: Sequence[str]

    def __init__(self, *names: str):
        object.__setattr__(self, "names", names)
        take_fields(self, Kind, "Kind")

    def contradictions(self, scope: Scope) -> Iterator[str]:
        if not self.names:
            yield "wants a slot of no kind"
        if not scope.in_slot:
            yield f"acts in no slot, so no slot can be of the kind {either(map(repr, self.names))}"
        for name in self.names:
            yield from scope.not_a_kind(name)

    def verdict(self, place: Place, scope: Scope) -> str | None:
        fits = any(place.at in place.kinds[name] for name in self.names)
        return None if fits else f"{place.where} is not of kind {either(self.names)}"

    def sentences(self) -> Iterator[str]:
        yield f"only in slots of kind {either(self.names)}"

    def closes(self, scope: Scope) -> Iterator[InKind]:
        yield InKind(tuple(self.names))
