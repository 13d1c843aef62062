"""The drop-in: what the originals gave, by their own interface, single and batch."""

import inspect
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import esper_masks as em
from esper_masks.compat import esper_2025_12 as older
from esper_masks.compat import esper_2026_06 as newer
from esper_masks.compat.environment import _comparison
from esper_masks.rules.bounds import Runs, outside
from tests.helpers import random_states, shared

OLDER, NEWER = ["early", "mid", "late"], ["r0c0", "r0c1", "r0c2"]
GENERATIONS = [(older, OLDER), (newer, NEWER)]
both = pytest.mark.parametrize(("dropin", "slots"), GENERATIONS, ids=["2025-12", "2026-06"])


@dataclass
class Metrics:
    epochs_total: int


@dataclass
class SlotReport:
    stage: int
    metrics: Metrics


def either_way(dropin: Any, states: dict[str, Any], enabled: list[str], *counts: int, **settings: Any) -> Any:
    """One environment, by itself and as a batch of two of it; both must give the same."""
    one = dropin.compute_action_masks(states, enabled, *counts, **settings)
    totals = [counts[0]] * 2 if counts else None
    two = dropin.compute_batch_masks([states, states], enabled, totals, *counts[1:], **settings)
    assert list(one) == list(two)
    for name, mask in one.items():
        assert mask.dtype == torch.bool
        assert torch.equal(two[name], torch.stack([mask, mask])), name
    return one


def names(rules: em.MaskRules, mask: Tensor) -> list[str]:
    return [op for op, legal in zip(rules.op_names, mask.tolist()) if legal]


# -- golden rows ------------------------------------------------------------------------------------------------------


def golden(name: str) -> dict[str, Any]:
    with np.load(shared(f"golden/{name}.npz")) as file:
        return {key: file[key].tolist() for key in file.files}


def check_golden(dropin: Any, slots: list[str], rows: dict[str, Any], settings: list[dict[str, Any]]) -> None:
    """Every row by itself, and in batches of the rows that share their switches, limit and enabled slots."""
    heads = [name for name in rows if name in (*dropin.RULES.head_names, "slot_by_op")]
    features = ["stage", "age", *[name for name in rows if name == "alpha_mode"]]
    batches: dict[Any, list[int]] = defaultdict(list)
    states = []
    for env in range(len(rows["stage"])):
        seeds = zip(slots, *(rows[name][env] for name in features))
        states.append({s: None if stage == 1 else dropin.MaskSeedInfo(stage, *rest) for s, stage, *rest in seeds})
        enabled = [slot for slot, on in zip(slots, rows["enabled"][env]) if on]
        total, limit = rows["total"][env], rows["limit"][env]
        masks = dropin.compute_action_masks(states[env], enabled, total, limit, **settings[env])
        assert sorted(masks) == sorted(heads)
        for name in heads:
            assert masks[name].tolist() == rows[name][env], (env, name)
        batches[tuple(enabled), limit, tuple(settings[env].items())].append(env)
    for (enabled, limit, setting), envs in batches.items():
        totals = [rows["total"][env] for env in envs]
        batch = [states[env] for env in envs]
        masks = dropin.compute_batch_masks(batch, list(enabled), totals, limit, **dict(setting))
        for name in heads:
            assert masks[name].tolist() == [rows[name][env] for env in envs], (envs[0], name)
    assert sum(map(len, batches.values())) == 20_000


def test_golden_rows_of_december_2025() -> None:
    rows = golden("rules_2025_12")
    check_golden(older, OLDER, rows, [{}] * len(rows["stage"]))


def test_golden_rows_of_june_2026() -> None:
    rows = golden("rules_2026_06")
    settings = [
        {"topology": ("cnn", "transformer")[topology], "allow_governor_override": override, "disable_advance": advance}
        for topology, override, advance in zip(
            rows["topology"], map(bool, rows["override"]), map(bool, rows["no_advance"])
        )
    ]
    check_golden(newer, NEWER, rows, settings)


# -- edge cases -------------------------------------------------------------------------------------------------------


