"""One categorical distribution per row: the numbers contract, in both forms and every dtype."""

import math
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, Distribution, kl_divergence

import esper_masks as em
from esper_masks import reference
from tests.helpers import HERE, NONDETERMINISM, OpRecorder, assert_near, chi_square_is_plausible, seeded

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
POISON = [math.nan, math.inf, -math.inf, 6e4, -6e4, 0.0]
pytestmark = pytest.mark.usefixtures("form")

OUTPUTS: dict[str, Callable[[em.MaskedCategorical, em.MaskedCategorical], Tensor]] = {
    "probs": lambda p, q: p.probs,
    "log_prob": lambda p, q: p.log_prob(p.mode),
    "raw_entropy": lambda p, q: p.raw_entropy(),
    "entropy": lambda p, q: p.entropy(),
    "kl_p": lambda p, q: kl_divergence(p, q),
    "kl_q": lambda p, q: kl_divergence(q, p),
}


def rows(batch: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    mask = torch.rand(batch, width, generator=generator) < 0.6
    mask[torch.arange(batch), torch.arange(batch) % width] = True
    return (torch.randn(batch, width, generator=generator) * 3).to(dtype), mask


logit = st.one_of(
    st.floats(-5, 5), st.sampled_from([0.0, -1e4, 1e4, -1e8, -3e38, -math.inf]), st.sampled_from([math.nan, math.inf])
)


@st.composite
def oracle_rows(draw: st.DrawFn) -> tuple[list[float], list[bool], float | None, float]:
    width = draw(st.integers(1, 9))
    logits = draw(st.lists(logit, min_size=width, max_size=width))
    mask = draw(st.lists(st.booleans(), min_size=width, max_size=width))
    noise = draw(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 1 - 2**-53])))
    return logits, mask, draw(st.sampled_from([None, 0.0, 0.05, 0.12, 0.6, 0.999])), noise


@given(oracle_rows())
@example(([-3e38, 3e38], [True, True], 0.0, 0.5))  # their difference is beyond fp32
@example(([-1e8, 5.0], [True, False], 0.0, 1.0))  # a finite sentinel would be sampled instead
@example(([0.0, -200.0], [True, True], 0.0, 1.0))  # a weight that underflows in fp32 still has a log-prob
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_oracle(dtype: torch.dtype, row: tuple[list[float], list[bool], float | None, float]) -> None:
    logits, mask, floor, noise = row
    values = torch.tensor(logits, dtype=dtype)
    dist = em.MaskedCategorical(values, torch.tensor(mask), min_prob=floor, validate="flag")
    probs = reference.probabilities(values.tolist(), mask, min_prob=floor)
    drawn = dist.sample(noise=torch.tensor(noise, dtype=dtype)).item()
    if probs is None:
        assert dist.faults
        assert drawn == dist.mode.item() == -1
        assert dist.log_prob(torch.tensor(0)) == dist.raw_entropy() == dist.entropy() == dist.probs.sum() == 0
        return
    assert not dist.faults
    assert_near(dist.probs, probs)
    assert_near(dist.raw_entropy(), reference.raw_entropy(probs))
    assert_near(dist.entropy(), reference.entropy(probs, sum(mask)))
    expected = [reference.log_probability(values.tolist(), mask, i, min_prob=floor) for i in range(-1, len(mask) + 1)]
    if dtype == torch.float32:  # a difference beyond its range
        expected = [-math.inf if value < -3.4e38 else value for value in expected]
    assert_near(dist.log_prob(torch.arange(-1, len(mask) + 1)), expected)
    assert_near(dist.log_probs, expected[1:-1])
    best = max(values[i].item() for i in range(len(mask)) if mask[i])
    assert mask[dist.mode]
    assert values[dist.mode] == best
    assert mask[drawn]
    assert probs[drawn] > 0
    if reference.edge_distance(probs, noise) > 1e-5:
        assert drawn == reference.sample(probs, noise)


