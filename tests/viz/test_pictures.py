"""Pictures, by their content: labels, ticks, colours of cells, points of lines, edges of graphs; and their errors."""

import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from itertools import combinations
from typing import Any

import pytest
import torch
from rich.console import Console

import esper_masks as em
from esper_masks.bench.cases import CENTRE, LOOPS, Case, growth
from esper_masks.bench.lifecycles import rules_of
from esper_masks.cli.entry import main
from esper_masks.cli.tables import show
from esper_masks.inspection.describe import takers
from esper_masks.rollout.env.baselines import random_legal
from esper_masks.viz import measuring
from esper_masks.viz.over_time import legal_shares
from esper_masks.viz.routes import place
from esper_masks.viz.style import LOOKS, look
from tests.documents import blocks
from tests.helpers import ROOT
from tests.own_rules import odd_rules

matplotlib = pytest.importorskip("matplotlib", reason="the extra `viz` is not installed")
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402  # after the line that skips
from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch  # noqa: E402


def scheduler() -> em.MaskRules:
    """The example of the README."""
    [block] = [block for block in blocks(ROOT / "README.md") if "MaskRules" in block]
    made: dict[str, Any] = {"__name__": "readme"}
    exec(block.split("engine =")[0], made)
    rules: em.MaskRules = made["scheduler"]
    return rules


RULES = [*map(em.ruleset, em.rulesets()), scheduler(), odd_rules(moves=True), odd_rules(moves=False)]

# what is legal where under esper-2025-12, written down by hand; "." wherever nothing is said
TRUTH = {
    "WAIT": dict.fromkeys(em.ruleset("esper-2025-12").stages.__members__, "always"),
    "GERMINATE": {"DORMANT": "gated"},
    "CULL": dict.fromkeys(("GERMINATED", "TRAINING", "BLENDING", "PROBATIONARY"), "gated"),
    "FOSSILIZE": {"PROBATIONARY": "yes"},
}
COLOURS = {"always": "#56b4e9", "gated": "#e69f00", "yes": "#0072b2", ".": "#ffffff"}


def texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


# -- rules ------------------------------------------------------------------------------------------------------------


def test_the_table_is_true() -> None:
    figure = em.viz.validity_table(em.ruleset("esper-2025-12"))
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == list(TRUTH)
    stages = [label.get_text() for label in axis.get_yticklabels()]
    assert stages[:2] == ["UNKNOWN  0", "DORMANT  1"]
    assert stages[-1] == "RESETTING  10"
    assert axis.get_ylim() == (9.5, -0.5)  # the first stage on top, so a cell's text stands in its own row
    cells = {patch.get_gid(): to_hex(patch.get_facecolor()) for patch in axis.patches}
    words = {text.get_position(): text.get_text() for text in axis.texts}
    for row, stage in enumerate(em.ruleset("esper-2025-12").stages):
        for column, (op, said) in enumerate(TRUTH.items()):
            word = said.get(stage.name, ".")
            assert words[column, row] == word, f"{op} in {stage.name}"
            assert cells[f"{stage.name}/{op}"] == COLOURS[word], f"{op} in {stage.name}"
    assert "GERMINATE, gated: below the seed limit\nCULL, gated: age >= 1" in texts(figure)