@both
def test_missing_and_none_are_empty_but_dormant_and_no_stage_are_inert(dropin: Any, slots: list[str]) -> None:
    empty = dict.fromkeys(slots)
    assert names(dropin.RULES, either_way(dropin, empty, slots)["op"]) == ["WAIT", "GERMINATE"]
    for stage in (1, 0, 5, 11, -1, 99):  # DORMANT, UNKNOWN, and no stage
        inert = dict.fromkeys(slots, dropin.MaskSeedInfo(stage, 50))
        assert names(dropin.RULES, either_way(dropin, inert, slots)["op"]) == ["WAIT"]
    one = empty | {slots[1]: dropin.MaskSeedInfo(1, 50)}
    masks = either_way(dropin, one, slots)
    assert names(dropin.RULES, masks["op"]) == ["WAIT", "GERMINATE"]
    if "slot_by_op" in masks:
        assert masks["slot_by_op"][1].tolist() == [True, False, True]


@both
def test_the_age_gate_and_the_seed_limit(dropin: Any, slots: list[str]) -> None:
    age = {older: 1, newer: 5}[dropin]
    op = {older: "CULL", newer: "PRUNE"}[dropin]
    for given, legal in ((age - 1, False), (age, True)):
        states = dict.fromkeys(slots) | {slots[0]: dropin.MaskSeedInfo(4, given)}  # BLENDING
        assert (op in names(dropin.RULES, either_way(dropin, states, slots)["op"])) == legal
    for total, limit, legal in ((1, 2, True), (2, 2, False), (3, 2, False), (9, 0, True), (9, -1, True)):
        masks = either_way(dropin, dict.fromkeys(slots), slots, total, limit)
        assert ("GERMINATE" in names(dropin.RULES, masks["op"])) == legal


@both
def test_only_enabled_slots_count(dropin: Any, slots: list[str]) -> None:
    states = dict.fromkeys(slots) | {slots[2]: dropin.MaskSeedInfo(6, 9)}
    masks = either_way(dropin, states, slots[:2])
    assert "FOSSILIZE" not in names(dropin.RULES, masks["op"])
    assert masks["slot"].tolist() == [True, True, False]
    assert "FOSSILIZE" in names(dropin.RULES, either_way(dropin, states, [slots[2]])["op"])


def test_december_takes_missing_slots_and_unknown_ids() -> None:
    masks = either_way(older, {"nowhere": older.MaskSeedInfo(6, 9)}, ["early", "nowhere"])
    assert masks["slot"].tolist() == [True, False, False]
    assert names(older.RULES, masks["op"]) == ["WAIT", "GERMINATE"]
    nobody = either_way(older, {}, [])
    assert names(older.RULES, nobody["op"]) == ["WAIT"]
    assert not nobody["slot"].any()
    assert list(masks) == ["slot", "blueprint", "blend", "op"]
    assert masks["blueprint"].tolist() == [False, True, True, True, True]
    assert older.compute_batch_masks([], OLDER)["op"].shape == (0, 4)
    assert older.slot_id_to_index("late") == 2
    with pytest.raises(KeyError, match="nowhere"):
        older.slot_id_to_index("nowhere")
    for enabled in (OLDER, "early"):  # totals are judged first
        with pytest.raises(ValueError, match="total_seeds_list has length 1 for 2 environments"):
            older.compute_batch_masks([{}, {}], enabled, [1])


