"""The masks that the original programs gave, bit for bit."""

import numpy as np
import pytest
import torch
from torch import Tensor

import esper_masks as em
from tests.helpers import assert_same_masks, shared


def columns(name: str) -> dict[str, Tensor]:
    with np.load(shared(f"golden/{name}.npz")) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def heads(golden: dict[str, Tensor], rules: em.MaskRules) -> dict[str, Tensor]:
    return {name: golden[name] for name in (*rules.head_names, "slot_by_op") if name in golden}


def test_december_2025() -> None:
    golden = columns("rules_2025_12")
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    states = torch.stack([golden["stage"], golden["age"]], -1)
    masks = engine(states, golden["total"], max_seeds=golden["limit"], enabled=golden["enabled"])
    assert len(states) == 20_000
    assert set(heads(golden, engine.rules)) == {"slot", "blueprint", "blend", "op"}
    assert_same_masks(masks, heads(golden, engine.rules), states)


@pytest.mark.parametrize("topology", [0, 1])
@pytest.mark.parametrize("override", [False, True])
@pytest.mark.parametrize("no_advance", [False, True])
def test_june_2026(topology: int, override: bool, no_advance: bool) -> None:
    golden = columns("rules_2026_06")
    rows = (golden["topology"] == topology) & (golden["override"] == override) & (golden["no_advance"] == no_advance)
    golden = {name: column[rows] for name, column in golden.items()}
    assert len(golden["stage"]) > 500
    engine = em.MaskEngine(
        em.ruleset("esper-2026-06"),
        topology=("cnn", "transformer")[topology],
        allow_governor_override=override,
        disable_advance=no_advance,
    )
    states = torch.stack([golden["stage"], golden["age"], golden["alpha_mode"]], -1)
    masks = engine(states, golden["total"], max_seeds=golden["limit"], enabled=golden["enabled"])
    assert len(heads(golden, engine.rules)) == 9
    assert_same_masks(masks, heads(golden, engine.rules), states)


def test_june_2026_rows_are_all_covered() -> None:
    golden = columns("rules_2026_06")
    assert len(golden["stage"]) == 20_000
    assert set(golden["topology"].tolist()) == {0, 1}
