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
# # Your own lifecycle: the beds of a ward
#
# The engine knows no rule set by name. Here is one from another field: a ward whose slots are beds, and whose
# controller decides for all of them, hour by hour. It is written down once, checked against a plain loop over
# everything that two beds can be, and then run for a thousand wards at once.
#
# What makes it more than a graph:
#
# - a patient stays at least four hours before being discharged (`min_age`);
# - a test result is a feature of a bed, and DISCHARGE and ISOLATE require a value of it (`features`, `requires`);
# - nobody is admitted while any bed of the ward is isolated (`blocked_by`), or beyond the limit of a shift
#   (`seed_limit`);
# - TREAT acts without moving anybody (`acts_in`);
# - how a patient travels depends on the op (`by_op`).

# %%
# %matplotlib inline
from dataclasses import replace
from enum import IntEnum

import torch

import esper_masks as em
from esper_masks.inspection.verify import verify

Bed = IntEnum("Bed", "FREE RESERVED OCCUPIED ISOLATED CLEANING", start=0)
Test = IntEnum("Test", "PENDING NEGATIVE POSITIVE", start=0)
Do = IntEnum("Do", "WAIT ADMIT CANCEL TREAT ISOLATE DISCHARGE", start=0)

ward = em.MaskRules(
    name="ward",
    stages=Bed,
    transitions={
        Bed.FREE: [Bed.RESERVED],
        Bed.RESERVED: [Bed.OCCUPIED, Bed.FREE],
        Bed.OCCUPIED: [Bed.ISOLATED, Bed.CLEANING],
        Bed.ISOLATED: [Bed.CLEANING],
        Bed.CLEANING: [Bed.FREE],
    },
    empty=Bed.FREE,
    features={"test": Test},
    op_rules=[
        em.Op(Do.WAIT, always=True),
        em.Op(Do.ADMIT, enters=Bed.RESERVED, seed_limit=True, blocked_by=[Bed.ISOLATED], uses=["slot", "travel"]),
        em.Op(Do.CANCEL, moves={Bed.RESERVED: Bed.FREE}, uses=["slot"]),
        em.Op(Do.TREAT, acts_in=[Bed.OCCUPIED, Bed.ISOLATED], uses=["slot", "care"]),
        em.Op(Do.ISOLATE, enters=Bed.ISOLATED, requires={"test": Test.POSITIVE}, uses=["slot", "travel"]),
        em.Op(Do.DISCHARGE, enters=Bed.CLEANING, min_age=4, requires={"test": Test.NEGATIVE}, uses=["slot", "travel"]),
    ],
    heads=[
        em.Head("slot"),
        em.Head("care", ["DRUGS", "PHYSIO", "SURGERY"]),
        em.Head(
            "travel",
            ["ON_FOOT", "WHEELCHAIR", "AMBULANCE"],
            by_op={
                Do.ADMIT: ["ON_FOOT", "AMBULANCE"],
                Do.ISOLATE: ["WHEELCHAIR"],
                Do.DISCHARGE: ["ON_FOOT", "WHEELCHAIR", "AMBULANCE"],
            },
        ),
        em.Head("op"),
    ],
    slot_ids=("bed1", "bed2", "bed3", "bed4"),
)
em.viz.lifecycle_graph(ward)

# %%
em.viz.validity_table(ward)

# %% [markdown]
# ## Rules that cannot be meant are refused
#
# A rule set is checked when it is made. What contradicts itself never becomes an engine.

# %%
for change in (
    {"transitions": {**ward.transitions, Bed.OCCUPIED: [Bed.CLEANING]}},  # ISOLATE leads nowhere now
    {"heads": ward.heads[1:]},  # no head of slots
    {"transitions": {bed: to for bed, to in ward.transitions.items() if bed != Bed.CLEANING}},
):
    try:
        replace(ward, **change)
    except em.RulesError as error:
        print(error)

# %% [markdown]
# ## Verified
#
# `verify` computes the masks of everything that two beds can be, every stage, test result and age around the
# threshold, enabled or not, below, at and above the limit, and compares the engine with a loop oracle that shares
# nothing but the rules. `esper-masks verify module:NAME` does the same from a shell. Two slots are enough, since a
# slot depends on the others only through "some bed is isolated".

# %%
result = verify(ward)
print("agrees:", result.agrees)
print(f"{result.environments:,} environments compared, {result.verdicts:,} verdicts of the oracle")
for note in result.notes:
    print("note:", note)

# %% [markdown]
# The note is right: nothing is done in a bed that is being cleaned. A note is what the author may not have meant, no
# error.
#
# ## Masks, and why

