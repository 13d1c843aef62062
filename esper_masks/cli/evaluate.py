"""The command ``esper-masks evaluate``."""

import argparse
import json
from collections.abc import Mapping

import torch
from rich.table import Table

from esper_masks.cli import networks
from esper_masks.cli.common import RULES_HELP, CommandError, console, count, find_rules, positive, reason_of
from esper_masks.cli.tables import policy_table
from esper_masks.cli.train import DYNAMICS_HELP, EVALUATION_SEED, find_dynamics
from esper_masks.rollout.networks.dynamics import NetworkDynamics
from esper_masks.rollout.networks.score import Scores
from esper_masks.rollout.training.train import threads_for
from esper_masks.rollout.training.trained import Returns, TrainedPolicy, learned, load_policy, players, returns_of

EPISODES = 8192


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="a file of `esper-masks train`, or a log folder for its newest")
    add(
        "--episodes",
        type=positive,
        metavar="N",
        help=f"episodes of each policy (default: {EPISODES:,}, of real networks {networks.HOSTS_IN_TEST})",
    )
    seed = "seed of actions and environments; that of the comparison in `train` (default: %(default)s)"
    add("--seed", type=count, default=EVALUATION_SEED, metavar="N", help=seed)
    add("--rules", metavar="NAME", help=f"{RULES_HELP.partition(' (')[0]}; needed for those of your own")
    add("--dynamics", metavar="NAME", help=f"{DYNAMICS_HELP.partition(' (')[0]}; needed where the training had any")
    add("--device", default="cpu", metavar="NAME", help="cpu or cuda (default: %(default)s)")
    threads = "threads of the CPU (default: one for every 1,024 episodes at a width of 64, at most all cores)"
    add("--threads", type=positive, metavar="N", help=threads)
    add("--json", action="store_true", help="print one JSON object instead")


def run(options: argparse.Namespace) -> int:
    """Play the policy of a checkpoint and three baselines in environments like those of the training: the mean return
    of an episode, its standard error, and how many actions were illegal. Real networks are those of the test pool, and
    have scores and more baselines. The checkpoint stays as it is.
    """
    threads = torch.get_num_threads()
    try:
        policy, episodes = _load(options)
        results: Mapping[str, Returns | Scores]
        table: Table
        if isinstance(policy.task.dynamics, NetworkDynamics):
            scores, _ = networks.scores_of(learned(policy), policy.task, lambda told: None, episodes)
            facts, table, results = networks.facts_of(scores), networks.table_of(scores), scores
        else:
            returns = {n: returns_of(p, policy.task, options.seed, episodes) for n, p in players(policy).items()}
            means = {name: each.mean for name, each in returns.items()}
            errors = {name: each.standard_error for name, each in returns.items()}
            facts = {"return_mean": means.pop("learned"), "baselines": means, "standard_errors": errors}
            table, results = policy_table(returns), returns
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:  # of flags, a checkpoint, rules
        raise CommandError(reason_of(error).splitlines()[0]) from error
    finally:
        torch.set_num_threads(threads)
    illegal = sum(each.illegal_actions for each in results.values())
    if options.json:
        begun = {"checkpoint": options.checkpoint, "env_steps": policy.env_steps, "episodes": episodes}
        print(json.dumps(begun | facts | {"illegal_actions": illegal}))
        return 0
    console().print(table)
    print(f"{episodes:,} episodes each, after {policy.env_steps:,} environment steps of training")
    print(f"{illegal} actions were illegal")
    return 0


def _load(options: argparse.Namespace) -> tuple[TrainedPolicy, int]:
    """The policy, and how many episodes of each are played.

    Raises:
        OSError, ValueError, RuntimeError: no checkpoint, or a device that is not there.
    """
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device here; --device cpu evaluates without one")
    if options.episodes == 1:
        raise ValueError("--episodes 1: a standard error needs at least 2")
    rules = None if options.rules is None else find_rules(options.rules)
    dynamics = find_dynamics(options.dynamics)
    policy = load_policy(options.checkpoint, rules=rules, dynamics=dynamics, device=options.device)
    real = isinstance(policy.task.dynamics, NetworkDynamics)
    episodes = options.episodes or (networks.HOSTS_IN_TEST if real else EPISODES)
    torch.set_num_threads(options.threads or threads_for(episodes, policy.network.width))
    torch.manual_seed(options.seed)
    return policy, episodes