@pytest.mark.parametrize("width", [1, 2, 13, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_under_the_mask_reaches_anything(dtype: torch.dtype, width: int, form: str) -> None:
    width = min(width, 100) if form == "unrolled" else width  # wider rows never take that form
    logits, mask = rows(64, width, dtype)
    other, action, noise = rows(64, width, dtype, seed=1)[0], mask.int().argmax(-1), torch.rand(64)

    def everything(poison: float | None) -> list[Tensor]:
        results = []
        for floor in (0.0, 0.3 / width):
            leaf = logits if poison is None else logits.masked_fill(~mask, poison)
            leaf = leaf.clone().requires_grad_()
            dist = em.MaskedCategorical(leaf, mask, min_prob=floor)
            q = em.MaskedCategorical(other, mask, min_prob=floor)
            outputs = [output(dist, q) for output in OUTPUTS.values()] + [dist.log_prob(action)]
            for output in outputs:
                [gradient] = torch.autograd.grad(output.sum(), leaf, retain_graph=True)
                assert gradient.dtype == dtype
                assert (gradient[~mask].view(-1) == 0).all()
                results.append(gradient)
            results += [*outputs, dist.sample(noise=noise), dist.mode, dist.log_probs]
        return results

    clean = everything(None)
    assert not any(result.isnan().any() for result in clean)
    for poison in POISON:
        for ours, expected in zip(everything(poison), clean, strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_actions_have_nothing(dtype: torch.dtype) -> None:
    logits, mask = rows(50, 7, dtype)
    leaf = logits.requires_grad_()
    dist = em.MaskedCategorical(leaf, mask)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for result in (dist.probs, dist.log_probs, dist.log_prob(dist.mode), dist.entropy(), dist.raw_entropy()):
        assert result.dtype == wide
    assert (dist.probs[~mask] == 0).all()
    assert_near(dist.probs.sum(-1), [1.0] * 50)
    illegal = mask.int().argmin(-1)
    some = ~mask.gather(-1, illegal.unsqueeze(-1)).squeeze(-1)
    scores = dist.log_prob(illegal)
    assert (scores[some] == -math.inf).all()
    for action in (-1, 7, 2**40, -(2**40)):
        assert (dist.log_prob(torch.full((50,), action)) == -math.inf).all()
    [gradient] = torch.autograd.grad(scores[some].sum(), leaf)
    assert (gradient == 0).all()


def test_half_precision_is_computed_in_single() -> None:
    logits, mask = rows(50, 7, torch.float16)
    half, single = em.MaskedCategorical(logits, mask), em.MaskedCategorical(logits.float(), mask)
    noise = torch.rand(50)
    assert torch.equal(half.probs, single.probs)
    assert torch.equal(half.sample(noise=noise), single.sample(noise=noise))
    with torch.autocast(HERE.type, torch.bfloat16):
        under = em.MaskedCategorical(logits, mask)
        assert torch.equal(under.raw_entropy(), single.raw_entropy())
        assert torch.equal(under.log_prob(single.mode), single.log_prob(single.mode))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 5, 1000])
def test_one_legal_action(dtype: torch.dtype, width: int) -> None:
    logits, mask = rows(20, width, dtype)
    mask = torch.arange(width).expand(20, -1) == (torch.arange(20) % width).unsqueeze(-1)
    leaf = logits.requires_grad_()
    for floor in (0.0, 0.5 / width):
        dist = em.MaskedCategorical(leaf, mask, min_prob=floor)
        only = torch.arange(20) % width
        assert torch.equal(dist.sample(), only)
        assert torch.equal(dist.mode, only)
        for output in (dist.entropy(), dist.raw_entropy(), dist.log_prob(only)):
            if not floor:
                assert (output == 0).all()
            assert output.abs().max() < 1e-6
            [gradient] = torch.autograd.grad(output.sum(), leaf, retain_graph=True)
            assert (gradient == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_minus_infinity_on_a_legal_action(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.0, -math.inf, 0.0, 5.0]], dtype=dtype, requires_grad=True)
    mask = torch.tensor([[True, True, True, False]])
    dist = em.MaskedCategorical(logits, mask)
    assert dist.probs.tolist() == [[0.5, 0.0, 0.5, 0.0]]
    assert_near(dist.raw_entropy(), [math.log(2)])
    assert_near(dist.entropy(), [math.log(2) / math.log(3)])  # it is legal, so it counts
    assert (dist.sample((1000,)) != 1).all()
    for output in (dist.log_prob(torch.tensor([0])), dist.raw_entropy(), dist.log_prob(torch.tensor([1]))):
        [gradient] = torch.autograd.grad(output.sum(), logits, retain_graph=True)
        assert gradient[0, 1] == 0
        assert gradient.isfinite().all()


def test_the_mode_is_the_first_of_equals() -> None:
    mask = torch.tensor([[False, True, True, True], [True, True, True, True], [False, False, True, True]])
    logits = torch.tensor([[9.0, 1.0, 3.0, 3.0], [2.0, 2.0, 2.0, 2.0], [5.0, 5.0, -1.0, -1.0]])
    assert em.MaskedCategorical(logits, mask).mode.tolist() == [2, 0, 2]


def test_uniform_entropy_is_one() -> None:
    for width in (2, 3, 13, 1000):
        assert_near(em.MaskedCategorical(torch.zeros(width), torch.ones(width, dtype=torch.bool)).entropy(), 1.0)
    logits, mask = rows(500, 9)
    entropy = em.MaskedCategorical(logits, mask).entropy()
    assert (entropy >= 0).all()
    assert (entropy <= 1 + 1e-6).all()