def test_june_refuses_what_the_original_refused() -> None:
    """In words that its callers match."""
    empty, slots = dict.fromkeys(NEWER), "; the slots are r0c0, r0c1, r0c2"
    cases: list[tuple[dict[str, Any], list[str], dict[str, Any], str]] = [
        (empty, NEWER, {"topology": "CNN"}, "Unknown topology 'CNN'; the topologies are cnn, transformer"),
        (empty, [], {}, f"enabled_slots cannot be empty{slots}"),
        (empty, ["r0c0", "early", "r9c9"], {}, rf"unknown slot IDs \['early', 'r9c9'\]{slots}"),
        ({"r0c0": None}, NEWER, {}, r"slot_states missing entries for enabled slots \['r0c1', 'r0c2'\]; None stands"),
        (empty, NEWER, {"slot_config": "cuda"}, "slot_config must have slot_ids, got 'cuda'; device is the argument"),
    ]
    for states, enabled, settings, message in cases:
        with pytest.raises(ValueError, match=message):
            newer.compute_action_masks(states, enabled, **settings)
        with pytest.raises(ValueError, match=message):
            newer.compute_batch_masks([empty, states], enabled, **settings)
    with pytest.raises(ValueError, match="batch_slot_states is empty; wanted at least one observation"):
        newer.compute_batch_masks([], NEWER)
    for totals in ([1, 2, 3], []):
        with pytest.raises(ValueError, match=f"total_seeds_list has length {len(totals)} for 2 environments"):
            newer.compute_batch_masks([empty, empty], NEWER, totals)
        with pytest.raises(ValueError, match=f"total_seeds_list has length {len(totals)} for 2 environments"):
            newer.compute_batch_masks([empty, {}], ["r9c9"], totals, topology="CNN")  # totals are judged first
    with pytest.raises(ValueError, match="slot id 'r9c9' is unknown; the slots are r0c0"):
        newer.slot_id_to_index("r9c9")
    for old in OLDER:
        with pytest.raises(ValueError, match=f"slot id '{old}' of 2025 is no longer supported; the slots are r0c0"):
            newer.slot_id_to_index(old)


SIGNATURES = {
    older: ["total_seeds", "max_seeds", "device"],
    newer: [
        "total_seeds",
        "max_seeds",
        "slot_config",
        "device",
        "topology",
        "allow_governor_override",
        "disable_advance",
    ],
}


@both
def test_arguments_have_the_order_of_the_original(dropin: Any, slots: list[str]) -> None:
    total, *settings = SIGNATURES[dropin]
    for function, names in (
        (dropin.compute_action_masks, ["slot_states", "enabled_slots", total, *settings]),
        (dropin.compute_batch_masks, ["batch_slot_states", "enabled_slots", f"{total}_list", *settings]),
    ):
        parameters = inspect.signature(function).parameters
        assert list(parameters) == names
        assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def test_june_by_position_is_june_by_keyword() -> None:
    config = newer.SlotConfig(("r1c0", "r0c0"))
    states = {"r1c0": newer.MaskSeedInfo(4, 9, 1), "r0c0": None}
    values: list[Any] = [states, ["r1c0", "r0c0"], 1, 1, config, "cpu", "transformer", True, True]
    one = newer.compute_action_masks(*values)
    two = newer.compute_batch_masks([states], values[1], [1], *values[3:])
    names = ["slot_states", "enabled_slots", *SIGNATURES[newer]]
    for name, mask in newer.compute_action_masks(**dict(zip(names, values))).items():
        assert torch.equal(one[name], mask)
        assert torch.equal(two[name][0], mask)
    assert one["op"].tolist() == [True, False, False, True, False, False]  # at the limit, overridden, no ADVANCE
    assert one["blueprint"].nonzero().flatten().tolist() == [2, 3, 8, 9, 10, 11, 12]


def test_slot_by_op_is_the_second_key() -> None:
    for masks in (
        newer.compute_action_masks(dict.fromkeys(NEWER), NEWER),
        newer.compute_batch_masks([dict.fromkeys(NEWER)], NEWER),
    ):
        assert list(masks) == ["slot", "slot_by_op", *newer.RULES.head_names[1:]]


def test_june_slots_and_switches() -> None:
    config = newer.SlotConfig(("r0c0", "r0c1", "r1c0", "r1c1"))
    assert newer.SlotConfig.default().slot_ids == tuple(NEWER)
    assert newer.slot_id_to_index("r1c0", config) == 2
    assert newer.slot_id_to_index("r0c2") == 2
    states = dict.fromkeys(config.slot_ids) | {"r1c1": newer.MaskSeedInfo(6, 9, alpha_mode=1)}
    masks = either_way(newer, states, list(config.slot_ids), slot_config=config)
    assert masks["slot_by_op"].shape == (6, 4)
    assert not masks["op"][3]  # PRUNE: alpha_mode UP
    assert either_way(newer, states, ["r1c1"], slot_config=config, allow_governor_override=True)["op"][3]
    blending = {"r0c0": newer.MaskSeedInfo(4, 9)}
    assert either_way(newer, blending, ["r0c0"])["op"][5]
    assert not either_way(newer, blending, ["r0c0"], disable_advance=True)["op"][5]
    cnn, transformer = (either_way(newer, blending, ["r0c0"], topology=t)["blueprint"] for t in ("cnn", "transformer"))
    assert cnn.nonzero().flatten().tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert transformer.nonzero().flatten().tolist() == [2, 3, 8, 9, 10, 11, 12]


