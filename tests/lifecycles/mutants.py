"""Rule sets with one thing changed: a bound moved by one, a value or a guard taken away. A table must notice each."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import esper_masks as em

Mutant = tuple[str, em.MaskRules]  # what was changed, and the rules


def mutants(rules: em.MaskRules) -> Iterator[Mutant]:
    """All mutants that are rules at all; those that contradict themselves are noticed by that."""
    for name in ("op_rules", "heads"):
        parts = getattr(rules, name)
        for at, part in enumerate(parts):
            for what, made in _of_part(rules, part):
                try:
                    yield f"{part.name}: {what}", replace(rules, **{name: (*parts[:at], made(), *parts[at + 1 :])})
                except em.RulesError:
                    continue


def _of_part(rules: em.MaskRules, part: Any) -> Iterator[tuple[str, Any]]:
    """What can be changed in an op or a head, each as a function, since the part may be refused as well."""
    stages = _stages(rules, part)
    when = getattr(part, "when", ())
    for at, guard in enumerate(when):
        yield f"without {guard}", lambda at=at: replace(part, when=(*when[:at], *when[at + 1 :]))
        for what, new in _of_guard(guard, stages):
            yield what, lambda at=at, new=new: replace(part, when=(*when[:at], new, *when[at + 1 :]))
    if isinstance(part, em.SlotHead):
        if part.distinct:
            yield "the same slot, too", lambda: replace(part, distinct=False)
        if part.moves:
            yield "without moves", lambda: replace(part, moves={})
        return
    if isinstance(part, em.Head):
        for stage, table in _of_choices(part.by_stage, part.choices):
            yield f"by_stage[{stage}]", lambda table=table: replace(part, by_stage=table)
        pairs = part.feature_choices
        for at, (feature, by_value) in enumerate(pairs):
            for value, table in _of_choices(by_value, part.choices):
                new = (*pairs[:at], (feature, table), *pairs[at + 1 :])
                yield f"{feature} {value}", lambda new=new: replace(part, by_feature=new)


def _stages(rules: em.MaskRules, part: Any) -> Collection[int]:
    """The stages in which guards are looked at: bounds in others never matter."""
    if isinstance(part, em.Op):
        return rules.legal_stages(part.id)
    stages = set(getattr(part, "moves", ())) or set(rules.stages)
    for guard in getattr(part, "when", ()):
        if isinstance(guard, em.Feature) and guard.name == "stage":
            stages &= set(guard.in_ or stages)
    return stages


def _of_guard(guard: Any, stages: Collection[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(guard, em.Unless):
        yield f"without unless {guard.name}", guard.guard
        yield from ((what, replace(guard, guard=new)) for what, new in _of_guard(guard.guard, stages))
        return
    if isinstance(guard, em.Any):
        for at, inner in enumerate(guard.guards):
            others = (*guard.guards[:at], *guard.guards[at + 1 :])
            yield f"any without {inner}", em.Any(*others) if len(others) > 1 else others[0]
            for what, new in _of_guard(inner, stages):
                yield f"any with {what}", em.Any(*guard.guards[:at], new, *guard.guards[at + 1 :])
        return
    for bound in ("at_least", "at_most"):
        value = getattr(guard, bound, None)
        for step in (-1, 1):
            if isinstance(value, Mapping):
                for stage in set(value) & set(stages):
                    moved = {**value, stage: value[stage] + step}
                    yield f"{guard}: {bound}[{stage.name}] {step:+d}", replace(guard, **{bound: moved})
            elif value is not None:
                yield f"{guard}: {bound} {step:+d}", replace(guard, **{bound: value + step})
    for values in ("in_", "not_in"):
        given = getattr(guard, values, None) or ()
        for value in given if len(given) > 1 else ():
            left = tuple(one for one in given if one != value)
            yield f"{guard}: {values} without {value!r}", replace(guard, **{values: left})
    if isinstance(guard, em.Count):
        named = set(guard.bounds.by_stage) or set(stages)
        if set(guard.stages) & set(stages) & named:  # else the slot that is judged never counts
            yield f"{guard}: of turned over", replace(guard, of="all" if guard.of == "others" else "others")
        if guard.kind is not None:
            yield f"{guard}: of any kind", replace(guard, kind=None)
        for stage in guard.stages if len(guard.stages) > 1 else ():
            left = tuple(one for one in guard.stages if one != stage)
            yield f"{guard}: without {stage.name}", replace(guard, stages=left)


def _of_choices(table: Mapping[Any, Any], choices: Any) -> Iterator[tuple[Any, dict[Any, Any]]]:
    """Tables with one choice more, or one less."""
    for key, given in table.items():
        for choice in choices:
            left = tuple(one for one in choices if (one in given) != (one == choice))
            yield f"{key} {choice}", {**table, key: left}