# -- sampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_both_ends_of_the_noise(dtype: torch.dtype, floor: float) -> None:
    logits, mask = rows(400, 11, dtype)
    dist = em.MaskedCategorical(logits, mask, min_prob=floor)
    first, last = mask.int().argmax(-1), 10 - mask.flip(-1).int().argmax(-1)
    for noise in (0.0, -1.0, -math.inf):
        assert torch.equal(dist.sample(noise=torch.full((400,), noise)), first)
    for noise in (1.0, 1 - 2**-24, 7.0, math.inf, math.nan):
        drawn = dist.sample(noise=torch.full((400,), noise))
        assert mask.gather(-1, drawn.unsqueeze(-1)).all()
        if not noise < 1:
            assert torch.equal(drawn, last)
    assert mask.gather(-1, dist.sample(noise=torch.rand(400).half()).unsqueeze(-1)).all()


def test_frequencies_are_those_of_the_probabilities() -> None:
    torch.manual_seed(0)
    logits, mask = rows(4, 9)
    for floor in (0.0, 0.02):
        dist = em.MaskedCategorical(logits, mask, min_prob=floor)
        drawn = dist.sample((300_000,))
        assert drawn.shape == (300_000, 4)
        for row in range(4):
            counts = torch.bincount(drawn[:, row], minlength=9)
            assert chi_square_is_plausible(counts, dist.probs[row])


def test_ten_million_draws_are_legal() -> None:
    torch.manual_seed(0)
    logits, mask = rows(100_000, 6)
    logits = logits * 20  # probabilities of all sizes
    dist = em.MaskedCategorical(logits, mask)
    for _ in range(10):
        drawn = dist.sample((10,))
        assert mask.expand(10, -1, -1).gather(-1, drawn.unsqueeze(-1)).all()


# -- the floor ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_floor_is_exact_and_passes_gradients(dtype: torch.dtype) -> None:
    logits, mask = rows(200, 6, dtype)
    leaf = (logits * 10).requires_grad_()
    dist, plain = em.MaskedCategorical(leaf, mask, min_prob=0.05), em.MaskedCategorical(leaf, mask)
    count = mask.sum(-1, keepdim=True).to(dist.probs.dtype)
    assert_near(dist.probs, torch.where(mask, (1 - count * 0.05) * plain.probs + 0.05, 0))
    assert (dist.probs[mask] >= torch.tensor(0.05, dtype=dist.probs.dtype)).all()
    assert_near(dist.probs.sum(-1), [1.0] * 200)
    rare = plain.probs.masked_fill(~mask, 2).argmin(-1)
    [gradient] = torch.autograd.grad(dist.log_prob(rare).sum(), leaf)
    busy = (count.squeeze(-1) > 1) & (plain.probs.min(-1).values < 0.04)
    alive = plain.probs.gather(-1, rare.unsqueeze(-1)).squeeze(-1) > 1e-4
    assert (gradient[busy & alive].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("floor", [1, 1.0, 1.5, math.inf, -0.1, math.nan, "a", True, torch.tensor(0.1), [0.1]])
def test_floors_that_are_none(floor: object) -> None:
    wanted = "min_prob must be a number, 0 or more and below 1, or None for no floor; got"
    with pytest.raises(ValueError, match=wanted):
        em.MaskedCategorical(torch.zeros(4), torch.ones(4, dtype=torch.bool), min_prob=floor)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_floor_that_not_all_legal_actions_can_have_caps_itself(dtype: torch.dtype) -> None:
    """Row by row 0.99 over the number of the legal ones, where that is less than the floor."""
    mask = torch.arange(4) < torch.tensor([[4], [3], [2], [1]])
    logits = torch.tensor([math.log(2), 0.0, 0.0, 0.0], dtype=dtype, requires_grad=True)
    dist = em.MaskedCategorical(logits, mask, min_prob=0.4)
    rows = [  # (1 - k e) p + e of p = 2/5 and 1/5, 1/2 and 1/4, 2/3 and 1/3, 1
        [0.2515, 0.2495, 0.2495, 0.2495],
        [0.335, 0.3325, 0.3325, 0.0],
        [0.4 + 0.4 / 3, 0.4 + 0.2 / 3, 0.0, 0.0],
        [1.0, 0.0, 0.0, 0.0],
    ]
    assert_near(dist.probs, rows, 1e-3 if dtype.itemsize == 2 else None)
    assert_near(dist.probs.sum(-1), [1.0] * 4)
    [gradient] = torch.autograd.grad(dist.log_prob(torch.ones(4, dtype=torch.int64))[0], logits)
    assert gradient[0] < 0 < gradient[1]
    assert (dist.entropy() <= 1 + 1e-6).all()
    assert dist.entropy()[3] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cap_changes_no_bit_where_it_is_not_reached(dtype: torch.dtype) -> None:
    """A row of few legal actions among many has what it has in a narrow distribution, which needs no cap."""
    logits, mask = rows(200, 9, dtype)
    mask[:, 5:] = False
    mask[:, 0] = True
    wide, narrow = (em.MaskedCategorical(logits[:, :n], mask[:, :n], min_prob=0.19) for n in (9, 5))
    noise, action = torch.rand(200), torch.randint(5, (200,))
    assert torch.equal(wide.probs[:, :5], narrow.probs)
    assert torch.equal(wide.log_prob(action), narrow.log_prob(action))
    assert torch.equal(wide.sample(noise=noise), narrow.sample(noise=noise))


def test_a_floor_that_all_actions_can_have_costs_no_cap() -> None:
    def ops(floor: float) -> list[str]:
        logits, mask = rows(5, 4)
        with OpRecorder() as recorder:
            dist = em.MaskedCategorical(logits, mask, min_prob=floor, validate="flag")
            dist.log_prob(dist.sample()), dist.entropy()
        return recorder.ops

    assert ops(0.2475) == ops(0.01)
    assert len(ops(0.01)) < len(ops(0.2476)) <= len(ops(0.01)) + 6


def test_no_floor() -> None:
    logits, mask = rows(5, 4)
    none, zero = (em.MaskedCategorical(logits, mask, min_prob=floor) for floor in (None, 0.0))
    assert torch.equal(none.log_probs, zero.log_probs)
    assert none.min_prob == none[1:].min_prob == 0.0


# -- gradients and divergence -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("floor", [0.0, 0.03, 0.4])
@pytest.mark.parametrize("output", OUTPUTS)
def test_gradients(output: str, floor: float) -> None:
    logits, mask = rows(3, 5, torch.float64)
    other = rows(3, 5, torch.float64, seed=4)[0].requires_grad_()

    def function(x: Tensor, y: Tensor) -> Tensor:
        return OUTPUTS[output](
            em.MaskedCategorical(x, mask, min_prob=floor), em.MaskedCategorical(y, mask, min_prob=floor)
        )

    inputs = (logits.requires_grad_(), other)
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, nondet_tol=NONDETERMINISM)
    assert torch.autograd.gradgradcheck(function, inputs, nondet_tol=NONDETERMINISM)


