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
# # The audit of a log
#
# A run writes events: a seed germinated, changed its stage, was fossilized or culled. `Replay` follows them slot by
# slot, and asks the engine of every op whether it was legal in the state that the events before had led to. What the
# log says of the state itself is compared, not believed. The log here is the sample that ships with the package.

# %%
# %matplotlib inline
import io
import json
from importlib.resources import files

from matplotlib.figure import Figure
from rich.console import Console

import esper_masks as em
from esper_masks.telemetry import Replay
from esper_masks.telemetry.events import Germinated, StageChanged, read_events

sample = (files("esper_masks") / "data" / "sample.jsonl").read_bytes()
for line in sample.splitlines()[1:4]:
    print(line.decode()[:118])
print(f"... {len(sample.splitlines())} lines")

# %% [markdown]
# ## One command
#
# `esper-masks replay FILE --rules esper-2025-12` prints this; without a file it reads the sample.

# %%
terminal = Console(width=80, force_jupyter=False, markup=False, highlight=False, emoji=False)


def replay(log: bytes, rules: str, name: str = "sample.jsonl"):
    """The report of one log."""
    audit = Replay(em.ruleset(rules))
    audit.read(io.BytesIO(log), name)
    return audit.report


report = replay(sample, "esper-2025-12")
report.print(terminal)

# %% [markdown]
# ## The log as a picture
#
# Each row is a slot of an environment, each bar a stage; a cross is the finding. The second seed of `env1` was culled
# in the epoch in which it germinated.

# %%
# darker as a seed goes on; kept is black, culled is red and hatched
looks = {
    "GERMINATED": {"facecolor": "#d6e9f5"},
    "TRAINING": {"facecolor": "#9fcbe6"},
    "BLENDING": {"facecolor": "#56a5d4"},
    "PROBATIONARY": {"facecolor": "#0072B2"},
    "FOSSILIZED": {"facecolor": "#222222"},
    "CULLED": {"facecolor": "white", "edgecolor": "#D55E00", "hatch": "////"},
}


def timeline(log: bytes, findings) -> Figure:
    """Stages of every slot over the minutes of a log, with what was found."""
    changes = [
        (line, event)
        for line, event in enumerate(read_events(io.BytesIO(log)), start=1)
        if isinstance(event, Germinated | StageChanged)
    ]
    start, end = changes[0][1].time, changes[-1][1].time + 20
    spans = {}  # of each slot: stages, since which minute, and in which line
    for line, event in changes:
        stage = event.target if isinstance(event, StageChanged) else "GERMINATED"
        spans.setdefault((event.env, event.slot), []).append((stage, (event.time - start) / 60, line))
    why = {finding.line: finding.why for finding in findings}
    figure = Figure(figsize=(9, 2.9), layout="constrained", dpi=120)
    axis, shown = figure.subplots(), {}
    for row, place in enumerate(sorted(spans)):
        after = [*spans[place][1:], ("", (end - start) / 60, 0)]
        for (stage, began, line), (_, ended, _) in zip(spans[place], after):
            length = min(ended - began, 0.35) if stage == "CULLED" else ended - began  # then the slot is empty
            shown[stage] = axis.barh(row, length, left=began, height=0.55, **looks[stage])
            if line in why:
                at, beside = (began, row - 0.42), {"xytext": (7, -3), "textcoords": "offset points"}
                axis.plot(*at, "x", color="black", markersize=7)
                axis.annotate(f"line {line}: {why[line]}", at, fontsize=8, **beside)
    axis.set_yticks(range(len(spans)), [f"env{env} {slot}" for env, slot in sorted(spans)])
    axis.invert_yaxis()
    axis.set_xlabel("minutes since the first event")
    axis.spines[["top", "right"]].set_visible(False)
    bars = [shown[name] for name in looks]
    figure.legend(bars, list(looks), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return figure


timeline(sample, report.findings)

# %% [markdown]
# ## Why it is illegal
#
# The reason in the report is the engine's own. Here is the state of that moment, asked directly.

# %%
engine = em.MaskEngine(em.ruleset("esper-2025-12"))
moment = engine.pack_slots([{"mid": em.SlotState(stage=2, age=0)}])  # GERMINATED, in its first epoch
explanation = engine.explain(moment)
print("CULL mid:", explanation.reason("CULL", "mid"))
print(
    "one epoch later:", engine.explain(engine.pack_slots([{"mid": em.SlotState(stage=2, age=1)}])).reason("CULL", "mid")
)

# %% [markdown]
# ## The same log under other rules
#
# A log belongs to the rules it was made under. Under those of the month before, a stage lies between BLENDING and
# PROBATIONARY, and leaving it out is no valid move. Under those of the next year, ops and stages have other names.

# %%
for name in em.rulesets():
    judged = replay(sample, name)
    print(f"{name}: ops {dict(judged.ops)}, illegal {dict(judged.illegal)}")
    print(f"    illegal moves {dict(judged.illegal_transitions)}, unknown stages {dict(judged.unknown_stages)}")

# %% [markdown]
# ## Logs as they are found
#
# What is read may be damaged or contradict itself. Every line is accounted for: what cannot be read is counted and
# listed, and a log that goes on about a seed that was culled is a finding, however plausible each of its lines is.


# %%
def event(kind: str, seed: str, **data: object) -> bytes:
    """One line of a log."""
    return json.dumps({"event_type": kind, "seed_id": seed, "slot_id": "mid", "data": {"env_id": 0, **data}}).encode()


found = [
    event("SEED_GERMINATED", "env0_seed_0", blueprint_id="norm", params=129),
    event("SEED_STAGE_CHANGED", "env0_seed_0", **{"from": "GERMINATED", "to": "TRAINING"}),
    event("SEED_STAGE_CHANGED", "env0_seed_0", **{"from": "TRAINING", "to": "CULLED"}),
    event("SEED_STAGE_CHANGED", "env0_seed_0", **{"from": "CULLED", "to": "BLENDING"}),  # a culled seed goes on
    event("SEED_STAGE_CHANGED", "env0_seed_0", **{"from": "BLENDING", "to": "SHADOWING"}),  # a stage of another month
    event("EPOCH_COMPLETED", "env0_seed_0"),  # not about slots
    event("SEED_STAGE_CHANGED", "env0_seed_0", **{"from": "SHADOWING"}),  # no target
    b'{"event_type": "SEED_CULLED", "seed_id": "env0_se',  # cut off
]
replay(b"\n".join(found), "esper-2025-12", "found.jsonl").print(terminal)

# %% [markdown]
# Age unknown: nothing in the log tells the age of the seed that was culled in line 3, so it passed the age gate and
# was counted. `--json` prints all of it as one object, findings with file, line, environment, slot, seed and reason:

# %%
print(json.dumps(report.to_json()["findings"], indent=1))
