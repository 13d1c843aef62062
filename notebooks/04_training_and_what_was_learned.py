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
# # Training, and what was learned
#
# A policy is trained here for some fifteen seconds on a CPU, in the environment of
# [docs/environment.md](../docs/environment.md): seeds germinate in three slots, train, are blended in, and are kept
# or culled; the return of an episode is what the kept seeds won, in accuracy points. Then its behaviour is looked at,
# and where the masks leave it a choice at all. At the end stands the committed comparison with training without
# masks.

# %%
# %matplotlib inline
import json
from pathlib import Path

import torch

import esper_masks as em
from esper_masks.rollout.env.baselines import BASELINES
from esper_masks.rollout.training.trained import learned, returns_of

STEPS = 1_000_000
torch.set_num_threads(1)  # layers as small as these gain nothing from more
torch.manual_seed(0)
rules = em.ruleset("esper-2025-12")
env = em.rollout.LifecycleEnv(rules, num_envs=512, seed=0)
policy = em.rollout.FactoredActorCritic(em.DecisionStep(env.engine, mode="eager"), env.obs_size, width=64)
ppo = em.rollout.PPO(env, policy, em.rollout.PPOConfig(horizon=STEPS))
metrics = []
while ppo.env_steps < STEPS:
    figures = ppo.iterate()  # a rollout of 25 steps and an update
    metrics.append({"env_steps": ppo.env_steps, **figures})
print(f"{len(metrics)} iterations, {int(sum(line['illegal_actions'] for line in metrics))} illegal actions")

# %% [markdown]
# `esper-masks train` does the same and more: checkpoints, `metrics.jsonl`, several devices. What it writes is what
# these pictures are drawn from.
#
# ## Return
#
# Against three baselines: legal actions at random, WAIT alone, and a heuristic that fills every slot with the best
# blueprint and keeps what measures above 0.

# %%
returns = {name: returns_of(policy, env, seed=1, envs=4096) for name, policy in BASELINES.items()}
em.viz.learning_curve(metrics, {name: mean for name, (mean, _, _) in returns.items()})

# %%
returns["learned"] = returns_of(learned(ppo), env, seed=1, envs=4096)
for name, (mean, error, illegal) in sorted(returns.items(), key=lambda item: -item[1][0]):
    print(f"{name:>9}: {mean:5.2f} ± {error:.2f} points over 4,096 episodes, {illegal} illegal actions")

# %% [markdown]
# ## Entropy of each head
#
# Normalized by what is legal: 1 is uniform over the legal choices, 0 is certain. The op gets certain first. A head is
# measured in every state, also in those in which no legal op uses it; there nothing but the entropy bonus acts on it.
# So the blueprint stays high on average, though it is settled where seeds germinate (below), and the blend, which
# changes nothing in this environment, stays near 1.

# %%
em.viz.entropy_curves(metrics)

# %% [markdown]
# ## Ops over an episode
#
# What 2,048 fresh environments do under the policy, epoch by epoch.


# %%
def episode(act, num_envs: int = 2048):
    """Masks ``[time, batch]``, actions ``[time, batch, heads]`` and slot states of one episode."""
    fresh = env.another(num_envs, seed=2)
    masks, actions, states, readings = [], [], [], []
    for _ in range(fresh.dynamics.episode_length):
        masks.append(fresh.masks())
        states.append(fresh.states)
        readings.append(fresh.dynamics.improvement(fresh.state).movedim(0, -1))
        actions.append(act(fresh))
        fresh.step(actions[-1])
    return em.ActionMasks.stack(masks), *map(torch.stack, (actions, states, readings))


masks, actions, states, readings = episode(learned(ppo))
em.viz.ops_over_time(actions, env.engine.layout, step="epoch")

# %% [markdown]
# The slots are filled in the first epochs. Culling begins when readings of a blending seed tell enough, and goes on
# on probation; what is kept is fossilized before the end, when everything else is lost.

# %%
op, slot, blueprint = (actions[..., rules.head_names.index(name)] for name in ("op", "slot", "blueprint"))
germinated = blueprint[op == rules.ops.GERMINATE]
choices = env.engine.layout.head("blueprint").choices
shares = {name: (germinated == index).float().mean().item() for index, name in enumerate(choices)}
print(
    "blueprints of germinated seeds:",
    ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share > 0.005),
)
stage = states[..., 0].gather(-1, slot.unsqueeze(-1)).squeeze(-1)
reading = readings.gather(-1, slot.unsqueeze(-1)).squeeze(-1)
for name in ("CULL", "FOSSILIZE"):
    taken = op == rules.ops[name]
    for member in rules.stages:
        if (here := taken & (stage == member)).any():
            told = f"measured improvement {reading[here].mean():5.2f} on average"
            print(f"{name} in {member.name}: {here.sum() / 2048:.2f} an episode, {told}")

# %% [markdown]
# ## Where masks bite
#
# Which ops are legal along the way, and how many: masks depend on what the policy did before. The late episode is
# where most states are forced: when every slot holds a fossilized seed, WAIT is all there is.

# %%
em.viz.masks_over_time(masks, step="epoch")

# %%
em.viz.legal_counts_over_time(masks, step="epoch")

# %% [markdown]
# Over the training the states themselves change: a policy that fills its slots early and keeps what it has meets more
# states without a choice.

# %%
for line in (metrics[0], metrics[len(metrics) // 2], metrics[-1]):
    told = f"{line['forced_share']:6.1%} of states forced, {line['legal_ops']:.2f} of 4 ops legal on average"
    print(f"{line['env_steps'] / 1e6:5.2f} million steps: {told}")

# %% [markdown]
# ## Masks against none
#
# From the committed result: the same network and update with masks; without, where the environment takes an illegal
# action for WAIT; and without, but with a price of 0.1 points on it. Five seeds each, 3 and 16 slots.

# %%
places = [*Path(em.__file__).resolve().parents, *Path.cwd().resolve().parents]
folder = next(place for place in places if (place / "benchmarks" / "results").is_dir()) / "benchmarks" / "results"
result = json.loads((folder / em.__version__ / "learning-cpu.json").read_text(encoding="utf-8"))
arms = [row["way"] for row in result["rows"] if "runs" in row and row["slots"] == 3]
trained = {(f"{row['slots']} slots", row["way"]): row for row in result["rows"]}
titles = ("3 slots", "16 slots")
groups = {title: {arm: [run["curve"] for run in trained[title, arm]["runs"]] for arm in arms} for title in titles}
heuristics = {title: trained[title, "heuristic"]["return_mean"] for title in titles}
em.viz.compare_trainings(groups, heuristics)

# %%
for title, ways in groups.items():
    print(f"{title}: heuristic {heuristics[title]:.2f}")
    for arm in arms:
        ends = [run["return_mean"] for run in trained[title, arm]["runs"]]
        illegal = sum(curve["illegal_share"][-1] for curve in ways[arm]) / len(ends)
        mean, least, most = sum(ends) / len(ends), min(ends), max(ends)
        print(f"    {arm:>9}: return {mean:5.2f} ({least:.2f} to {most:.2f}), {illegal:.1%} illegal")

# %% [markdown]
# Without masks the policy ends below the heuristic with 16 slots, and after 2 million steps still wastes part of its
# actions. A price on illegal actions helps; it does not replace the mask.
