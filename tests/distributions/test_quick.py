"""The quick form: the stacked one's results, gradients of gradients among them, and the same bits in any piece."""

import math
import random
from collections.abc import Sequence
from itertools import combinations

import pytest
import torch
from torch import Tensor

import esper_masks as em
from esper_masks.actions.draws import Draw, build_draws
from esper_masks.actions.tables import WORTH_A_GROUP, draw_tables, group_draws
from esper_masks.distributions import forms
from esper_masks.distributions.quick import LONGEST_SUM
from tests.enumeration import head_of, layout_of, random_logits, random_masks
from tests.helpers import assert_near
from tests.programs import ENGINES, inputs

pytestmark = pytest.mark.cpu
SLOTTED = layout_of(3, 3, [1, 2], [head_of("node", 20, {1: range(20)}, 3), head_of("mode", 3, {2: [0, 2]}, 3)])
KINDS = ["esper-2025-12", "esper-2026-06", "esper-2025-12/64"]


def of_kind(kind: str, batch: int = 33) -> tuple[Tensor, em.ActionMasks, Tensor]:
    logits, masks, noise = inputs(kind, batch)
    logits[1, :3] = -math.inf  # the first choices of the first head
    logits[2] = math.nan
    logits[3, -1] = math.inf
    return logits * 4, masks, noise


def of_slots(batch: int = 33) -> tuple[dict[str, Tensor], em.ActionMasks]:
    """Logits for each op and for each slot, and choices that a caller leaves."""
    masks = random_masks(random.Random(0), SLOTTED, ["node"], batch, ["node"])
    return random_logits(SLOTTED, (batch,), by_slot=["node"], by_op=["mode"]), masks


def results(dist: em.FactoredCategorical, noise: Tensor) -> list[Tensor]:
    action = dist.sample(noise=noise)
    log_prob, faults = dist.log_prob_and_faults(action)
    return [action, faults, log_prob, dist.head_log_probs(action), dist.raw_entropy(), dist.head_entropies()]


