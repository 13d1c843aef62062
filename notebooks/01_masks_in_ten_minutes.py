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
# # Masks in ten minutes
#
# A controller acts on slots. Each slot holds at most one seed, a small module that moves through a lifecycle: it
# germinates, trains, is blended into a network, and is kept or culled. Most actions are impossible at any moment.
# This notebook shows where the rules come from, what a mask of them looks like, why an action is masked, and how a
# policy acts under masks. It needs the extra `viz` (`pip install 'esper-masks[viz]'`).

# %%
# %matplotlib inline
import torch

import esper_masks as em

rules = em.ruleset("esper-2025-12")
print(", ".join(em.rulesets()), "| fingerprint of the second:", rules.fingerprint[:12])

# %% [markdown]
# ## The lifecycle is data
#
# A rule set lists stages, the moves between them, and ops. The picture is drawn from that list and from nothing else:
# coloured arrows are moves that an op makes, dashed ones happen by themselves. A culled seed leaves its slot by way
# of three stages in which one can only wait.

# %%
em.viz.lifecycle_graph(rules)

# %% [markdown]
# An op is legal in a stage if the moves lead from there to the stage that the op enters. Nobody lists legal stages by
# hand. Some ops have gates as well, such as an age; they are *gated*.

# %%
em.viz.validity_table(rules)

# %% [markdown]
# The rules of June 2026 are another list under the same engine: an op that advances a seed, one that acts without
# moving it, and gates that read a third feature or look at the other slots.

# %%
em.viz.lifecycle_graph(em.ruleset("esper-2026-06"))

# %%
em.viz.validity_table(em.ruleset("esper-2026-06"))

# %% [markdown]
# ## A batch of environments is one tensor
#
# `pack_slots` makes it from objects; a training keeps it on the device from the start. One call of the engine gives
# the masks of all environments. `True` is legal.

# %%
engine = em.MaskEngine(rules, slot_ids=("early", "mid", "late"), max_seeds=2)
states = engine.pack_slots(
    [
        {},  # three empty slots
        {"early": em.SlotState(stage=4, age=7)},  # one seed blending
        {"mid": em.SlotState(stage=4, age=0), "late": em.SlotState(stage=6, age=3)},  # just begun, and on probation
    ]
)
total_seeds = torch.tensor([0, 1, 2])  # germinated so far, of at most 2
masks = engine(states, total_seeds)
print(states.shape, "environments, slots, features", rules.feature_names)
print(rules.op_names)
print(masks["op"].int())

# %% [markdown]
# `masks` is a mapping from head to mask, and more: which op is legal in which slot, and exactly which whole actions
# are legal. It holds one integer a slot and one a row, and unpacks what is asked for.

# %%
print("third environment, ops by slots:")
print(masks.slot_by_op[2].int())
print(masks.count().tolist(), "of", engine.joint_actions.size, "whole actions are legal;", masks.nbytes, "bytes held")

# %% [markdown]
# ## Why is this masked?
#
# `explain` names the first rule that forbids an op in a slot. `esper-masks explain` prints the same.

# %%
explanation = engine.explain(states, 2, total_seeds)
for slot, holds in zip(explanation.slot_ids, explanation.holds):
    print(f"{slot}: {holds}")
print()
print(explanation)

# %% [markdown]
# ## Masks over a rollout
#
# `LifecycleEnv` steps many lifecycles together. Here 1,024 of them act at random among what is legal, for one episode
# of 25 epochs. At first every slot is empty: one can germinate or wait. A seed is old enough to be culled after one
# epoch; it can be fossilized when it reaches probation, which takes nine epochs or more, so few random seeds get
# there.

# %%
torch.manual_seed(0)
env = em.rollout.LifecycleEnv(rules, num_envs=1024, seed=0)
uniform = torch.zeros(1024, env.engine.layout.logit_size)
steps = []
for _ in range(env.dynamics.episode_length):
    steps.append(env.masks())
    env.step(em.FactoredCategorical(uniform, env.masks()).sample())
rollout = em.ActionMasks.stack(steps)  # [time, batch]
em.viz.masks_over_time(rollout, step="epoch")

# %% [markdown]
# How much freedom is left: of 43 whole actions all but those of CULL and FOSSILIZE are legal at first, and fewer as
# slots fill.

# %%
em.viz.legal_counts_over_time(rollout, step="epoch")

# %% [markdown]
# ## A policy over legal actions
#
# `FactoredCategorical` draws the op first, the slot among those in which that op is legal, then the heads that the op
# uses. No illegal action can be drawn, whatever the logits are. Heads drawn independently of each other, each under
# its own mask, are another matter: the op may be legal in one slot and the slot be another. The rollout above counts
# both.

# %%
drawn = em.FactoredCategorical(uniform.expand(25, -1, -1), rollout).sample()
heads = [em.MaskedCategorical(torch.zeros(mask.shape), mask).sample() for mask in rollout.values()]
illegal = ~rollout.permits(torch.stack(heads, -1))
print(f"illegal, drawn as whole actions:        {(~rollout.permits(drawn)).float().mean():.1%}")
print(f"illegal, each head under its own mask:  {illegal.float().mean():.1%}")
print("taken by the environment as illegal:   ", int(env.illegal_actions.sum()))

# %% [markdown]
# What stands under a mask reaches nothing. Here every illegal logit is NaN; the log-probability and the gradient are
# finite, and the gradient of a masked logit is exactly 0.

# %%
hostile = torch.where(masks["op"], 0.5, torch.nan).requires_grad_()
dist = em.MaskedCategorical(hostile, masks["op"])
dist.log_prob(torch.tensor([1, 2, 3])).sum().backward()
print(dist.probs.detach())
print(hostile.grad)

# %% [markdown]
# Further: [your own lifecycle](02_your_own_lifecycle.ipynb), [the
# measurements](03_the_benchmark_read_honestly.ipynb), [training](04_training_and_what_was_learned.ipynb), [an audit
# of a log](05_audit_of_a_log.ipynb).
