"""Rows without an action to take: who is told, when, and what such a row gives meanwhile."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import esper_masks as em
from tests.helpers import random_states

BAD_ROWS = {
    "no legal action": ([0.0, 0.0, 0.0], [False, False, False]),
    "all legal -inf": ([-math.inf, 0.0, -math.inf], [True, False, True]),
    "legal nan": ([0.0, math.nan, 0.0], [True, True, False]),
    "legal +inf": ([math.inf, 0.0, 0.0], [True, True, True]),
}


def batch_with(row: tuple[list[float], list[bool]], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    logits, mask = torch.zeros(4, 3, dtype=dtype), torch.ones(4, 3, dtype=torch.bool)
    logits[2], mask[2] = torch.tensor(row[0]), torch.tensor(row[1])
    return logits, mask


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("bad", BAD_ROWS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_faulty_rows_of_one_head(bad: str, dtype: torch.dtype) -> None:
    logits, mask = batch_with(BAD_ROWS[bad], dtype)
    leaf = logits.requires_grad_()
    with pytest.raises(em.InvalidStateMachineError, match=r"^1 of 4 rows are faulty: row 2; such a row has no legal"):
        em.MaskedCategorical(leaf, mask)
    for floor in (0.0, 0.1):
        dist = em.MaskedCategorical(leaf, mask, validate="flag", min_prob=floor)
        assert dist.faults.tolist() == [False, False, True, False]
        assert dist.sample()[2] == dist.mode[2] == -1
        for value in (dist.log_prob(torch.tensor([0] * 4)), dist.log_probs[:, 1], dist.entropy(), dist.raw_entropy()):
            assert value[2] == 0
            assert value.isfinite().all()
            [gradient] = torch.autograd.grad(value.sum(), leaf, retain_graph=True)
            assert (gradient[2] == 0).all()
            assert gradient.isfinite().all()
    off = em.MaskedCategorical(leaf, mask, validate="off")
    assert off.sample()[2] == -1
    assert torch.equal(
        off.log_prob(torch.tensor([0] * 4)), em.MaskedCategorical(leaf, mask, validate="flag").log_probs[:, 0]
    )


HEADS = ("slot", "blueprint", "blend", "op")


def decision(**poison: tuple[int, int, float]) -> tuple[dict[str, Tensor], em.ActionMasks]:
    """Five empty environments; head=(row, choice, value) sets one logit."""
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    logits = {head: torch.zeros(5, size) for head, size in zip(HEADS, (3, 5, 3, 4))}
    for head, (row, choice, value) in poison.items():
        logits[head][row, choice] = value
    return logits, engine(engine.empty_slots(5))


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("head", "choice"), [("slot", 1), ("blueprint", 2), ("blend", 0), ("op", 1), ("op", 0)])
def test_faulty_rows_of_whole_actions(head: str, choice: int, value: float) -> None:
    logits, masks = decision(**{head: (3, choice, value)})
    leaves = {name: x.requires_grad_() for name, x in logits.items()}
    with pytest.raises(em.InvalidStateMachineError, match=rf"^1 of 5 rows are faulty: row 3 \({head}\); such a row"):
        em.FactoredCategorical(leaves, masks)
    dist = em.FactoredCategorical(leaves, masks, validate="flag")
    assert dist.faults.tolist() == [0, 0, 0, 1 << HEADS.index(head), 0]
    action = dist.sample()
    assert (action[3] == -1).all()
    assert dist.legal(action).tolist() == [True, True, True, False, True]
    outputs = (dist.log_prob(action), dist.raw_entropy(), dist.entropy(), dist.head_entropies())
    for output in outputs:
        assert output.isfinite().all()
        assert (output[3] == 0).all()
    gradients = torch.autograd.grad(sum(output.sum() for output in outputs), list(leaves.values()))
    assert all(gradient.isfinite().all() and (gradient[3] == 0).all() for gradient in gradients)
    em.FactoredCategorical(leaves, masks, active=torch.arange(5) != 3)  # nobody acts there
    drawn = em.FactoredCategorical(leaves, masks, validate="off").sample()
    assert torch.equal(dist.legal(drawn) | (torch.arange(5) == 3), torch.ones(5, dtype=torch.bool))


@pytest.mark.usefixtures("form")
def test_what_is_under_the_masks_is_no_fault() -> None:
    """CULL and FOSSILIZE are illegal in empty slots, NOOP always."""
    logits, masks = decision(op=(0, 2, math.nan), blueprint=(1, 0, math.inf))
    assert not em.FactoredCategorical(logits, masks).faults.any()
    logits["slot"] = torch.zeros(5, 4, 3)
    logits["slot"][:, 2] = math.nan  # logits given an op that is illegal
    assert not em.FactoredCategorical(logits, masks).faults.any()
    logits["slot"][4, 1] = -math.inf
    with pytest.raises(em.InvalidStateMachineError, match=r"row 4 \(slot\)"):
        em.FactoredCategorical(logits, masks)


@pytest.mark.usefixtures("form")
def test_words_that_contradict_themselves_are_a_fault() -> None:
    """CULL is said to be legal, and no slot allows it."""
    layout = em.MaskEngine(em.ruleset("esper-2025-12")).layout
    masks = em.ActionMasks(layout, torch.ones(2, 3, dtype=torch.int32), torch.tensor([1, 0b101], dtype=torch.int32))
    dist = em.FactoredCategorical(torch.zeros(2, 14 + 1), masks, validate="flag")
    assert dist.faults.tolist() == [0, 1]


def test_many_rows_and_heads_in_one_message() -> None:
    logits = torch.zeros(4, 5, 15)
    logits[0, 3, 11:] = math.nan
    logits[1] = math.nan
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    masks = engine(torch.ones(4, 5, 3, 2, dtype=torch.int32))
    first = r"row \(0, 3\) \(op\), row \(1, 0\) \(slot, blueprint, blend, op\)"
    wanted = rf"^6 of 20 rows are faulty: {first}, .* and 1 more; such"
    with pytest.raises(em.InvalidStateMachineError, match=wanted):
        em.FactoredCategorical(logits, masks)


# -- many flags, one read ---------------------------------------------------------------------------------------------


def test_raise_on_fault() -> None:
    em.raise_on_fault()
    logits, masks = decision(slot=(1, 0, math.nan), op=(1, 0, math.inf))
    joint = em.FactoredCategorical(logits, masks, validate="flag")
    single = em.MaskedCategorical(*batch_with(BAD_ROWS["legal nan"]), validate="flag")
    fine = em.MaskedCategorical(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), validate="flag")
    em.raise_on_fault(fine, fine.faults, torch.zeros(3, 4, dtype=torch.int32), grad_norm=torch.tensor(3.0))
    cases: list[tuple[Any, dict[str, Any], str]] = [
        ((joint,), {}, r"^1 of 5 rows are faulty: row 1 \(slot, op\)$"),
        ((fine, single), {}, r"^1 of 4 rows are faulty: row 2$"),
        ((single, joint), {}, r"^1 of 4 rows are faulty: row 2; 1 of 5 rows are faulty: row 1 \(slot, op\)$"),
        ((joint.faults,), {"heads": HEADS}, r"row 1 \(slot, op\)$"),
        ((joint.faults,), {}, r"row 1 \(bit 0, bit 3\); give heads= to name the bits"),
        (
            (torch.tensor([0, 16]),),
            {"heads": HEADS},
            r"^1 of 2 rows are faulty: row 1 \(illegal action\); masks or act.*",
        ),
        ((torch.tensor([0, 16]),), {}, r"row 1 \(bit 4\); give heads="),
        (
            (),
            {"rollout": joint.faults.expand(2, 5), "heads": HEADS},
            r"^rollout: 2 of 10 .*: row \(0, 1\) \(slot, op\), row",
        ),
        ((fine,), {"grad_norm": torch.tensor(math.nan)}, r"^grad_norm: a fault \(nan\)$"),
        ((torch.tensor([1.0, math.inf]),), {}, r"^1 of 2 rows are faulty: row 1 \(inf\)$"),
        ((torch.tensor(True),), {}, r"^a fault$"),
    ]
    for flags, named, message in cases:
        with pytest.raises(em.InvalidStateMachineError, match=message):
            em.raise_on_fault(*flags, **named)
    named = torch.tensor([-1, 1 << 62]), {"heads": ["a"]}
    with pytest.raises(
        em.InvalidStateMachineError, match=r"row 0 \(a, illegal action, bit 2, .*, bit 63\), row 1 \(bit 62\);"
    ):
        em.raise_on_fault(named[0], **named[1])
    for flag, got in (([True], "list"), (torch.zeros(2) * 1j, "torch.complex64"), (NoTensor(), "NoTensor")):
        with pytest.raises(ValueError, match=rf"a flag must be a distribution, or a tensor of .*; got {got}"):
            em.raise_on_fault(flag)
    for heads in (torch.tensor([True]), "slot", [1]):
        with pytest.raises(ValueError, match="heads are the names of the bits of integer flags"):
            em.raise_on_fault(heads=heads)


class NoTensor:
    faults, fault_names = 3, ()


def test_one_poisoned_row_leaves_the_weights_untouched() -> None:
    """End to end: the flags and the norm are read together before the step; a clean batch then learns."""
    torch.manual_seed(0)
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    states = random_states(engine, 64, stages=range(1, 11))
    masks, observations = engine(states), torch.randn(64, 6)
    policy = nn.Linear(6, 15)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    before = [parameter.clone() for parameter in policy.parameters()]

    def update(observations: Tensor) -> None:
        dist = em.FactoredCategorical(policy(observations), masks, validate="flag")
        action = dist.sample()
        loss = -(dist.log_prob(action) + 0.01 * dist.head_entropies().sum(-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        em.raise_on_fault(dist, grad_norm=norm)
        optimizer.step()

    poisoned = observations.clone()
    poisoned[17, 2] = math.nan
    with pytest.raises(
        em.InvalidStateMachineError, match=r"^1 of 64 rows are faulty: row 17 .*; grad_norm: a fault \(nan\)"
    ):
        update(poisoned)
    assert all(torch.equal(p, q) for p, q in zip(policy.parameters(), before))
    update(observations)
    assert not any(torch.equal(p, q) for p, q in zip(policy.parameters(), before))


# -- arguments that do not fit ----------------------------------------------------------------------------------------


def changed(name: str, value: Any) -> dict[str, Tensor]:
    logits = decision()[0] | {name: value}
    return {head: x for head, x in logits.items() if x is not None}


@pytest.mark.parametrize(
    ("logits", "settings", "message"),
    [
        (torch.zeros(5, 14), {}, r"logits have shape \(5, 14\); wanted \(5, 15\), leading axes as in the masks"),
        (torch.zeros(15), {}, r"logits have shape \(15,\); wanted \(5, 15\)"),
        (
            torch.zeros(5, 15).int(),
            {},
            r"logits must be a tensor of float16, bfloat16, float32 or float64, got torch.int32",
        ),
        (torch.zeros(5, 15, device="meta"), {}, r"logits are on meta, the masks are on cpu; move one of them"),
        (
            [0.0],
            {},
            r"logits must be a tensor \[..., 15\] or a mapping with one for each of the heads slot, .*; got list",
        ),
        (changed("op", None), {}, r"for each of the heads slot, blueprint, blend, op; got slot, blueprint, blend$"),
        (changed("tempo", torch.zeros(5, 3)), {}, r"got slot, blueprint, blend, op, tempo"),
        (changed("slot", torch.zeros(5, 2)), {}, r"head 'slot' have shape \(5, 2\); wanted \(5, 3\) or \(5, 4, 3\)"),
        (changed("op", torch.zeros(5, 4, 4)), {}, r"head 'op' have shape \(5, 4, 4\); wanted \(5, 4\), leading"),
        (changed("slot", [0.0] * 3), {}, r"logits of head 'slot' must be a tensor of .*, got list"),
        (
            torch.zeros(5, 15),
            {"min_prob": {"blend": 0.2, "blueprint": 1}},
            r"min_prob of head 'blueprint' must be a number, 0 or more and below 1, or None for no floor; got 1$",
        ),
        (torch.zeros(5, 15), {"min_prob": {"tempo": 0.1}}, r"min_prob names no head: \['tempo'\]; the heads are slot"),
        (torch.zeros(5, 15), {"min_prob": [0.1]}, r"min_prob has 1 floors; wanted 4, one for each of slot, blueprint"),
        (torch.zeros(5, 15), {"min_prob": "much"}, r"min_prob of head 'slot' must be a number, .*; got 'much'"),
        (torch.zeros(5, 15), {"min_prob": torch.tensor(0.1)}, r"must be a number, .*; got tensor\(0.1000\)"),
        (torch.zeros(5, 15), {"validate": True}, r"validate=True is not one of 'raise', 'flag', 'off'"),
        (torch.zeros(5, 15), {"active": torch.ones(5)}, r"active must be a bool tensor, got torch.float32"),
        (torch.zeros(5, 15), {"active": torch.ones(4, dtype=torch.bool)}, r"active has shape \(4,\); wanted \(5,\)"),
    ],
)
def test_bad_arguments(logits: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        em.FactoredCategorical(logits, decision()[1], **settings)


def test_bad_masks_actions_and_noise() -> None:
    logits, masks = decision()
    with pytest.raises(ValueError, match=r"masks must be ActionMasks, got dict; ActionMasks.from_bools makes them"):
        em.FactoredCategorical(logits, dict(masks))
    dist = em.FactoredCategorical(logits, masks)
    for call in (dist.log_prob, dist.head_log_probs, dist.legal, dist.action_faults):
        with pytest.raises(ValueError, match=r"(value|action) must be an integer tensor, got torch.float32"):
            call(torch.zeros(5, 4))
        with pytest.raises(
            ValueError, match=r"(value|action) has shape \(5, 3\); wanted \[..., 4\], one value for each of slot"
        ):
            call(torch.zeros(5, 3, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"(value|action) has shape \(6, 4\); wanted \[\*sample, 5, 4\]"):
            call(torch.zeros(6, 4, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"(value|action) has shape \(42, 1, 4\); wanted \[\*sample, 5, 4\]"):
            call(torch.zeros(42, 1, 4, dtype=torch.int64))  # one less than there are whole actions
    with pytest.raises(ValueError, match=r"noise is \(5,\) on cpu; wanted \(5, 4\) on cpu"):
        dist.sample(noise=torch.rand(5))
    assert (dist.log_prob(torch.full((2, 5, 4), -1)) == -math.inf).all()
