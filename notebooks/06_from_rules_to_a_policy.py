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
# # From rules to a policy
#
# The job scheduler of [docs/your-own-lifecycle.md](../docs/your-own-lifecycle.md), with pictures. Jobs arrive in six
# slots with a priority, are queued, run for a while on one of two runners, and are collected; a job may take the
# runner of one with a lower priority. A job is worth 1, 2 or 3 when it is collected, by its priority, and each step
# that it waits costs a tenth of that. The rules, and what a step does, are in
# [docs/scheduler.py](../docs/scheduler.py), a hundred lines.

# %%
# %matplotlib inline
import sys
from pathlib import Path

import torch

import esper_masks as em
from esper_masks.rollout.env.baselines import BASELINES
from esper_masks.rollout.training.trained import learned, returns_of

places = [*Path(em.__file__).resolve().parents, *Path.cwd().resolve().parents]
sys.path.append(str(next(place for place in places if (place / "docs" / "scheduler.py").is_file()) / "docs"))
from scheduler import DYNAMICS, SCHEDULER, lower

torch.set_num_threads(1)  # layers as small as these gain nothing from more
em.viz.lifecycle_graph(SCHEDULER)

# %% [markdown]
# A grey arrow is nobody's op: jobs arrive by chance, and end when they are done. PREEMPT is on two arrows, since it
# moves two jobs at once.

# %%
em.viz.validity_table(SCHEDULER)

# %% [markdown]
# ## What the masks save
#
# The same network and update three times, for the same number of steps:
#
# - *masked*: actions are drawn from what is legal;
# - *unmasked*: any op on any slot can be drawn, and an illegal action does nothing, as WAIT;
# - *penalized*: the same, and an illegal action costs 0.1.
#
# A policy without masks is one whose engine says that everything is legal. The environment judges by its own engine.
# A price on illegal actions is a reward of its own.

# %%
STEPS, SEEDS, PRICE = 500_000, (0, 1), 0.1


class AllLegal(em.MaskEngine):
    """An engine that masks nothing."""

    def forward(self, states, *_, **__):
        words = torch.full_like(states[..., 0], self.layout.possible)
        return em.ActionMasks(self.layout, words, torch.full_like(words[..., 0], self.layout.possible))


class Priced(em.rollout.LifecycleEnv):
    """An environment that charges for illegal actions; the returns in ``info`` are as without."""

    def step(self, actions, noise=None):
        before = self.illegal_actions
        obs, reward, terminated, truncated, info = super().step(actions, noise)
        return obs, reward - PRICE * (self.illegal_actions - before), terminated, truncated, info


def train(way: str, seed: int) -> tuple[em.rollout.PPO, dict[str, list[float]]]:
    """A training to its end, and its curve."""
    torch.manual_seed(seed)  # all ways begin with the same weights
    kind = Priced if way == "penalized" else em.rollout.LifecycleEnv
    env = kind(SCHEDULER, num_envs=512, dynamics=DYNAMICS, seed=seed)
    step = em.DecisionStep(env.engine if way == "masked" else AllLegal(SCHEDULER), mode="eager")
    policy = em.rollout.FactoredActorCritic(step, env.obs_size, width=64)
    ppo = em.rollout.PPO(env, policy, em.rollout.PPOConfig(horizon=STEPS))
    curve = {"env_steps": [], "return_mean": [], "illegal_share": []}
    while ppo.env_steps < STEPS:
        figures = ppo.iterate()  # a rollout of 25 steps, here an episode, and an update
        illegal = figures["illegal_actions"] / (25 * env.num_envs)
        for name, value in zip(curve, (ppo.env_steps, figures["return_mean"], illegal)):
            curve[name].append(value)
    return ppo, curve


trainings = {"masked": [train("masked", seed) for seed in SEEDS]}

# %%
trainings |= {way: [train(way, seed) for seed in SEEDS] for way in ("unmasked", "penalized")}

