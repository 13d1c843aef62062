"""What a policy's networks are worth, on validation and on test, and what a cheaper measure would have said."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from esper_masks.rollout.env.env import LifecycleEnv
from esper_masks.rollout.networks.dynamics import NetworkDynamics
from esper_masks.rollout.networks.lifecycles import States


class Score(NamedTuple):
    """A mean over hosts, in nats, and its standard error."""

    mean: float
    se: float

    @classmethod
    def of(cls, values: Tensor) -> "Score":
        """Of values ``[hosts]``, at least two."""
        return cls(float(values.mean()), float(values.std()) / len(values) ** 0.5)


class Scores(NamedTuple):
    """What ``score_of`` tells of a policy."""

    validation: Score
    test: Score
    by_task: Mapping[str, tuple[Score, Score]]  # the same two of the hosts of each task
    accuracy: Score  # by how much it is higher on test than that of the twin, from -1 to 1
    counterfactual: Score  # by how much the loss on test rises if all alphas are 0: what is measured without a twin
    wrong_sign: float  # how often that has another sign than what the twin says, of hosts with a kept seed; or nan
    kept: float  # seeds that a host has at the end
    diverged: int  # hosts of which some step was not finite
    illegal_actions: int
    hosts: Tensor  # float32 [batch]: scores on test, host by host, to be compared with those of another policy
    final: States  # with which the episodes ended


def score_of(policy: Callable[[LifecycleEnv], Tensor], env: LifecycleEnv) -> Scores:
    """Scores of a policy in an episode of some hosts, always the same ones. The environments do not take the last step.

    Args:
        policy: a function of environments to actions, such as ``always_wait`` or ``learned(ppo)``.
        env: at least two environments by ``NetworkDynamics`` for each task, with one round, as ``of_pool`` makes them.

    Raises:
        ValueError: other environments.
    """
    dynamics = env.dynamics
    if not isinstance(dynamics, NetworkDynamics):
        raise ValueError(f"a score is of NetworkDynamics, got environments by {type(dynamics).__name__}")
    if dynamics.rounds != 1:
        raise ValueError(f"scores are of the same hosts each time, and these have {dynamics.rounds} rounds: make one")
    env.reset()
    illegal = int(env.illegal_actions.sum())
    for _ in range(dynamics.episode_length - 1):
        env.step(policy(env))
    with torch.no_grad():
        actions, noise = policy(env), torch.zeros(env.num_envs, 0, device=env.device)
        last, outcome = dynamics.advance(env.state, actions, noise)
        illegal = int(env.illegal_actions.sum()) - illegal + int(outcome.illegal.sum())
        validation, test = (dynamics.score(last, split) for split in ("validation", "test"))
        number, alpha = dynamics.kept_alone(last)
        (loss, right), (without, _) = (
            dynamics.measure(last.networks, number, share, last.key, "test") for share in (alpha, 0 * alpha)
        )
        twin, twin_right = dynamics.twins.final(last.key, "test")
    tasks, some = dynamics.samples.tasks_of(last.key), (alpha > 0).any(0)
    wrong = ((without > loss) != (twin > loss))[some].float().mean()
    by_task = {
        task.name: (Score.of(validation[tasks == at]), Score.of(test[tasks == at]))
        for at, task in enumerate(dynamics.samples.tasks)
    }
    return Scores(
        Score.of(validation),
        Score.of(test),
        by_task,
        Score.of(right - twin_right),
        Score.of(without - loss),
        float(wrong),
        float((alpha > 0).sum(0).float().mean()),
        int((last.diverged > 0).sum()),
        illegal,
        test,
        last._replace(epoch=last.epoch + 1),
    )
