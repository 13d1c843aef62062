"""What ``verify`` tries: environments in which an op, or the choices of a head, could differ between engine and oracle.

A verdict is a conjunction. Each plain guard reads one number of the slot that is judged, of the environment, or of how
many other slots are in some stages, and may read the stage beside it and a value that waives it: three things at most.
So what matters to a subject are a few *factors*: the stage, the columns and rows that it reads, how many others are in
the stages that it counts, whether another slot can be its target, the kind of the slot. A guard that is wrong shows
where all others pass. So environments are tried that differ in up to three factors, each over all its values, from one
in which the subject is legal, and in more than three as long as that makes no more than ``MANY`` environments: a
subject of few factors is tried in all their combinations. What it does not read is held at two values.

An ``Any`` reads more. A mistake in one of its guards shows where all the others fail, so one of more than three guards,
or of more than three factors, is tried in full only where that makes no more than ``MANY`` environments. Beyond that
verify relies on whole environments at random.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from esper_masks.inspection.subjects import ROWS, Counted, Slots, Subject, as_row, numbers_of
from esper_masks.reference import Situation
from esper_masks.rules import SlotHead
from esper_masks.rules.judged import Guard
from esper_masks.rules.names import STAGE

MANY = 20_000  # environments of a subject, unless three factors at a time make more
TOGETHER = 3  # factors that differ at the same time
NOWHERE = -1  # a stage that is none: such a slot counts nowhere and is nothing's target
SEEDS = ((1, 2), (2, 2), (3, 2), (3, 0))  # so far, and their limit, on all sides of where it changes a verdict
WHERE, ENABLED, LIMIT, REST = "where", "enabled", "limit", "rest"  # factors that are no column, row or count


class Factor(NamedTuple):
    """Something in which environments differ."""

    what: Any  # a column, a row, what is counted, a head of slots, or one of the words above
    values: tuple[Any, ...]


class Others(NamedTuple):
    """Some other slots, a value of a factor."""

    number: int
    stage: int
    enabled: bool
    group: int


class Environments(NamedTuple):
    """A batch of environments."""

    states: Tensor  # int32 [envs, slots, features]
    enabled: Tensor  # bool [envs, slots]
    row: dict[str, Tensor]  # int32 [envs]
    limits: Tensor  # int32 [envs, 2]: seeds so far, and their limit
    where: Tensor  # int64 [envs]: the slot that is judged


@dataclass
class Trials:
    """The environments of a subject.

    Args:
        subject: it.
        slots: the slots there are.
        tried: values of columns and rows, see ``tried_values``.
        chosen: head of slots -> what a slot among its choices holds, and of which group it is.

    Attributes:
        factors: in which environments differ.
        open: for each factor the number of a value, of an environment in which the subject is legal; None: not found.
        rows: for each environment the values of the factors, by number: int64 ``[environments, factors]``.
    """

    subject: Subject
    slots: Slots
    tried: Mapping[str, Sequence[int]]
    chosen: Mapping[str, tuple[Sequence[int], int]]
    factors: list[Factor] = field(init=False)
    open: tuple[int, ...] | None = field(init=False)
    rows: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.names = self.subject.rules.feature_names
        self.factors = list(self._factors())
        self.open = self._most_open()
        self.rows = torch.tensor(self._around(self.open or (0,) * len(self.factors)))

    def held(self) -> tuple[list[int], int]:
        """What the slot that is judged holds in the open environment, and of which group it is."""
        one = self.environments(torch.tensor([self.open]))
        slot = int(one.where)
        return one.states[0, slot].tolist(), next(at for at, group in enumerate(self.slots.groups) if slot in group)

    # -- factors ------------------------------------------------------------------------------------------------------

    def _factors(self) -> Iterator[Factor]:
        subject, groups = self.subject, self.slots.groups
        for name in subject.reads():
            if name.startswith(ROWS) or not subject.free:
                yield Factor(name, tuple(self.tried[name]))
        for counted, guards in subject.counts.items():
            yield Factor(counted, tuple(self._others(counted, guards)))
        for head in subject.targets:
            yield Factor(head, (True, False))
        firsts = [group[0] for group in groups] if subject.asks_for_kinds else [groups[0][0]]
        yield Factor(WHERE, (*firsts, groups[0][-1]))
        yield Factor(ENABLED, (True, False))
        if subject.limited:
            yield Factor(LIMIT, SEEDS)
        yield Factor(REST, (False, True))

    def _others(self, counted: Counted, guards: Sequence[Guard]) -> Iterator[Others]:
        stages, kind = counted
        numbers, first = numbers_of(guards), min(stages)
        right = next(at for at, kinds in enumerate(self.slots.kinds_of) if kind is None or kind in kinds)
        yield from (Others(number, first, True, right) for number in numbers)
        every = (*sorted(self.subject.rules.stages), NOWHERE)
        yield from (Others(numbers[-1], stage, True, right) for stage in every if stage != first)
        yield Others(numbers[-1], first, False, right)
        wrong = [at for at, kinds in enumerate(self.slots.kinds_of) if kind is not None and kind not in kinds]
        yield from (Others(numbers[-1], first, True, group) for group in wrong[:1])

    def _most_open(self) -> tuple[int, ...] | None:
        """The values of an environment in which the subject is legal."""
        for stage in sorted(self.subject.legal):
            options = [self._most_passing(factor, stage) for factor in self.factors]
            combined = islice(product(*options), MANY)
            while some := list(islice(combined, 256)):
                for values, (one, slot) in zip(some, self.situations(torch.tensor(some))):
                    if self.subject.is_legal(one, slot):
                        return values
        return None

    def _most_passing(self, factor: Factor, stage: int) -> list[int]:
        """The values of a factor, by number, with which the subject is most likely to be legal in a stage."""
        if factor.what == STAGE:
            return [factor.values.index(stage)]
        if factor.what in (ENABLED, REST):
            return [0]
        if factor.what not in self.tried:
            return list(range(len(factor.values)))
        passed = [self.subject.passing(factor.what, value, stage) for value in factor.values]
        best = [at for at, number in enumerate(passed) if number == max(passed)]
        return sorted(best, key=lambda at: abs(factor.values[at]))[:2]

    def _around(self, base: Sequence[int]) -> list[tuple[int, ...]]:
        """Values that differ from the base in up to three factors, or in more if that makes no more than ``MANY``."""
        sizes = [len(factor.values) for factor in self.factors]
        together = min(TOGETHER, len(sizes))
        while together < len(sizes) and how_many(sizes, together + 1) <= MANY:
            together += 1
        found = [tuple(base)]
        for number in range(1, together + 1):
            for which in combinations(range(len(sizes)), number):
                others = [[at for at in range(sizes[factor]) if at != base[factor]] for factor in which]
                for values in product(*others):
                    differing = dict(zip(which, values))
                    found.append(tuple(differing.get(at, value) for at, value in enumerate(base)))
        return found

    # -- environments -------------------------------------------------------------------------------------------------

    def values(self, what: Any, rows: Tensor) -> list[Any]:
        """The values of one factor in some environments."""
        at = [factor.what for factor in self.factors].index(what)
        return [self.factors[at].values[value] for value in rows[:, at].tolist()]

    def environments(self, rows: Tensor) -> Environments:
        """What environments hold, for the values of their factors by number."""
        count, rest = len(rows), torch.tensor(self.values(REST, rows))
        states = torch.zeros(count, len(self.slots.ids), len(self.names), dtype=torch.int32)
        states[..., 0] = NOWHERE
        enabled = torch.ones(states.shape[:-1], dtype=torch.bool)

        def column(name: str) -> Tensor:
            if name in [factor.what for factor in self.factors]:
                return torch.tensor(self.values(name, rows), dtype=torch.int32)
            return torch.where(rest, next((value for value in reversed(self.tried[name]) if value > 0), 1), 0).int()

        offset = 1  # of the slots of a group that are others; its first and its last are judged
        for at, factor in enumerate(self.factors):
            if factor.values and isinstance(factor.values[0], Others):
                for value, others in enumerate(factor.values):
                    here = (rows[:, at] == value).nonzero()
                    block = torch.tensor(self.slots.groups[others.group][offset : offset + others.number])
                    states[here, block.long(), 0] = others.stage
                    enabled[here, block.long()] = others.enabled
                offset += max(others.number for others in factor.values)
            elif isinstance(factor.what, SlotHead):
                held, group = self.chosen[factor.what.name]
                slot = self.slots.groups[group][-2 - self.subject.targets.index(factor.what)]
                states[(rows[:, at] == 0).nonzero().squeeze(-1), slot] = torch.tensor(held, dtype=torch.int32)
        where, on = torch.tensor(self.values(WHERE, rows)), torch.tensor(self.values(ENABLED, rows))
        each = torch.arange(count)
        states[each, where] = torch.stack([column(name) for name in self.names], -1)
        enabled[each, where] = on
        if self.subject.free:
            enabled &= on.unsqueeze(-1)
        limits = self.values(LIMIT, rows) if self.subject.limited else [(0, 0)] * count
        row = {name: column(as_row(name)) for name in self.subject.rules.row_features}
        return Environments(states, enabled, row, torch.tensor(limits, dtype=torch.int32), where)

    def situations(self, rows: Tensor) -> Iterator[tuple[Situation, int]]:
        """The same environments for the oracle, each with the slot that is judged."""
        states, enabled, row, limits, where = self.environments(rows)
        named, numbers = {name: values.tolist() for name, values in row.items()}, self.slots.numbers
        parts = (states.tolist(), enabled.tolist(), limits.tolist(), where.tolist())
        for at, (held, on, (total, limit), slot) in enumerate(zip(*parts)):
            values = {name: of_all[at] for name, of_all in named.items()}
            one = Situation(self.subject.rules, held, on, total, limit, row=values, kinds=numbers)
            yield one, slot


def how_many(sizes: Sequence[int], together: int) -> int:
    """How many combinations of values differ from one of them in so many factors at most."""
    ways = [1] + [0] * together  # that differ in none, in one, ...
    for size in sizes:
        ways = [way + (ways[at - 1] * (size - 1) if at else 0) for at, way in enumerate(ways)]
    return sum(ways)
