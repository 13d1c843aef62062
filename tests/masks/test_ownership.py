"""What is kept is owned: a caller who writes to its tensor or array again changes nothing that was made of it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import esper_masks as em
from tests.helpers import as_bools, assert_same_masks, random_states

ENGINE = em.MaskEngine(em.ruleset("esper-2026-06"))
LAYOUT = ENGINE.layout
BATCH = 20
STATES = random_states(ENGINE, BATCH, stages=range(0, 11))
MASKS = ENGINE(STATES)
LOGITS = torch.randn(BATCH, LAYOUT.logit_size, generator=torch.Generator().manual_seed(0))
NOISE = torch.rand(BATCH, len(LAYOUT.heads), generator=torch.Generator().manual_seed(1))


def some(*shape: int, seed: int = 0) -> Tensor:
    made = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.6
    made[..., 0] = True
    return made


HEADS = {head.name: (head.size,) for head in LAYOUT.heads}
GIVEN: dict[str, tuple[Callable[..., em.ActionMasks], Sequence[Tensor]]] = {
    **{
        f"restrict {name} {wide}": (
            lambda mask, name=name: MASKS.restrict(**{name: mask}),
            [some(*((BATCH, *axes) if wide else axes))],
        )
        for name, axes in {**HEADS, "slot_by_op": (len(LAYOUT.ops), len(LAYOUT.slot_ids))}.items()
        for wide in (False, True)
    },
    "restrict twice": (lambda one, two: MASKS.restrict(style=one).restrict(style=two), [some(4), some(4, seed=1)]),
    "from_bools": (
        lambda *heads: em.ActionMasks.from_bools(LAYOUT, dict(zip(HEADS, heads))),
        [some(BATCH, *axes, seed=at) for at, axes in enumerate(HEADS.values())],
    ),
    "from_bools by slot": (
        lambda op, slot, style: em.ActionMasks.from_bools(LAYOUT, {"op": op, "slot": slot, "style": style}),
        [some(BATCH, 6), some(BATCH, 3), some(BATCH, 3, 4)],
    ),
    "restrict by slot": (lambda mask: MASKS.restrict(style_by_slot=mask), [some(3, 4)]),
    "from_packed": (
        lambda mask: em.ActionMasks.from_packed(LAYOUT, MASKS.restrict(style_by_slot=mask).pack()),
        [some(BATCH, 3, 4)],
    ),
    "from_bools with pairs": (
        lambda op, slot, pairs: em.ActionMasks.from_bools(LAYOUT, {"op": op, "slot": slot}, pairs),
        [some(BATCH, 6), some(BATCH, 3), some(BATCH, 6, 3)],
    ),
}
FORMS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": torch.clone,
    "numpy": lambda mask: mask.numpy().copy(),
    "numpy, backwards in memory": lambda mask: mask.numpy()[..., ::-1].copy()[..., ::-1],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", GIVEN)
def test_masks_own_what_they_keep(name: str, form: str) -> None:
    """Kept by reference, an illegal action once had a finite log-probability after the caller's next step."""
    make, tensors = GIVEN[name]
    expected = as_bools(make(*tensors))
    given = [FORMS[form](tensor) for tensor in tensors]
    masks = make(*given)
    policy = em.FactoredCategorical(LOGITS, masks, validate="flag")
    for array in given:
        array[...] = ~array
    assert_same_masks(masks, expected)
    actions = policy.sample(noise=NOISE)
    again = em.FactoredCategorical(LOGITS, masks, validate="flag")
    assert torch.equal(again.sample(noise=NOISE), actions)
    assert torch.equal(again.log_prob(actions), policy.log_prob(actions))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.int8])
def test_masks_own_their_words(dtype: torch.dtype) -> None:
    words, op_words = MASKS.slot_words.to(dtype, copy=True), MASKS.op_words.to(dtype, copy=True)
    made = em.ActionMasks.from_words(LAYOUT, words), em.ActionMasks.from_words(LAYOUT, words, op_words)
    words.zero_()
    op_words.zero_()
    for masks in made:
        assert_same_masks(masks, as_bools(MASKS))


