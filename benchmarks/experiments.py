"""The experiments of ``docs/networks.md``: what controllers that grow real networks have learned.

    scores    trained policies and all baselines on the same hosts of the test pool, host by host
    widths    the same policies on hosts of other widths, without a new training, beside plans that are found there
    unmasked  trainings without masks at as many host-epochs: the same network and update draw from all that exists, and
              an illegal action is WAIT; ``penalized``: it costs nats, too

``esper-masks train --world networks --seed N --logdir RUN`` trains what the first two are given. ``python -m
benchmarks.experiments PART -o FILE [RUN ...]``, a few minutes each on one core, the third six for each seed.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from statistics import fmean, stdev
from typing import Any

import torch

import esper_masks as em
from benchmarks.learning import AllLegal, PenalizedEnv, train
from esper_masks.bench.suite import machine
from esper_masks.cli.common import output, positive, reason_of, tell
from esper_masks.cli.networks import CONFIG, EPISODES, HOSTS, HOSTS_IN_TEST, HOSTS_PLANNED, policy_facts
from esper_masks.files import write_file
from esper_masks.rollout import PPO, FactoredActorCritic, LifecycleEnv, NetworkDynamics, PPOConfig
from esper_masks.rollout.networks.plans import Found, Plan, baselines_for, find_plans, playing
from esper_masks.rollout.networks.score import Score, Scores, score_of
from esper_masks.rollout.training.train import TrainSettings
from esper_masks.rollout.training.trained import Player, learned, load_policy

PROGRAM = "python -m benchmarks.experiments"
WIDTHS = 4, 6, 12, 16, 32
AGAIN = 4  # plans of each task that are tried once more, on as many hosts as a policy is judged by
SEEDS = 3  # trainings without masks
FIRST = 1 << 19  # a host of the training pool that no training with so few has met


def scores(runs: Sequence[str]) -> dict[str, Any]:
    """Trained policies and baselines on the same hosts; ``plans`` are those that were tried, with scores by task."""
    policies = [load_policy(run) for run in runs]
    like = policies[0].task
    players, found = baselines_for(like, HOSTS_PLANNED)
    again = _again(found, like)
    trained = {f"learned, seed {policy.settings.get('seed', 0)}": learned(policy) for policy in policies}
    everybody: dict[str, Player] = {**players, "known_task, tried again": playing(again.by_task), **trained}
    results = {name: score_of(play, test_env(like)) for name, play in everybody.items()}
    return {
        "rows": [_row(name, each, results) for name, each in results.items()],
        "over_seeds": _over_seeds(results),
        "plans": [{**plan._asdict(), "by_task": list(by_task)} for plan, by_task in found.tried],
        "chosen": {"fixed_plan": found.fixed, "known_task": found.by_task, "tried again": again.by_task},
    }


def widths(runs: Sequence[str]) -> dict[str, Any]:
    """Policies and plans of one width on hosts of others, and the plans that are best there."""
    policies = [load_policy(run) for run in runs]
    like, rows = policies[0].task, []
    _, found = baselines_for(like, HOSTS_PLANNED)
    for width in WIDTHS:
        env = like.another(1, 0, dynamics=of_width(like, width))
        there, _ = baselines_for(env, HOSTS_PLANNED)
        players = {f"learned, seed {policy.settings.get('seed', 0)}": learned(policy) for policy in policies}
        players |= {"fixed_plan": playing([found.fixed]), "known_task": playing(found.by_task)}
        players |= {f"{name}, found there": there[name] for name in ("fixed_plan", "known_task")}
        results = {name: score_of(play, test_env(env)) for name, play in players.items()}
        rows += [{"width": width, **_row(name, each, results)} for name, each in results.items()]
        tell(PROGRAM, f"width {width}: {_over_seeds(results)['test']['mean']:+.3f} nats")
    return {"rows": rows}


def unmasked(seeds: int, kind: type[LifecycleEnv]) -> dict[str, Any]:
    """Trainings without masks, each with its curve."""
    trained, runs = {}, []
    for seed in range(seeds):
        ppo = without_masks(seed, kind)
        curve = train(ppo, ppo.config.horizon)
        trained[f"learned, seed {seed}"] = score_of(learned(ppo), test_env(ppo.env))
        runs.append({"seed": seed, "curve": curve})
        tell(PROGRAM, f"seed {seed}: {trained[f'learned, seed {seed}'].test.mean:+.3f} nats")
    rows = [_row(name, each, trained) for name, each in trained.items()]
    return {"rows": rows, "over_seeds": _over_seeds(trained), "runs": runs}


class PenalizedHosts(PenalizedEnv):
    """Hosts with a charge for illegal actions that is small beside what a seed is worth."""

    penalty = 0.01  # nats


def without_masks(seed: int, kind: type[LifecycleEnv]) -> PPO:
    """A training like that of the command, whose policy draws from all that exists."""
    torch.manual_seed(seed)
    settings = TrainSettings(envs=HOSTS, seed=seed, world="networks")
    rules = em.ruleset("esper-2025-12")
    env = kind(rules, HOSTS, seed=seed, dynamics=partial(NetworkDynamics, task=settings.task, first=settings.first(0)))
    step = em.DecisionStep(AllLegal(rules, env.engine.slot_ids), mode="eager")
    policy = FactoredActorCritic(step, env.obs_size, settings.width)
    return PPO(env, policy, PPOConfig(horizon=HOSTS * EPISODES * CONFIG["steps"], **CONFIG))


def test_env(like: LifecycleEnv) -> LifecycleEnv:
    """The hosts by which everybody is judged."""
    dynamics = like.dynamics
    assert isinstance(dynamics, NetworkDynamics)
    return like.another(HOSTS_IN_TEST, 0, dynamics=dynamics.of_pool("test"))


def of_width(like: LifecycleEnv, width: int) -> Any:
    """Dynamics like those of environments, with hosts of a width."""
    dynamics = like.dynamics
    assert isinstance(dynamics, NetworkDynamics)
    return partial(dynamics.of_pool("train"), width=width)


# -- parts ------------------------------------------------------------------------------------------------------------


def _again(found: Found, like: LifecycleEnv) -> Found:
    """The best plans of those that are best, on other hosts of the training pool, four times as many."""
    dynamics, tasks = like.dynamics, range(len(found.by_task))
    assert isinstance(dynamics, NetworkDynamics)
    best: dict[Plan, None] = {}
    for worth in (fmean, *(itemgetter(at) for at in tasks)):
        best |= dict.fromkeys(plan for plan, _ in sorted(found.tried, key=lambda each: -worth(each[1]))[:AGAIN])
    others = partial(dynamics.of_pool("train"), first=FIRST)
    return find_plans(like.another(HOSTS_IN_TEST, 0, dynamics=others), best)


def _row(name: str, scores: Scores, others: Mapping[str, Scores]) -> dict[str, Any]:
    """What a row has of a policy, and how far it is ahead of plans, host by host."""
    ahead = {
        plan: Score.of(scores.hosts - others[plan].hosts)._asdict()
        for plan in ("fixed_plan", "known_task")
        if plan in others and name.startswith("learned")
    }
    return {"policy": name, **policy_facts(scores), "illegal_actions": scores.illegal_actions, "ahead": ahead}


def _over_seeds(results: Mapping[str, Scores]) -> dict[str, Any]:
    """The mean of what was learned, with its error over seeds and over hosts, by itself and ahead of plans."""
    trained = [each for name, each in results.items() if name.startswith("learned")]
    hosts = torch.stack([each.hosts for each in trained])
    made = {"test": _both(hosts)}
    for plan in ("fixed_plan", "known_task"):
        if plan in results:
            made[f"ahead of {plan}"] = _both(hosts - results[plan].hosts)
    for at, name in enumerate(trained[0].by_task):
        made[name] = _both(hosts[:, at :: len(trained[0].by_task)])
    return made


def _both(hosts: torch.Tensor) -> dict[str, float]:
    """Of ``[seeds, hosts]``: the mean, and its standard errors."""
    seeds = hosts.mean(1).tolist()
    spread = stdev(seeds) / len(seeds) ** 0.5 if len(seeds) > 1 else float("nan")
    return {"mean": fmean(seeds), "se_seeds": spread, "se_hosts": Score.of(hosts.mean(0)).se}


def main(arguments: Sequence[str]) -> int:
    """Run a part; the exit code is 0, or 2 for arguments that cannot be used."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=("scores", "widths", "unmasked", "penalized"))
    parser.add_argument("runs", nargs="*", metavar="RUN", help="log folders of trainings, for scores and widths")
    parser.add_argument("-o", "--output", type=output, required=True, metavar="FILE", help="the result, as JSON")
    parser.add_argument("--seeds", type=positive, default=SEEDS, metavar="N", help="trainings (default: %(default)s)")
    options = parser.parse_intermixed_args(arguments)
    if (options.part in ("scores", "widths")) != bool(options.runs):
        parser.error("scores and widths want log folders of trainings, and the others none")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    about = machine("cpu", scripts=[__file__])  # before the run: files may change under it
    parts = {"scores": scores, "widths": widths}
    try:
        if options.part in parts:
            made = parts[options.part](options.runs)
        else:
            made = unmasked(options.seeds, PenalizedHosts if options.part == "penalized" else LifecycleEnv)
    except (OSError, ValueError, RuntimeError) as error:
        tell(PROGRAM, reason_of(error).split("\n", 1)[0])
        return 2
    write_file(options.output, f"{json.dumps({'part': options.part, **about, **made}, indent=1)}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