def test_divergence() -> None:
    logits, mask = rows(50, 7)
    other, full = rows(50, 7, seed=1)[0], torch.ones(50, 7, dtype=torch.bool)
    p, q = (Categorical(logits=x.masked_fill(~mask, -1e30)) for x in (logits, other))
    ours = kl_divergence(em.MaskedCategorical(logits, mask), em.MaskedCategorical(other, mask))
    assert_near(ours, kl_divergence(p, q), tolerance=1e-5)
    assert (kl_divergence(em.MaskedCategorical(logits, mask), em.MaskedCategorical(logits, mask)) == 0).all()
    assert kl_divergence(em.MaskedCategorical(logits, mask), em.MaskedCategorical(other, full)).isfinite().all()
    lacking = kl_divergence(em.MaskedCategorical(logits, full), em.MaskedCategorical(other, mask))
    assert torch.equal(lacking == math.inf, ~mask.all(-1))
    with pytest.raises(ValueError, match="p has 7 actions, q has 3"):
        kl_divergence(em.MaskedCategorical(logits, mask), em.MaskedCategorical(other[:, :3], full[:, :3]))


def test_divergence_beyond_the_range_of_probabilities_is_finite() -> None:
    """A q that underflows still supports p; a p that is 0 asks for nothing."""
    full = torch.ones(2, dtype=torch.bool)
    p = torch.tensor([0.0, 0.0], requires_grad=True)
    q = torch.tensor([0.0, -500.0], requires_grad=True)
    divergence = kl_divergence(em.MaskedCategorical(p, full), em.MaskedCategorical(q, full))
    assert_near(divergence, 250 - math.log(2))
    assert all(g.isfinite().all() for g in torch.autograd.grad(divergence, (p, q)))
    zero = torch.tensor([0.0, -math.inf], requires_grad=True)
    assert kl_divergence(em.MaskedCategorical(zero, full), em.MaskedCategorical(zero, full)) == 0
    lacking = kl_divergence(em.MaskedCategorical(p, full), em.MaskedCategorical(zero, full))
    assert lacking == math.inf
    assert all(g.isfinite().all() for g in torch.autograd.grad(lacking, (p, zero)))


