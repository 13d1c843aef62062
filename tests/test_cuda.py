"""The same on a GPU, with every synchronization an error."""

from collections.abc import Iterator

import pytest
import torch

import esper_masks as em
from tests.helpers import as_bools, assert_same_masks, random_states
from tests.test_compile import consume

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")


@pytest.fixture
def no_sync() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", em.rulesets())
def test_equal_to_the_cpu(name: str) -> None:
    here, there = em.MaskEngine(em.ruleset(name)), em.MaskEngine(em.ruleset(name), device="cuda")
    states, totals = random_states(here, 5000), torch.arange(5000) % 5
    masks = there(states.cuda(), totals.cuda(), max_seeds=3)
    assert_same_masks(masks.to("cpu"), as_bools(here(states, totals, max_seeds=3)))
    for name, mask in as_bools(masks).items():
        assert torch.equal(mask.cpu(), as_bools(masks.to("cpu"))[name])


@pytest.mark.usefixtures("no_sync")
def test_no_synchronization() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"), max_seeds=3, device="cuda")
    states, totals = random_states(em.MaskEngine(engine.rules), 500).cuda(), torch.zeros(500, dtype=torch.int32).cuda()
    consume(engine(states, totals))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    consume(engine(states, totals))
    engine.empty_slots(100)
    packed = engine.pack_slots([{"r0c0": em.SlotState(3, 2)}] * 10)
    torch.cuda.set_sync_debug_mode("default")
    assert packed.tolist() == [[[3, 2, 0], [1, 0, 0], [1, 0, 0]]] * 10


def test_cuda_graph_capture() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"), device="cuda")
    cpu = em.MaskEngine(em.ruleset("esper-2026-06"))
    states = random_states(cpu, 256).cuda()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        consume(engine(states))
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        masks = engine(states)
        outputs = consume(masks)
    fresh = random_states(cpu, 256, seed=9)
    states.copy_(fresh)
    graph.replay()
    for ours, expected in zip(outputs, consume(cpu(fresh)), strict=True):
        assert torch.equal(ours.cpu(), expected)


def test_compiled() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"), device="cuda")
    compiled = torch.compile(engine, fullgraph=True, dynamic=True)
    for batch in (2, 7, 3000):
        states = random_states(em.MaskEngine(engine.rules), batch).cuda()
        assert torch.equal(compiled(states).op_words, engine(states).op_words)


def test_wrong_device() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2025-12"), device="cuda")
    with pytest.raises(em.SlotStateError, match="states are on cpu, the engine is on cuda:0"):
        engine(torch.ones(1, 3, 2, dtype=torch.int32))
