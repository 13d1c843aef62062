"""What ``esper-masks train --world networks`` adds: its settings, and the scores that it ends with."""

from collections.abc import Callable
from typing import Any

from rich.box import SIMPLE
from rich.table import Column, Table

from esper_masks.rollout.env.env import LifecycleEnv
from esper_masks.rollout.networks.dynamics import NetworkDynamics
from esper_masks.rollout.networks.lifecycles import kind_of
from esper_masks.rollout.networks.plans import Found, Plan, Player, baselines_for
from esper_masks.rollout.networks.score import Score, Scores, score_of
from esper_masks.rules import MaskRules

HOSTS, EPISODES = 120, 200  # of a training, and those of each host
HOSTS_IN_TEST, HOSTS_PLANNED = 384, 96  # in comparisons at the end; the second for each plan that is tried
# where the user says nothing: a rollout is an episode, and experience dear
CONFIG: dict[str, Any] = {
    "epochs": 8,
    "minibatches": 4,
    "learning_rate": 3e-3,
    "final_learning_rate": 3e-4,
    "gae_lambda": 0.97,
    "entropy_weight": 0.005,
    "target_kl": 0.03,
}


def config_of(rules: MaskRules) -> dict[str, Any]:
    """What a training has where the user says nothing."""
    return {"steps": kind_of(rules).epochs, **CONFIG}


def scores_of(
    policy: Player, like: LifecycleEnv, show: Callable[[str], None], hosts: int | None = None
) -> tuple[dict[str, Scores], Found]:
    """The scores of what was learned, ``"learned"``, and of each baseline, all on the same hosts of the test pool.

    Args:
        policy: what was learned.
        like: environments like those of the training.
        show: is told what is being done.
        hosts: on how many they are compared, by default ``HOSTS_IN_TEST``.
    """
    dynamics = like.dynamics
    assert isinstance(dynamics, NetworkDynamics)
    show("comparing with baselines: looking for the best plans")
    players, found = baselines_for(like, HOSTS_PLANNED)
    env = like.another(hosts or HOSTS_IN_TEST, 0, dynamics=dynamics.of_pool("test"))
    results = {}
    for name, play in {"learned": policy, **players}.items():
        show(f"comparing with baselines: {name}")
        results[name] = score_of(play, env)
    return results, found


def facts_of(results: dict[str, Scores], env_steps_per_s: float | None = None) -> dict[str, Any]:
    """What ``--json`` has of them, beside what it always has."""
    told = {name: policy_facts(scores) for name, scores in results.items()}
    mine = told.pop("learned")
    for name, each in told.items():  # host by host
        each["learned_ahead"] = Score.of(results["learned"].hosts - results[name].hosts)._asdict()
    return {**mine, "host_epochs_per_s": env_steps_per_s, "baselines": told}


def policy_facts(scores: Scores) -> dict[str, Any]:
    """What it has of one policy."""
    return {
        "score_validation": scores.validation._asdict(),
        "score_test": scores.test._asdict(),
        "by_task": {name: both[1]._asdict() for name, both in scores.by_task.items()},
        "accuracy": scores.accuracy._asdict(),
        "counterfactual": scores.counterfactual._asdict(),
        "wrong_sign": None if scores.wrong_sign != scores.wrong_sign else scores.wrong_sign,
        "kept": scores.kept,
        "diverged": scores.diverged,
    }


def table_of(results: dict[str, Scores]) -> Table:
    """The scores, the best first."""
    names = list(next(iter(results.values())).by_task)
    columns = [Column(name, justify="right") for name in ("validation", "test", *names, "seeds")]
    table = Table("policy", *columns, box=SIMPLE)
    for name, scores in sorted(results.items(), key=lambda item: -item[1].test.mean):
        cells = [_cell(each) for each in (scores.validation, scores.test, *(b[1] for b in scores.by_task.values()))]
        table.add_row(name, *cells, f"{scores.kept:.1f}")
    return table


def _cell(score: Score) -> str:
    return f"{score.mean:+.3f} ± {score.se:.3f}"


def plans_told(found: Found, env: LifecycleEnv) -> list[str]:
    """The plans that were found, as lines."""
    dynamics = env.dynamics
    assert isinstance(dynamics, NetworkDynamics)

    def told(plan: Plan | None) -> str:
        if plan is None:
            return "no seed"
        name = dynamics.engine.layout.head("blueprint").choices[plan.blueprint]
        return f"{name} in {dynamics.engine.slot_ids[plan.slot]} at epoch {plan.epoch}"

    tasks = dynamics.samples.tasks
    known = "; ".join(f"{task.name}: {told(plan)}" for task, plan in zip(tasks, found.by_task))
    return [f"fixed plan, the best of {len(found.tried)}: {told(found.fixed)}", f"known task: {known}"]
