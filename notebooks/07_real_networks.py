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
# # Real networks
#
# Small networks, the *hosts*, are trained side by side, and a controller plants seeds in their slots. Each host has one
# of three tasks, and nothing that the controller observes says which. A seed is worth what it did to the loss: the loss
# of the *twin*, the same host without seeds, less that of the network, less a rent. All of it is described in
# [docs/networks.md](../docs/networks.md); `esper-masks train --world networks` is the whole training, and this is a
# tenth of it: what is seen here is a beginning.

# %%
# %matplotlib inline
from functools import partial

import torch

import esper_masks as em
from esper_masks.rollout import PPO, FactoredActorCritic, LifecycleEnv, NetworkDynamics, PPOConfig
from esper_masks.rollout.networks.compact import named
from esper_masks.rollout.networks.plans import baselines_for
from esper_masks.rollout.networks.score import score_of
from esper_masks.rollout.training.trained import learned
from esper_masks.viz.style import LOOKS, new_figure, plain

torch.set_num_threads(1)  # layers as small as these gain nothing from more
torch.manual_seed(0)
rules = em.ruleset("esper-2025-12")
env = LifecycleEnv(rules, 60, dynamics=partial(NetworkDynamics, rounds=4))
dynamics = env.dynamics
tasks = [task.name for task in dynamics.samples.tasks]
print(f"{env.num_envs} hosts, each of {dynamics.population.host_parameters} parameters; {', '.join(tasks)}")

# %% [markdown]
# ## A short training

# %%
policy = FactoredActorCritic(em.DecisionStep(env.engine, mode="eager"), env.obs_size)
config = PPOConfig(steps=20, epochs=8, learning_rate=3e-3, gae_lambda=0.97, entropy_weight=0.003, target_kl=0.04)
ppo = PPO(env, policy, config)
scores = [ppo.iterate()["return_mean"] for _ in range(20)]

# %%
scores += [ppo.iterate()["return_mean"] for _ in range(20)]

figure = new_figure(6, 3)
axis = figure.add_subplot()
axis.plot([(at + 1) * env.num_envs for at in range(len(scores))], scores, color=LOOKS[0].colour)
axis.set(xlabel="hosts that were trained", ylabel="score on validation, nats")
plain(axis)
figure

# %% [markdown]
# ## On hosts that it has not seen
#
# The test pool has other first weights and other minibatches, and the score is that on the test split. The plans, a
# seed each, are the best of 36, found in the training pool: one for all hosts, or one for each task, which asks what
# the controller cannot see.

# %%
baselines, found = baselines_for(env, hosts=24)
unseen = env.another(96, 0, dynamics=dynamics.of_pool("test"))

# %%
results = {name: score_of(play, unseen) for name, play in {"learned": learned(ppo), **baselines}.items()}
for name, result in results.items():
    by_task = "  ".join(f"{task} {both[1].mean:+.3f}" for task, both in result.by_task.items())
    print(f"{name:11} {result.test.mean:+.3f} ± {result.test.se:.3f}   {by_task}   {result.kept:.1f} seeds")

# %% [markdown]
# ## Accuracy with and without seeds
#
# Means of the hosts with what the controller did, drawn once more, and of their twins.

# %%
play, kept = learned(ppo), []
unseen.reset()
for _ in range(dynamics.episode_length):
    kept.append(unseen.state.accuracy)
    unseen.step(play(unseen))
ended = results["learned"].final
[twins] = unseen.dynamics.twins.of(ended.key).values()
of_task = unseen.dynamics.samples.tasks_of(ended.key)

figure = new_figure(7.5, 3)
for at, task in enumerate(tasks):
    axis = figure.add_subplot(1, len(tasks), at + 1)
    mine = torch.stack(kept)[:, of_task == at].mean(1)
    its = twins.accuracy[: len(kept), of_task == at].mean(1)
    axis.plot(mine, color=LOOKS[0].colour, label="with seeds")
    axis.plot(its, color=LOOKS[1].colour, linestyle="--", label="twins")
    axis.set(title=task, xlabel="epoch", ylabel="" if at else "accuracy on validation", ylim=(0, 1))
    plain(axis)
axis.legend(frameon=False, loc="lower right")
figure

# %% [markdown]
# ## Which blueprint where and when
#
# Seeds that were kept, as a share of the hosts of a task; and the mean epoch in which they germinated.

# %%
names = env.engine.layout.head("blueprint").choices
stage, age = (ended.states[..., column].T for column in (0, 1))
fossils = stage == int(rules.stages.FOSSILIZED)
born = dynamics.episode_length - age
for at, task in enumerate(tasks):
    here = of_task == at
    for slot, slot_id in enumerate(env.engine.slot_ids):
        for blueprint in dynamics.blueprints:
            some = fossils[slot] & (ended.blueprint[slot] == blueprint) & here
            share = float(some.sum() / here.sum())
            if share >= 0.05:
                epoch = float(born[slot][some].float().mean())
                print(f"{task:9} {slot_id:6} {names[blueprint]:11} {share:5.0%}  at epoch {epoch:.1f}")

# %% [markdown]
# ## A grown network
#
# The host of the test pool with the most seeds: its units, its weights, the stronger the darker, and its seeds where
# they are.

# %%
host = int(fossils.sum(0).argmax())
print(f"host {host}, {tasks[int(of_task[host])]}")
architecture = dynamics.population.host
weights = [each[0] for name, each in named(ended.host.T[[host]], architecture.shapes).items() if "weight" in name]
figure = new_figure(7.5, 3)
axis = figure.add_subplot()
for layer, weight in enumerate(weights):
    strengths = (weight.abs() / weight.abs().max()).tolist()
    for to, row in enumerate(strengths):
        for of, strength in enumerate(row):
            ends = of - (len(row) - 1) / 2, to - (len(strengths) - 1) / 2
            axis.plot((layer, layer + 1), ends, color=LOOKS[0].colour, alpha=strength**2, linewidth=1)
for layer, count in enumerate((architecture.inputs, *[architecture.width] * architecture.depth, architecture.classes)):
    places = [at - (count - 1) / 2 for at in range(count)]
    axis.scatter([layer] * count, places, s=25, color=LOOKS[0].colour, zorder=2)
    name = f"layer {layer}" if 0 < layer < len(weights) else ("inputs" if layer == 0 else "classes")
    axis.text(layer, architecture.inputs / 2 + 0.5, name, ha="center")
for slot, slot_id in enumerate(env.engine.slot_ids):
    layer = 1 + slot * architecture.depth // dynamics.slots
    seed = names[int(ended.blueprint[slot, host])] if fossils[slot, host] else "no seed"
    colour = LOOKS[1].colour if fossils[slot, host] else "#dddddd"
    axis.barh([0], 0.3, height=architecture.width, left=layer + 0.08, color=colour, alpha=0.85, zorder=3)
    axis.text(layer + 0.23, 0, f"{slot_id}: {seed}", rotation=90, ha="center", va="center", fontsize=8, zorder=4)
axis.axis("off")
figure
