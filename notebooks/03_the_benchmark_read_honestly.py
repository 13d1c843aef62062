# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The benchmark, read honestly
#
# Everything here is drawn from the result files in `benchmarks/results/`, which were measured once and committed;
# nothing is measured again. Rows that lose are drawn like rows that win, hatched and to the left, and all of them are
# listed at the end. How it was measured is in [docs/performance.md](../docs/performance.md).

# %%
# %matplotlib inline
import json
from pathlib import Path

import esper_masks as em

# the checkout that the package is in, or that this notebook is in
places = [*Path(em.__file__).resolve().parents, *Path.cwd().resolve().parents]
results = next(place for place in places if (place / "benchmarks" / "results").is_dir()) / "benchmarks" / "results"


def read(name: str) -> dict:
    """A result of this version."""
    return json.loads((results / em.__version__ / f"{name}.json").read_text(encoding="utf-8"))


def told(result: dict) -> str:
    """What a result belongs to."""
    machine, versions = result["machine"], result["versions"]
    of = f"torch {versions['torch']}, Python {versions['python']}, commit {result['commit']['id'][:12]}"
    return f"{machine['cpu']} ({machine['capability']}), one thread, {of}"


def usual(result: dict, row: dict, way: str) -> dict:
    """The row of another way that did the same work."""
    same = ("work", "rules", "slots", "batch", "step")
    return next(r for r in result["rows"] if r["way"] == way and all(r[name] == row[name] for name in same))


names = ("scaling", "masks", "distributions", "dropin", "training")
scaling, masks, heads, dropin, training = (read(f"{name}-cpu") for name in names)
lost: dict[str, dict[str, float]] = {}  # what loses, by what it loses to


def keep_lost(ratios: dict[str, float], reference: str) -> dict[str, float]:
    """Note the rows that lose; returns all."""
    lost.setdefault(reference, {}).update({name: ratio for name, ratio in ratios.items() if ratio < 1})
    return ratios


for name, result in zip(names, (scaling, masks, heads, dropin, training)):
    print(f"{name}: {told(result)}")

# %% [markdown]
# All files are of one commit and one machine. Figures of different files are minutes apart all the same, and the
# machine may have been busier in one than in another: divide those of one file, whose compared rows are neighbours.
#
# ## A whole decision
#
# From slot states and logits to actions, log-probabilities and entropies. The dotted line is the time to copy the
# fewest bytes that a decision needs: nothing could be faster.

# %%
em.viz.scaling(scaling)

# %% [markdown]
# Three things to see in it. Below some thousand environments a compiled step takes the same time whatever the batch:
# that is the price of a call. At large batches it stays far above the dotted line: it is bound by arithmetic, not by
# memory. And the eager step meets the loop at small batches.
#
# The best loop that could be written, which nobody runs, is the harder comparison. It was not measured for one
# environment; there the usual loop stands in.

# %%
rows = [row for row in scaling["rows"] if row["work"] == "decision" and row["step"] == "forward"]
best = {row["batch"]: row["ns_per_env"] for row in rows if row["way"] == "loop, one tensor"}
loops = {row["batch"]: row["ns_per_env"] for row in rows if row["way"] == "loop, small tensors" and row["slots"] == 3}
ratios = {
    f"{row['way']}, batch {row['batch']:,}": best.get(row["batch"], loops[row["batch"]]) / row["ns_per_env"]
    for row in sorted(rows, key=lambda row: (row["batch"], row["way"]))
    if row["batch"] in (1, *best)
    and row["rules"] == "esper-2025-12"
    and (row["slots"], row["layout"], row["threads"], row["memory"]) == (3, "row-major", 1, "allocated")
    and not row["way"].startswith("loop")
}
reference = "the best loop with Categorical"
em.viz.speedups(keep_lost(ratios, reference), reference, title="decision, esper-2025-12, 3 slots")

# %% [markdown]
# The rows of other libraries are given ready masks, and draw the heads independently of each other, which lets
# illegal pairs of op and slot through. They are what people run, not the same result.
#
# ## Masks alone
#
# Against the best loop that could be written (integers, rows looked up, one tensor at the end). "From objects" starts
# from Python objects as the loop does; the others from a tensor of states that is there.

# %%
rows = [row for row in masks["rows"] if (row["rules"], row["slots"]) == ("esper-2025-12", 3)]
ratios = {
    f"{row['way']}, batch {row['batch']:,}": usual(masks, row, "loop, one tensor")["ns_per_env"] / row["ns_per_env"]
    for row in sorted(rows, key=lambda row: (row["batch"], -row["ns_per_env"]))
    if row["batch"] in (1, 4, 256, 65536) and not row["way"].startswith("loop")
}
em.viz.speedups(keep_lost(ratios, "the best loop, masks alone"), "the best loop", title="masks, esper-2025-12, 3 slots")

