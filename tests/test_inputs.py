"""Bad input is refused before any work, and the message says what came, what was wanted and what to do."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

import esper_masks as em

RULES = em.ruleset("esper-2025-12")
ENGINE = em.MaskEngine(RULES)
STATES = ENGINE.empty_slots(4)
TOTALS = torch.zeros(4, dtype=torch.int32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ENGINE(STATES.float()), r"int32, int16 or int64 tensor, got torch.float32"),
        (lambda: ENGINE(STATES.half()), r"got torch.float16"),
        (lambda: ENGINE(STATES.bool()), r"got torch.bool"),
        (lambda: ENGINE(STATES.to(torch.uint8)), r"got torch.uint8"),
        (lambda: ENGINE(STATES.tolist()), r"got list; see pack_slots"),
        (lambda: ENGINE(STATES[:, :2]), r"shape \(4, 2, 2\); wanted \[..., 3, 2\]: slots early, mid, late"),
        (lambda: ENGINE(STATES[..., :1]), r"shape \(4, 3, 1\).*features stage, age"),
        (lambda: ENGINE(STATES[0, 0]), r"shape \(2,\)"),
        (lambda: ENGINE(STATES.to("meta")), r"states are on meta, the engine is on cpu; move one"),
        (lambda: ENGINE(STATES, max_seeds=2), r"seed limit, so the engine needs total_seeds"),
        (lambda: em.MaskEngine(RULES, max_seeds=2)(STATES), r"needs total_seeds"),
        (lambda: ENGINE(STATES, max_seeds=TOTALS), r"needs total_seeds"),
        (
            lambda: ENGINE(STATES, TOTALS[:3], max_seeds=2),
            r"total_seeds has shape \(3,\); states of this batch need \(4,\)",
        ),
        (lambda: ENGINE(STATES, TOTALS[:, None], max_seeds=2), r"total_seeds has shape \(4, 1\)"),
        (lambda: ENGINE(STATES, TOTALS.float(), max_seeds=2), r"total_seeds must be .* got torch.float32"),
        (lambda: ENGINE(STATES, [0] * 4, max_seeds=2), r"total_seeds must be .* got list"),
        (lambda: ENGINE(STATES, TOTALS.to("meta"), max_seeds=2), r"total_seeds are on meta"),
        (lambda: ENGINE(STATES, TOTALS, max_seeds=TOTALS[:1]), r"max_seeds has shape \(1,\)"),
        (lambda: ENGINE(STATES, TOTALS, max_seeds=2.5), r"max_seeds must be an int"),
        (lambda: ENGINE(STATES, TOTALS, max_seeds=True), r"max_seeds must be an int"),
        (lambda: ENGINE(STATES, enabled=("early",)), r"enabled must be a bool tensor, got tuple; slot ids go to"),
        (lambda: ENGINE(STATES, enabled=torch.ones(3)), r"enabled must be a bool tensor, got torch.float32"),
        (
            lambda: ENGINE(STATES, enabled=torch.ones(4, dtype=torch.bool)),
            r"enabled has shape \(4,\); wanted \(3,\) or",
        ),
        (lambda: ENGINE(STATES, enabled=torch.ones(3, 4, dtype=torch.bool)), r"wanted \(3,\) or \(4, 3\)"),
        (lambda: ENGINE(STATES, "junk"), r"total_seeds must be .* got str"),
        (lambda: ENGINE(STATES, torch.zeros(99, dtype=torch.int32)), r"total_seeds has shape \(99,\)"),
        (lambda: ENGINE(STATES, TOTALS, max_seeds=2**33), r"max_seeds 8589934592 is no 32-bit integer"),
        (
            lambda: em.MaskEngine(RULES, max_seeds=torch.tensor(2)),
            r"an int here; one limit for each environment goes to",
        ),
        (lambda: em.MaskEngine(RULES, 3), r"sequence of names, got 3"),
        (lambda: em.MaskEngine(RULES, {"a", "b"}), r"sequence of names"),
        (lambda: em.MaskEngine(RULES, enabled=3), r"collection of slot ids"),
        (lambda: em.MaskEngine(RULES, ()), r"at least one slot id"),
        (lambda: em.MaskEngine(RULES, "early"), r"sequence of names"),
        (lambda: em.MaskEngine(RULES, (1, 2)), r"sequence of names"),
        (lambda: em.MaskEngine(RULES, ("a", "a")), r"repeat: a, a"),
        (lambda: em.MaskEngine(RULES, enabled=()), r"enabled is empty: no slot could ever act; the slots are early"),
        (lambda: em.MaskEngine(RULES, enabled=("early", "x")), r"no slot of the engine: \['x'\]; the slots are early"),
        (lambda: em.MaskEngine(RULES, enabled="early"), r"collection of slot ids"),
        (lambda: em.MaskEngine(RULES, enabled=torch.ones(3, dtype=torch.bool)), r"collection of slot ids"),
        (lambda: em.MaskEngine(RULES, max_seeds="2"), r"max_seeds must be an int"),
        (lambda: ENGINE.check_slots(STATES[:, :2]), r"shape \(4, 2, 2\)"),
    ],
)
def test_bad_input(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(em.SlotStateError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: em.ruleset("esper-2024"),
            r"unknown rule set 'esper-2024'; known: esper-2025-11, esper-2025-12, esper-2026",
        ),
        (lambda: em.ruleset(["x"]), r"unknown rule set"),
        (lambda: em.MaskEngine("esper-2025-12"), r"wanted MaskRules, got str; ruleset\(name\) gives one"),
        (lambda: em.MaskEngine(RULES, topology="cnn"), r"no rule switch 'topology'; it has: none"),
        (
            lambda: em.MaskEngine(em.ruleset("esper-2026-06"), toplogy="cnn"),
            r"no rule switch 'toplogy'; it has: topology='cnn', allow_governor_override=False, disable_advance=False",
        ),
        (
            lambda: em.MaskEngine(em.ruleset("esper-2026-06"), topology="rnn"),
            r"switch topology='rnn' is not one of 'cnn', 'transformer'",
        ),
        (
            lambda: em.MaskEngine(em.ruleset("esper-2026-06"), disable_advance=1),
            r"disable_advance=1 is not one of False",
        ),
    ],
)
def test_bad_rules_and_switches(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(em.RulesError, match=message):
        call()


def test_errors_are_value_errors() -> None:
    assert issubclass(em.SlotStateError, ValueError)
    assert issubclass(em.RulesError, ValueError)
    assert issubclass(em.InvalidStateMachineError, RuntimeError)


def test_totals_are_not_needed_without_a_limit() -> None:
    assert ENGINE(STATES).op_words.equal(ENGINE(STATES, max_seeds=0).op_words)
    assert ENGINE(STATES).op_words.equal(ENGINE(STATES, max_seeds=-3).op_words)


def test_a_checkpoint_holds_the_fingerprint_alone_and_refuses_another() -> None:
    engine, other = em.MaskEngine(RULES), em.MaskEngine(em.ruleset("esper-2025-11"))
    state = engine.state_dict()
    assert list(state) == ["_extra_state"]
    assert state["_extra_state"].dtype == torch.uint8
    em.MaskEngine(RULES, ["a"], max_seeds=3).load_state_dict(state)
    with pytest.raises(em.RulesError, match="made under other rules"):
        other.load_state_dict(state)
    policy = torch.nn.ModuleDict({"engine": other, "head": torch.nn.Linear(2, 2)})
    with pytest.raises(em.RulesError, match="made under other rules"):
        policy.load_state_dict(torch.nn.ModuleDict({"engine": engine, "head": torch.nn.Linear(2, 2)}).state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        engine.load_state_dict({})


def test_a_checkpoint_tells_rule_switches_apart() -> None:
    rules = em.ruleset("esper-2026-06")
    state = em.MaskEngine(rules).state_dict()
    em.MaskEngine(em.MaskEngine(rules).rules).load_state_dict(state)  # the resolved rules are the same rules
    with pytest.raises(em.RulesError, match="other rules or rule switches"):
        em.MaskEngine(rules, topology="transformer").load_state_dict(state)


def test_an_engine_made_without_memory_comes_to_life() -> None:
    """Deferred initialization: tables are not in a checkpoint, so `to_empty` must bring them."""
    with torch.device("meta"):
        engine = em.MaskEngine(RULES, enabled=("mid",))
    assert engine.device.type == "meta"
    engine.to_empty(device="cpu")
    expected = em.MaskEngine(RULES, enabled=("mid",))(STATES)
    assert torch.equal(engine(STATES).slot_words, expected.slot_words)


def test_an_engine_made_for_a_rollout_serves_an_update() -> None:
    with torch.inference_mode():
        engine = em.MaskEngine(RULES)
        engine(STATES)["blueprint"]
    logits = torch.zeros(4, 5, requires_grad=True)
    torch.where(engine(STATES)["blueprint"], logits, 0).sum().backward()
    assert logits.grad is not None


def decide(engine: em.MaskEngine) -> list[torch.Tensor]:
    """Something of everything that the package makes on an engine's device, without a device that is given."""
    states = engine.pack_slots([{"mid": em.SlotState(4, 2)}, {}])
    masks, noise = engine(states), states.new_full((2, 4), 0.7, dtype=torch.float32)
    logits = torch.linspace(-1, 1, 30, device=engine.device, dtype=torch.float32).view(2, 15)
    policy = em.FactoredCategorical(logits, masks, min_prob=0.01)
    actions = policy.sample(noise=noise)
    buffer = em.RolloutBuffer(engine, 1, 2, fields={"value": logits[0, 0]}, dtype=torch.float32)
    buffer.store(0, masks, actions, policy.log_prob(actions), value=logits[:, 0])
    every = em.ActionMasks.from_bools(engine.layout, dict(masks), masks.slot_by_op)
    row = em.MaskedCategorical(logits[:, :4], masks["op"], min_prob=0.01)
    rows = buffer.minibatch(torch.arange(2, device=engine.device))
    codec = engine.joint_actions
    engine.load_state_dict(engine.state_dict())
    engine.check_slots(engine.to("cpu").empty_slots(2))
    em.raise_on_fault(policy, row)
    return [
        states,
        every.restrict(blend=masks["blend"][0]).joint(),
        every.flat(),
        every.count(),
        every.permits(actions),
        codec.decode(codec.encode(actions)),
        policy.log_prob(policy.enumerate_support()),
        policy.head_entropies(),
        policy.entropy(),
        row.probs,
        row.entropy(),
        row.log_prob(row.enumerate_support()),
        rows.actions,
        rows.log_prob,
        rows.fields["value"],
        em.DecisionStep(engine, mode="eager", min_prob=0.01)(states, logits, noise=noise).log_prob,
    ]


