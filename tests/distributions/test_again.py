"""What a gradient keeps in code that a user compiles: inputs, and little of what was computed from them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import esper_masks as em
from esper_masks.compiled import torch_private
from tests.helpers import assert_near
from tests.programs import ENGINES, inputs

pytestmark = pytest.mark.usefixtures("fresh_compiler")

BATCH = 64
PARTITIONED = "aot_eager_decomp_partition"  # as inductor divides it into forward and backward, and nothing built
ASKED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "log_prob": lambda dist, action: dist.log_prob(action),
    "raw_entropy": lambda dist, action: dist.raw_entropy(),
    "head_entropies": lambda dist, action: dist.head_entropies(),
    "faults": lambda dist, action: dist.log_prob_and_faults(action)[0],
}
UPDATE = ("log_prob", "raw_entropy")
ORDERS = (UPDATE, UPDATE[::-1], (*UPDATE, "head_entropies"), ("head_entropies", "raw_entropy", "faults"))


def arguments(kind: str) -> tuple[Tensor, em.ActionMasks, Tensor]:
    logits, masks, noise = inputs(kind, BATCH)
    return logits, masks, em.FactoredCategorical(logits, masks).sample(noise=noise)


def values(logits: Tensor, masks: em.ActionMasks, action: Tensor, names: tuple[str, ...], **how: Any) -> list[Tensor]:
    dist = em.FactoredCategorical(logits, masks, validate="flag", **how)
    return [ASKED[name](dist, action) for name in names]


def checkpointed(function: Callable[[Tensor], Any], argument: Tensor) -> tuple[Any, int]:
    """What a function gives as one graph, and how many checkpoints are in it, at any depth."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph

    made = torch.compile(function, fullgraph=True, backend=backend)(argument)
    parts = [part for part in graphs[0].modules() if isinstance(part, torch.fx.GraphModule)]
    return made, sum("checkpoint" in str(node.target) for part in parts for node in part.graph.nodes)


def gradient(made: list[Tensor], leaf: Tensor) -> Tensor:
    """Of values that all count, and each otherwise."""
    weights = [torch.linspace(1, 2, value.numel()).view_as(value) for value in made]
    [found] = torch.autograd.grad(sum((value * weight).sum() for value, weight in zip(made, weights)), leaf)
    return found


@pytest.mark.parametrize(("names", "floor"), [*((names, None) for names in ORDERS), (ORDERS[2], 0.01)])
def test_values_and_gradients_in_any_order(names: tuple[str, ...], floor: float | None) -> None:
    logits, masks, action = arguments("esper-2025-12")
    leaf = logits.requires_grad_()
    compiled = torch.compile(values, fullgraph=True, backend=PARTITIONED)
    made, expected = (f(leaf, masks, action, names, min_prob=floor) for f in (compiled, values))
    with torch.no_grad():
        without = compiled(leaf, masks, action, names, min_prob=floor)
    for value, other, plain in zip(made, expected, without):
        assert torch.equal(value, plain)
        assert_near(value.detach(), other.detach(), tolerance=1e-5)
    assert_near(gradient(made, leaf), gradient(expected, leaf), tolerance=1e-5)


def test_what_is_asked_without_a_gradient_first_has_one_later() -> None:
    logits, masks, action = arguments("esper-2025-12")
    leaf = logits.requires_grad_()

    def later(logits: Tensor) -> list[Tensor]:
        dist = em.FactoredCategorical(logits, masks, validate="flag")
        with torch.no_grad():
            dist.raw_entropy(), dist.head_entropies(), dist.log_prob(action)
        return [dist.raw_entropy(), dist.head_entropies(), dist.log_prob(action)]

    made = torch.compile(later, fullgraph=True, backend=PARTITIONED)(leaf)
    assert_near(gradient(made, leaf), gradient(later(leaf), leaf), tolerance=1e-5)


@pytest.mark.parametrize(
    ("kind", "names"), [("esper-2025-12", UPDATE), ("esper-2025-12", ORDERS[2]), ("esper-2026-06", UPDATE)]
)
def test_a_gradient_keeps_logits_actions_and_words(kind: str, names: tuple[str, ...]) -> None:
    """And no bools: a compiler's code for a CPU writes them at several ns each."""
    logits, masks, action = arguments(kind)
    [value, *_] = torch.compile(values, fullgraph=True, backend=PARTITIONED)(
        logits.requires_grad_(), masks, action, names
    )
    kept = value.grad_fn.saved_tensors
    assert not [one for one in kept if one.dtype == torch.bool]
    numbers = logits.shape[1] + action.shape[1] + len(ENGINES[kind].slot_ids) + 1
    assert sum(one.numel() for one in kept) <= BATCH * numbers + 1


# -- where nothing is computed again ----------------------------------------------------------------------------------