class Stage(IntEnum):
    DORMANT = 1
    BLENDING = 4


@both
def test_states_from_reports(dropin: Any, slots: list[str]) -> None:
    reports = {slots[0]: SlotReport(Stage.BLENDING, Metrics(7)), slots[1]: SlotReport(Stage.DORMANT, Metrics(0))}
    states = dropin.build_slot_states(reports, slots)
    dormant = {older: None, newer: newer.MaskSeedInfo(1, 0)}[dropin]
    assert states == {slots[0]: dropin.MaskSeedInfo(4, 7), slots[1]: dormant, slots[2]: None}
    assert type(states[slots[0]].stage) is int
    masks = either_way(dropin, states, [slots[1]])
    assert names(dropin.RULES, masks["op"]) == {older: ["WAIT", "GERMINATE"], newer: ["WAIT"]}[dropin]


def test_alpha_mode_of_a_report() -> None:
    report = SlotReport(4, Metrics(7))
    report.alpha_mode = 2  # type: ignore[attr-defined]
    assert newer.build_slot_states({"r0c0": report}, ["r0c0"]) == {"r0c0": newer.MaskSeedInfo(4, 7, 2)}
    assert replace(newer.MaskSeedInfo(4, 7), alpha_mode=1) == newer.MaskSeedInfo(4, 7, 1)


@both
def test_masks_are_the_caller_s_to_change(dropin: Any, slots: list[str]) -> None:
    for _ in range(2):
        masks = either_way(dropin, dict.fromkeys(slots), slots)
        assert masks["op"][1]
        for mask in (*masks.values(), *dropin.compute_batch_masks([dict.fromkeys(slots)], slots).values()):
            mask[...] = False
    assert all(
        mask.device.type == "meta"
        for mask in dropin.compute_action_masks(masks_of(slots), slots, device="meta").values()
    )


def masks_of(slots: list[str]) -> dict[str, None]:
    return dict.fromkeys(slots)


def test_many_slots_one_by_one() -> None:
    """More slots than kept rows could cover."""
    slots = tuple(f"r{i}c{j}" for i in range(4) for j in range(4))
    engine = em.MaskEngine(em.ruleset("esper-2026-06"), slots)
    states, config = random_states(engine, 200), newer.SlotConfig(list(slots))  # type: ignore[arg-type]
    expected = engine(states)
    for env, rows in enumerate(states.tolist()):
        seeds = {s: None if row[0] == 1 else newer.MaskSeedInfo(*row) for s, row in zip(slots, rows)}
        masks = newer.compute_action_masks(seeds, slots, slot_config=config)
        assert torch.equal(masks.pop("slot_by_op"), expected.slot_by_op[env])
        for name, mask in masks.items():
            assert torch.equal(mask, expected[name][env]), name


@both
def test_odd_numbers_mean_the_same_single_and_batch(dropin: Any, slots: list[str]) -> None:
    empty = dict.fromkeys(slots)
    for age in (2**40, -(2**40), math.inf, np.int64(7), torch.tensor(7)):
        either_way(dropin, empty | {slots[0]: dropin.MaskSeedInfo(4, age)}, slots)
    for stage in (2**40, None, "4", 4.5, np.int64(4), IntEnum("S", "BLENDING", start=4).BLENDING):
        masks = either_way(dropin, empty | {slots[0]: dropin.MaskSeedInfo(stage, 9)}, slots)
        assert masks["op"][{older: 2, newer: 3}[dropin]] == (stage == 4)
    either_way(dropin, empty | {slots[0]: dropin.MaskSeedInfo(None, None)}, slots[1:])  # it does not count
    for total, limit, legal in ((2, np.int64(2), False), (2**70, 2, False), (1, 2**40, True), (1, math.inf, True)):
        assert either_way(dropin, empty, slots, total, limit)["op"][1] == legal
    batch = np.array([empty, empty])
    masks = dropin.compute_batch_masks(batch, slots, torch.tensor([2, 1]), 2)
    assert masks["op"][:, 1].tolist() == [False, True]