# %%
engine = em.MaskEngine(ward, max_seeds=6)
now = engine.pack_slots(
    [
        {
            "bed1": em.SlotState(Bed.OCCUPIED, age=9, test=Test.NEGATIVE),
            "bed2": em.SlotState(Bed.ISOLATED, age=5, test=Test.POSITIVE),
            "bed3": em.SlotState(Bed.RESERVED),
        }
    ]
)
admitted = torch.tensor([3])
masks = engine(now, admitted)
print(engine.explain(now, 0, admitted))
print()
empty = engine(engine.empty_slots(1), torch.tensor([0]))
print(f"travel {engine.layout.head('travel').choices}")
print("while DISCHARGE is legal:      ", masks["travel"][0].int().tolist())
print("in an empty ward, ADMIT alone: ", empty["travel"][0].int().tolist())

# %% [markdown]
# ## A thousand wards for two days
#
# What happens by itself is the environment's business: patients arrive, results come in, beds get clean. Below it is
# a few lines over the whole batch. The policy is uniform over legal whole actions, op by op; every move it makes is
# read from the rules.

# %%
WARDS, HOURS, LIMIT = 1000, 48, 10
engine = em.MaskEngine(ward, max_seeds=LIMIT)
generator = torch.Generator().manual_seed(1)
torch.manual_seed(1)


def happens(share: float) -> torch.Tensor:
    """Independently for each bed, with a probability an hour."""
    return torch.rand(WARDS, 4, generator=generator) < share


def moves(op: em.Op) -> dict[Bed, Bed]:
    """Where an op takes a bed, by its stage."""
    entering = {} if op.enters is None else dict.fromkeys(ward.legal_stages(op.id), op.enters)
    return {**entering, **op.moves}


beds, total = engine.empty_slots(WARDS), torch.zeros(WARDS, dtype=torch.int32)
slot_head, op_head = ward.head_names.index("slot"), ward.head_names.index("op")
uniform = torch.zeros(WARDS, engine.layout.logit_size)
seen, done = [], []
for _ in range(HOURS):
    masks = engine(beds, total)
    actions = em.FactoredCategorical(uniform, masks).sample()
    seen.append(masks)
    done.append(actions)
    stage, age, test = beds.unbind(-1)
    chosen = torch.nn.functional.one_hot(actions[:, slot_head], 4).bool()
    before = stage
    for op in ward.op_rules:
        for source, target in moves(op).items():
            acts = chosen & (actions[:, op_head] == op.id).unsqueeze(-1) & (before == source)
            stage = torch.where(acts, int(target), stage)
    total = total + ((before == Bed.FREE) & (stage == Bed.RESERVED)).sum(-1, dtype=torch.int32)
    arrives = (before == Bed.RESERVED) & (stage == Bed.RESERVED) & happens(0.5)
    clean = (before == Bed.CLEANING) & happens(0.4)
    known = (before == Bed.OCCUPIED) & (test == Test.PENDING) & happens(0.3)
    healed = (before == Bed.ISOLATED) & happens(0.15)
    stage = torch.where(arrives, int(Bed.OCCUPIED), torch.where(clean, int(Bed.FREE), stage))
    outcome = torch.where(happens(0.25), int(Test.POSITIVE), int(Test.NEGATIVE))
    test = torch.where(healed, int(Test.NEGATIVE), torch.where(known, outcome, test))
    here = (stage == Bed.OCCUPIED) | (stage == Bed.ISOLATED)
    beds = torch.stack([stage, torch.where(here, age + 1, 0), torch.where(here, test, 0)], -1).int()

day = em.ActionMasks.stack(seen)
assert day.permits(torch.stack(done)).all()
print(f"{total.float().mean():.1f} admissions a ward on average, at most {int(total.max())}; the limit is {LIMIT}")

# %% [markdown]
# ADMIT is legal everywhere at first, and less and less as beds fill and are isolated; then wards meet the limit of
# the shift. ISOLATE needs a positive test, so it is rarely legal.

# %%
em.viz.masks_over_time(day, step="hour")

# %%
em.viz.ops_over_time(torch.stack(done), engine.layout, step="hour")

# %% [markdown]
# ## One rule less
#
# What a rule costs can be asked of the rules: without `blocked_by`, how much more often could a patient be admitted
# in the same states?

# %%
lenient = replace(
    ward, name="lenient", op_rules=[replace(op, blocked_by=()) if op.name == "ADMIT" else op for op in ward.op_rules]
)
free = (beds[..., 0] == Bed.FREE).any(-1) & (total < LIMIT)
strict = engine(beds, total)["op"][:, Do.ADMIT]
open_ = em.MaskEngine(lenient, max_seeds=LIMIT)(beds, total)["op"][:, Do.ADMIT]
assert torch.equal(open_, free)
print(f"wards that may admit after {HOURS} hours: {strict.float().mean():.0%}")
print(f"without the rule: {open_.float().mean():.0%}")
