"""Layouts with too many choices to unroll each: draws that are alike are one tensor, and the op is long."""

import pytest
import torch

import esper_masks as em
from esper_masks.actions.tables import layout_tables
from esper_masks.bench.lifecycles import grown
from esper_masks.distributions import forms
from tests.decision.inputs import composed, inputs
from tests.helpers import assert_near, random_states

# beyond 31 ops words are int64
CROWDED = {
    "ops": em.MaskEngine(grown(4, 40, 0)),
    "slots": em.MaskEngine(em.ruleset("esper-2026-06"), [f"s{i}" for i in range(16)]),
}
pytestmark = [pytest.mark.slow, pytest.mark.cpu]


@pytest.mark.parametrize("kind", CROWDED)
def test_compiled_equals_eager_and_the_ratio_is_one(kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "slots":
        request.getfixturevalue("traced")
    engine = CROWDED[kind]
    states, logits, noise = inputs(engine, 333)
    logits[7] = torch.nan
    step = em.DecisionStep(engine, validate="flag", mode="compiled")
    assert forms.is_crowded(layout_tables(engine.layout, engine.device).draws.unrolled)
    step.chunk_values = step._plain_needs.values[1] * 111  # three chunks
    made, expected, masks = step(states, logits, noise=noise), composed(engine, states, logits, noise), engine(states)
    assert (made.actions == expected.actions).all(-1).float().mean() > 0.98  # but where the noise falls on an edge
    assert made.actions[7].tolist() == [-1] * len(engine.layout.heads)
    acting = torch.arange(333) != 7
    assert masks.permits(made.actions)[acting].all()
    assert_near(made.raw_entropy, expected.raw_entropy, tolerance=1e-5)
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    scored = step.evaluate(leaves[0], masks, made.actions, head_entropies=True)
    assert torch.equal(scored.log_prob, made.log_prob)
    joint = em.FactoredCategorical(leaves[1], masks, validate="flag")
    assert_near(scored.log_prob, joint.log_prob(made.actions), tolerance=1e-5)
    assert_near(scored.head_entropies, joint.head_entropies(), tolerance=1e-5)
    assert torch.equal(scored.faults, joint.faults)
    (scored.log_prob + 2 * scored.raw_entropy).sum().backward()
    (joint.log_prob(made.actions) + 2 * joint.raw_entropy()).sum().backward()
    assert_near(leaves[0].grad, leaves[1].grad, tolerance=1e-5)


@pytest.mark.usefixtures("fresh_compiler")
def test_in_a_graph_of_ones_own() -> None:
    engine = CROWDED["ops"]
    masks = engine(random_states(engine, 64))
    logits = torch.randn(64, engine.layout.logit_size, requires_grad=True)
    action = em.FactoredCategorical(logits, masks).sample()

    def value(logits: torch.Tensor) -> torch.Tensor:
        joint = em.FactoredCategorical(logits, masks, validate="flag")
        return joint.log_prob(action) + joint.raw_entropy()

    made, expected = torch.compile(value, fullgraph=True)(logits), value(logits)
    assert_near(made.detach(), expected.detach(), tolerance=1e-5)
    [own], [other] = (torch.autograd.grad(of.sum(), logits) for of in (made, expected))
    assert_near(own, other, tolerance=1e-5)
