"""Guards made of other guards: ``Unless`` waives one, ``Any`` wants one of several. Neither stands within the other."""

import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from esper_masks.rules.fields import take_fields
from esper_masks.rules.guards import Age, Count, Feature, Kind, Row
from esper_masks.rules.judged import Guard, InAny, Place, Scope

PLAIN = (Feature, Age, Count, Row, Kind)  # what may stand in an Unless or an Any


@dataclass(frozen=True)
class Unless(Guard):
    """Another guard, which a switch or a true value of the environment waives.

    Args:
        name: a switch of False and True, or one of the rules' ``row_features`` that is a bool.
        guard: the guard, neither ``Unless`` nor ``Any``.

    Raises:
        RulesError: a field of another type.
    """

    name: str
    guard: Guard

    def __post_init__(self) -> None:
        take_fields(self, Unless, f"Unless({self.name!r})")

    def contradictions(self, scope: Scope) -> Iterator[str]:
        if not isinstance(self.guard, PLAIN):
            yield f"has an {type(self.guard).__name__} within an Unless; only plain guards may stand there"
        if self.name in scope.rows:
            if scope.rows[self.name] is not bool:
                yield f"is waived by the row {self.name!r}, which must be a bool"
        else:
            rows = ", ".join(name for name, domain in scope.rows.items() if domain is bool) or "none"
            yield from (f"{reason}; bool rows: {rows}" for reason in scope.not_a_switch(self.name))
        yield from self.guard.contradictions(scope)

    def verdict(self, place: Place, scope: Scope) -> str | None:
        if place.row(self.name):
            return None
        reason = self.guard.verdict(place, scope)
        return None if reason is None else f"{reason}, unless {self.name}"

    def sentences(self) -> Iterator[str]:
        yield from (f"{sentence}, unless {self.name}" for sentence in self.guard.sentences())

    def closes(self, scope: Scope) -> Iterator[typing.Any]:
        for part in self.guard.closes(scope):
            yield part._replace(unless=self.name)


@dataclass(frozen=True, init=False)
class Any(Guard):
    """One of several guards must pass.

    >>> import esper_masks as em
    >>> em.Any(em.Feature("licence", in_=(False,)), em.Row("licences_left", at_least=1)).sentences().__next__()
    'licence False, or licences_left >= 1'

    Args:
        guards: two or more, none of them ``Unless`` or ``Any``.

    Raises:
        RulesError: something that is no guard.
    """

    guards: Sequence[Guard]

    def __init__(self, *guards: Guard):
        object.__setattr__(self, "guards", guards)
        take_fields(self, Any, "Any")

    def contradictions(self, scope: Scope) -> Iterator[str]:
        if len(self.guards) < 2:
            yield "has an Any of fewer than two guards"
        for guard in self.guards:
            if not isinstance(guard, PLAIN):
                yield f"has an {type(guard).__name__} within an Any; only plain guards may stand there"
            yield from guard.contradictions(scope)

    def verdict(self, place: Place, scope: Scope) -> str | None:
        reasons = []
        for guard in self.guards:
            if (reason := guard.verdict(place, scope)) is None:
                return None
            reasons.append(reason)
        return "; or ".join(reasons)

    def sentences(self) -> Iterator[str]:
        yield ", or ".join(" and ".join(guard.sentences()) for guard in self.guards)

    def closes(self, scope: Scope) -> Iterator[InAny]:
        parts = tuple(tuple(guard.closes(scope)) for guard in self.guards)
        if all(parts):  # else one of them lets everything pass
            yield InAny(parts)


def resolved(guards: Iterable[Guard], setting: Mapping[str, typing.Any]) -> tuple[Guard, ...]:
    """Guards once switches are set: those that a switch waives are gone, and no other names a switch."""
    kept: list[Guard] = []
    for guard in guards:
        if isinstance(guard, Unless) and guard.name in setting:
            kept += [] if setting[guard.name] else [guard.guard]
        else:
            kept.append(guard)
    return tuple(kept)


def plain_guards(guards: Iterable[Guard]) -> Iterator[Guard]:
    """The guards themselves, and for those made of others, these."""
    for guard in guards:
        if isinstance(guard, Any):
            yield from guard.guards
        else:
            yield guard.guard if isinstance(guard, Unless) else guard