@pytest.mark.parametrize("name", ["device of a context", "default device", "default dtype"])
def test_an_engine_on_a_device_does_not_depend_on_the_defaults(name: str) -> None:
    expected = decide(em.MaskEngine(RULES, enabled=("mid", "late"), device="cpu"))
    try:
        if name == "default device":
            torch.set_default_device("meta")
        if name == "default dtype":
            torch.set_default_dtype(torch.float64)
        with torch.device("meta") if name == "device of a context" else nullcontext():
            made = decide(em.MaskEngine(RULES, enabled=("mid", "late"), device="cpu"))
            elsewhere = em.MaskEngine(RULES)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert elsewhere.device.type == ("cpu" if name == "default dtype" else "meta")
    for ours, theirs in zip(made, expected):
        assert (ours.dtype, ours.device) == (theirs.dtype, theirs.device)
        assert torch.equal(ours, theirs)


def test_a_checkpoint_survives_a_file(tmp_path: Any) -> None:
    torch.save(em.MaskEngine(RULES).state_dict(), tmp_path / "engine.pt")
    state = torch.load(tmp_path / "engine.pt", weights_only=True)
    em.MaskEngine(RULES).load_state_dict(state)


def test_engines_move_with_their_module() -> None:
    module = torch.nn.ModuleDict({"engine": em.MaskEngine(RULES)}).to("meta")
    assert module["engine"].device.type == "meta"
    assert module["engine"](STATES.to("meta")).op_words.device.type == "meta"
    assert em.MaskEngine(RULES).half().to(torch.float64)(STATES).op_words.equal(ENGINE(STATES).op_words)