# -- rows that do not act ---------------------------------------------------------------------------------------------


def test_inactive_rows_are_neutral() -> None:
    logits, mask = rows(6, 4)
    active = torch.tensor([True, False, True, False, True, False])
    logits[1], mask[3] = math.nan, False
    leaf = logits.requires_grad_()
    dist = em.MaskedCategorical(leaf, mask, active=active, min_prob=0.1)
    alone = em.MaskedCategorical(leaf[active], mask[active], min_prob=0.1)
    noise = torch.rand(6)
    assert not dist.faults.any()
    assert torch.equal(dist.sample(noise=noise)[active], alone.sample(noise=noise[active]))
    assert (dist.sample()[~active] == -1).all()
    assert (dist.mode[~active] == -1).all()
    outputs = (dist.log_prob(torch.full((6,), 9)), dist.entropy(), dist.raw_entropy(), dist.probs.sum(-1))
    assert all((output[~active] == 0).all() for output in outputs)
    total = (
        dist.log_prob(mask.int().argmax(-1)).sum()
        + dist.entropy().sum()
        + dist.log_probs[:, 0].nan_to_num(0, 0, 0).sum()
    )
    total = total + kl_divergence(dist, dist).sum()
    [gradient] = torch.autograd.grad(total, leaf)
    assert gradient.isfinite().all()
    assert (gradient[~active] == 0).all()


def test_action_faults() -> None:
    """An illegal action is a fault of its own, which -inf does not tell: a legal action may have it too."""
    mask = torch.tensor([[True, False, True]] * 6)
    logits = torch.tensor([[0.0, 9.0, -math.inf]] * 6)
    logits[4], active = math.nan, torch.arange(6) != 5
    dist = em.MaskedCategorical(logits, mask, active=active, validate="flag")
    action = torch.tensor([[0, 1, 2, -1, 0, 1], [3, 0, 0, 2, 1, -1]])  # the fifth row is faulty, the sixth inactive
    expected = [[False, True, False, True, True, False], [True, False, False, False, True, False]]
    assert dist.action_faults(action).tolist() == expected
    assert dist.action_faults(action[0].int()).tolist() == expected[0]
    assert dist.action_faults(action.unsqueeze(1))[:, 0].tolist() == expected
    assert dist.log_prob(action)[:, 1:4].isinf().tolist() == [[True, True, True], [False, False, True]]
    assert not dist.action_faults(dist.sample((20,)))[..., :4].any()
    em.raise_on_fault(dist.action_faults(action)[:, 2])
    with pytest.raises(em.InvalidStateMachineError, match=r"^3 of 6 rows are faulty: row 1, row 3, row 4$"):
        em.raise_on_fault(dist.action_faults(action[0]))


# -- as a torch distribution ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("floor", [None, 0.05, 0.9])
def test_logits_are_those_of_torch(floor: float | None) -> None:
    """Under the mask and above the floor, whatever the network gave: people take their argmax and their softmax."""
    logits, mask = rows(20, 7)
    logits[~mask] = 99.0
    logits[3] = math.nan
    dist = em.MaskedCategorical(logits, mask, min_prob=floor, validate="flag")
    fine = torch.arange(20) != 3
    assert torch.equal(dist.logits, dist.log_probs)
    assert torch.equal(dist.logits[fine].argmax(-1), dist.mode[fine])
    assert_near(dist.logits[fine].softmax(-1), dist.probs[fine])
    assert (dist.logits[fine][~mask[fine]] == -math.inf).all()
    assert (dist.logits[3] == 0).all()
    # what is made of it has seen the logits that were given
    other = em.MaskedCategorical(rows(20, 7, seed=3)[0], mask, min_prob=floor, validate="flag")
    divergence = kl_divergence(dist, other)
    for part, index in ((dist[1:], slice(1, None)), (dist.expand((2, 20))[1], slice(None))):
        assert torch.equal(part.logits, dist.logits[index])
        assert torch.equal(part.probs, dist.probs[index])
        assert torch.equal(part.faults, dist.faults[index])
        assert torch.equal(kl_divergence(part, other[index]), divergence[index])


