"""Where the tests of a program are closed, over a whole batch."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import and_, or_

import torch
from torch import Tensor

from esper_masks.masks.program import AnyTest, Bit, CountTest, EnvTest, KindTest, RowTest, SlotTest, Test, is_of_slots
from esper_masks.masks.stage_words import or_over_slots
from esper_masks.rules.bounds import outside
from esper_masks.rules.gates import Env


class Closing:
    """One batch as tests read it.

    Args:
        states: integer ``[..., slots, features]``.
        rows: name -> bool or integer ``[...]``.
        of_kind: bool ``[kinds, slots]``.
        total_seeds: integer ``[...]``, None where no limit applies.
        limit: of the seeds, an int or integer ``[...]``.

    Attributes:
        words: ``[..., slots]`` each; slots are counted that have a bit in them.
    """

    def __init__(
        self,
        states: Tensor,
        rows: Mapping[str, Tensor],
        of_kind: Tensor,
        total_seeds: Tensor | None,
        limit: int | Tensor,
    ):
        self.states, self.rows, self.of_kind = states, rows, of_kind
        self.total_seeds, self.limit = total_seeds, limit
        self.words: Sequence[Tensor] = ()
        self._unions: dict[int, Tensor] = {}
        self._numbers: dict[tuple[Bit, int | None], tuple[Tensor, Tensor]] = {}

    def union(self, at: int) -> Tensor:
        """The words of all slots ORed, ``[...]``."""
        if at not in self._unions:
            self._unions[at] = or_over_slots(self.words[at])
        return self._unions[at]

    def in_slots(self, test: Test) -> Tensor:
        """Where a test of slots is closed, bool ``[..., slots]``, or ``[slots]`` for a kind."""
        if isinstance(test, SlotTest):
            closed: Tensor = outside(self.states[..., test.column], test.runs)
        elif isinstance(test, CountTest):
            number, counted = self._number(test)
            closed = outside(number - counted.int() if test.others else number, test.runs)
        elif isinstance(test, KindTest):
            closed = ~self.of_kind[test.kinds]
        else:
            assert isinstance(test, AnyTest)
            return reduce(and_, [reduce(or_, map(self._for_slots, group)) for group in test.groups])
        if not isinstance(test, KindTest) and test.stage is not None:
            closed = closed & (self.states[..., 0] == test.stage)
        return closed if test.unless is None else closed & ~self.rows[test.unless].unsqueeze(-1)

    def _for_slots(self, test: Test) -> Tensor:
        return self.in_slots(test) if is_of_slots(test) else self._in_env(test).unsqueeze(-1)

    def in_envs(self, test: Test) -> Tensor | None:
        """Where a test of environments is closed, bool ``[...]``; None where it is closed nowhere."""
        if isinstance(test, EnvTest):
            union = None if test.bit is None else self.union(test.bit[0])
            env = Env(union, self.total_seeds, self.limit, each=isinstance(self.limit, Tensor))
            closed: Tensor | None = test.closed(env, 0 if test.bit is None else test.bit[1])
            return closed
        if isinstance(test, AnyTest):
            return reduce(and_, [reduce(or_, map(self._in_env, group)) for group in test.groups])
        return self._in_env(test)

    def _in_env(self, test: Test) -> Tensor:
        if isinstance(test, RowTest):
            closed: Tensor = outside(self.rows[test.name], test.runs)
        else:
            assert isinstance(test, CountTest)
            closed = outside(self._number(test)[0].squeeze(-1), test.runs)
        return closed if test.unless is None else closed & ~self.rows[test.unless]

    def _number(self, test: CountTest) -> tuple[Tensor, Tensor]:
        """How many slots count, int32 ``[..., 1]``, and which, bool ``[..., slots]``."""
        key = test.bit, test.kinds
        if key not in self._numbers:
            at, bit = test.bit
            counted = (self.words[at] & bit) != 0
            if test.kinds is not None:
                counted = counted & self.of_kind[test.kinds]
            self._numbers[key] = counted.sum(-1, keepdim=True, dtype=torch.int32), counted
        return self._numbers[key]