class Scorer(nn.Module):
    def __init__(self, masks: em.ActionMasks):
        super().__init__()
        self.masks, self.layer = masks, nn.Linear(15, 15)

    def forward(self, observations: Tensor, action: Tensor) -> list[Tensor]:
        return values(self.layer(observations), self.masks, action, UPDATE)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_has_no_checkpoint(strict: bool) -> None:
    logits, masks, action = arguments("esper-2025-12")
    scorer = Scorer(masks)
    program = torch.export.export(scorer, (logits, action), strict=strict)
    assert "checkpoint" not in str(program.graph)
    for value, other in zip(program.module()(logits, action), scorer(logits, action)):
        assert_near(value.detach(), other.detach(), tolerance=1e-5)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_a_step_in_a_users_graph_has_one_checkpoint(mode: Any) -> None:
    logits, masks, action = arguments("esper-2025-12")
    leaf, step = logits.requires_grad_(), em.DecisionStep(ENGINES["esper-2025-12"], mode=mode)

    def evaluate(logits: Tensor) -> list[Tensor]:
        made = step.evaluate(logits, masks, action)
        return [made.log_prob, made.raw_entropy]

    made, checkpoints = checkpointed(evaluate, leaf)
    assert checkpoints == 1
    assert_near(gradient(made, leaf), gradient(evaluate(leaf), leaf), tolerance=1e-5)


def test_a_transform_has_no_checkpoint() -> None:
    logits, masks, action = arguments("esper-2025-12")

    def summed(logits: Tensor) -> Tensor:
        log_prob, entropy = values(logits, masks, action, UPDATE)
        return (log_prob + entropy).sum()

    [leaf, twice], differentiated = (logits.requires_grad_(), torch.stack([logits, -logits])), torch.func.grad(summed)
    assert checkpointed(summed, leaf)[1]
    for function, argument in [(differentiated, leaf), (torch.vmap(summed), twice)]:
        made, checkpoints = checkpointed(function, argument)
        assert not checkpoints
        assert_near(made.detach(), function(argument).detach(), tolerance=1e-4)


def test_a_distribution_from_outside_a_transform_has_no_checkpoint_within_it() -> None:
    logits, masks, action = arguments("esper-2025-12")

    def scaled(logits: Tensor) -> Tensor:
        [log_prob, entropy] = values(logits, masks, action, UPDATE)
        dist = em.FactoredCategorical(logits, masks, validate="flag")
        inside = torch.func.grad(lambda scale: (dist.log_prob(action) + dist.raw_entropy()).sum() * scale)(
            torch.ones(())
        )
        return inside - (log_prob + entropy).sum()

    made = torch.compile(scaled, fullgraph=True, backend=PARTITIONED)(logits.requires_grad_())
    assert abs(made.item()) < 1e-3


def test_a_distribution_that_leaves_its_graph_has_no_checkpoint() -> None:
    logits, masks, action = arguments("esper-2025-12")
    leaf, both = logits.requires_grad_(), torch.stack([action, action])

    def make(logits: Tensor) -> em.FactoredCategorical:
        return em.FactoredCategorical(logits, masks, validate="flag")

    made, eager = (
        torch.vmap(dist.log_prob)(both) for dist in (torch.compile(make, backend=PARTITIONED)(leaf), make(leaf))
    )
    assert_near(made.detach(), eager.detach(), tolerance=1e-5)
    assert_near(gradient([made], leaf), gradient([eager], leaf), tolerance=1e-5)


@pytest.mark.parametrize("unseen", ["vmap", "exports"])
def test_what_cannot_be_seen_in_a_graph_has_no_checkpoint(monkeypatch: pytest.MonkeyPatch, unseen: str) -> None:
    logits, masks, action = arguments("esper-2025-12")
    monkeypatch.setattr(torch_private.KNOWN, unseen, False)
    made, checkpoints = checkpointed(
        lambda logits: values(logits, masks, action, UPDATE), leaf := logits.requires_grad_()
    )
    assert not checkpoints
    assert_near(gradient(made, leaf), gradient(values(leaf, masks, action, UPDATE), leaf), tolerance=1e-5)


def test_without_a_gradient_there_is_no_checkpoint() -> None:
    logits, masks, action = arguments("esper-2025-12")
    assert not checkpointed(lambda logits: values(logits, masks, action, UPDATE), logits)[1]


def test_in_a_checkpoint_of_the_user() -> None:
    logits, masks, action = arguments("esper-2025-12")
    leaf = logits.requires_grad_()

    def within(logits: Tensor) -> Any:
        return checkpoint(values, logits, masks, action, UPDATE, use_reentrant=False)

    made = torch.compile(within, fullgraph=True, backend=PARTITIONED)(leaf)
    assert_near(gradient(made, leaf), gradient(within(leaf), leaf), tolerance=1e-5)
