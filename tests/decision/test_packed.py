"""Masks that slot words do not hold: kept in packed words of three widths, and back bit for bit."""

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import esper_masks as em
from esper_masks.decision.packing import empty, in_words, words_for
from tests import pods
from tests.helpers import HERE, HOST_READS, OpRecorder, as_bools, assert_same_masks, seeded
from tests.pods import assert_as_legal

BATCH = 12


def shipped() -> em.MaskEngine:
    return em.MaskEngine(em.ruleset("esper-2025-12"))


ENGINES = {"pods": pods.engine_of, "shipped": shipped}
# what limits masks: the rows of a restriction by its name, and the names for which a buffer is made
LIMITS: list[tuple[str, ...]] = [(), ("slot", "slot_by_op"), ("op",), ("some",), ("op", "some"), ("some_by_slot",)]


def head_of(engine: em.MaskEngine) -> str:
    return "node" if engine.rules.name == "pods" else "blueprint"


def limits_of(engine: em.MaskEngine, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.replace("some", head_of(engine)) for name in names)


def masks_of(engine: em.MaskEngine, names: tuple[str, ...] = (), seed: int = 0, batch: int = BATCH) -> em.ActionMasks:
    """Of random states, restricted at random."""
    states = pods.inputs(engine, batch, seed)[0]
    row = {"row": pods.rows(batch, seed=seed)} if engine.rules.name == "pods" else {}
    layout, slots, generator = engine.layout, len(engine.slot_ids), seeded(seed)
    constraints = {}
    for name in limits_of(engine, names):
        size = 0 if name in ("slot_by_op",) else layout.head(name.removesuffix("_by_slot")).size
        shape = (len(layout.ops), slots) if name == "slot_by_op" else (slots, size) if "_by_" in name else (size,)
        constraints[name] = torch.rand(batch, *shape, generator=generator) < 0.6
    return engine(states, **row).restrict(**constraints)


def store(buffer: em.RolloutBuffer, step: int, masks: em.ActionMasks) -> None:
    heads = len(buffer.layout.heads)
    buffer.store(step, masks, torch.zeros(*masks.shape, heads, dtype=torch.int64), torch.zeros(masks.shape))


@pytest.mark.parametrize("names", LIMITS)
@pytest.mark.parametrize("kind", ENGINES)
def test_masks_come_back_bit_for_bit(kind: str, names: tuple[str, ...]) -> None:
    engine = ENGINES[kind]()
    buffer, made = em.RolloutBuffer(engine, 3, BATCH), [masks_of(engine, names, seed) for seed in range(2)]
    for at, masks in enumerate(made):
        store(buffer, at, masks)
        assert_as_legal(buffer.masks(at), masks)
    every = em.ActionMasks.stack(made)
    assert_as_legal(buffer.masks(slice(0, 2)), every)
    index = torch.randperm(2 * BATCH, generator=seeded(1))
    flat = em.ActionMasks.cat(made)
    assert_as_legal(buffer.minibatch(index).masks, flat.select(index))
    envs = torch.tensor([7, 0, 7])
    assert_as_legal(buffer.sequences(envs).masks.select(slice(0, 2)), every.at((slice(None), envs)))
    needs = words_for(engine.layout, restrict=limits_of(engine, names))
    assert (buffer.slot_words is None) == (needs is not None) == (buffer.packed is not None)
    assert needs is None or buffer.packed.shape[-1] == needs == made[0].pack().shape[-1]
    plain = kind == "shipped" and not set(names) - {"slot", "slot_by_op"}
    assert (buffer.packed is None) == plain