@pytest.mark.parametrize("floor", [None, 0.05])
@pytest.mark.parametrize("width", [4, 40])
def test_what_other_libraries_take_is_contiguous(width: int, floor: float | None) -> None:
    """``torch.multinomial`` fills its noise in the order of memory, and so draws other actions from other strides."""
    logits, mask = rows(24, width)
    deep = em.MaskedCategorical(logits.view(2, 12, width), mask.view(2, 12, width), min_prob=floor)
    for dist in (
        em.MaskedCategorical(logits, mask, min_prob=floor),
        em.MaskedCategorical(logits.T.contiguous().T, mask.T.contiguous().T, min_prob=floor),
        em.MaskedCategorical(logits[0], mask, min_prob=floor),
        em.MaskedCategorical(logits.half(), mask, min_prob=floor),
        deep[0],
        deep[:, 3],
        deep.expand((3, 2, 12))[1, 0],
    ):
        for values in (dist.probs, dist.log_probs, dist.logits):
            assert values.is_contiguous()
        drawn = []
        for probs in (dist.probs, dist.probs.clone(memory_format=torch.contiguous_format)):
            torch.manual_seed(0)
            drawn.append(torch.multinomial(probs, 1))
        assert torch.equal(*drawn)


def test_what_has_no_generator_and_no_gradient_says_what_has() -> None:
    dist = em.MaskedCategorical(*rows(4, 3))
    generator = torch.Generator().manual_seed(0)
    message = r"sampling takes no generator; .*: noise=torch.rand\(\(2, 4\), generator=generator"
    with pytest.raises(TypeError, match=message):
        dist.sample((2,), generator=generator)
    drawn = dist.sample((2,), noise=torch.rand((2, 4), generator=generator, device=generator.device))
    again = dist.sample((2,), noise=torch.rand((2, 4), generator=generator.manual_seed(0)))
    assert torch.equal(drawn, again)
    for shape in ((), (2,)):
        with pytest.raises(NotImplementedError, match=r"actions are discrete .* weight log_prob\(sample\(\)\)"):
            dist.rsample(shape)


def test_shapes() -> None:
    logits, mask = rows(6, 4)
    logits, mask = logits.reshape(2, 3, 4), mask.reshape(2, 3, 4)
    dist = em.MaskedCategorical(logits, mask)
    assert isinstance(dist, Distribution)
    assert (dist.batch_shape, dist.event_shape) == ((2, 3), ())
    assert dist.sample((5, 1)).shape == (5, 1, 2, 3)
    assert dist.sample(5 * torch.Size([2])).shape == (2, 2, 2, 2, 2, 2, 3)
    assert dist.log_prob(torch.zeros(2, 3, dtype=torch.int32)).shape == (2, 3)
    assert dist.log_prob(torch.zeros(7, 2, 3, dtype=torch.int64)).shape == (7, 2, 3)
    noise = torch.rand(5, 1, 2, 3)
    drawn = dist.sample((5, 1), noise=noise)
    for i in range(5):
        assert torch.equal(drawn[i, 0], dist.sample(noise=noise[i, 0]))
    one = em.MaskedCategorical(logits[0, 0], mask[0, 0])
    assert one.sample().shape == one.entropy().shape == one.log_prob(one.mode).shape == ()
    assert dist.enumerate_support().shape == (4, 2, 3)
    assert dist.enumerate_support(expand=False).shape == (4, 1, 1)
    assert torch.equal(dist.log_prob(dist.enumerate_support()).movedim(0, -1), dist.log_probs)
    assert torch.equal(dist.log_prob(dist.enumerate_support(expand=False)).movedim(0, -1), dist.log_probs)
    assert torch.equal(dist.perplexity(), dist.raw_entropy().exp())
    assert repr(dist) == "MaskedCategorical(batch_shape=(2, 3), actions=4)"


def test_logits_and_masks_broadcast() -> None:
    logits, mask = rows(6, 4)
    for left, right in (
        (logits, mask[0]),
        (logits[0], mask),
        (logits.view(2, 3, 4), mask[:3]),
        (logits[:3], mask.view(2, 3, 4)),
    ):
        both = torch.broadcast_tensors(left, right)
        ours, plain = em.MaskedCategorical(left, right, validate="flag"), em.MaskedCategorical(*both, validate="flag")
        assert ours.batch_shape == both[0].shape[:-1]
        assert torch.equal(ours.probs, plain.probs)


