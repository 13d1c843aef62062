"""Masks over an episode as a table, for ``esper-masks show --over-time``."""

from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from esper_masks.pytree import ActionMasks
from esper_masks.rollout.baselines import random_legal
from esper_masks.rollout.env import LifecycleEnv
from esper_masks.rules import MaskRules
from esper_masks.viz.over_time import legal_shares

ENVIRONMENTS = 1024
WHITE, BLUE = (255, 255, 255), (0, 114, 178)  # of cells: never legal, always
DARK = 0.55  # share from which a number is white


def over_time(rules: MaskRules) -> dict[str, Any]:
    """How often each op is legal at each epoch of an episode of legal actions at random, as one JSON-able object.

    Seeds torch's own generator.

    Raises:
        RulesError: rules that no environment is known for.
    """
    torch.manual_seed(0)
    env = LifecycleEnv(rules, ENVIRONMENTS)
    steps = []
    for _ in range(env.dynamics.episode_length):
        steps.append(env.masks())
        env.step(random_legal(env))
    masks = ActionMasks.stack(steps)
    ops = legal_shares(masks).T.tolist()
    return {
        "rules": rules.name,
        "environments": ENVIRONMENTS,
        "legal": dict(zip(rules.op_names, ops)),
        "legal_actions": masks.count().float().mean(-1).tolist(),
        "forced": masks.forced.float().mean(-1).tolist(),
    }


def print_over_time(facts: dict[str, Any], console: Console) -> None:
    """Print what ``over_time`` gives: a row an epoch, and cells shaded by their share."""
    console.print(f"{facts['rules']}: {facts['environments']:,} environments, legal actions at random")
    console.print("At each epoch: percent in which an op is legal, and in which one whole action")
    console.print("alone is (forced); and how many are on average")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("epoch", *facts["legal"], "forced", "actions"):
        table.add_column(name.replace("_", "\n"), justify="right", no_wrap=True)
    shares = [*facts["legal"].values(), facts["forced"]]
    for epoch, count in enumerate(facts["legal_actions"]):
        table.add_row(str(epoch), *(_shaded(share[epoch]) for share in shares), f"{count:.1f}")
    console.print(table)


def _shaded(share: float) -> Text:
    red, green, blue = (round(w + share * (b - w)) for w, b in zip(WHITE, BLUE))
    return Text(f"{100 * share:.0f}", f"{'white' if share > DARK else 'black'} on rgb({red},{green},{blue})")