def pieces_of(masks: em.ActionMasks, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are taken so many at a time."""
    monkeypatch.setattr(draw_tables(masks.layout, masks.device).packed, "rows", rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 5, 32])
def test_a_row_has_the_same_bits_in_any_piece(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, masks, noise = of_kind(kind)
    whole = results(em.FactoredCategorical(logits, masks, validate="flag"), noise)
    leaf = logits.clone().requires_grad_()
    pieces_of(masks, rows, monkeypatch)
    for x in (logits, leaf, logits.T.contiguous().T):
        parts = results(em.FactoredCategorical(x, masks, validate="flag"), noise)
        assert all(torch.equal(part, other) for part, other in zip(parts[:4], whole[:4], strict=True))
        for part, other in zip(parts[4:], whole[4:], strict=True):
            assert_near(part.detach(), other, tolerance=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [7, 1000])
def test_gradients_are_those_of_the_stacked_form(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, masks, noise = of_kind(kind)
    pieces_of(masks, rows, monkeypatch)
    action = em.FactoredCategorical(logits, masks, validate="flag").sample(noise=noise)
    gradients = []
    for form in ("stacked", "quick"):
        leaf = logits.clone().requires_grad_()
        with forms.use(form):
            made = results(em.FactoredCategorical(leaf, masks, validate="flag"), noise)
            assert torch.equal(made[0], action)
        total = sum((value * (1 + torch.arange(len(value)))).sum() for value in (made[2], made[4], made[5].sum(-1)))
        [once] = torch.autograd.grad(total, leaf, retain_graph=True)
        [again] = torch.autograd.grad(total, leaf, create_graph=True)
        [twice] = torch.autograd.grad((again * torch.linspace(-1, 1, again.numel()).view_as(again)).sum(), leaf)
        gradients.append((once, again.detach(), twice))
        assert once.isfinite().all()
        assert (once[2] == 0).all()
    for mine, other in zip(*gradients, strict=True):
        assert_near(mine, other, tolerance=1e-4)


@pytest.mark.parametrize("rows", [4, 1000])
def test_logits_by_op_and_slot_and_limited_choices(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, masks = of_slots()
    monkeypatch.setattr("esper_masks.actions.tables.PIECE", rows)  # as many places, of 16 rows at least
    made = []
    for form in ("stacked", "quick"):
        leaves = {name: x.clone().requires_grad_() for name, x in logits.items()}
        with forms.use(form):
            dist = em.FactoredCategorical(leaves, masks, by_slot=["node"], validate="flag")
            values = results(dist, torch.rand(33, len(masks), generator=torch.Generator().manual_seed(1)))
        gradients = torch.autograd.grad(values[2].sum() + values[4].sum() + values[5].sum(), list(leaves.values()))
        made.append([*values, *gradients])
    for mine, other in zip(*made, strict=True):
        assert_near(mine.detach().double(), other.detach().double(), tolerance=1e-4)


def test_numeric_gradients() -> None:
    logits, masks, noise = inputs("esper-2025-12", 2)
    action = em.FactoredCategorical(logits, masks).sample(noise=noise)

    def scores(x: Tensor) -> tuple[Tensor, Tensor]:
        dist = em.FactoredCategorical(x, masks)
        return dist.log_prob(action), dist.raw_entropy()

    leaf = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(scores, (leaf,))
    assert torch.autograd.gradgradcheck(scores, (leaf,))


def test_transforms_take_the_stacked_form() -> None:
    logits, masks, _ = inputs("esper-2026-06", 5)

    def entropy(x: Tensor) -> Tensor:
        return em.FactoredCategorical(x, masks, validate="off").raw_entropy().sum()

    leaf = logits.clone().requires_grad_()
    entropy(leaf).backward()
    assert_near(torch.func.grad(entropy)(logits), leaf.grad, tolerance=1e-5)
    _, slope = torch.func.jvp(entropy, (logits,), (torch.ones_like(logits),))
    assert_near(slope, leaf.grad.sum(), tolerance=1e-5)


def test_long_heads_are_summed_by_torch() -> None:
    """And whatever the width, an action's stretch of the sum is as long as its probability."""
    for width in (LONGEST_SUM, LONGEST_SUM + 1, 100):
        layout = layout_of(2, 1, [1], [head_of("node", width, {1: range(width)}, 2)])
        masks = random_masks(random.Random(0), layout, [], 1).expand((2000,))
        noise = torch.linspace(0, 1, 2000).unsqueeze(-1).expand(-1, 3)
        logits = {name: x.expand(2000, -1) for name, x in random_logits(layout, (1,)).items()}
        made = []
        for form in ("stacked", "quick"):
            with forms.use(form):
                made.append(em.FactoredCategorical(logits, masks, validate="flag").sample(noise=noise))
        assert (made[0] == made[1]).all(-1).float().mean() > 0.995  # the others within rounding of an edge


# -- groups -----------------------------------------------------------------------------------------------------------


def places(groups: Sequence[Sequence[Draw]]) -> int:
    return sum(max(draw.size for draw in group) * len(group) for group in groups)


@pytest.mark.parametrize("kind", [*KINDS, "esper-2026-06/17"])
def test_groups_have_the_fewest_places_that_two_can_have(kind: str) -> None:
    name, _, slots = kind.partition("/")
    engine = ENGINES.get(kind) or em.MaskEngine(em.ruleset(name), [f"s{i}" for i in range(int(slots))])
    draws = build_draws(engine.layout)
    groups = group_draws(draws)
    assert sorted(map(id, draws)) == sorted(id(draw) for group in groups for draw in group)
    assert groups[0][0].of_op
    fewest = min(
        places([some, [draw for draw in draws if draw not in some]])
        for number in range(1, len(draws))
        for some in combinations(draws, number)
    )
    alone = places([draws])
    assert places(groups) == (fewest if fewest < alone - WORTH_A_GROUP else alone)


def test_draws_of_one_slot_are_a_group_behind_all_others() -> None:
    *_, last = group_draws(build_draws(SLOTTED, by_slot=(SLOTTED.position("node"),)))
    assert [draw.slot for draw in last] == [0, 1, 2]