@pytest.mark.parametrize("form", FORMS)
def test_a_distribution_owns_its_mask(form: str) -> None:
    mask, active = FORMS[form](some(BATCH, 8)), FORMS[form](some(BATCH))
    dist = em.MaskedCategorical(LOGITS[:, :8], mask, active=active)
    expected = em.MaskedCategorical(LOGITS[:, :8], some(BATCH, 8), active=some(BATCH))
    mask[...], active[...] = ~mask, ~active
    actions = dist.sample(noise=NOISE[:, 0])
    assert torch.equal(actions, expected.sample(noise=NOISE[:, 0]))
    assert torch.equal(dist.mask, expected.mask)
    for part in (dist, dist[:], dist.expand((BATCH,))):
        assert torch.equal(part.log_prob(actions), expected.log_prob(actions))
    assert torch.distributions.kl_divergence(dist, expected).eq(0).all()


@pytest.mark.parametrize("form", FORMS)
def test_whole_actions_own_who_acts(form: str) -> None:
    active = FORMS[form](some(BATCH))
    faulty = torch.where(torch.arange(BATCH).unsqueeze(-1) == 0, torch.nan, LOGITS)
    policy = em.FactoredCategorical(faulty, MASKS, active=active, validate="flag")
    expected = em.FactoredCategorical(faulty, MASKS, active=some(BATCH), validate="flag")
    active[...] = ~active
    actions = policy.sample(noise=NOISE)
    assert torch.equal(actions, expected.sample(noise=NOISE))
    assert torch.equal(policy.faults, expected.faults)
    assert policy.faults[0] != 0
    assert torch.equal(policy[:].log_prob(actions), expected.log_prob(actions))


def test_numpy_masks_that_are_used_and_not_kept() -> None:
    enabled, active = some(BATCH, 3), some(BATCH)
    expected, masks = ENGINE(STATES, enabled=enabled), ENGINE(STATES, enabled=enabled.numpy())
    assert_same_masks(masks, as_bools(expected))
    one = ENGINE.explain(STATES, 3, enabled=enabled.numpy())
    assert str(one) == str(ENGINE.explain(STATES, 3, enabled=enabled))
    step = em.DecisionStep(ENGINE, mode="eager")
    ours = step(STATES, LOGITS, enabled=enabled.numpy(), active=active.numpy(), noise=NOISE)
    theirs = step(STATES, LOGITS, enabled=enabled, active=active, noise=NOISE)
    assert torch.equal(ours.actions, theirs.actions)
    assert_same_masks(step.masks(STATES, enabled=enabled.numpy()), as_bools(expected))
    scored = step.evaluate(LOGITS, masks, ours.actions, active=active.numpy())
    assert torch.equal(scored.log_prob, ours.log_prob)
    buffer = em.RolloutBuffer(ENGINE, 1, BATCH)
    buffer.store(0, masks, ours.actions, ours.log_prob, active=active.numpy())
    assert torch.equal(buffer.active[0], active)
    env = em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), BATCH)
    env.reset(where=active.numpy())


@pytest.mark.parametrize(
    "take",
    [
        lambda mask: em.MaskedCategorical(LOGITS[:, :3], mask),
        lambda mask: MASKS.restrict(slot=mask),
        lambda mask: ENGINE(STATES, enabled=mask),
    ],
)
def test_what_is_no_bool_mask_is_told_to_copy(take: Callable[[Any], Any]) -> None:
    copy = r"make it one with torch.tensor\(...\) > 0.5|slot ids go to the constructor"
    with pytest.raises(ValueError, match=f"must be a bool tensor, got ndarray of int8; (?:{copy})"):
        take(np.ones((BATCH, 3), np.int8))
    with pytest.raises(ValueError, match=f"must be a bool tensor, got list; (?:{copy})"):
        take([[True] * 3] * BATCH)


def test_what_is_no_mask_of_bools_or_int8_is_told_to_copy() -> None:
    for mask, kind in ((np.ones((BATCH, 3), np.int32), "ndarray of int32"), ([[True] * 3] * BATCH, "list")):
        with pytest.raises(ValueError, match=f"must be a bool tensor, got {kind}; make it one with torch.tensor"):
            em.ActionMasks.from_bools(LAYOUT, {**MASKS, "slot": mask})


def test_a_step_owns_its_floors() -> None:
    floors = {"op": 0.05}
    step = em.DecisionStep(ENGINE, mode="eager", min_prob=floors)
    expected = step(STATES, LOGITS, noise=NOISE)
    floors["op"] = 0.1
    assert torch.equal(step(STATES, LOGITS, noise=NOISE).log_prob, expected.log_prob)
    assert step.min_prob == {"op": 0.05}
