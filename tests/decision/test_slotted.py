"""Heads by slot of the rules themselves, and second slots: a step is its pieces, in a buffer and out of it."""

from typing import Any

import pytest
import torch
from torch import Tensor

import esper_masks as em
from esper_masks.decision.packing import words_for
from tests.helpers import as_bools, assert_near, assert_same_masks, random_states, seeded
from tests.masks.hand import BERTHS, Act
from tests.pods import assert_as_legal

BATCH = 60
CASES = ["rules", "room", "range", "both", "logits"]
MODES_AND_CASES = [
    *(("eager", case) for case in CASES),
    *(pytest.param("traced", case, marks=pytest.mark.slow) for case in ("rules", "both", "logits")),
]


@pytest.fixture
def mode(request: pytest.FixtureRequest) -> str:
    """Of a step. Traced, graphs are made as for compiled code, and not built."""
    if request.param == "traced":
        request.getfixturevalue("traced")
    return "eager" if request.param == "eager" else "compiled"


def given_in(case: str, seed: int = 0) -> dict[str, Any]:
    """A row value, which guards read, and what a caller leaves of heads by slot, of a second slot among them."""
    generator = seeded(seed)
    given: dict[str, Any] = {"row": {"night": torch.rand(BATCH, generator=generator) < 0.5}}
    room, reach = (torch.rand(BATCH, 3, 3, generator=generator) < 0.7 for _ in range(2))
    if case in ("room", "both"):
        given["head_masks"] = {"node": room}
    if case in ("range", "both"):
        given["restrict"] = {"other_by_slot": reach}
    return given


def arguments(engine: em.MaskEngine, case: str, seed: int = 0) -> dict[str, Any]:
    generator, layout = seeded(seed), engine.layout
    states = random_states(engine, BATCH, seed, stages=range(3))
    states[..., 2] = torch.tensor([0, 3, 90_000, 7])[torch.randint(0, 4, (BATCH, 3), generator=generator)]
    logits: Any = torch.randn(BATCH, layout.logit_size, generator=generator)
    if case == "logits":
        logits = dict(zip(layout.head_names, logits.split([head.size for head in layout.heads], -1)))
        logits |= {name: torch.randn(BATCH, 3, 3, generator=generator) for name in ("node", "other")}
    noise = torch.rand(BATCH, len(layout.heads), generator=generator)
    return {"states": states, "logits": logits, "noise": noise, **given_in(case, seed)}


def assert_scores(scored: em.Evaluation, joint: em.FactoredCategorical, actions: Tensor) -> None:
    assert_near(scored.log_prob, joint.log_prob(actions), 1e-5)
    assert_near(scored.raw_entropy, joint.raw_entropy(), 1e-5)
    assert_near(scored.head_entropies, joint.head_entropies(), 1e-5)


@pytest.mark.parametrize(("mode", "case"), MODES_AND_CASES, indirect=["mode"])
def test_a_step_is_its_pieces_in_a_buffer_and_out_of_it(mode: Any, case: str) -> None:
    engine = em.MaskEngine(BERTHS)
    by_slot = ("node", "other") if case == "logits" else ()
    step = em.DecisionStep(engine, mode=mode, by_slot=by_slot)
    names = {keyword: tuple(given_in(case).get(keyword, ())) for keyword in ("head_masks", "restrict")}
    buffer = em.RolloutBuffer(engine, 3, BATCH, **names)
    for at in range(2):
        given = arguments(engine, case, seed=at)
        states, logits, noise = (given.pop(name) for name in ("states", "logits", "noise"))
        masks = engine(states, **given)
        assert_same_masks(step.masks(states, **given), as_bools(masks))
        joint = em.FactoredCategorical(logits, masks, by_slot=by_slot)
        made = step(states, logits, noise=noise, **given)
        assert torch.equal(made.actions, joint.sample(noise=noise))
        assert masks.permits(made.actions).all()
        drawn = set(made.actions[:, -1].tolist())
        assert {Act.BIND, Act.SWAP, Act.DRAIN} <= drawn, "the rows choose too little"
        assert_same_masks(em.ActionMasks.from_packed(engine.layout, made.packed), as_bools(masks))
        step(states, logits, noise=noise, out=buffer.at(at), **given)
        assert torch.equal(buffer.actions[at].long(), made.actions)
        assert torch.equal(buffer.log_prob[at], made.log_prob)
        assert_as_legal(buffer.masks(at), masks)
        stored = buffer.minibatch(torch.arange(at * BATCH, (at + 1) * BATCH))
        scored = step.evaluate(logits, stored.masks, stored.actions, active=stored.active, head_entropies=True)
        assert_scores(scored, joint, made.actions)
        assert torch.equal(scored.log_prob, made.log_prob)
        assert not scored.faults.any()
        other = (made.actions + 1) % torch.tensor([head.size for head in engine.layout.heads])
        faults = step.evaluate(logits, stored.masks, other, head_entropies=True).faults
        assert torch.equal(faults != 0, ~masks.permits(other))
    assert buffer.active.tolist() == [[True] * BATCH] * 2 + [[False] * BATCH]
    assert buffer.masks(2).forced.all()


def test_the_words_that_such_rules_need() -> None:
    layout = em.MaskEngine(BERTHS).layout
    plain = 3 + 1 + 3 + 3  # slots; DRAIN, which needs none; node and other, slot by slot
    assert words_for(layout) == words_for(layout, ("node", "other")) == plain
    assert words_for(layout, restrict=("op",)) == plain + 2  # the slot mask; pace
