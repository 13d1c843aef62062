"""The quick form: the stacked one's results, gradients of gradients among them, and the same bits in any piece."""

import math
import random
import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.functional import hessian, jacobian
from torch.func import grad, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import esper_masks as em
from esper_masks.actions.draws import Draw, build_draws
from esper_masks.actions.tables import WORTH_A_GROUP, DrawTables, draw_tables, group_draws
from esper_masks.compiled.torch_private import KNOWN
from esper_masks.distributions import forms, quick
from tests.enumeration import head_of, independent, layout_of, random_logits, random_masks
from tests.helpers import assert_near
from tests.programs import ENGINES, inputs

pytestmark = pytest.mark.cpu
SLOTTED = layout_of(3, 3, [1, 2], [head_of("node", 20, {1: range(20)}, 3), head_of("mode", 3, {2: [0, 2]}, 3)])
KINDS = ["esper-2025-12", "esper-2026-06", "esper-2025-12/64"]
LOWEST = torch.finfo(torch.float32).min
Logits = Tensor | dict[str, Tensor]


def of_kind(kind: str, batch: int = 33) -> tuple[Tensor, em.ActionMasks, Tensor]:
    """Logits among which are all that are unusual, illegal and legal."""
    logits, masks, noise = inputs(kind, batch)
    logits *= 4
    logits[1, :3] = -math.inf  # the first choices of the first head
    logits[2] = math.nan
    logits[3, -1] = math.inf
    for row, low in enumerate((-86.0, -1e4, -1e30, -1e38, LOWEST), start=4):
        logits[row, ::2] = low
    legal = torch.cat([masks[name] for name in masks.layout.head_names], -1)
    logits[9:12] = logits[9:12].where(legal[9:12], torch.tensor([[math.nan], [math.inf], [-math.inf]]))
    return logits, masks, noise


def of_slots(batch: int = 33) -> tuple[dict[str, Tensor], em.ActionMasks, Tensor]:
    """Logits for each op and for each slot, and choices that a caller leaves."""
    masks = random_masks(random.Random(0), SLOTTED, ["node"], batch, ["node"])
    noise = torch.rand(batch, len(masks), generator=torch.Generator().manual_seed(1))
    return random_logits(SLOTTED, (batch,), by_slot=["node"], by_op=["mode"]), masks, noise


def make(logits: Logits, masks: em.ActionMasks, validate: Any = "flag") -> em.FactoredCategorical:
    by_slot = ["node"] if isinstance(logits, dict) else ()
    return em.FactoredCategorical(logits, masks, by_slot=by_slot, validate=validate)


def given_of(kind: str) -> tuple[Any, em.ActionMasks, Tensor]:
    return of_slots() if kind == "slots" else of_kind(kind)


def results(dist: em.FactoredCategorical, noise: Tensor) -> list[Tensor]:
    action = dist.sample(noise=noise)
    log_prob, faults = dist.log_prob_and_faults(action)
    made = [action, faults, log_prob, dist.head_log_probs(action), dist.raw_entropy(), dist.head_entropies()]
    return [*made, *dist.log_prob_and_faults(anything(dist, noise))]


def anything(dist: em.FactoredCategorical, noise: Tensor) -> Tensor:
    """Actions legal, illegal, and beyond all choices."""
    sizes = torch.tensor([head.size for head in dist.masks.layout.heads])
    return (noise.flip(0) * (sizes + 2)).long() - 1


def tables_of(dist: em.FactoredCategorical) -> DrawTables:
    logits, masks = dist._logits, dist.masks
    return draw_tables(masks.layout, masks.device, logits.by_op, logits.by_slot, masks.dynamic)


