"""The command ``esper-masks evaluate``."""

import argparse
import json

import torch

from esper_masks.cli.common import RULES_HELP, CommandError, console, count, find_rules, positive, reason_of
from esper_masks.cli.tables import policy_table
from esper_masks.cli.train import DYNAMICS_HELP, EVALUATION_SEED, find_dynamics
from esper_masks.rollout.training.train import threads_for
from esper_masks.rollout.training.trained import Returns, TrainedPolicy, load_policy, players, returns_of


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="a file of `esper-masks train`, or a log folder for its newest")
    add("--episodes", type=positive, default=8192, metavar="N", help="episodes of each policy (default: %(default)s)")
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
    of an episode, its standard error, and how many actions were illegal. The checkpoint stays as it is.
    """
    threads = torch.get_num_threads()
    try:
        policy, results = _play(options)
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # of flags, a checkpoint, rules, a device
        raise CommandError(reason_of(error).splitlines()[0]) from error
    finally:
        torch.set_num_threads(threads)
    illegal = sum(each.illegal_actions for each in results.values())
    if options.json:
        means = {name: each.mean for name, each in results.items()}
        errors = {name: each.standard_error for name, each in results.items()}
        facts = {"checkpoint": options.checkpoint, "env_steps": policy.env_steps, "episodes": options.episodes}
        facts |= {"return_mean": means.pop("learned"), "baselines": means, "standard_errors": errors}
        print(json.dumps(facts | {"illegal_actions": illegal}))
        return 0
    console().print(policy_table(results))
    print(f"{options.episodes:,} episodes each, after {policy.env_steps:,} environment steps of training")
    print(f"{illegal} actions were illegal")
    return 0


def _play(options: argparse.Namespace) -> tuple[TrainedPolicy, dict[str, Returns]]:
    """The policy, and the returns of the policy and of each baseline.

    Raises:
        OSError, ValueError, RuntimeError: no checkpoint, or a device that is not there.
    """
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device here; --device cpu evaluates without one")
    if options.episodes < 2:
        raise ValueError("--episodes 1: a standard error needs at least 2")
    rules = None if options.rules is None else find_rules(options.rules)
    dynamics = find_dynamics(options.dynamics)
    policy = load_policy(options.checkpoint, rules=rules, dynamics=dynamics, device=options.device)
    torch.set_num_threads(options.threads or threads_for(options.episodes, policy.network.width))
    torch.manual_seed(options.seed)
    seed, episodes = options.seed, options.episodes
    return policy, {name: returns_of(play, policy.task, seed, episodes) for name, play in players(policy).items()}