def test_three_widths() -> None:
    for kind, made in ENGINES.items():
        engine = made()
        layout, head = engine.layout, head_of(engine)
        plain, limited = words_for(layout), words_for(layout, restrict=("op",))
        by_slot = words_for(layout, (head,))
        assert limited is not None
        assert by_slot is not None
        assert (plain or 0) < limited < by_slot
        assert (plain is None) == (kind == "shipped")
        assert words_for(layout, restrict=("slot", "slot_by_op")) == plain
        assert words_for(layout, restrict=(head,)) == limited
        assert words_for(layout, restrict=(f"{head}_by_slot",)) == by_slot
        for wrong in ("colour", "op_by_slot"):
            with pytest.raises(ValueError, match=f"there is nothing called '{wrong}' to restrict; the heads are"):
                em.RolloutBuffer(engine, 1, 1, restrict=(wrong,))
        for wrong in ("colour", "op", "slot", "slot_by_op", f"{head}_by_slot"):
            with pytest.raises(ValueError, match=f"head_masks names '{wrong}'; the heads that can have masks are"):
                em.RolloutBuffer(engine, 1, 1, head_masks=(wrong,))
            with pytest.raises(ValueError, match=f"head_masks names '{wrong}'; the heads that can have masks are"):
                em.DecisionStep(engine, mode="eager").allocate(1, head_masks=(wrong,))
    layout = pods.engine_of().layout  # whose CORDON uses its zone without a slot
    assert words_for(layout, ("zone",)) == words_for(layout, restrict=("zone",)) < words_for(layout, ("node",))


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("names", LIMITS)
def test_a_wide_buffer_takes_all_masks(kind: str, names: tuple[str, ...]) -> None:
    engine = ENGINES[kind]()
    buffer = em.RolloutBuffer(engine, 2, BATCH, head_masks=(head_of(engine),))
    wide = words_for(engine.layout, (head_of(engine),))
    masks = masks_of(engine, names)
    for at in range(2):  # whatever came first
        store(buffer, at, masks_of(engine, ("some_by_slot",)) if at == 0 else masks)
    assert buffer.packed is not None
    assert buffer.packed.shape[-1] == wide
    assert_as_legal(buffer.masks(1), masks)


@pytest.mark.parametrize("kind", ENGINES)
def test_the_first_masks_decide_and_later_ones_that_need_more_are_refused(kind: str) -> None:
    engine = ENGINES[kind]()
    for at, first in enumerate(LIMITS):
        for later in LIMITS[at + 1 :]:
            width, wanted = (masks_of(engine, names).pack().shape[-1] for names in (first, later))
            buffer = em.RolloutBuffer(engine, 2, BATCH)
            store(buffer, 0, masks_of(engine, first))
            before = copy.deepcopy(buffer)
            if wanted <= width or in_words(masks_of(engine, later)):
                store(buffer, 1, masks_of(engine, later))
                continue
            reason = rf"{width} words do not hold choices of .*; these masks need {wanted}"
            if in_words(masks_of(engine, first)):
                reason = f"they need {wanted} packed words, and this buffer keeps slot words alone"
            with pytest.raises(
                ValueError, match=rf"hold more than the first ones, .*: {reason}. Make it with the names"
            ):
                store(buffer, 1, masks_of(engine, later))
            for mine, other in zip(buffer.buffers(), before.buffers(), strict=True):
                assert torch.equal(mine, other)


def test_rows_that_were_handed_out_have_the_width_that_they_have() -> None:
    engine = shipped()
    buffer = em.RolloutBuffer(engine, 2, BATCH)
    buffer.at(0)
    with pytest.raises(ValueError, match="keeps slot words alone"):
        store(buffer, 1, masks_of(engine, ("op",)))
    store(buffer, 1, masks_of(engine))