def test_alpha_mode_that_is_none_of_the_three() -> None:
    for mode in (0.5, None, 9):
        states = dict.fromkeys(NEWER) | {"r0c0": newer.MaskSeedInfo(4, 9, mode)}
        assert not either_way(newer, states, NEWER)["op"][3]


@both
def test_enabled_slots_in_any_collection(dropin: Any, slots: list[str]) -> None:
    expected = dropin.compute_action_masks(dict.fromkeys(slots), slots[:2])
    for make in (tuple, set, dict.fromkeys, np.array, iter):
        one = dropin.compute_action_masks(dict.fromkeys(slots), make(slots[:2]))
        two = dropin.compute_batch_masks([dict.fromkeys(slots)], make(slots[:2]))
        for name, mask in expected.items():
            assert torch.equal(one[name], mask)
            assert torch.equal(two[name][0], mask)
    with pytest.raises(ValueError, match="must be a collection of slot ids, got the text 'mid'"):
        dropin.compute_action_masks(dict.fromkeys(slots), "mid")


@both
def test_an_ambient_device_changes_nothing(dropin: Any, slots: list[str]) -> None:
    states = dict.fromkeys(slots) | {slots[1]: dropin.MaskSeedInfo(4, 3)}
    with torch.device("meta"):
        inside = dropin.compute_action_masks(states, slots), dropin.compute_batch_masks([states], slots)
    assert {mask.device.type for masks in inside for mask in masks.values()} == {"cpu"}
    assert all(mask.device.type == "cpu" for mask in dropin.compute_action_masks(states, slots).values())
    on_device = dropin.compute_batch_masks([states], slots, device=torch.device("meta"))
    assert {mask.device.type for mask in on_device.values()} == {"meta"}


# -- distributions ----------------------------------------------------------------------------------------------------


def test_december_s_distribution_takes_any_mask() -> None:
    logits, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[True, False, True]])
    expected = em.MaskedCategorical(logits, mask)
    for given in (mask, mask.int(), mask.float(), mask.float() * 0.9):
        dist = older.MaskedCategorical(logits, given)
        assert torch.equal(dist.probs, expected.probs)
        assert torch.equal(dist[0].entropy(), expected[0].entropy())
    assert older.MaskedCategorical(logits, mask.float() * 0.5, validate="flag").faults.all()
    with pytest.raises(older.InvalidStateMachineError):
        older.MaskedCategorical(logits, torch.zeros(1, 3))


def test_june_s_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[True, False, True]])
    assert newer.MaskedCategorical.validate is True
    floor = newer.MaskedCategorical(logits, mask, min_prob=0.1).probs
    assert torch.equal(floor, em.MaskedCategorical(logits, mask, min_prob=0.1).probs)
    for none in ({}, {"min_prob": None}, {"min_prob": 0.0}):
        assert torch.equal(
            newer.MaskedCategorical(logits, mask, **none).probs, em.MaskedCategorical(logits, mask).probs
        )
    for kind in (torch.float32, torch.uint8):
        with pytest.raises(ValueError, match=f"must be a bool tensor, got {kind}, which is no longer supported"):
            newer.MaskedCategorical(logits, mask.to(kind))
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="inf/nan"):
            newer.MaskedCategorical(torch.tensor([[1.0, bad, 3.0]]), mask)
    with pytest.raises(newer.InvalidStateMachineError):
        newer.MaskedCategorical(logits, mask & False)
    mapped = torch.vmap(lambda x, m: newer.MaskedCategorical(x, m).probs)(logits, mask)
    assert torch.equal(mapped, newer.MaskedCategorical(logits, mask).probs)
    monkeypatch.setattr(newer.MaskedCategorical, "validate", False)
    assert newer.MaskedCategorical(torch.tensor([[1.0, math.nan, 3.0]]), mask).sample().item() in (0, 2)
    assert newer.MaskedCategorical(logits, mask & False).sample().item() == -1