def test_gates_of_the_newer_rules_are_told() -> None:
    [notes] = [text for text in texts(em.viz.validity_table(em.ruleset("esper-2026-06"))) if "gated:" in text]
    told = " ".join(notes.split())
    assert "no enabled slot in GERMINATED, TRAINING, PRUNED, EMBARGOED, RESETTING" in told
    assert "PRUNE, gated: age >= 5; alpha_mode HOLD, unless allow_governor_override" in told


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules.name)
def test_the_graph_has_the_rules_own_edges(rules: em.MaskRules) -> None:
    figure = em.viz.lifecycle_graph(rules)
    arrows = {patch.get_gid(): patch for patch in figure.findobj(FancyArrowPatch)}
    edges = {f"{a.name}->{b.name}": takers(rules, a, b) for a in rules.stages for b in rules.transitions[a]}
    assert set(arrows) == set(edges)
    labels = {text.get_gid(): text.get_text().split("\n") for text in figure.axes[0].texts if text.get_gid()}
    assert labels == {edge: ops for edge, ops in edges.items() if ops}
    numbers = {op.name: number for number, op in enumerate(op for op in rules.op_rules if not op.always)}
    for edge, ops in edges.items():
        wanted = look(numbers[ops[0]]).colour if ops else "#666666"
        assert to_hex(arrows[edge].get_edgecolor()) == wanted.lower()
    assert {stage.name for stage in rules.stages} <= set(texts(figure))


def test_a_known_edge() -> None:
    figure = em.viz.lifecycle_graph(em.ruleset("esper-2026-06"))
    labels = {text.get_gid(): text.get_text() for text in figure.axes[0].texts if text.get_gid()}
    assert labels["DORMANT->GERMINATED"] == "GERMINATE"
    assert labels["BLENDING->HOLDING"] == "ADVANCE"
    assert labels["HOLDING->PRUNED"] == "PRUNE"
    assert "HOLDING->BLENDING" not in labels  # by itself
    acting = [text for text in texts(figure) if text.endswith("SET_ALPHA_TARGET")]
    assert len(acting) == 2  # in BLENDING and HOLDING, without moving


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules.name)
def test_nothing_in_the_graph_covers_anything(rules: em.MaskRules) -> None:
    figure = em.viz.lifecycle_graph(rules)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = {box.get_gid(): box.get_window_extent() for box in figure.findobj(FancyBboxPatch) if box.get_gid()}
    labels = {text.get_gid(): text.get_window_extent() for text in figure.axes[0].texts if text.get_gid()}
    everything = {**boxes, **labels}
    for (one, first), (other, second) in combinations(everything.items(), 2):
        assert not first.overlaps(second), f"{one} and {other}"
    for text in (text for text in figure.findobj(matplotlib.text.Text) if text.get_text()):
        extent = text.get_window_extent()
        assert min(*extent.min, *(figure.bbox.max - extent.max)) >= 0, f"{text.get_text()} is cut off"
    for patch in figure.findobj(FancyArrowPatch):
        source, target = patch.get_gid().split("->")
        line = patch.get_path().interpolated(20).vertices
        for stage, box in boxes.items():
            if stage not in (source, target):
                inside = [patch.get_transform().transform(point) for point in line]
                assert not any(box.contains(*point) for point in inside), f"{source}->{target} runs through {stage}"


def test_stages_stand_by_their_distance() -> None:
    rules = em.ruleset("esper-2025-12")
    placed = {stage.name: at for stage, at in place(tuple(rules.stages), rules.transitions, rules.empty).items()}
    assert placed["DORMANT"] == (0, 0)
    assert placed["FOSSILIZED"] == (5, 0)
    assert placed["CULLED"] == (2, 1)
    assert placed["UNKNOWN"] == (0, 1)  # never reached: below what it leads to
    assert len(set(placed.values())) == len(placed)


# -- masks and actions ------------------------------------------------------------------------------------------------


def episode(envs: int = 40, steps: int = 6) -> tuple[em.ActionMasks, torch.Tensor]:
    torch.manual_seed(3)
    env = em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), envs, seed=3)
    masks, actions = [], []
    for _ in range(steps):
        masks.append(env.masks())
        actions.append(random_legal(env))
        env.step(actions[-1])
    return em.ActionMasks.stack(masks), torch.stack(actions)


