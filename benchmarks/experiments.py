"""The experiments of ``docs/networks.md``: what controllers that grow real networks have learned.

    scores    trained policies and all baselines on the same hosts of the test pool, host by host
    widths    the same policies on hosts of other widths, without a new training, beside plans that are found there
    unmasked  trainings without masks at as many host-epochs: the same network and update draw from all that exists, and
              an illegal action is WAIT; ``penalized``: it costs nats, too
    mnist1d   hosts of MNIST-1D: a controller is trained on short episodes, the best plan is found on long ones, and
              what both grow in long ones is compared with hosts that had as many parameters from the start

``esper-masks train --world networks --seed N --logdir RUN`` trains what the first two are given. ``python -m
benchmarks.experiments PART -o FILE [RUN ...]``, a few minutes each on one core, the third six for each seed.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

import esper_masks as em
from benchmarks.learning import AllLegal, PenalizedEnv, train
from esper_masks.bench.suite import machine
from esper_masks.cli.common import output, positive, reason_of, tell
from esper_masks.cli.networks import EPISODES, HOSTS, HOSTS_IN_TEST, HOSTS_PLANNED, config_of, policy_facts
from esper_masks.files import write_file
from esper_masks.rollout import PPO, FactoredActorCritic, LifecycleEnv, NetworkDynamics, PPOConfig
from esper_masks.rollout.networks.compact import numbers
from esper_masks.rollout.networks.hosts import CNNHost, Host, MLPHost
from esper_masks.rollout.networks.plans import BIRTHS, Found, Plan, baselines_for, find_plans, plans_for, playing
from esper_masks.rollout.networks.score import Score, Scores, score_of
from esper_masks.rollout.training.logs import read_metrics
from esper_masks.rollout.training.train import TrainSettings
from esper_masks.rollout.training.trained import Player, TrainedPolicy, learned, load_policy
from esper_masks.starting import keep_freed_memory

PROGRAM = "python -m benchmarks.experiments"
WIDTHS = 4, 6, 12, 16, 32
AGAIN = 4  # plans of each task that are tried once more, on as many hosts as a policy is judged by
SEEDS = 3  # trainings without masks
CNN = CNNHost((1, 40), 8, kernel=5, stride=2, pooled=False)
MNIST1D: dict[str, tuple[str, Host, bool]] = {  # the last one is whether seeds are isolated
    "mlp": ("mnist1d-flat", MLPHost(40, 16), False),
    "cnn": ("mnist1d", CNN, True),
    "cnn, co-adapting": ("mnist1d", CNN, False),
}
SHORT, LONG = 30, 300  # steps of an epoch: 600 of an episode, and 6,000
HOSTS_LONG, HOSTS_TRIED = 32, 16  # that are judged, and on which each plan is tried
MNIST1D_TRAINING = 48, 60  # hosts and episodes
FIRST = 1 << 19  # a host of the training pool that no training with so few has met


def scores(runs: Sequence[str]) -> dict[str, Any]:
    """Trained policies and baselines on the same hosts; ``plans`` are those that were tried, with scores by task."""
    policies = [load_policy(run) for run in runs]
    like = policies[0].task
    players, found = baselines_for(like, HOSTS_PLANNED)
    again = _again(found, like)
    trained = _players(policies)
    everybody: dict[str, Player] = {**players, "known_task, tried again": playing(again.by_task), **trained}
    results = {name: score_of(play, test_env(like)) for name, play in everybody.items()}
    return {
        "settings": dict(policies[0].settings),
        "tasks": list(results["no_op"].by_task),
        "grown": {name: _grown(each, test_env(like)) for name, each in results.items() if name in ("no_op", *trained)},
        "rows": [_row(name, each, results) for name, each in results.items()],
        "over_seeds": _over_seeds(results),
        "runs": [{"seed": policy.settings.get("seed", 0), "curve": _curve(run)} for policy, run in zip(policies, runs)],
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
        players = _players(policies) | {"fixed_plan": playing([found.fixed]), "known_task": playing(found.by_task)}
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
    return training(env, AllLegal(rules, env.engine.slot_ids), EPISODES)


def training(env: LifecycleEnv, engine: em.MaskEngine, episodes: int) -> PPO:
    """A training that has not begun, by the hyper-parameters of the command, with the masks of an engine."""
    policy = FactoredActorCritic(em.DecisionStep(engine, mode="eager"), env.obs_size, TrainSettings().width)
    config = config_of(engine.rules)
    return PPO(env, policy, PPOConfig(horizon=env.num_envs * episodes * config["steps"], **config))


def mnist1d(kind: str) -> dict[str, Any]:
    """Test accuracies of grown hosts of a kind, of their twins, and of hosts as large from the start."""
    task, host, isolated = MNIST1D[kind]
    rules, of = em.ruleset("esper-2025-12"), partial(NetworkDynamics, task=task, host=host, isolated=isolated)
    hosts, episodes = MNIST1D_TRAINING
    torch.manual_seed(0)
    env = LifecycleEnv(rules, hosts, seed=0, dynamics=partial(of, steps=SHORT))
    ppo = training(env, env.engine, episodes)
    curve = train(ppo, ppo.config.horizon)
    tell(PROGRAM, f"{kind}: trained, {curve['return_mean'][-1]:+.3f} nats")
    tried = LifecycleEnv(rules, HOSTS_TRIED, dynamics=partial(of, steps=LONG, rounds=1))
    found = find_plans(tried, [plan for plan in plans_for(networks_of(tried)) if plan.epoch == BIRTHS[1]])
    tell(PROGRAM, f"{kind}: the best plan is {found.fixed}")
    long = LifecycleEnv(rules, HOSTS_LONG, dynamics=partial(of, steps=LONG, rounds=1, pool="test"))
    dynamics = networks_of(long)
    rows, most = [], 0.0
    for name, play in {"learned": learned(ppo), "fixed_plan": playing([found.fixed])}.items():
        scored = score_of(play, long)
        number, alpha = dynamics.kept_alone(scored.final)
        loss, right = dynamics.measure(scored.final.networks, number, alpha, scored.final.key, "test")
        sizes = torch.tensor([*dynamics.population.seed_parameters, 0])[number.long()].sum(0).float()
        seeds = [int((number == at).sum()) for at in range(len(dynamics.blueprints))]
        facts = {**of_host(loss, right), "parameters": host_size(host) + float(sizes.mean())}
        most = max(most, facts["parameters"])
        rows.append({**_row(name, scored, {}), **facts, "kept_seeds": dict(zip(dynamics.population.names, seeds))})
    for name, one in {"host alone": host, "as large from the start": wider(host, most)}.items():
        there = LifecycleEnv(rules, 1, dynamics=partial(of, host=one, steps=LONG, rounds=1, pool="test"))
        loss, right = networks_of(there).twins.final(long.state.key, "test")
        rows.append({"policy": name, **of_host(loss, right), "parameters": host_size(one)})
    return {
        "host": repr(host),
        "rows": rows,
        "plans": [{**plan._asdict(), "by_task": list(by_task)} for plan, by_task in found.tried],
        "curve": curve,
    }


def of_host(loss: torch.Tensor, right: torch.Tensor) -> dict[str, dict[str, float]]:
    """Means of what was measured of hosts, with their errors."""
    return {"loss_of_host": Score.of(loss)._asdict(), "accuracy_of_host": Score.of(right)._asdict()}


def host_size(host: Host) -> int:
    """Parameters of a host."""
    return numbers(host.shapes)


def wider(host: Host, parameters: float) -> Host:
    """The narrowest host of a kind with so many parameters."""
    name = "width" if isinstance(host, MLPHost) else "channels"
    made = host
    while host_size(made) < parameters:
        made = replace(made, **{name: getattr(made, name) + 1})
    return made


def networks_of(env: LifecycleEnv) -> NetworkDynamics:
    """What environments of real networks are made of."""
    assert isinstance(env.dynamics, NetworkDynamics)
    return env.dynamics


def test_env(like: LifecycleEnv) -> LifecycleEnv:
    """The hosts by which everybody is judged."""
    return like.another(HOSTS_IN_TEST, 0, dynamics=networks_of(like).of_pool("test"))


def of_width(like: LifecycleEnv, width: int) -> Any:
    """Dynamics like those of environments, with hosts of a width."""
    dynamics = networks_of(like)
    return partial(dynamics.of_pool("train"), host=replace(dynamics.population.host, width=width))


# -- parts ------------------------------------------------------------------------------------------------------------


def _players(policies: Sequence[TrainedPolicy]) -> dict[str, Player]:
    """Trained policies by the seeds of their trainings."""
    return {f"learned, seed {policy.settings.get('seed', 0)}": learned(policy) for policy in policies}


def _again(found: Found, like: LifecycleEnv) -> Found:
    """The best plans of those that are best, on other hosts of the training pool, four times as many."""
    tasks = range(len(found.by_task))
    best: dict[Plan, None] = {}
    for worth in (fmean, *(itemgetter(at) for at in tasks)):
        best |= dict.fromkeys(plan for plan, _ in sorted(found.tried, key=lambda each: -worth(each[1]))[:AGAIN])
    others = partial(networks_of(like).of_pool("train"), first=FIRST)
    return find_plans(like.another(HOSTS_IN_TEST, 0, dynamics=others), best)


def _curve(run: str) -> dict[str, list[float]]:
    """The curve of a training by the command, as ``benchmarks.learning.train`` has it; nothing was illegal."""
    metrics = read_metrics(Path(run))
    if any(line["illegal_actions"] for line in metrics):
        raise ValueError(f"{run} has illegal actions, which masks leave none of")
    curve = {name: [line[name] for line in metrics] for name in ("env_steps", "return_mean")}
    return {**curve, "illegal_share": [0.0] * len(metrics)}


def _grown(scores: Scores, env: LifecycleEnv) -> dict[str, dict[str, Any]]:
    """Of the hosts of each task: accuracy on test, and kept seeds of each blueprint, both of a host on average."""
    dynamics, state = networks_of(env), scores.final
    number, alpha = dynamics.kept_alone(state)
    _, right = dynamics.measure(state.networks, number, alpha, state.key, "test")
    tasks, names = dynamics.samples.tasks_of(state.key), dynamics.population.names
    made = {}
    for at, task in enumerate(dynamics.samples.tasks):
        own = number[:, tasks == at]
        kept = {name: float((own == which).sum()) / own.shape[1] for which, name in enumerate(names)}
        made[task.name] = {"accuracy": float(right[tasks == at].mean()), "kept": kept}
    return made


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
    parser.add_argument("part", choices=("scores", "widths", "unmasked", "penalized", "mnist1d"))
    runs = "log folders of trainings, for scores and widths; for mnist1d kinds of hosts (default: all)"
    parser.add_argument("runs", nargs="*", metavar="RUN", help=runs)
    parser.add_argument("-o", "--output", type=output, required=True, metavar="FILE", help="the result, as JSON")
    parser.add_argument("--seeds", type=positive, default=SEEDS, metavar="N", help="trainings (default: %(default)s)")
    options = parser.parse_intermixed_args(arguments)
    if options.part != "mnist1d" and (options.part in ("scores", "widths")) != bool(options.runs):
        parser.error("scores and widths want log folders of trainings, and the others none")
    if options.part == "mnist1d" and not set(options.runs) <= set(MNIST1D):
        parser.error(f"the kinds of hosts are {', '.join(map(repr, MNIST1D))}")
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    about = machine("cpu", scripts=[__file__])  # before the run: files may change under it
    parts = {"scores": scores, "widths": widths}
    try:
        if options.part in parts:
            made = parts[options.part](options.runs)
        elif options.part == "mnist1d":
            made = {"kinds": {kind: mnist1d(kind) for kind in options.runs or MNIST1D}}
        else:
            made = unmasked(options.seeds, PenalizedHosts if options.part == "penalized" else LifecycleEnv)
    except (OSError, ValueError, RuntimeError) as error:
        tell(PROGRAM, reason_of(error).split("\n", 1)[0])
        return 2
    write_file(options.output, f"{json.dumps({'part': options.part, **about, **made}, indent=1)}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
