"""Calls that are like an earlier one: what is not looked up again, and what has to be."""

import copy
import pickle
import threading
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import pytest
import torch
from torch import Tensor

import esper_masks as em
from esper_masks.compiled.methods import CompiledMethod
from esper_masks.distributions.noise import NoiseKey
from esper_masks.masks import choices
from tests import pods
from tests.decision.inputs import BATCH, inputs

pytestmark = [pytest.mark.cpu, pytest.mark.slow]

Call = dict[str, Any]


Job = IntEnum("Job", "FREE RUNNING", start=0)
Do = IntEnum("Do", "WAIT START STOP", start=0)
RULES = em.MaskRules(  # small, since each kind of call is traced
    name="jobs",
    stages=Job,
    transitions={Job.FREE: [Job.RUNNING], Job.RUNNING: [Job.FREE]},
    empty=Job.FREE,
    op_rules=[
        em.Op(Do.WAIT, always=True),
        em.Op(Do.START, enters=Job.RUNNING, uses=["slot"], seed_limit=True),
        em.Op(Do.STOP, enters=Job.FREE, uses=["slot"]),
    ],
    heads=[em.Head("slot"), em.Head("op")],
    slot_ids=["node0", "node1", "node2"],
)
HEADS = len(RULES.heads)


def make() -> em.DecisionStep:
    return em.DecisionStep(em.MaskEngine(RULES, max_seeds=2))


def call_of(step: em.DecisionStep, seed: int = 0, **changes: Any) -> Call:
    states, logits, noise = inputs(step.engine, seed=seed)
    total = torch.arange(BATCH, dtype=torch.int32) % 4
    return {"states": states, "logits": logits, "total_seeds": total, "noise": noise} | changes


def remembered(step: em.DecisionStep) -> int:
    """How many kinds of calls are remembered."""
    runs = [run for run in step.runs.values() if isinstance(run, CompiledMethod)]
    return sum(len(alike) for run in runs for alike in run.calls.values())


def check(step: em.DecisionStep, call: Call, known: int) -> None:
    """It gives what its pieces in eager code give, and ``known`` kinds of calls are known after it."""
    limit = step.engine.max_seeds if call.get("max_seeds") is None else call["max_seeds"]
    masks = step.engine(call["states"], call["total_seeds"], max_seeds=limit, enabled=call.get("enabled"))
    logits = call["logits"].detach()
    joint = em.FactoredCategorical(logits, masks, active=call.get("active"), validate="flag")
    actions = joint.sample(noise=call["noise"])
    made, out = step(**call), call.get("out")
    assert made is out or (out is None and made.log_prob.dtype == logits.dtype)
    assert torch.equal(made.actions.long(), actions)
    assert torch.equal(made.slot_words.int(), masks.slot_words.int())
    assert torch.allclose(made.log_prob.float(), joint.log_prob(actions).float(), atol=1e-5)
    if made.raw_entropy is not None:
        assert torch.allclose(made.raw_entropy.float(), joint.raw_entropy().float(), atol=1e-5)
    assert not made.log_prob.requires_grad or made is out
    assert remembered(step) == known