@pytest.mark.parametrize("head", ["op", "blueprint"])
def test_masks_over_time(head: str) -> None:
    masks, _ = episode()
    figure = em.viz.masks_over_time(masks, head, step="epoch")
    axis = figure.axes[0]
    drawn = axis.images[0].get_array()
    choices = masks.layout.head(head).choices
    for choice in range(len(choices)):
        for step in range(6):
            legal = [bool(masks[head][step, env, choice]) for env in range(40)]
            assert drawn[choice][step] == pytest.approx(100 * sum(legal) / 40)
    assert [label.get_text() for label in axis.get_yticklabels()] == list(choices)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("epoch", head)
    assert axis.texts[0].get_text() == f"{drawn[0][0]:.0f}"
    assert figure.axes[1].get_ylabel() == "legal, % of environments"


@pytest.mark.parametrize("steps", [30, 260, 400, 401, 1000, 1234])
def test_a_heat_map_of_many_steps_invents_nothing_and_leaves_nothing_out(steps: int) -> None:
    """Pixel by pixel: each step's colour, or the mean of a column's, where nothing lies between two rows or columns."""
    engine = em.MaskEngine(em.ruleset("esper-2025-12"), ["a"])
    ages = (torch.rand(steps, generator=torch.Generator().manual_seed(0)) < 0.5).int()
    states = torch.stack([torch.full_like(ages, 4), ages], -1)[:, None]  # BLENDING: CULL is legal from age 1 on
    figure = em.viz.masks_over_time(engine(states))
    axis = figure.axes[0]
    drawn = axis.images[0].get_array()
    each = -(-steps // 400)
    cull = list(engine.layout.ops).index("CULL")
    wanted = [100 * float(ages[at : at + each].float().mean()) for at in range(0, steps, each)]
    assert drawn[cull].tolist() == pytest.approx(wanted)
    assert axis.get_xlim() == (-0.5, steps - 0.5)
    assert axis.get_xlabel() == ("step" if each == 1 else f"step (a column: mean of {each})")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    pixels = pixels.view(*canvas.get_width_height()[::-1], 4)
    colours = axis.images[0].cmap(torch.tensor(wanted).numpy() / 100, bytes=True)[:, :3]
    seen = set()
    above = cull - 0.35  # of the numbers in cells
    (left, top), (right, _) = (axis.transData.transform((x, above)) for x in (-0.5, steps - 0.5))
    for x in range(int(left) + 3, int(right) - 3):
        at = axis.transData.inverted().transform((x + 0.5, top))[0]
        near = {int((at + 0.5 + shift * steps / (right - left)) // each) for shift in (-1, 0, 1)}  # a pixel of rounding
        near = {column for column in near if 0 <= column < len(wanted)}
        colour = pixels[pixels.shape[0] - 1 - int(top), x, :3].tolist()
        same = {column for column in near if colours[column].tolist() == colour}
        assert same, f"pixel {x} is {colour}"
        seen |= same
    assert len(seen) >= len(wanted) - 4  # the first and the last stand behind the frame


def test_masks_of_one_environment_over_time() -> None:
    masks, _ = episode()
    alone = em.ActionMasks.stack([masks.at((step, 0)) for step in range(6)])
    assert torch.equal(legal_shares(alone), alone["op"].float())
    assert em.viz.masks_over_time(alone).axes[1].get_ylabel() == "legal, % of steps"


def test_ops_over_time() -> None:
    masks, actions = episode()
    actions[2, :10] = -1  # who does not act does not count
    axis = em.viz.ops_over_time(actions, masks.layout, step="epoch").axes[0]
    assert [line.get_label() for line in axis.lines] == list(masks.layout.ops)
    for op, line in enumerate(axis.lines):
        for step in range(6):
            acting = [int(action) for action in actions[step, :, 3] if action >= 0]
            assert line.get_ydata()[step] == pytest.approx(100 * acting.count(op) / len(acting))
    assert len({(line.get_color(), str(line.get_linestyle()), line.get_marker()) for line in axis.lines}) == 4


def test_legal_counts_over_time() -> None:
    masks, _ = episode()
    above, middle, below = em.viz.legal_counts_over_time(masks).axes
    joint = masks.joint()
    for step in range(6):
        whole = [int(row.sum()) for row in joint[step]]
        assert above.lines[0].get_ydata()[step] == pytest.approx(float(masks["op"][step].sum()) / 40)
        assert middle.lines[0].get_ydata()[step] == pytest.approx(sum(whole) / 40)
        assert below.lines[0].get_ydata()[step] == pytest.approx(100 * whole.count(1) / 40)
    assert below.get_ylabel() == "forced states,\n%"


def inside(axis: Any) -> bool:
    """Whether every point of every line stands clear of the frame, by more than half a marker."""
    low, high = axis.get_ylim()
    room = 0.03 * (high - low)
    return all(low + room < y < high - room for line in axis.lines for y in line.get_ydata())


def test_nothing_is_cut_off_at_an_edge() -> None:
    masks, actions = episode()
    assert all(map(inside, em.viz.legal_counts_over_time(masks).axes))
    forced = em.MaskEngine(em.ruleset("esper-2025-12"), ["a"])(
        torch.full((5, 1, 2), 7, dtype=torch.int32)
    )  # FOSSILIZED
    assert bool(forced.forced.all())  # 1 op, 1 action, 100 percent
    assert all(map(inside, em.viz.legal_counts_over_time(forced).axes))
    actions[...] = 0  # each op at 0 or 100 percent
    assert inside(em.viz.ops_over_time(actions, masks.layout).axes[0])
    arms = {
        "masked": [{**curve(1, 3), "illegal_share": [0.0, 0.0]}],
        "random": [{**curve(1, 3), "illegal_share": [1, 1]}],
    }
    assert inside(em.viz.compare_trainings({"few": arms}).axes[1])
    assert inside(
        em.viz.entropy_curves([{"env_steps": 1.0, "entropy_op": 0.0}, {"env_steps": 2.0, "entropy_op": 1.0}]).axes[0]
    )


# -- training and measuring -------------------------------------------------------------------------------------------


def test_entropy_curves() -> None:
    metrics = [{"env_steps": step * 1e6, "entropy_op": 0.9**step, "entropy_slot": 0.5, "kl": 1.0} for step in range(4)]
    figure = em.viz.entropy_curves(metrics)
    axis = figure.axes[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["op", "slot"]
    assert axis.lines[0].get_xydata().tolist() == [[step, 0.9**step] for step in range(4)]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("environment steps, millions", "normalized entropy")


def curve(*returns: float) -> dict[str, list[float]]:
    steps = [1e6 * (number + 1) for number in range(len(returns))]
    return {"env_steps": steps, "return_mean": list(returns), "illegal_share": [0.5 for _ in returns]}


def test_compare_trainings() -> None:
    groups = {"few": {"masked": [curve(1, 3), curve(3, 5)], "other": [curve(0, 1)]}, "many": {"masked": [curve(7, 8)]}}
    figure = em.viz.compare_trainings(groups, {"few": 4.0})
    above, beside, below, _ = figure.axes
    assert above.lines[0].get_xydata().tolist() == [[1, 2], [2, 4]]  # the mean over seeds
    band = above.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (1, 5)
    assert below.lines[0].get_ydata().tolist() == [50, 50]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["masked", "other", "heuristic"]
    assert above.lines[0].get_color() == beside.lines[0].get_color()
    for titles in (["few"], ["few", "many"]):
        ways = {way: [curve(0, 1)] for way in ("masked", "unmasked", "penalized")}
        figure = em.viz.compare_trainings(dict.fromkeys(titles, ways), {"few": 4.0})
        FigureCanvasAgg(figure).draw()
        legend = figure.legends[0].get_window_extent()
        assert legend.x0 >= 0
        assert legend.x1 <= figure.bbox.x1


def row(case: Case, **figures: Any) -> dict[str, Any]:
    return {**asdict(case), "ns_per_env": 50.0, "limit_ns_per_env": 4.0, **figures}


def test_scaling() -> None:
    rows = [
        row(CENTRE),
        row(Case(batch=4), ns_per_env=8000.0),
        row(Case(slots=8), ns_per_env=60.0),
        row(Case(way=LOOPS[0]), ns_per_env=2e4),
        row(Case(layout="batch-last"), ns_per_env=1.0),  # not of this picture
        {**asdict(Case(batch=1 << 20)), "error": "out of memory"},
    ]
    figure = em.viz.scaling({"rows": rows, "machine": {"cpu": "a CPU", "gpu": None}})
    left, right = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in left.lines}
    assert lines["compiled step"] == [[4, 8000], [65536, 50]]
    assert lines["loop with Categorical"] == [[65536, 2e4]]
    assert lines["limit: a decision's fewest bytes, copied"] == [[4, 4], [65536, 4]]
    assert right.lines[0].get_xydata().tolist() == [[3, 50], [8, 60]]
    assert [label.get_text() for label in right.get_xticklabels()] == ["3", "8"]
    assert figure.get_suptitle() == "esper-2025-12 on a CPU, 1 thread"
    assert left.get_ylabel() == "time per environment, ns"


def test_growth() -> None:
    cases = [case for case in growth() if case.way != "cuda-graph"]
    rows = [row(case, ns_per_env=float(at), peak_bytes=2 * case.batch) for at, case in enumerate(cases)]
    rows[4] = {**asdict(cases[4]), "error": "out of memory"}
    figure = em.viz.growth({"rows": rows, "machine": {"cpu": "a CPU", "gpu": None}})
    above, below = figure.axes[:5], figure.axes[5:]
    assert [axis.get_xlabel() for axis in below] == ["environments", "slots", "heads", "ops", "guards"]
    for axis, other, name in zip(above, below, ("batch", "slots", "heads", "ops", "guards")):
        for line, memory in zip(axis.lines, other.lines, strict=True):
            way = {"compiled step": "compiled", "eager step": "eager"}[str(line.get_label())]
            points = {int(x): y for x, y in line.get_xydata().tolist()}
            assert memory.get_xydata().tolist() == [[x, 2] for x in points]
            expected = {}
            for at, case in enumerate(cases):
                sizes = {"batch": 16384, "slots": 3, "heads": 4, "ops": 6, "guards": 0}
                of = {"batch": case.batch, "slots": case.slots, **measuring.sizes_of(case.rules)}
                if at != 4 and case.way == way and all(of[key] == sizes[key] for key in sizes if key != name):
                    expected[of[name]] = at
            assert points == expected
    assert figure.get_suptitle().startswith(
        "from 16,384 environments, 3 slots, 4 heads, 6 ops, 0 guards, one at a time"
    )


def test_sizes_are_those_that_a_name_says() -> None:
    for case in growth():
        rules = rules_of(case.rules)
        sizes = measuring.sizes_of(rules.name)
        guards = sum(len(op.when) for op in rules.op_rules)
        assert sizes == {"heads": len(rules.heads), "ops": len(rules.op_rules), "guards": guards}
    assert measuring.sizes_of("esper-2025-12") == {}


def test_the_picture_is_of_the_suite_s_centre() -> None:
    centre = {**measuring.CENTRE, "slots": measuring.SLOTS, "batch": measuring.BATCH}
    assert centre == {name: getattr(CENTRE, name) for name in centre}
    assert set(asdict(CENTRE)) - set(centre) == {"work", "way"}


def test_speedups_draw_what_loses_like_what_wins() -> None:
    ratios = {"wins": 4.0, "loses": 0.25, "same": 1.0, "far": 1234.0}
    axis = em.viz.speedups(ratios, "the loop", title="a title").axes[0]
    bars = dict(zip(ratios, axis.patches))
    for name, ratio in ratios.items():
        assert bars[name].get_x() + bars[name].get_width() == pytest.approx(ratio)
    assert bars["wins"].get_height() == bars["loses"].get_height()
    assert [bar.get_hatch() for bar in bars.values()] == [None, "////", None, None]
    assert to_hex(bars["loses"].get_edgecolor()) == "#d55e00"
    said = [text.get_text() for text in axis.texts]
    assert [text.split()[0] for text in said] == ["4", "0.25", "1", "1,234"]
    assert axis.get_xlabel() == "times as fast as the loop (hatched: slower)"
    assert axis.get_xscale() == "log"
    assert [label.get_text() for label in axis.get_yticklabels()] == list(ratios)


def test_speedups_tell_our_rows_from_those_of_others() -> None:
    ratios = {"ours": 4.0, "ours slow": 0.5, "theirs": 3.0, "theirs slow": 0.25}
    figure = em.viz.speedups(ratios, "the loop", ours=["ours", "ours slow"])
    bars = dict(zip(ratios, figure.axes[0].patches))
    assert [to_hex(bars[name].get_facecolor()) for name in ("ours", "theirs")] == ["#0072b2", "#999999"]
    assert [to_hex(bars[name].get_edgecolor()) for name in ("ours slow", "theirs slow")] == ["#d55e00", "#999999"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["this library", "others"]
    assert not em.viz.speedups(ratios, "the loop").legends


def test_the_lines_of_the_scaling_differ() -> None:
    looks = [(look.colour, str(look.stroke), look.marker) for _, look, _ in measuring.LINES]
    assert len({colour for colour, *_ in looks}) == len(looks)


# -- errors, and what is left alone -----------------------------------------------------------------------------------


def of(masks: em.ActionMasks, actions: torch.Tensor) -> list[tuple[Callable[[], Any], type[Exception], str]]:
    layout, two = masks.layout, actions[:, :, :2]
    none = [{"env_steps": 1.0}]
    bad = {**curve(1.0), "env_steps": [5.0]}
    return [
        (lambda: em.viz.validity_table("esper-2025-12"), TypeError, "wanted MaskRules, got str"),
        (lambda: em.viz.lifecycle_graph(None), TypeError, "wanted MaskRules, got NoneType"),
        (lambda: em.viz.masks_over_time(masks["op"]), TypeError, "wanted ActionMasks, got Tensor"),
        (lambda: em.viz.masks_over_time(masks.at((0, 0))), ValueError, r"leading shape \(\); wanted \[time\]"),
        (lambda: em.viz.masks_over_time(masks.select(slice(0, 0))), ValueError, "with a step at least"),
        (lambda: em.viz.masks_over_time(masks, "colour"), KeyError, "no head 'colour'; the heads are slot"),
        (lambda: em.viz.legal_counts_over_time(3), TypeError, "wanted ActionMasks, got int"),
        (lambda: em.viz.ops_over_time(actions, masks), TypeError, "wanted an ActionLayout, got ActionMasks"),
        (lambda: em.viz.ops_over_time(actions.float(), layout), ValueError, "must be an integer tensor"),
        (lambda: em.viz.ops_over_time(two, layout), ValueError, r"wanted \[time, batch, 4\]"),
        (lambda: em.viz.ops_over_time(actions + 9, layout), ValueError, "the ops are 0 to 3"),
        (lambda: em.viz.ops_over_time(torch.full_like(actions, -1), layout), ValueError, "nobody acts at step 0"),
        (lambda: em.viz.learning_curve(none), ValueError, "none of 1 iterations has env_steps and return_mean"),
        (lambda: em.viz.entropy_curves(none), ValueError, r"none of 1 iterations has an entropy_\*"),
        (lambda: em.viz.compare_trainings({}), ValueError, "there is no training to compare"),
        (lambda: em.viz.compare_trainings({"a": {"b": [{}]}}), ValueError, "a, b: a curve has no env_steps"),
        (lambda: em.viz.compare_trainings({"a": {"b": []}}), ValueError, "a, b: there is no curve with a point"),
        (lambda: em.viz.compare_trainings({"a": {"b": [curve(1.0), bad]}}), ValueError, "have the same env_steps"),
        (lambda: em.viz.scaling({}), ValueError, "no result of esper-masks bench"),
        (lambda: em.viz.growth({}), ValueError, "no result of esper-masks bench"),
        (lambda: em.viz.growth({"rows": [], "machine": {}}), ValueError, "no row to draw"),
        (lambda: em.viz.scaling({"rows": [], "machine": {}}), ValueError, "no row to draw"),
        (lambda: em.viz.scaling({"rows": [{"way": "eager"}], "machine": {}}), ValueError, "has no work; it has way"),
        (lambda: em.viz.speedups({}, "x"), ValueError, "no rows to draw"),
        (lambda: em.viz.speedups({"a": 2.0}, "x", ours=["b"]), ValueError, "no row is called 'b'; the rows are a"),
        (lambda: em.viz.speedups({"a": 0.0}, "x"), ValueError, "the ratio of 'a' is 0.0; wanted a number above 0"),
        (lambda: em.viz.speedups({"a": math.nan}, "x"), ValueError, "the ratio of 'a' is nan"),
    ]


def test_errors_say_what_came_and_what_was_wanted() -> None:
    for draw, kind, says in of(*episode()):
        with pytest.raises(kind, match=says):
            draw()


def test_many_series_can_be_told_apart() -> None:
    assert len({(series.colour, str(series.stroke), series.marker) for series in map(look, range(49))}) == 49
    assert len({series.colour for series in LOOKS}) == len({str(series.stroke) for series in LOOKS}) == len(LOOKS)


def test_there_is_no_pyplot_and_no_matplotlib_before_it_is_needed() -> None:
    code = """
import sys
import esper_masks as em
assert "matplotlib" not in sys.modules
em.viz
assert "matplotlib" not in sys.modules
import matplotlib
def settings():
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
before = settings()
em.viz.lifecycle_graph(em.ruleset("esper-2025-12")).savefig("/dev/null", format="svg")
assert "matplotlib.pyplot" not in sys.modules
assert settings() == before
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"esper_masks\.viz needs matplotlib: pip install 'esper-masks\[viz\]'"):
        em.viz.validity_table(em.ruleset("esper-2025-12"))


# -- the same in a terminal -------------------------------------------------------------------------------------------


def test_the_table_is_coloured_where_there_are_colours() -> None:
    shown = io.StringIO()
    show(em.ruleset("esper-2025-12"), Console(file=shown, force_terminal=True, color_system="truecolor", width=80))
    [line] = [line for line in shown.getvalue().splitlines() if "PROBATIONARY" in line and "FOSSILIZE" not in line]
    grounds = {
        word: tuple(int(COLOURS[word][at : at + 2], 16) for at in (1, 3, 5)) for word in ("always", "gated", "yes")
    }
    for word, (red, green, blue) in grounds.items():
        assert re.search(f"48;2;{red};{green};{blue}m *{word}", line)


def test_show_over_time(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    assert main(["show", "--over-time", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts["legal"]) == ["WAIT", "GERMINATE", "CULL", "FOSSILIZE"]
    assert {len(shares) for shares in facts["legal"].values()} == {25}
    assert facts["legal"]["WAIT"] == [1.0] * 25
    assert facts["legal"]["GERMINATE"][0] == 1.0
    assert facts["legal"]["CULL"][0] == 0.0
    assert facts["legal_actions"][0] == 37.0
    assert main(["show", "--over-time"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.splitlines()[6].split() == ["0", "100", "100", "0", "0", "0", "37.0"]
    unknown = tmp_path / "unknown.py"
    unknown.write_text("from dataclasses import replace\nfrom esper_masks import ruleset\n", encoding="utf-8")
    with unknown.open("a", encoding="utf-8") as stream:
        stream.write("RULES = replace(ruleset('esper-2025-12'), name='unknown')\n")
    assert main(["show", f"{unknown}:RULES", "--over-time"]) == 2
    assert "no mechanics are known" in capsys.readouterr().err