# %%
plain = em.rollout.LifecycleEnv(SCHEDULER, num_envs=1, dynamics=DYNAMICS)
baselines = {name: returns_of(play, plain, seed=1, envs=4096).mean for name, play in BASELINES.items()}
curves = {way: [curve for _, curve in several] for way, several in trainings.items()}
figure = em.viz.compare_trainings({"scheduler": curves}, {"scheduler": baselines["heuristic"]})
figure.axes[0].axhline(baselines["random"], color="black", linestyle=":", linewidth=1)
figure.axes[0].text(STEPS / 1e6, baselines["random"], "random legal", ha="right", va="bottom", fontsize=8)
figure

# %%
for way, several in trainings.items():
    ends = [returns_of(learned(ppo), plain, seed=1, envs=4096) for ppo, _ in several]
    told = " and ".join(f"{end.mean:5.2f} ± {end.standard_error:.2f}" for end in ends)
    illegal = sum(end.illegal_actions for end in ends) / (len(ends) * 4096 * 25)
    print(f"{way:>9}: return {told}; {illegal:.1%} of actions illegal")
for name, mean in baselines.items():
    print(f"{name:>9}: return {mean:5.2f}")

# %% [markdown]
# With masks the training begins where random legal actions are, and ends above the heuristic. Without them most steps
# are spent on illegal actions at first, and a large part still is at the end. A price makes these fewer, and the policy
# hardly better.
#
# ## What was learned
#
# What a thousand schedulers do, step by step, and how often each op is legal meanwhile. PREEMPT is seldom legal, and
# taken in most of these steps. Jobs are started to the end, though the last ones cannot be collected any more: a job
# that runs does not wait, and so costs nothing.

# %%
ppo, _ = trainings["masked"][0]
act, env = learned(ppo), plain.another(1000, seed=2)
masks, actions = [], []
for _ in range(25):
    masks.append(env.masks())
    actions.append(act(env))
    env.step(actions[-1])
masks, actions = em.ActionMasks.stack(masks), torch.stack(actions)
em.viz.ops_over_time(actions, env.engine.layout, step="step")

# %%
em.viz.masks_over_time(masks, step="step")

# %%
WAIT, START, PREEMPT, COLLECT = range(4)
op, legal = actions[..., SCHEDULER.head_names.index("op")], masks["op"]
for index, name in ((START, "START"), (PREEMPT, "PREEMPT"), (COLLECT, "COLLECT")):
    taken = (op == index).sum() / legal[..., index].sum()
    print(f"{name}: legal in {legal[..., index].float().mean():.0%} of the steps, taken in {taken:.0%} of these")

# %% [markdown]
# ## One episode, and why not
#
# Before each step the engine explains the state by the rules themselves: which ops are open, and what closes the
# others. That a slot is in another stage is left out. `head_masks` is the function `lower` of the dynamics: a victim
# has a lower priority.

# %%
policy = em.rollout.TrainedPolicy(ppo.policy, ppo.obs_moments, plain)
one = plain.another(1, seed=7)
torch.manual_seed(7)
for step in range(12):
    why = one.engine.explain(one.states, **one.given)
    actions = policy.act_in(one).decision.actions
    chosen = dict(zip(SCHEDULER.head_names, actions[0].tolist()))
    op = SCHEDULER.op_rules[chosen["op"]]
    taken = " ".join([op.name, *(why.slot_ids[chosen[head]] for head in op.uses)])
    print(f"{step:2} {taken}; legal: {', '.join(name for name in why.ops if why.legal(name))}")
    for line in why.lines():
        if ": stage" not in line and ": legal" not in line:
            print("      ", line)
    one.step(actions)

# %% [markdown]
# A single choice can be asked for, too. Here a HIGH job is queued, and two jobs run:

# %%
engine = plain.engine
jobs = {"a": em.SlotState("QUEUED", priority="HIGH"), "b": em.SlotState("RUNNING", priority="LOW")}
states = engine.pack_slots([{**jobs, "c": em.SlotState("RUNNING", priority="HIGH")}])
rows = {"open": torch.tensor([True])}
why = engine.explain(states, row=rows, head_masks=lower(states, rows))
for victim in "bcd":
    print("PREEMPT a:", why.reason("PREEMPT", "a", victim=victim) or f"victim {victim} is legal")