@pytest.mark.usefixtures("traced")
def test_a_repeated_call_follows_all_that_may_differ() -> None:
    """Every change by itself, twice each, in two orders: what another call has found out is not used for it."""
    step = make()
    room = step.allocate(BATCH)
    wide = em.Decision(
        torch.empty(BATCH, HEADS, dtype=torch.int64),
        torch.empty(BATCH, dtype=torch.float64),
        torch.empty(BATCH, 3, dtype=torch.int32),
        torch.empty(BATCH),
    )
    leaf = torch.empty(BATCH, requires_grad=True)
    changes: list[Call] = [
        {},
        {"states": inputs(step.engine, 7)[0], "logits": inputs(step.engine, 7)[1], "noise": inputs(step.engine, 7)[2]}
        | {"total_seeds": torch.zeros(7, dtype=torch.int32)},
        {"logits": inputs(step.engine, seed=1)[1].T.contiguous().T},
        {"logits": inputs(step.engine, seed=1)[1].double()},
        {"max_seeds": 1},
        {"enabled": torch.tensor([True, False, True])},
        {"active": torch.arange(BATCH) % 3 > 0},
        {"out": room},
        {"out": room._replace(raw_entropy=None)},
        {"out": wide},
        {"out": room._replace(log_prob=leaf)},
    ]
    for again, order in enumerate((changes, changes, changes[::-1])):
        for number, change in enumerate(order):
            check(step, call_of(step, again, **change), number + 1 if not again else len(changes))
    # and so that values decide, and not which object it was
    step.engine.max_seeds = 0
    check(step, call_of(step), len(changes) + 1)
    step.engine.max_seeds = 2
    check(step, call_of(step), len(changes) + 1)
    with torch.inference_mode():
        made = step(**call_of(step, out=room))
        assert torch.equal(step(**call_of(step)).actions, made.actions.long())
        inside = step.allocate(BATCH)
        assert torch.equal(step(**call_of(step, out=inside)).actions, made.actions)
    assert not step(**call_of(step)).log_prob.is_inference()  # an update may need what was decided there


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.usefixtures("traced")
def test_a_repeated_call_has_its_own_of_what_is_given(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By each set of names; large masks of heads become others before the graph, at each call."""
    monkeypatch.setattr(choices, "LARGE", 0 if large else 1 << 62)
    engine = pods.engine_of()
    step, slots, nodes = em.DecisionStep(engine), len(engine.slot_ids), 5
    seen = 0
    for seed in range(3):
        states, logits, noise = pods.inputs(engine, BATCH, seed=seed)
        row, generator = pods.rows(BATCH, seed=seed), torch.Generator().manual_seed(seed)
        room = torch.rand(BATCH, slots, nodes, generator=generator) < 0.8
        ops = torch.rand(BATCH, len(engine.layout.ops), generator=generator) < 0.8
        ops[:, 0] = True
        sizes = [head.size for head in engine.layout.heads]
        by_name = dict(zip(engine.layout.head_names, logits.split(sizes, -1)))
        swapped = dict(reversed(by_name.items()))
        kinds: list[tuple[Any, Call, bool]] = [
            (logits, {"row": row}, False),
            (by_name, {"row": row}, False),
            (swapped, {"row": dict(reversed(row.items()))}, False),
            (logits, {"row": row, "head_masks": {"node": room}}, True),
            (logits, {"row": row, "head_masks": {"node": room[:, 0]}}, True),
            (logits, {"row": row, "restrict": {"op": ops}}, False),
            (logits, {"row": row, "restrict": {"op": ops[0]}, "head_masks": {"node": room}}, True),
        ]
        for scores, given, packs in kinds:
            joint = em.FactoredCategorical(scores, engine(states, **given), validate="flag")
            for _ in range(2):
                made = step(states, scores, noise=noise, **given)
                assert torch.equal(made.actions, joint.sample(noise=noise))
                assert torch.allclose(made.log_prob, joint.log_prob(made.actions), atol=1e-5)
            seen += seed == 0 and not (packs and large)
            assert remembered(step) == seen
        for wrong in ({"row": row | {"evictions": row["evictions"][1:]}}, {"row": {}}, {}):
            with pytest.raises(em.SlotStateError, match="row 'evictions'"):
                step(states, logits, noise=noise, **wrong)


WRONG: dict[str, Callable[[Call], Call]] = {
    "states": lambda call: {"states": call["states"].float()},
    "other states": lambda call: {"states": call["states"][..., :1]},
    "logits": lambda call: {"logits": call["logits"][:, 1:]},
    "rows": lambda call: {"logits": call["logits"][1:]},
    "noise": lambda call: {"noise": call["noise"][:, 1:]},
    "active": lambda call: {"active": torch.ones(BATCH)},
    "out": lambda call: {"out": make().allocate(BATCH + 1)},
    "dtype": lambda call: {
        "out": make().allocate(BATCH),
        "logits": call["logits"].double(),
    },
    "limit": lambda call: {"max_seeds": "many"},
}


@pytest.mark.usefixtures("traced")
def test_what_is_wrong_is_named_after_calls_that_are_right() -> None:
    step = make()
    for call in (call_of(step), call_of(step, out=step.allocate(BATCH))):
        for _ in range(2):
            step(**call)
        for change in WRONG.values():
            for _ in range(2):
                with pytest.raises((ValueError, TypeError)):
                    step(**call | change(call))
    assert remembered(step) == 2


@pytest.mark.usefixtures("traced")
def test_what_is_remembered_is_not_copied_and_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    step = make()
    check(step, call_of(step), 1)
    assert [remembered(other) for other in (copy.deepcopy(step), pickle.loads(pickle.dumps(step)))] == [0, 0]
    for run in step.runs.values():
        monkeypatch.setattr(run, "max_entries", 2)
        monkeypatch.setattr(run, "max_alike", 2)
    for total, known in ((torch.int32, 1), (torch.int64, 2), (torch.int16, 2), (torch.int64, 2), (torch.int32, 2)):
        check(step, call_of(step, total_seeds=torch.zeros(BATCH, dtype=total)), known)
    for limit, known in ((1, 3), (0, 1), (1, 2)):  # of another key
        check(step, call_of(step, max_seeds=limit), known)


@pytest.mark.usefixtures("traced")
def test_what_cannot_be_told_apart_is_looked_up_each_time() -> None:
    """One tensor in two places, and tensors of a class of their own."""
    step, rows = make(), len(RULES.slot_ids)
    states, logits, noise = inputs(step.engine, rows)
    total, both = torch.zeros(rows, dtype=torch.int32), torch.tensor([True, False, True])
    call = {"states": states, "logits": logits, "total_seeds": total, "noise": noise}
    for change in ({"enabled": both, "active": both}, {"logits": torch.nn.Parameter(logits)}):
        for _ in range(2):
            check(step, call | change, 0)
    check(step, call | {"enabled": both, "active": both.clone()}, 1)


@pytest.mark.usefixtures("traced")
def test_what_is_around_a_call_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    step = make()
    check(step, call_of(step), 1)
    monkeypatch.setattr(em.DecisionStep, "chunk_values", 200)  # by which a batch is taken in chunks, or not
    check(step, call_of(step), 2)
    monkeypatch.undo()
    with torch.autocast("cpu"):
        check(step, call_of(step), 3)
    with torch.no_grad():
        check(step, call_of(step), 4)
    with torch.inference_mode():  # a call by itself, of which as much is remembered
        for _ in range(2):
            step(**call_of(step))
            assert remembered(step) == 5
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        check(step, call_of(step), 6)
    finally:
        torch.set_num_threads(threads)
    check(step, call_of(step), 6)
    step.runs.clear()  # what was compiled is to be made again
    check(step, call_of(step), 1)
    assert [name for name, _ in step.runs] == ["decide"]

    def refuse(*_: Any, **__: Any) -> Any:
        raise KeyError("refused")

    monkeypatch.setattr(step, "decide", refuse)
    with pytest.raises(KeyError, match="refused"):
        step(**call_of(step))


@pytest.mark.usefixtures("traced")
def test_noise_is_drawn_as_by_a_first_call() -> None:
    """Whether a call is the first of its kind or not, torch's generator is asked for the same number."""
    step, other = make(), make()
    call = {name: part for name, part in call_of(step).items() if name != "noise"}
    drawn: list[list[Tensor]] = []
    for run in (step, other):
        torch.manual_seed(3)
        drawn.append([])
        for _ in range(3):
            drawn[-1].append(run(**call).actions)
            if run is other:
                run.runs["decide", run.engine.device].calls.clear()
    assert all(map(torch.equal, *drawn))
    assert not torch.equal(drawn[0][1], drawn[0][2])
    torch.manual_seed(5)
    with torch.inference_mode():
        first = NoiseKey.draw_for_now().bits.clone()
    torch.manual_seed(5)
    assert torch.equal(first.view(torch.int64), NoiseKey.draw().bits.view(torch.int64))


@pytest.mark.usefixtures("traced")
def test_threads_remember_a_kind_once() -> None:
    step = make()
    call, ready = call_of(step), threading.Barrier(4)
    step(**call)
    [run] = step.runs.values()
    assert isinstance(run, CompiledMethod)
    run.calls.clear()
    before, failed = run.remember, []

    def remember(*arguments: Any) -> None:
        ready.wait(timeout=60)  # none has found what another one remembers
        before(*arguments)

    run.remember = remember  # type: ignore[method-assign]

    def decide() -> None:
        try:
            step(**call)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=decide) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert remembered(step) == 1


def test_threads_draw_for_themselves() -> None:
    keys: list[NoiseKey] = []
    held = threading.Barrier(3)

    def draw() -> None:
        keys.append(NoiseKey.draw_for_now())
        held.wait(timeout=60)

    threads = [threading.Thread(target=draw) for _ in range(2)]
    for thread in threads:
        thread.start()
    held.wait(timeout=60)
    for thread in threads:
        thread.join()
    assert keys[0].bits.data_ptr() != keys[1].bits.data_ptr()
    assert not torch.equal(keys[0].bits.view(torch.int64), keys[1].bits.view(torch.int64))


@pytest.mark.usefixtures("traced")
def test_what_was_given_may_be_written_to_and_kept() -> None:
    """Results of one call are not those of the next."""
    step = make()
    call = call_of(step)
    first = step(**call)
    kept = [part.clone() for part in first if part is not None]
    call["states"].copy_(inputs(step.engine, seed=4)[0])
    second = step(**call)
    assert all(torch.equal(*pair) for pair in zip(kept, (part for part in first if part is not None)))
    assert not torch.equal(first.slot_words, second.slot_words)
    check(step, call, 1)
