"""Training: ours, and sb3-contrib's MaskablePPO in the same environment.

    compiled, eager  ``PPO``, whose actions are drawn from the joint distribution
    sb3 heads        MaskablePPO over one choice a head: the heads are drawn independently, which forms illegal pairs of
                     op and slot; the environment takes them for WAIT
    sb3 joint        MaskablePPO over the index of the whole action, with exact masks

All have two hidden layers of the same width shared by logits and value, the same hyper-parameters, and as many
optimizer steps: updates never end early. The environment of sb3 is always compiled. What favours MaskablePPO: no
``VecNormalize`` (ours normalizes observations and returns), no ``Monitor``, and masks of all environments at once. Its
rollout ends with its advantages, which our update makes.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch

import esper_masks as em
from esper_masks.bench.cases import MASKABLE_PPO, MINIBATCHES, ROLLOUT, Case, Run, Verify
from esper_masks.rollout import PPO, LifecycleEnv, PPOConfig
from esper_masks.rollout.training.train import TrainSettings, build

if TYPE_CHECKING:
    from esper_masks.interop.sb3 import LifecycleVecEnv

CONFIG = PPOConfig(steps=ROLLOUT, minibatches=MINIBATCHES, target_kl=float("inf"))
ACTIONS: dict[str, Literal["factored", "joint"]] = {MASKABLE_PPO[0]: "factored", MASKABLE_PPO[1]: "joint"}


def prepare(case: Case) -> tuple[Run, Verify]:
    """A rollout, or one with its update; the check of adapter, masks and legality gives ``illegal_share``."""
    rollout: Run
    iterate: Run
    if case.way in ACTIONS:
        from esper_masks.bench.maskable_ppo import MaskableTraining

        peer = MaskableTraining(adapter(case, case.batch), CONFIG, TrainSettings().width)
        env, rollout, iterate = peer.venv.lifecycles, peer.rollout, peer.iterate
    else:
        ppo = build(em.ruleset(case.rules), TrainSettings(envs=case.batch, compile=case.is_built), CONFIG)
        env, rollout, iterate = ppo.env, partial(collect, ppo), ppo.iterate

    def verify(_: Any) -> dict[str, float]:
        if case.way in ACTIONS:
            check_adapter(case)
        share = int(env.illegal_actions.sum()) / (env.num_envs * ROLLOUT)
        assert (share > 0) == (ACTIONS.get(case.way) == "factored"), f"{share:.2%} of the actions are illegal"
        return {"illegal_share": share}

    return rollout if case.work == "rollout" else iterate, verify


def collect(ppo: PPO) -> None:
    """A rollout without the figures that ours logs of it, which MaskablePPO does not have."""
    ppo.state = ppo.collector.rollout(ppo.state)


def adapter(case: Case, envs: int) -> "LifecycleVecEnv":
    """The environment as MaskablePPO takes it."""
    from esper_masks.interop.sb3 import LifecycleVecEnv

    return LifecycleVecEnv(envs, action=ACTIONS[case.way], rules=case.rules, seed=0, mode="compiled")


def check_adapter(case: Case, envs: int = 64) -> None:
    """The adapter gives what the environment gives, and its masks: an AssertionError where it does not."""
    env, venv = LifecycleEnv(em.ruleset(case.rules), envs, mode="compiled"), adapter(case, envs)
    joint, logits = ACTIONS[case.way] == "joint", torch.zeros(envs, env.engine.layout.logit_size)
    same(env.reset(), venv.reset(), "first observation")
    for step in range(2 * env.dynamics.episode_length):
        masks = env.masks()
        same(masks.joint() if joint else masks.flat(), venv.env_method("action_masks"), f"masks of step {step}")
        actions = em.FactoredCategorical(logits, masks).sample()
        given = env.engine.joint_actions.encode(actions) if joint else actions
        wanted, made = env.step(actions), venv.step(given.numpy())
        for at, name in enumerate(("observation", "reward", "end")):
            same(torch.as_tensor(wanted[at]), made[at], f"{name} of step {step}")
    assert not venv.illegal_actions.any()


def same(wanted: torch.Tensor, made: Any, what: str) -> None:
    """Rows of arrays are those of a tensor."""
    assert torch.equal(wanted, torch.stack([torch.as_tensor(row) for row in made])), f"{what} differs"