def test_june_s_floor_need_only_fit_the_legal_choices() -> None:
    """0.12 for 13 blueprints, of which a CNN has 7."""
    mask = newer.compute_action_masks(dict.fromkeys(NEWER), NEWER)["blueprint"]
    dist = newer.MaskedCategorical(torch.linspace(-9, 9, 13), mask, min_prob=0.12)
    assert dist.probs[mask].min() >= 0.12 - 1e-6
    assert not dist.probs[~mask].any()
    assert dist.probs.sum().item() == pytest.approx(1)
    forced = newer.MaskedCategorical(torch.zeros(2, 3), torch.eye(3, dtype=torch.bool)[:2], min_prob=0.5)
    assert forced.probs.tolist() == [[1, 0, 0], [0, 1, 0]]


@both
def test_masked_logits(dropin: Any, slots: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newer.MaskedCategorical, "validate", False)  # it refuses NaN under the mask, too
    logits = torch.tensor([[1.0, math.nan, -2e4], [0.5, 2.0, 3.0]], requires_grad=True)
    mask = torch.tensor([[True, False, True], [True, True, True]])
    make = dropin.MaskedCategorical
    dist, floored = make(logits, mask), make(logits, mask, min_prob=0.1)
    expected = torch.tensor([[1.0, -1e4, -2e4], [0.5, 2.0, 3.0]])
    assert torch.equal(dist.masked_logits, expected)
    assert torch.equal(dist.expand((3, 2)).masked_logits, expected.expand(3, 2, 3))
    assert torch.equal(dist[1].masked_logits, expected[1])
    assert torch.equal(floored.masked_logits, floored.log_probs.masked_fill(~mask, -1e4))
    floored.masked_logits.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0
    assert logits.grad.isfinite().all()
    half = make(torch.ones(1, 3, dtype=torch.bfloat16), mask[1:]).masked_logits
    assert half.dtype == torch.float32


