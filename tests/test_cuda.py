"""The same on a GPU, with every synchronization an error."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import esper_masks as em
from tests.helpers import as_bools, assert_same_masks, random_states
from tests.programs import assert_same, consume, inputs, program_of, use_everything

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


@pytest.mark.usefixtures("no_sync")
def test_successors() -> None:
    """Equal to the CPU's, without a synchronization, and in a captured graph."""
    cpu, engine = em.MaskEngine(em.ruleset("esper-2026-06")), em.MaskEngine(em.ruleset("esper-2026-06"), device="cuda")
    states, fresh = (random_states(cpu, 500, seed=seed) for seed in (0, 9))
    actions = em.FactoredCategorical(torch.zeros(500, 41), cpu(fresh)).sample()
    held, acted = states.cuda(), actions.cuda()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        engine.successors(held, acted)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    engine.successors(held, acted)
    torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = engine.successors(held, acted)
    held.copy_(fresh)
    graph.replay()
    for ours, expected in zip(made, cpu.successors(fresh, actions)):
        assert torch.equal(ours.cpu(), expected)


def test_wrong_device() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2025-12"), device="cuda")
    with pytest.raises(em.SlotStateError, match="states are on cpu, the engine is on cuda:0"):
        engine(torch.ones(1, 3, 2, dtype=torch.int32))


# -- distributions ----------------------------------------------------------------------------------------------------


def on_cuda(kind: str, batch: int, seed: int = 0) -> tuple[Any, ...]:
    return tuple(part.to("cuda") for part in inputs(kind, batch, seed))


def to_cpu(results: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(result.cpu() for result in results)


@pytest.mark.parametrize("kind", ["13", "1000", "esper-2025-12", "esper-2026-06"])
def test_distributions_equal_the_cpu(kind: str) -> None:
    """Samples too, but where the noise falls within rounding of an edge."""
    ours, expected = to_cpu(program_of(kind)(*on_cuda(kind, 3000))), program_of(kind)(*inputs(kind, 3000))
    same = (ours[0] == expected[0]).reshape(3000, -1).all(-1)
    assert same.float().mean() > 0.999
    assert_same(tuple(result[same] for result in ours), tuple(result[same] for result in expected))


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("kind", ["13", "esper-2026-06"])
@pytest.mark.parametrize("validate", ["flag", "off"])
def test_distributions_do_not_synchronize(kind: str, validate: str) -> None:
    make = em.MaskedCategorical if kind.isdecimal() else em.FactoredCategorical
    logits, masks, noise = on_cuda(kind, 500)
    settings = {"validate": validate, "min_prob": 0.01, "active": torch.arange(500, device="cuda") != 7}
    for mode in ("default", "error"):  # tables are made once
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode(mode)
        use_everything(make(logits, masks, **settings), make(logits + 1, masks, **settings), noise)


@pytest.mark.parametrize("kind", ["13", "esper-2026-06"])
def test_a_decision_in_a_cuda_graph(kind: str) -> None:
    logits, masks, noise = on_cuda(kind, 256)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        program_of(kind)(logits, masks, noise, "flag")
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = program_of(kind)(logits, masks, noise, "flag")
    logits.copy_(on_cuda(kind, 256, seed=4)[0])
    graph.replay()
    assert_same(to_cpu(results), to_cpu(program_of(kind)(logits, masks, noise, "flag")))


@pytest.mark.parametrize("kind", ["13", "esper-2025-12"])
def test_compiled_distributions(kind: str) -> None:
    compiled = torch.compile(program_of(kind), fullgraph=True, dynamic=True)
    for batch in (5, 7, 3000):
        arguments = on_cuda(kind, batch)
        assert_same(to_cpu(compiled(*arguments)[1:4]), to_cpu(program_of(kind)(*arguments)[1:4]))


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("mode", ["eager", "compiled", "cuda-graph"])
@pytest.mark.parametrize("rules", ["esper-2025-12", "esper-2026-06"])
def test_a_decision_step_in_every_mode(mode: Any, rules: str) -> None:
    """The eager CPU's decisions, without a synchronization once it is made, and straight into a buffer."""
    here = em.DecisionStep(em.MaskEngine(em.ruleset(rules)), mode="eager")
    step = em.DecisionStep(em.MaskEngine(em.ruleset(rules), device="cuda"), mode=mode)
    buffer = em.RolloutBuffer(step.engine, 3, 500)
    columns = sum(head.size for head in here.engine.layout.heads)
    for t in range(3):
        states, logits = random_states(here.engine, 500, seed=t), torch.randn(500, columns)
        noise = torch.rand(500, len(here.engine.layout.heads))
        there = [tensor.cuda() for tensor in (states, logits, noise)]
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if t == 2 else "default")  # by then graphs are made
        made = step(there[0], there[1], noise=there[2], out=buffer.at(t))
        fresh = step(there[0], there[1], noise=there[2])
        step(there[0], there[1])
        torch.cuda.set_sync_debug_mode("default")
        expected = here(states, logits, noise=noise)
        same = (made.actions.cpu() == expected.actions).all(-1)
        assert same.float().mean() > 0.99
        assert torch.equal(buffer.masks(t).op_words.cpu(), here.engine(states).op_words)
        assert_same((made.log_prob.cpu()[same],), (expected.log_prob[same],))
        assert torch.equal(fresh.actions, made.actions.long())
    rows = buffer.minibatch(torch.randperm(1500, device="cuda"))
    scored = step.evaluate(torch.randn(1500, columns, device="cuda", requires_grad=True), rows.masks, rows.actions)
    assert scored.log_prob.isfinite().all()


def test_a_graph_decides_with_fresh_noise_and_fresh_inputs() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2025-12"), device="cuda")
    step = em.DecisionStep(engine, mode="cuda-graph")
    states, logits = engine.empty_slots(4096), torch.zeros(4096, 15, device="cuda")
    first = step(states, logits).actions.clone()
    assert not torch.equal(step(states, logits).actions, first)
    states[..., 0] = 7  # fossilized: one can only wait
    assert step(states, logits).actions.sum().item() == 0


def test_logits_on_another_device() -> None:
    logits, masks, _ = on_cuda("esper-2025-12", 3)
    with pytest.raises(ValueError, match="logits are on cpu, the masks are on cuda:0"):
        em.FactoredCategorical(logits.cpu(), masks)
    with pytest.raises(ValueError, match="mask is on cpu, not on cuda:0"):
        em.MaskedCategorical(logits, torch.ones(15, dtype=torch.bool))
