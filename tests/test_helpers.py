"""The comparison that other tests rely on can fail, and says where."""

import pytest

import esper_masks as em
from tests.helpers import as_bools, assert_same_masks, random_states


def test_a_difference_is_named() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    states = random_states(engine, 5)
    masks = engine(states)
    theirs = {name: mask.clone() for name, mask in as_bools(masks).items()}
    assert_same_masks(masks, theirs, states)
    theirs["op"][3, 2] ^= True
    here = bool(masks["op"][3, 2])
    with pytest.raises(AssertionError, match=rf"env \[3\]: op CULL -> {here}, the other -> {not here} \(1 differences"):
        assert_same_masks(masks, theirs, states)
    theirs = {"slot_by_op": masks.slot_by_op.clone()}
    theirs["slot_by_op"][4, 3, 1] ^= True
    with pytest.raises(AssertionError, match=r"env \[4\]: FOSSILIZE in slot mid"):
        assert_same_masks(masks, theirs)
    with pytest.raises(AssertionError, match="shape"):
        assert_same_masks(masks, {"op": masks["op"][:2]})