def test_expand_and_index() -> None:
    logits, mask = rows(6, 4)
    active = torch.arange(6) != 2
    dist = em.MaskedCategorical(logits, mask, active=active, min_prob=0.02)
    noise = torch.rand(3, 6)
    wide = dist.expand((3, 6))
    assert wide.batch_shape == (3, 6)
    assert wide.min_prob == 0.02
    assert torch.equal(wide.sample(noise=noise), dist.sample((3,), noise=noise))
    picked = torch.tensor([4, 2, 0])
    for index in (picked, slice(1, 5, 2), 3, active, None, ..., (..., 2), (slice(None),), [0, 5]):
        part = dist[index]
        assert torch.equal(part.probs, dist.probs[(*index, slice(None)) if isinstance(index, tuple) else index])
        assert part.batch_shape == dist.faults[index].shape
        assert torch.equal(part.mode, dist.mode[index])
    assert torch.equal(wide[1, picked].probs, dist.probs[picked])
    assert torch.equal(wide[..., 1].probs, dist.probs[1].expand(3, 4))
    deep, rows_of, columns_of = dist.expand((2, 3, 6)), torch.tensor([0, 1]), torch.tensor([5, 2])
    for index in ((rows_of, slice(None), columns_of), (rows_of, ..., columns_of), (0, slice(None), picked)):
        assert deep[index].batch_shape == deep.faults[index].shape
        assert torch.equal(deep[index].mode, deep.mode[index])
    for index in ((0, 0), 6, (slice(None), 1)):
        with pytest.raises(IndexError):
            dist[index]
    for shape in ((5,), (6, 2), ()):
        with pytest.raises(ValueError, match=r"batch \(6,\) does not expand to"):
            dist.expand(shape)


@pytest.mark.slow
@pytest.mark.parametrize("floor", [0.0, 0.0005])
@pytest.mark.parametrize("width", [1, 13, 1000])
def test_many_samples_of_a_row_are_what_one_at_a_time_gives(width: int, floor: float) -> None:
    logits, mask = rows(20, width)
    mask[3] = False
    noise = torch.rand(2, 300, 20)
    noise[:, 0], noise[:, 1], noise[:, 2] = 0.0, 1.0, math.nan
    dist = em.MaskedCategorical(logits * 3, mask, min_prob=floor, validate="flag")
    drawn = dist.sample((2, 300), noise=noise)
    assert drawn.dtype == torch.int64
    alone = torch.stack([torch.stack([dist.sample(noise=row) for row in half]) for half in noise])
    assert (drawn[..., 3] == -1).all()
    assert mask.expand(2, 300, -1, -1).gather(-1, drawn.clamp_min(0).unsqueeze(-1)).squeeze(-1)[drawn >= 0].all()
    assert torch.equal(drawn[:, :3], alone[:, :3])
    assert (drawn != alone).float().mean() < 1e-3  # neighbours, where the noise lies on an edge
    assert dist.sample((0, 2)).shape == (0, 2, 20)


def test_log_probs_of_what_has_no_probability_have_no_gradient() -> None:
    leaf = torch.tensor([1.0, -math.inf, 2.0, 3.0], requires_grad=True)
    log_probs = em.MaskedCategorical(leaf, torch.tensor([True, True, True, False])).log_probs
    assert log_probs.isinf().tolist() == [False, True, False, True]
    for i in (1, 3):
        [gradient] = torch.autograd.grad(log_probs[i], leaf, retain_graph=True)
        assert (gradient == 0).all()
    [gradient] = torch.autograd.grad(log_probs[2], leaf)
    assert (gradient != 0).tolist() == [True, False, True, False]


@pytest.mark.parametrize("shape", [(0, 3), (4, 0, 3), (0, 1000)])
def test_no_rows(shape: tuple[int, ...]) -> None:
    dist = em.MaskedCategorical(torch.zeros(shape), torch.zeros(shape, dtype=torch.bool))
    assert dist.sample().shape == dist.mode.shape == dist.entropy().shape == shape[:-1]
    assert dist.log_prob(dist.mode).shape == shape[:-1]
    assert dist.sample((2,)).shape == (2, *shape[:-1])


def test_layouts_do_not_matter() -> None:
    logits, mask = rows(40, 7)
    noise, action = torch.rand(40), mask.int().argmax(-1)
    plain = em.MaskedCategorical(logits, mask)
    wide = torch.zeros(80, 14)
    wide[::2, 1::2] = logits
    for values, legal in ((logits.T.contiguous().T, mask), (wide[::2, 1::2], mask.T.contiguous().T)):
        other = em.MaskedCategorical(values, legal)
        assert torch.equal(other.sample(noise=noise), plain.sample(noise=noise))
        assert_near(other.log_prob(action), plain.log_prob(action))
        assert_near(other.entropy(), plain.entropy())


def test_entropy_asked_for_without_gradients_still_has_them() -> None:
    logits, mask = rows(3, 4)
    dist = em.MaskedCategorical(logits.requires_grad_(), mask)
    with torch.inference_mode():
        dist.entropy()
    with torch.no_grad():
        dist.entropy()
    assert dist.entropy().requires_grad
    dist.entropy().sum().backward()
    assert not dist.sample().requires_grad


