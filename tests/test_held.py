"""Files that version 0.1.0 wrote are read by every later version; ``tests/held`` keeps some."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import esper_masks as em
from tests.held import charging

HELD = Path(__file__).with_name("held")
KINDS = {"shipped": em.MaskEngine(em.ruleset("esper-2025-12")), "own": em.MaskEngine(charging.RULES, site="motorway")}
FINGERPRINTS = {
    "esper-2025-11": "24af083adad5b29e0bbc235eb07ca4f39111c53ac3a2be5b371bf37407bad97b",
    "esper-2025-12": "fa4b04f7a87181935b022d2af41480688b72277c2606fef9562e2db5a8c9c356",
    "esper-2026-06": "4d1bfe9f6dfaf98b35477723971ef995417550fd0113d7643ba095f6b6ebaac9",
}
LEGAL = {
    "shipped": [3, 3, 25, 2, 3, 14],
    "own": [1, 2, 8, 15, 8, 2],
}  # whole actions of each row, as 0.1.0 counted them
ACTIONS = [[0, 0, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [2, 0, 0, 2], [2, 2, 0, 1]]
LIMITED = {
    "shipped": [3, 3, 19, 2, 3, 11],
    "own": [1, 2, 6, 15, 8, 2],
}  # with choice 1 of the first free head taken away


@pytest.fixture(params=["shipped", "own"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("name", em.rulesets())
def test_fingerprints_stay(name: str) -> None:
    assert em.ruleset(name).fingerprint == FINGERPRINTS[name]
    assert charging.RULES.fingerprint == "6467ad395f0dd697f9a1efe1c567186060b65d312cee9cb72d21f6fe47ccb641"


def test_rules(kind: str) -> None:
    rules = pickle.loads((HELD / f"{kind}-rules.pickle").read_bytes())
    assert rules == {"shipped": em.ruleset("esper-2025-12"), "own": charging.RULES}[kind]
    assert rules.fingerprint == {"shipped": em.ruleset("esper-2025-12"), "own": charging.RULES}[kind].fingerprint
    em.MaskEngine(rules)


def test_engines_and_buffers(kind: str) -> None:
    engine = KINDS[kind]
    engine.load_state_dict(torch.load(HELD / f"{kind}-engine.pt", weights_only=True))
    buffer = em.RolloutBuffer(engine, 2, 6)
    buffer.load_state_dict(torch.load(HELD / f"{kind}-buffer.pt", weights_only=True))
    other = KINDS[{"shipped": "own", "own": "shipped"}[kind]]
    with pytest.raises(em.RulesError, match="made under other rules"):
        other.load_state_dict(torch.load(HELD / f"{kind}-engine.pt", weights_only=True))


@pytest.mark.parametrize("weights_only", [True, False])
def test_masks(kind: str, weights_only: bool) -> None:
    held = torch.load(HELD / f"{kind}-masks.pt", weights_only=weights_only)
    engine = KINDS[kind]
    masks = engine(held["states"])
    assert masks.count().tolist() == held["masks"].count().tolist() == LEGAL[kind]
    assert held["limited"].count().tolist() == LIMITED[kind]
    assert held["masks"].layout == masks.layout
    for name in masks:
        assert masks[name].equal(held["masks"][name]), name
    joined = em.ActionMasks.cat([masks, held["limited"]])
    assert joined.count().tolist() == LEGAL[kind] + LIMITED[kind]


@pytest.mark.parametrize("weights_only", [True, False])
def test_decisions(weights_only: bool) -> None:
    held = torch.load(HELD / "decisions.pt", weights_only=weights_only)
    engine = KINDS["shipped"]
    buffer = em.RolloutBuffer(engine, 2, 6, fields={"value": torch.zeros(())})
    buffer.load_state_dict(held["buffer"])
    rows = buffer.minibatch(torch.arange(12))
    assert rows.masks.count().tolist() == held["minibatch"].masks.count().tolist() == 2 * LEGAL["shipped"]
    assert rows.actions.equal(held["minibatch"].actions)
    assert rows.actions[6:].tolist() == held["decision"].actions.tolist() == ACTIONS
    assert rows.log_prob[6:].equal(held["decision"].log_prob)
    assert rows.fields["value"].tolist() == [0.0] * 6 + [1.0] * 6
    assert torch.allclose(held["evaluation"].log_prob, held["decision"].log_prob)


def test_objects() -> None:
    held = pickle.loads((HELD / "objects.pickle").read_bytes())
    assert held["state"] == em.SlotState(stage=4, age=2)
    assert str(held["explanation"]).splitlines()[:2] == [
        "WAIT: legal",
        "GERMINATE early: stage PROBATIONARY, needs DORMANT",
    ]
    assert held["joint"].size == 43


def test_trainings() -> None:
    policy = em.rollout.load_policy(HELD / "checkpoint-000000000600.pt")
    assert policy.engine.rules == em.ruleset("esper-2025-12")