# %% [markdown]
# Small batches of eager code are dispatch: some fifty to a hundred microseconds a call, however little there is to
# do. Below some hundred environments that loop is the better choice, unless the masks are part of a step that is
# compiled.
#
# ## Distributions
#
# Ours against the fastest of the others in each row: `torch.distributions.Categorical` on pre-filled logits, compiled
# or eager, TorchRL, sb3-contrib. First compiled, which is how a training runs it.

# %%
OTHERS = ("torch eager", "torch compiled", "torchrl eager", "sb3 eager")


def against_the_fastest(way: str, batches: tuple[int, ...]) -> dict[str, float]:
    """Time of the fastest other library over ours, for every case."""
    times: dict[tuple, dict[str, float]] = {}
    for row in heads["rows"]:
        if row["layout"] == "row-major":
            case = row["work"].replace("decision", "4 heads" if row["rules"] == "esper-2025-12" else "8 heads")
            times.setdefault((row["batch"], case, row["step"]), {})[row["way"]] = row["ns_per_env"]
    return {
        f"{case}, {step}, batch {batch:,}": min(own[name] for name in OTHERS if name in own) / own[way]
        for (batch, case, step), own in times.items()
        if batch in batches and way in own
    }


name = "the fastest of the others"
em.viz.speedups(
    keep_lost(against_the_fastest("ours compiled", (4, 16384, 65536)), f"{name}, compiled"), name, title="compiled"
)

# %% [markdown]
# Forward passes win. Forward and backward together lose for 4 and 8 heads, where torch's compiled `Categorical` has
# less to differentiate, since its heads are independent; and they lose at batch 4 nearly everywhere.
# `DecisionStep.evaluate` computes the same for 4 heads by another way, in one loop over the batch:

# %%
rows = [row for row in scaling["rows"] if row["step"] == "forward+backward"]
ours = {row["batch"]: row["ns_per_env"] for row in rows if row["way"] == "compiled"}
ratios = {
    f"against {row['way']}, batch {row['batch']:,}": row["ns_per_env"] / ours[row["batch"]]
    for row in rows
    if row["way"] != "compiled"
}
title = "DecisionStep.evaluate, 4 heads, forward+backward"
em.viz.speedups(keep_lost(ratios, "the named way, evaluate"), "the named way", title=title)

# %% [markdown]
# Eager, against whatever is fastest, compiled or not, is the hard comparison, and mostly lost:

# %%
em.viz.speedups(keep_lost(against_the_fastest("ours eager", (4, 16384, 65536)), f"{name}, eager"), name, title="eager")

# %% [markdown]
# ## The drop-in
#
# `em.compat` replaces the original mask functions under their names. One environment at a time it may not be slower
# than the loop; whole batches go through the engine, which has to be fed with objects.

# %%
ratios = {
    f"{row['rules'].removeprefix('esper-')}, {row['slots']} slots, {row['way']}, batch {row['batch']:,}": (
        usual(dropin, row, "loop, small tensors")["ns_per_env"] / row["ns_per_env"]
    )
    for row in dropin["rows"]
    if not row["way"].startswith("loop")
}
em.viz.speedups(keep_lost(ratios, "the loop that it replaces"), "the loop that it replaces", title="drop-in")

# %% [markdown]
# ## A training
#
# The whole loop of PPO, rollout and update, against MaskablePPO of sb3-contrib in the same environment, with the same
# network and hyper-parameters.

# %%
ratios = {
    f"{row['way']}, {row['batch']:,} envs, against {peer}": usual(training, row, peer)["ns_per_env"] / row["ns_per_env"]
    for row in training["rows"]
    if row["work"] == "training" and row["batch"] <= 1024 and row["way"] in ("eager", "compiled")
    for peer in ("sb3 heads", "sb3 joint")
}
em.viz.speedups(keep_lost(ratios, "MaskablePPO, whole loop"), "MaskablePPO", title="whole loop of a training")

# %% [markdown]
# Masks and decisions are a small part of a training once they are compiled; the rest is the network, which costs both
# the same. That is why a decision that is a thousand times faster makes a training twice as fast.
#
# ## All that loses

# %%
for reference, rows in lost.items():
    print(f"{reference}: {len(rows)} rows lose")
    for row, ratio in sorted(rows.items(), key=lambda item: item[1]):
        print(f"    {ratio:5.2f}  {row}")

# %% [markdown]
# In words: compiled, a whole decision wins at every batch, and masks alone from some five environments on. Eager,
# masks want a dozen environments against the usual loop and a hundred against the best one, and distributions lose
# nearly everywhere to compiled ones. Objects in, one environment at a time, is the loop's own ground; the drop-in
# takes its form there. Where gradients of a small head or of four independent heads are all one needs, torch's
# compiled `Categorical` is faster; it is not the same distribution. All of it was measured on a CPU.
