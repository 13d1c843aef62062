"""Hypothesis strategies: everything random in the tests is drawn here."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

import esper_masks as em

INT32 = st.integers(-(2**31), 2**31 - 1)


@dataclass
class Case:
    """An engine and one batch of inputs for it."""

    engine: em.MaskEngine
    states: Tensor
    total_seeds: Tensor
    max_seeds: int | Tensor
    enabled: Tensor | None
    switches: dict[str, object]

    def masks(self) -> em.ActionMasks:
        return self.engine(self.states, self.total_seeds, max_seeds=self.max_seeds, enabled=self.enabled)


@st.composite
def cases(draw: st.DrawFn, max_slots: int = 64, max_batch: int = 4) -> Case:
    """Any rule set, switches, 1 to 64 slots, any batch, integers of any size, every optional argument in every form."""
    rules = em.ruleset(draw(st.sampled_from(em.rulesets())))
    switches = {name: draw(st.sampled_from(values)) for name, values in rules.switches.items()}
    slots = draw(st.one_of(st.integers(1, 4), st.integers(1, max_slots)))
    batch = draw(st.integers(0, max_batch))
    engine = em.MaskEngine(rules, [f"s{i}" for i in range(slots)], **switches)
    stage = st.one_of(st.integers(-2, 12), st.integers(-2, 99), INT32)
    age = st.one_of(st.integers(-1, 7), INT32)
    row = st.tuples(stage, age, *(st.integers(-1, 3) for _ in rules.features))
    values = draw(st.lists(row, min_size=batch * slots, max_size=batch * slots))
    states = torch.tensor(values, dtype=torch.int32).reshape(batch, slots, len(rules.feature_names))
    states = draw(st.sampled_from(LAYOUTS))(states)
    totals = torch.tensor(draw(st.lists(st.integers(0, 4), min_size=batch, max_size=batch)), dtype=torch.int32)
    limits = st.lists(st.integers(-1, 4), min_size=batch, max_size=batch).map(
        lambda v: torch.tensor(v, dtype=torch.int64)
    )
    booleans = st.booleans()
    enabled = st.one_of(
        st.none(),
        st.lists(booleans, min_size=slots, max_size=slots).map(lambda v: torch.tensor(v, dtype=torch.bool)),
        st.lists(booleans, min_size=batch * slots, max_size=batch * slots).map(
            lambda v: torch.tensor(v, dtype=torch.bool).reshape(batch, slots)
        ),
    )
    return Case(engine, states, totals, draw(st.one_of(st.integers(-1, 4), limits)), draw(enabled), switches)


def batch_last(states: Tensor) -> Tensor:
    return states.permute(2, 1, 0).contiguous().permute(2, 1, 0)


def strided(states: Tensor) -> Tensor:
    """Every other row and column of a larger tensor, from an odd offset."""
    batch, slots, features = states.shape
    wide = torch.full((2 * batch + 1, 2 * slots + 1, 3 * features), -7, dtype=states.dtype)
    wide[1::2, 1::2, 2::3] = states
    return wide[1::2, 1::2, 2::3]


LAYOUTS = (lambda s: s, batch_last, strided, lambda s: s.long())
