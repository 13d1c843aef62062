"""Rules whose masks need more than states: rows of the environment, an op without a slot, heads that callers mask."""

from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

import esper_masks as em
from tests.helpers import as_bools, assert_same_masks, assert_same_words, random_states, seeded

NODES = ("n0", "n1", "n2", "n3", "n4")
PODS = ("a", "b", "c")


class Pod(IntEnum):
    EMPTY = 0
    PENDING = 1
    READY = 2


class Do(IntEnum):
    WAIT = 0
    BIND = 1
    EVICT = 2
    CORDON = 3


RULES = em.MaskRules(
    name="pods",
    stages=Pod,
    transitions={Pod.EMPTY: (), Pod.PENDING: (Pod.READY,), Pod.READY: (Pod.EMPTY,)},
    empty=Pod.EMPTY,
    op_rules=[
        em.Op(Do.WAIT, always=True),
        em.Op(Do.BIND, moves={Pod.PENDING: Pod.READY}, uses=("slot", "node")),
        em.Op(Do.EVICT, moves={Pod.READY: Pod.EMPTY}, uses=("slot",), when=(em.Row("evictions", at_least=1),)),
        em.Op(Do.CORDON, uses=("zone",), when=(em.Row("night", in_=(True,)),)),
    ],
    heads=[em.Head("node", NODES), em.Head("zone", ("z0", "z1")), em.Head("slot"), em.Head("op")],
    row_features={"night": bool, "evictions": int},
    slot_ids=PODS,
)


def engine_of(**settings: Any) -> em.MaskEngine:
    return em.MaskEngine(RULES, **settings)


def rows(*batch: int, seed: int = 0) -> dict[str, Tensor]:
    generator = seeded(seed)
    return {
        "night": torch.rand(batch, generator=generator) < 0.5,
        "evictions": torch.randint(-1, 3, batch, generator=generator),
    }


def inputs(engine: em.MaskEngine, batch: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """States, logits and noise."""
    generator, heads = seeded(seed), engine.layout.heads
    logits = torch.randn(batch, engine.layout.logit_size, generator=generator)
    states = random_states(engine, batch, seed, stages=range(-1, 4))
    return states, logits, torch.rand(batch, len(heads), generator=generator)


def assert_as_legal(ours: em.ActionMasks, theirs: em.ActionMasks) -> None:
    """Bit for bit, but for heads that packed words had room for by slot: of these the same whole actions are legal."""
    layout, held = theirs.layout, [{at for at, by_slot in masks.dynamic if by_slot} for masks in (ours, theirs)]
    wide = {layout.head_names[at] for at in held[0] - held[1]}
    assert_same_words(ours, theirs)
    assert_same_masks(ours, {name: mask for name, mask in as_bools(theirs).items() if name not in wide})
    for head in layout.heads:
        if head.name not in ("op", "slot") and not head.users & ~layout.slot_users:
            assert torch.equal(ours.by_slot(head.name), theirs.by_slot(head.name))