def test_construction_touches_no_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Distribution, "_validate_args", True)  # torch.compile, run before, has switched it off
    before = Distribution._validate_args
    logits, mask = rows(3, 4)
    em.MaskedCategorical(logits, mask)
    assert Distribution._validate_args == before
    with pytest.raises(ValueError, match="Expected parameter"):
        Categorical(logits=torch.tensor([math.nan, 0.0]))


# -- input that does not fit ------------------------------------------------------------------------------------------

FULL = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("logits", "mask", "settings", "message"),
    [
        (
            torch.zeros(2, 3),
            FULL.float(),
            {},
            r"mask must be a bool tensor, got torch.float32; convert it with `mask > 0.5`",
        ),
        (torch.zeros(2, 3), FULL.int(), {}, r"mask must be a bool tensor, got torch.int32"),
        (torch.zeros(2, 3), [True] * 3, {}, r"mask must be a bool tensor, got list; make it one with torch.tensor"),
        (torch.zeros(2, 3), FULL[:, :2], {}, r"mask has shape \(2, 2\), which does not broadcast with \(2, 3\)"),
        (torch.zeros(2, 3), FULL[:, :1], {}, r"mask has shape \(2, 1\); wanted \(2, 3\)"),
        (torch.zeros(4, 3), FULL, {}, r"mask has shape \(2, 3\), which does not broadcast with \(4, 3\)"),
        (torch.zeros(2, 3), FULL.to("meta"), {}, rf"mask is on meta, not on {HERE}"),
        (
            torch.zeros(2, 3).int(),
            FULL,
            {},
            r"logits must be a tensor of float16, bfloat16, float32 or float64, got torch.int32",
        ),
        ([0.0] * 3, FULL, {}, r"logits must be a tensor of float16, bfloat16, float32 or float64, got list"),
        (torch.zeros(2, 3).to(torch.float8_e5m2), FULL, {}, r"got torch.float8_e5m2"),
        (torch.zeros(2, 1), FULL, {}, r"mask has shape \(2, 3\); wanted \(2, 1\)"),
        (torch.zeros(()), FULL, {}, r"logits have shape \(\); wanted \[..., n\] with at least one action"),
        (torch.zeros(2, 0), FULL[:, :0], {}, r"logits have shape \(2, 0\); wanted"),
        (torch.zeros(2, 3), FULL, {"validate": "warn"}, r"validate='warn' is not one of 'raise', 'flag', 'off'"),
        (torch.zeros(2, 3), FULL, {"active": torch.ones(2)}, r"active must be a bool .* with `active > 0.5`"),
        (torch.zeros(2, 3), FULL, {"active": FULL[:, 0].repeat(2)}, r"active has shape \(4,\); wanted \(2,\)"),
        (torch.zeros(2, 3), FULL, {"min_prob": 1.0}, r"min_prob must be a number, 0 or more and below 1.*; got 1.0"),
    ],
)
def test_bad_arguments(logits: Tensor, mask: Tensor, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        em.MaskedCategorical(logits, mask, **settings)


def test_bad_values_and_noise() -> None:
    dist = em.MaskedCategorical(torch.zeros(2, 3), FULL)
    with pytest.raises(ValueError, match=r"value must be an integer tensor, got torch.float32"):
        dist.log_prob(torch.zeros(2))
    wide = em.MaskedCategorical(torch.zeros(4, 2, 3), FULL)
    for call, wanted, shapes in (
        (dist.log_prob, "2", [(3,), (1,), (), (2, 1), (3, 1, 1), (2, 3)]),
        (dist.action_faults, "2", [(3,), (1,), (), (2, 1)]),
        (wide.log_prob, "4, 2", [(2,), (4,), (), (1, 2), (4, 1), (2, 1, 1), (2, 4), (5, 4, 1), (3, 1)]),
    ):
        for shape in shapes:  # torch broadcasts them, so that a value of another batch goes unnoticed
            with pytest.raises(ValueError, match=rf" has shape {re.escape(str(shape))}; wanted \[\*sample, {wanted}\]"):
                call(torch.zeros(shape, dtype=torch.int64))
    assert dist.log_prob(torch.zeros(3, 1, dtype=torch.int64)).shape == (3, 2)  # enumerate_support(expand=False)
    one = em.MaskedCategorical(torch.zeros(3), FULL[0])
    assert one.log_prob(torch.zeros(5, 1, dtype=torch.int64)).shape == (5, 1)
    with pytest.raises(ValueError, match=rf"noise is \(3,\) on {HERE}; wanted \(2,\) on {HERE}"):
        dist.sample(noise=torch.rand(3))
    with pytest.raises(
        ValueError, match=r"noise must be a floating-point tensor of uniforms in \[0, 1\], got torch.int64"
    ):
        dist.sample(noise=torch.zeros(2, dtype=torch.int64))