def test_a_refused_step_widens_nothing() -> None:
    engine = shipped()
    buffer = em.RolloutBuffer(engine, 2, BATCH, fields={"value": torch.zeros(())})
    buffer.write(0, value=torch.ones(BATCH))
    masks, actions = masks_of(engine, ("op",)), torch.zeros(BATCH, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="field 'value'"):
        buffer.store(0, masks, actions, torch.zeros(BATCH), value=torch.zeros(BATCH).long())
    assert buffer.packed is None
    buffer.store(1, masks, actions, torch.zeros(BATCH), value=torch.zeros(BATCH))
    assert buffer.packed is not None
    assert buffer.fields["value"][0].eq(1).all()  # a field that was written before stays


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("names", LIMITS)
def test_padding_rows_have_no_slot_and_an_action(kind: str, names: tuple[str, ...]) -> None:
    engine = ENGINES[kind]()
    buffer = em.RolloutBuffer(engine, 2, BATCH)
    store(buffer, 0, masks_of(engine, names))
    for masks in (buffer.masks(1), buffer.minibatch(torch.arange(BATCH, 2 * BATCH)).masks):
        assert not masks["slot"].any()
        assert masks["op"].tolist() == [[True, False, False, False]] * BATCH
        assert masks.forced.all()
    assert not buffer.active[1].any()
    buffer.clear()
    assert buffer.masks(0).forced.all()


def test_checkpoints_and_copies_keep_the_width(tmp_path: Any) -> None:
    engine = pods.engine_of()
    buffer, masks = em.RolloutBuffer(engine, 2, BATCH), masks_of(engine, ("some_by_slot",))
    store(buffer, 1, masks)
    assert set(buffer.state_dict()) == {"packed", "actions", "log_prob", "_extra_state"}
    torch.save(buffer.state_dict(), tmp_path / "rollout.pt")
    loaded = em.RolloutBuffer(engine, 2, BATCH)
    loaded.load_state_dict(torch.load(tmp_path / "rollout.pt", weights_only=True))
    for other in (loaded, copy.deepcopy(buffer), pickle.loads(pickle.dumps(buffer)), buffer.to(HERE)):
        assert_as_legal(other.masks(1), masks)
        store(other, 0, masks)
    narrow = em.RolloutBuffer(engine, 2, BATCH)
    store(narrow, 0, masks_of(engine))
    with pytest.raises(RuntimeError, match="size mismatch for packed"):
        narrow.load_state_dict(buffer.state_dict())
    assert buffer.row_bytes == buffer.packed.shape[-1] * 4 + 4 + 4


def test_memory_is_batch_last_and_nothing_reads_the_device() -> None:
    engine = pods.engine_of()
    buffer = em.RolloutBuffer(engine, 2, BATCH)
    masks, others, index = masks_of(engine, ("some_by_slot",)), masks_of(engine), torch.arange(5)
    with OpRecorder() as recorder:
        store(buffer, 0, masks)
        buffer.minibatch(index)
        buffer.clear()
        store(buffer, 1, others)
    assert not [op for op in recorder.ops if any(read in op for read in HOST_READS)]
    assert buffer.packed.stride() == (BATCH, 1, 2 * BATCH)


@given(st.data())
def test_any_masks_in_any_buffer_that_holds_them(data: st.DataObject) -> None:
    engine = ENGINES[data.draw(st.sampled_from(sorted(ENGINES)))]()
    every = st.sets(st.sampled_from(["slot", "slot_by_op", "op", "some", "some_by_slot"]))
    names, more = (tuple(data.draw(every)) for _ in range(2))
    masks = masks_of(engine, names, data.draw(st.integers(0, 99)))
    buffer = em.RolloutBuffer(engine, 1, BATCH, restrict=limits_of(engine, (*names, *more)))
    store(buffer, 0, masks)
    assert_as_legal(buffer.masks(0), masks)


def test_empty_masks_are_those_of_no_slot() -> None:
    engine = pods.engine_of()
    row = {"night": torch.zeros(1, dtype=torch.bool), "evictions": torch.zeros(1, dtype=torch.int64)}
    without = engine(engine.empty_slots(1), enabled=torch.zeros(1, 3, dtype=torch.bool), row=row)
    assert_same_masks(empty(engine.layout, HERE), {name: mask[0] for name, mask in as_bools(without).items()})