def in_pieces(dist: em.FactoredCategorical, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of distributions like this one are taken so many at a time."""
    monkeypatch.setattr(tables_of(dist).packed, "rows", rows)


def leaves_of(logits: Logits) -> tuple[Any, list[Tensor]]:
    if isinstance(logits, Tensor):
        leaf = logits.clone().requires_grad_()
        return leaf, [leaf]
    leaves = {name: x.clone().requires_grad_() for name, x in logits.items()}
    return leaves, list(leaves.values())


# -- values and gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "slots"])
@pytest.mark.parametrize("rows", [1, 5, 32])
def test_a_row_has_the_same_bits_in_any_piece(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, masks, noise = given_of(kind)
    whole = results(make(logits, masks), noise)
    in_pieces(make(logits, masks), rows, monkeypatch)
    transposed = logits.T.contiguous().T if isinstance(logits, Tensor) else logits
    for given in (logits, leaves_of(logits)[0], transposed):
        parts = results(make(given, masks), noise)
        assert all(torch.equal(part, other) for part, other in zip(parts, whole, strict=True))


@pytest.mark.parametrize("kind", [*KINDS, "slots"])
@pytest.mark.parametrize("rows", [7, 1000])
def test_gradients_are_those_of_the_stacked_form(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, masks, noise = given_of(kind)
    in_pieces(make(logits, masks), rows, monkeypatch)
    action = make(logits, masks).sample(noise=noise)
    gradients = []
    for form in ("stacked", "quick"):
        given, leaves = leaves_of(logits)
        with forms.use(form):
            made = results(make(given, masks), noise)
            assert torch.equal(made[0], action)
        kept = (~made[2].isinf()) & (made[2] > -1e3)  # the score of what is as good as impossible swamps the others
        total = (made[2] * (1 + torch.arange(len(action))))[kept].sum()
        total = total + sum((value.sum(-1) if value.ndim > 1 else value).sum() for value in made[4:6])
        once = torch.autograd.grad(total, leaves, retain_graph=True)
        again = torch.autograd.grad(total, leaves, create_graph=True)
        twice = torch.autograd.grad(sum((x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum() for x in again), leaves)
        gradients.append([*once, *(x.detach() for x in again), *twice])
        assert all(gradient.isfinite().all() for gradient in once)
    for mine, other in zip(*gradients, strict=True):
        assert_near(mine, other, tolerance=1e-4)


@pytest.mark.parametrize("rows", [2, 1000])
@pytest.mark.parametrize("scale", [2.0, 1e9, 1e30, 3e38, math.inf, math.nan])
def test_illegal_choices_have_no_gradient_whatever_comes_from_above(
    scale: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the legal logits are huge, or low, as well: what is not finite stays in its row."""
    logits, masks, noise = of_kind("esper-2026-06")
    in_pieces(make(logits, masks), rows, monkeypatch)
    alive = torch.cat([masks[name] for name in masks.layout.head_names], -1)
    made = []
    for form in ("stacked", "quick"):
        leaf = logits.clone().requires_grad_()
        with forms.use(form):
            dist = make(leaf, masks)
            outputs = dist.raw_entropy(), dist.log_prob(dist.sample(noise=noise)), dist.log_prob(anything(dist, noise))
            given = torch.where(torch.arange(33) % 2 == 0, scale, 1.0)
            [gradient] = torch.autograd.grad(outputs, leaf, [given] * 3)
        assert (gradient[~alive] == 0).all()
        assert gradient[1::2].isfinite().all()
        made.append(gradient / min(scale, 1e30) if math.isfinite(scale) else gradient[1::2])
    if scale < 1e35 or not math.isfinite(scale):  # with more, either may overflow
        assert_near(made[1], made[0], tolerance=1e-5)


@hypothesis.given(
    st.lists(st.sampled_from([0.0, 0.5, -1.0, 3.0, -80.0, -86.5, -1e3, -1e30, -1e38, LOWEST]), min_size=3, max_size=3)
)
def test_gradients_are_those_of_a_loop(low: list[float]) -> None:
    """Of independent heads: the slope of the entropy is -p * (log(p) + entropy), of a score one less p."""
    masks = em.ActionMasks.from_bools(
        independent({"a": 4, "b": 2}), {"a": torch.tensor([True, True, False, True]), "b": torch.ones(2).bool()}
    )
    a, b = torch.tensor([*low[:2], 9.0, low[2]]).requires_grad_(), torch.tensor([0.5, -0.25]).requires_grad_()
    dist = em.FactoredCategorical({"a": a, "b": b}, masks)
    action = torch.tensor([0, 1])
    [of_entropy, _] = torch.autograd.grad(dist.raw_entropy(), [a, b], retain_graph=True)
    [of_score, other] = torch.autograd.grad(dist.log_prob(action), [a, b])
    most = max(low)
    weights = {at: math.exp(max(x - most, -745.0)) if x - most > -745 else 0.0 for at, x in zip((0, 1, 3), low)}
    p = {at: weight / sum(weights.values()) for at, weight in weights.items()}
    entropy = -sum(x * math.log(x) for x in p.values() if x)
    assert_near(of_entropy, [-p[i] * (math.log(p[i]) + entropy) if p.get(i) else 0.0 for i in range(4)], tolerance=1e-5)
    assert_near(of_score, [(i == 0) - p[i] if i in p else 0.0 for i in range(4)], tolerance=1e-5)
    share = 1 / (1 + math.exp(-0.75))
    assert_near(other, [-share, share], tolerance=1e-5)
    assert of_entropy[2] == of_score[2] == 0


@pytest.mark.parametrize("kind", [*KINDS, "slots"])
def test_no_rows(kind: str) -> None:
    logits, masks, noise = given_of(kind)
    none = logits[:0] if isinstance(logits, Tensor) else {name: x[:0] for name, x in logits.items()}
    given, leaves = leaves_of(none)
    dist = make(given, masks.at(slice(0, 0)))
    made = results(dist, noise[:0])
    assert dist.sample((2,)).shape == (2, *made[0].shape)
    assert all(len(x) == 0 for x in (*made, dist.mode))
    gradients = torch.autograd.grad(made[2].sum() + made[4].sum(), leaves, allow_unused=True)
    assert all(x is None or x.numel() == 0 for x in gradients)


def test_numeric_gradients() -> None:
    logits, masks, noise = inputs("esper-2025-12", 2)
    action = em.FactoredCategorical(logits, masks).sample(noise=noise)

    def scores(x: Tensor) -> tuple[Tensor, Tensor]:
        dist = em.FactoredCategorical(x, masks)
        return dist.log_prob(action), dist.raw_entropy()

    leaf = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(scores, (leaf,), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(scores, (leaf,), check_batched_grad=True)


class Lost(torch.autograd.Function):
    """Gives no gradient back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> None:
        return None


@pytest.mark.parametrize("again", [False, True])
def test_no_gradient_from_above_is_none(again: bool) -> None:
    logits, masks, _ = inputs("esper-2025-12", 2)
    leaf = logits.clone().requires_grad_()
    softmax = make(leaf, masks)._form.softmax  # type: ignore[attr-defined]
    made: Any = Lost.apply(softmax.entropy)  # type: ignore[no-untyped-call]  # torch has no types here
    assert torch.autograd.grad(made.sum(), leaf, create_graph=again, allow_unused=True) == (None,)


# -- what must not reach them -----------------------------------------------------------------------------------------


def test_neither_autocast_nor_settings_of_matrix_products_reach_anything() -> None:
    logits, masks, noise = inputs("esper-2026-06", 40)

    def everything() -> list[Tensor]:
        leaf = logits.clone().requires_grad_()
        made = results(make(leaf, masks), noise)
        total = made[2].sum() + made[4].sum() + made[5].sum()
        return [x.detach() for x in (*made, *torch.autograd.grad(total, leaf))]

    expected = everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = everything()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        rounded = everything()
    finally:
        torch.set_float32_matmul_precision(before)
    for made in (inside, rounded):
        assert all(torch.equal(*pair) for pair in zip(made, expected, strict=True))


@pytest.mark.parametrize("rows", [3, 1000])
@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_what_becomes_of_the_memory_of_the_logits_is_nothing_to_a_distribution(
    rows: int, learns: bool, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller who writes to it later, through numpy, which tells torch nothing, too; rows or columns side by side."""
    logits, masks, noise = inputs("esper-2025-12", 20)
    in_pieces(make(logits, masks), rows, monkeypatch)

    def everything(overwrite: bool) -> list[Tensor]:
        leaf = logits.clone().requires_grad_(learns)
        for_later = (leaf * 1).T.contiguous().T if last else leaf * 1
        dist = make(for_later, masks)
        if overwrite:
            for_later.detach().numpy()[:] = 7.0
        made = [*results(dist, noise), dist.mode, dist.sample((2,), noise=torch.stack([noise, 1 - noise]))]
        total = made[2].sum() + made[4].sum() + made[5].sum()
        return [*made, *(torch.autograd.grad(total, leaf) if learns else ())]

    assert all(torch.equal(*pair) for pair in zip(everything(True), everything(False), strict=True))


@pytest.mark.parametrize("first", ["inference", "no_grad", "vmap", "grad"])
def test_what_was_asked_for_first_elsewhere_takes_no_gradient_away(first: str) -> None:
    logits, masks, noise = of_slots(5)
    gradients = []
    for before in ("nothing", first):
        leaves, values = leaves_of(logits)
        dist = make(leaves, masks)
        if before in ("inference", "no_grad"):
            with torch.inference_mode() if before == "inference" else torch.no_grad():
                dist.mode, dist.raw_entropy(), dist.sample((2,)), dist.head_entropies()
        elif before == "vmap":
            vmap(lambda x, dist=dist: dist.sample(noise=x))(noise.expand(2, -1, -1))
        elif before == "grad":
            grad(lambda x, dist=dist: (dist.raw_entropy() * x + dist.mode.sum()).sum())(torch.ones(5))
        q = make({name: x + 0.5 for name, x in leaves.items()}, masks)
        total = dist.raw_entropy() + torch.distributions.kl_divergence(dist, q)
        total = total + vmap(dist.log_prob)(torch.stack([dist.mode, q.mode])).sum(0)
        gradients.append(torch.autograd.grad(total.sum(), values))
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_low_legal_logits_score_the_same_in_any_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """And have a gradient, as in the stacked form: no number stands for what is illegal."""
    logits, masks, _ = inputs("esper-2025-12", 6)
    for low in (-1e30, -1e38, LOWEST):
        made = []
        for rows, form in ((1000, "stacked"), (1000, "quick"), (2, "quick")):
            logits[:, 11] = low  # of WAIT, which is always legal
            leaf = logits.clone().requires_grad_()
            in_pieces(make(logits, masks), rows, monkeypatch)
            with forms.use(form):
                score = make(leaf, masks).log_prob(torch.zeros(6, 4, dtype=torch.int64))
            made.append((score.detach(), *torch.autograd.grad(score.sum(), leaf)))
        for score, gradient in made[1:]:
            assert torch.equal(score, made[0][0])
            assert_near(gradient, made[0][1])
        several = masks["op"].sum(-1) > 1
        assert torch.equal(made[1][1][:, 11], several.float())


# -- noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "slots"])
@pytest.mark.parametrize("rows", [4, 1000])
def test_samples_are_those_of_the_rows_one_by_one(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal noise, equal actions: as one or as many samples, in a batch or alone, and with tiny probabilities."""
    logits, masks, noise = given_of(kind)
    many = torch.stack([noise, 1 - noise, torch.zeros_like(noise), torch.ones_like(noise), noise / 2**23])
    dist = make(logits, masks)
    alone = torch.stack([dist.sample(noise=each) for each in many])
    in_pieces(dist, rows, monkeypatch)
    dist = make(logits, masks)
    assert torch.equal(dist.sample((5,), noise=many), alone)
    assert torch.equal(dist.sample((1, 5), noise=many.unsqueeze(0))[0], alone)
    assert dist.sample((0,)).shape == (0, *noise.shape)
    assert torch.equal(vmap(lambda x: dist.sample(noise=x))(many), alone)
    for row in (0, 4, 9, 32):
        assert torch.equal(dist[row : row + 1].sample((5,), noise=many[:, row : row + 1]), alone[:, row : row + 1])
    nan = torch.full_like(noise, math.nan)
    assert torch.equal(dist.sample(noise=nan), alone[3])  # as 1


def test_running_sums_have_the_same_bits_pair_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, masks, noise = of_kind("esper-2025-12/64", 60)
    expected = make(logits, masks).sample(noise=noise)
    for few in (0, 1 << 40):
        monkeypatch.setattr(quick, "FEW", few)
        dist = make(logits, masks)
        softmax, packed = dist._form.softmax, tables_of(dist).packed  # type: ignore[attr-defined]
        assert torch.equal(dist.sample(noise=noise), expected)
        for sums, draws in zip(quick._running_sums(softmax._kept, packed), packed.groups):
            assert torch.equal(sums[-1], softmax._kept.total[draws.draws])


# -- transforms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2, 1000])
@pytest.mark.parametrize("kind", ["esper-2025-12", "slots"])
def test_batched_gradients(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, masks, noise = of_slots(5) if kind == "slots" else inputs(kind, 5)
    in_pieces(make(logits, masks), rows, monkeypatch)
    given, leaves = leaves_of(logits)
    dist = make(given, masks)
    total = dist.log_prob(dist.sample(noise=noise)) + dist.raw_entropy() + dist.head_entropies().sum(-1)
    one_by_one = [torch.autograd.grad(total, leaves, each, retain_graph=True) for each in torch.eye(5)]
    batched = torch.autograd.grad(total, leaves, torch.eye(5), retain_graph=True, is_grads_batched=True)
    mapped = vmap(lambda each: torch.autograd.grad(total, leaves, each, retain_graph=True))(torch.eye(5))
    for at, gradients in enumerate(zip(*one_by_one)):
        assert_near(batched[at], torch.stack(gradients), tolerance=1e-5)
        assert_near(mapped[at], torch.stack(gradients), tolerance=1e-5)


def test_jacobians_and_hessians() -> None:
    logits, masks, noise = inputs("esper-2025-12", 3)
    action = make(logits, masks).sample(noise=noise)

    def scores(x: Tensor) -> Tensor:
        dist = make(x, masks)
        return dist.log_prob(action) + dist.raw_entropy()

    for function, of in ((jacobian, scores), (hessian, lambda x: scores(x).sum())):
        made: Any = function(of, logits.double(), vectorize=True)
        assert_near(made, function(of, logits.double()), tolerance=1e-9)  # type: ignore[arg-type]
    assert_near(torch.func.jacrev(scores)(logits), jacobian(scores, logits), tolerance=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [2, 1000])
def test_a_distribution_from_outside_may_be_asked_under_vmap(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, masks, noise = of_kind("esper-2026-06")
    in_pieces(make(logits, masks), rows, monkeypatch)
    dist = make(logits, masks)
    many = torch.stack([noise, 1 - noise])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        actions = vmap(lambda x: dist.sample(noise=x))(many)
        made = vmap(dist.log_prob_and_faults)(actions)
        heads = vmap(dist.head_log_probs)(actions)
    for at in range(2):
        assert torch.equal(actions[at], dist.sample(noise=many[at]))
        assert torch.equal(heads[at], dist.head_log_probs(actions[at]))
        assert all(torch.equal(x[at], y) for x, y in zip(made, dist.log_prob_and_faults(actions[at]), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_under_transforms_have_the_same_bits(kind: str) -> None:
    """A rollout in plain code and an update under ``torch.func``: the first ratio is exactly 1."""
    logits, masks, noise = inputs(kind, 400)
    action, expected = make(logits, masks).sample_and_log_prob(noise=noise)

    def score(x: Tensor) -> Tensor:
        return make(x, masks, "off").log_prob(action)

    def score_and_sum(x: Tensor) -> tuple[Tensor, Tensor]:
        scores = score(x)
        return scores.sum(), scores

    leaf = logits.clone().requires_grad_()
    score(leaf).sum().backward()
    slope, scores = grad(score_and_sum, has_aux=True)(logits)
    assert torch.equal(scores, expected)
    assert_near(slope, leaf.grad, tolerance=1e-5)
    assert torch.equal(vmap(score)(torch.stack([logits, logits]))[1], expected)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    values, tangent = jvp(score, (logits,), (direction,))
    assert torch.equal(values, expected)
    along = (slope * direction).sum(-1)
    assert along.abs().max() > 0.1
    assert_near(tangent, along, tolerance=1e-5)


def test_tracers_and_modes_see_what_they_can_follow() -> None:
    logits, masks, noise = of_kind("esper-2025-12")
    action = make(logits, masks, "off").sample(noise=noise)

    def score(x: Tensor) -> Tensor:
        return make(x, masks, "off").log_prob(action)

    def slope(x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(score(leaf).sum(), leaf)[0]

    assert torch.equal(torch.jit.trace(score, (logits,), check_trace=False)(logits), score(logits))
    torch.testing.assert_close(make_fx(slope)(logits)(logits), slope(logits))
    with FakeTensorMode(allow_non_fake_inputs=True):
        dist = make(logits, masks, "off")
        dist.mode  # noqa: B018  # what it makes is fake, and not for later
    softmax = dist._form.softmax  # type: ignore[attr-defined]
    assert softmax._whole is None


@pytest.mark.parametrize("width", [13, 64, 1000, 4096])
def test_many_small_weights_beside_a_large_one_are_counted(width: int) -> None:
    layout = em.ActionLayout.multi_discrete({"a": width, "b": 2})
    logits = torch.zeros(1, width + 2)
    logits[:, 1:width] = -16.7  # each of less than half a unit in the last place of 1
    every = {"a": torch.ones(1, width, dtype=torch.bool), "b": torch.ones(1, 2, dtype=torch.bool)}
    masks = em.ActionMasks.from_bools(layout, every).expand((2000,))
    dist = make(logits.expand(2000, -1), masks)
    exact = torch.distributions.Categorical(logits=logits[0, :width].double())
    missed = 16 * 2**-24  # those of a block, which come after the large one
    first = dist.log_prob(torch.zeros(2000, 2, dtype=torch.int64)) + math.log(2)
    assert_near(first, exact.log_prob(torch.tensor(0)).float().expand(2000), tolerance=missed + width * 1e-8)
    assert_near(
        dist.raw_entropy() - math.log(2), exact.entropy().float().expand(2000), tolerance=17 * missed + width * 1e-7
    )
    noise = (1 - torch.arange(1, 2001) * 2**-24).unsqueeze(-1).expand(-1, 2)
    others, expected = int((dist.sample(noise=noise)[:, 0] > 0).sum()), 2**24 * (1 - exact.probs[0])
    assert abs(others - min(2000, float(expected))) <= 16 + 0.05 * float(expected)


def test_a_torch_whose_transforms_cannot_be_seen_has_the_same_results(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, masks, noise = of_kind("esper-2026-06")
    expected = results(make(logits, masks), noise)
    monkeypatch.setattr(KNOWN, "transforms", False)
    dist = make(logits, masks)
    assert isinstance(dist._form.softmax, quick.OrderedSoftmax)  # type: ignore[attr-defined]
    made = results(dist, noise)
    assert all(torch.equal(*pair) for pair in zip(made[:4], expected[:4]))
    assert_near(made[4], expected[4])


def test_an_action_is_drawn_in_a_stretch_as_long_as_its_probability() -> None:
    for width in (16, 17, 100):
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


@pytest.mark.parametrize("kind", [*KINDS, "esper-2026-06"])
def test_compiled_code_has_draws_as_they_are_built(kind: str) -> None:
    """Grouped, a compiler divides the loop that it makes of them: 66 ns a row of ``esper-2026-06`` became 123."""
    layout = ENGINES[kind].layout
    tables = draw_tables(layout, torch.device("cpu"))
    assert tables.unrolled == build_draws(layout)
    assert tuple(tables.draws[at] for at in tables.unrolled_at) == tables.unrolled
    assert [head.draws for head in tables.drawn] == [
        tuple(at for at, draw in enumerate(tables.unrolled) if draw.head == head.head and draw.users)
        for head in tables.drawn
    ]