def network_rows(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Logits and masks ``[200, 7]``; some rows have one legal action."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(200, 7, generator=generator) > 0.6
    mask[torch.arange(200), torch.randint(7, (200,), generator=generator)] = True
    return (4 * torch.randn(200, 7, generator=generator)).to(dtype), mask


@pytest.mark.parametrize("floor", [None, 0.05])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_network_s_functions_give_what_the_distribution_gives(dtype: torch.dtype, floor: float | None) -> None:
    logits, mask = network_rows(dtype)
    dist = newer.MaskedCategorical(logits, mask, floor)
    masked = logits.to(dist.probs.dtype).masked_fill(~mask, newer.MASKED_LOGIT_VALUE)
    if floor:
        masked = newer._apply_floor_to_logits(masked, mask, floor)
    assert masked.dtype == dist.masked_logits.dtype == (dtype if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(masked, dist.masked_logits, rtol=0, atol=3e-7)
    torch.testing.assert_close(masked.softmax(-1), dist.probs, rtol=0, atol=3e-7)
    entropy = newer._normalized_entropy_from_masked_logits(masked, mask)
    torch.testing.assert_close(entropy, dist.entropy(), rtol=0, atol=3e-7)
    assert not entropy[mask.sum(-1) == 1].any()
    actions = dist.sample()
    scores = newer._masked_log_prob(masked, actions)
    torch.testing.assert_close(scores, dist.log_prob(actions), rtol=0, atol=3e-7)
    every = torch.arange(7).expand(200, 7)
    scores = newer._masked_log_prob(masked.unsqueeze(1).expand(200, 7, 7), every)
    torch.testing.assert_close(scores, masked.log_softmax(-1))


def test_the_network_s_functions_have_one_graph() -> None:
    def score(logits: Tensor, mask: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        newer._validate_action_mask(mask)
        newer._validate_logits(logits)
        masked = newer._apply_floor_to_logits(logits, mask, 0.05)
        return newer._masked_log_prob(masked, action), newer._normalized_entropy_from_masked_logits(masked, mask)

    logits, mask = network_rows()
    action = mask.int().argmax(-1)
    graph = torch.compile(score, fullgraph=True, backend="eager")
    for compiled, eager in zip(graph(logits, mask, action), score(logits, mask, action)):
        torch.testing.assert_close(compiled, eager)


def test_the_network_s_checks() -> None:
    logits, mask = torch.zeros(2, 3), torch.tensor([[True, False, True], [False, False, False]])
    newer._validate_action_mask(mask[:1])
    newer._validate_logits(logits)
    with pytest.raises(newer.InvalidStateMachineError, match="1 of 2 rows are faulty: row 1"):
        newer._validate_action_mask(mask)
    with pytest.raises(ValueError, match=r"no longer supported; convert it with `mask > 0\.5`"):
        newer._validate_action_mask(mask.float())
    logits[0, :2], logits[1, 0] = math.inf, math.nan
    with pytest.raises(ValueError, match="inf/nan, a sign of network instability: nan_count=1, inf_count=2 of 6"):
        newer._validate_logits(logits)
    torch.vmap(newer._validate_logits, out_dims=None)(logits)  # nothing can be read there


@pytest.mark.parametrize("floor", [{}, {"op": 0.05, "tempo": 0.1}], ids=["no floor", "floor"])
def test_what_the_network_draws_scores_the_same_as_whole_actions(floor: dict[str, float]) -> None:
    """June's ``get_action``: the op, then every head under the mask that the op leaves it."""
    rules, generator = newer.RULES, torch.Generator().manual_seed(0)
    engine = em.MaskEngine(rules)
    masks = engine(random_states(engine, 500))
    logits = {head: torch.randn(mask.shape, generator=generator) for head, mask in masks.items()}
    canonical = torch.tensor([0, *[head.choices.index(head.canonical) for head in rules.heads[1:-1]]])
    actions, scores, entropies = {}, {}, {}

    def draw(head: str, mask: Tensor) -> None:
        masked = logits[head].masked_fill(~mask, newer.MASKED_LOGIT_VALUE)
        if head in floor:
            masked = newer._apply_floor_to_logits(masked, mask, floor[head])
        actions[head] = torch.multinomial(masked.softmax(-1), 1, generator=generator).squeeze(-1)
        scores[head] = newer._masked_log_prob(masked, actions[head])
        entropies[head] = newer._normalized_entropy_from_masked_logits(masked, mask)

    draw("op", masks["op"])
    for head, value in zip(rules.head_names[:-1], canonical):
        mask = masks.slot_by_op[torch.arange(500), actions["op"]] if head == "slot" else masks[head]
        used = torch.tensor([head in rules.relevance[op] for op in rules.ops])[actions["op"]]
        draw(head, torch.where(used.unsqueeze(-1), mask, torch.arange(mask.shape[-1]) == value))

    drawn, before = (torch.stack([of[head] for head in rules.head_names], -1) for of in (actions, scores))
    policy = em.FactoredCategorical(logits, masks, min_prob=floor)
    assert policy.legal(drawn).all()
    torch.testing.assert_close(policy.head_log_probs(drawn), before, rtol=0, atol=2.4e-7)
    torch.testing.assert_close(policy.log_prob(drawn), before.sum(-1), rtol=0, atol=1e-6)
    if not floor:
        torch.testing.assert_close(policy.head_entropies()[:, -1], entropies["op"], rtol=0, atol=3e-7)


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "float32", "float64"])
def test_the_older_distribution_takes_arrays_of_numpy(dtype: str) -> None:
    mask = np.array([[1, 0, 1]], dtype=dtype)
    if dtype.startswith("float"):
        mask[0, 1] = 0.3
    dist = older.MaskedCategorical(torch.zeros(1, 3), mask)
    mask[:] = 1
    assert dist.probs.tolist() == [[0.5, 0.0, 0.5]]


@pytest.mark.parametrize(
    "runs", [((2, None),), ((None, 2),), ((2, 2),), ((1, 3),), ((1, 2), (4, None)), ((0, 0), (3, 3))]
)
def test_a_comparison_is_what_the_engine_tests(runs: Runs) -> None:
    compare, value = _comparison(runs)
    for number in (*range(-2, 7), 1.5, 2.5):
        inside = any((a is None or number >= a) and (b is None or number <= b) for a, b in runs)
        assert compare(number, value) == outside(number, runs) == (not inside)
