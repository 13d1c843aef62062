"""What a number has to be: among some values, or between bounds, which may differ by stage.

For the engine it comes down to one question: does the number lie in one of some *runs*? A run is a pair of its ends,
both included, None for no end. Nothing here imports torch: ``outside`` serves the tensors of a batch and the plain
numbers of one environment.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from esper_masks.rules.fields import Member, Number, either, is_a, name_of, show, told_values, values_of
from esper_masks.rules.names import INT32

Run = tuple[int | None, int | None]
Runs = tuple[Run, ...]
Bound = Number | Mapping[Member, Number] | None


def outside(value: Any, runs: Runs) -> Any:
    """Whether a number, or each of a tensor, lies in none of the runs, of which there is at least one."""
    closed = _beyond(value, *runs[0])
    for run in runs[1:]:
        closed = closed & _beyond(value, *run)
    return closed


def _beyond(value: Any, least: int | None, most: int | None) -> Any:
    if least == most:
        return value != least
    if most is None:
        return value < least
    return value > most if least is None else (value < least) | (value > most)


class Bounds(NamedTuple):
    """What a number has to be: among some values, and between bounds, each of which may differ by stage."""

    among: Sequence[Any] | None = None
    never: Sequence[Any] | None = None
    least: Bound = None
    most: Bound = None

    @property
    def by_stage(self) -> tuple[IntEnum, ...]:
        """The stages that have bounds of their own."""
        named = [stage for bound in (self.least, self.most) if isinstance(bound, Mapping) for stage in bound]
        return tuple(dict.fromkeys(named))

    def ends(self, stage: int | None) -> Run:
        """The bounds in a stage."""
        least, most = (None if end is None else int(end) for end in self._ends(stage))
        return least, most

    def _ends(self, stage: int | None) -> tuple[Any, Any]:
        """The same as they were given: of an IntEnum they may be members."""
        least, most = (b.get(stage) if isinstance(b, Mapping) else b for b in (self.least, self.most))
        return least, most

    @property
    def numbers(self) -> tuple[int, ...]:
        """All numbers that are named."""
        ends = [end for stage in (None, *self.by_stage) for end in self.ends(stage) if end is not None]
        return (*ends, *map(int, self.among or ()), *map(int, self.never or ()))

    def runs(self, domain: Any, stage: int | None = None) -> Runs | None:
        """The runs of numbers that are allowed in a stage; None where all are."""
        least, most = self.ends(stage)
        known = values_of(domain)
        if self.among is not None or (self.never is not None and known is not None):
            values = known or () if self.among is None else self.among
            never = self.never or ()
            kept = sorted({int(v) for v in values if v not in never and _within(int(v), least, most)})
            runs: list[list[int]] = []
            for value in kept:
                if runs and value == runs[-1][1] + 1:
                    runs[-1][1] = value
                else:
                    runs.append([value, value])
            return tuple((first, last) for first, last in runs)
        holes = sorted({int(value) for value in self.never or () if _within(int(value), least, most)})
        starts = [least, *(hole + 1 for hole in holes)]
        stops = [*(hole - 1 for hole in holes), most]
        ends = [(INT32[0] if a is None else a, INT32[-1] if b is None else b) for a, b in zip(starts, stops)]
        made = tuple((a, b) for a, b, (first, last) in zip(starts, stops, ends) if first <= last)
        return None if made == ((None, None),) else made

    def allows(self, value: int, domain: Any, stage: int | None) -> bool:
        """Whether a number is allowed, by plain comparisons: the side of the oracle."""
        least, most = self.ends(stage)
        known = values_of(domain)
        if self.among is not None and value not in self.among:
            return False
        if self.never is not None and (value in self.never or (known and value not in known)):
            return False
        return (least is None or value >= least) and (most is None or value <= most)

    def possible(self, domain: Any) -> tuple[str, ...] | None:
        """The names of the values that a domain knows and ``among`` and ``never`` leave; None where neither says."""
        known = values_of(domain)
        if self.never is None or known is None:
            return None if self.among is None else tuple(show(v) for v in self.among if v not in (self.never or ()))
        return tuple(
            name_of(domain, v) for v in known if v not in self.never and (self.among is None or v in self.among)
        )

    def demand(self, domain: Any, stage: int | None = None) -> str:
        """What is needed in a stage, verb and all."""
        excludes = self.never is not None and self.possible(domain) is None
        return f"{'must be' if excludes else 'needs'} {self.needs(domain, stage)}"

    def needs(self, domain: Any, stage: int | None = None) -> str:
        """What a number must be in a stage, behind that verb."""
        least, most = self._ends(stage)
        words = []
        if (possible := self.possible(domain)) is not None:
            words.append(either(possible))
        elif self.never is not None:
            values = either(map(show, self.never)).replace(" or ", " nor ")
            words.append(f"neither {values}" if len(self.never) > 1 else f"other than {values}")
        words += [] if least is None else [f"at least {show(least)}"]
        words += [] if most is None else [f"at most {show(most)}"]
        return " and ".join(words)

    def told(self, name: str) -> Iterator[str]:
        """Sentences for ``show``."""
        values = self._replace(least=None, most=None)
        if values.among is not None or values.never is not None:
            yield f"{name} {values.needs(int)}"
        for sign, bound in ((">=", self.least), ("<=", self.most)):
            if isinstance(bound, Mapping):
                yield from (f"{name} {sign} {show(value)} in {stage.name}" for stage, value in bound.items())
            elif bound is not None:
                yield f"{name} {sign} {show(bound)}"

    def contradictions(self, what: str, domain: Any) -> Iterator[str]:
        """Reasons why it asks for nothing, or for what a domain does not have."""
        if self.among is None and self.never is None and self.least is None and self.most is None:
            yield f"guards {what} by nothing; give in_, not_in, at_least or at_most"
        ends = [end for stage in (None, *self.by_stage) for end in self._ends(stage) if isinstance(end, IntEnum)]
        for value in dict.fromkeys((*(self.among or ()), *(self.never or ()), *ends)):
            if not is_a(value, domain):
                yield f"guards {what} by {show(value)}, which it never is; it is {told_values(domain)}"


def _within(value: int, least: int | None, most: int | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)
