"""Training speed against sb3-contrib's MaskablePPO in the same environment: ``python -m benchmarks.training_speed``.

    ours eager       ``PPO``, whose actions are drawn from the joint distribution; nothing is compiled
    ours compiled    all that the library compiles: a step of a rollout as one graph, and scoring
    sb3 heads        MaskablePPO over one choice a head: the heads are drawn independently, which forms illegal pairs of
                     op and slot; the environment takes them for WAIT
    sb3 joint        MaskablePPO over the index of the whole action, with exact masks

All have two hidden layers of the same width shared by logits and value, the same hyper-parameters, as many optimizer
steps (updates never end early) and one thread. The environment of sb3 is always compiled. A rollout is environment,
masks, decisions and what is stored; sb3's ends with its advantages, which our update makes. Adapter, masks and legality
are checked before anything is timed. All ways take turns of a tenth of a second or more, so that what else the machine
does meets them all.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console

import esper_masks as em
from benchmarks.tables import new_table
from benchmarks.training_profile import ROLLOUT, UPDATE, decisions_alone, profile
from esper_masks.bench.libraries import LIBRARIES
from esper_masks.bench.suite import machine
from esper_masks.files import check_output, write_file
from esper_masks.rollout import PPO, LifecycleEnv, PPOConfig
from esper_masks.rollout.training.train import TrainSettings, build

RULES = "esper-2025-12"
CONFIG = PPOConfig(target_kl=float("inf"))
OURS = {"ours eager": False, "ours compiled": True}
PROFILED = ("ours eager", "ours compiled")
SB3 = {"sb3 heads": "factored", "sb3 joint": "joint"}
FEWEST = 5  # turns
TURN_S = 0.1  # at least: what others left in caches matters to none of them
Result = dict[str, Any]
Way = dict[str, Callable[[], Any]]  # "rollout" and "iterate"


def adapter(way: str, envs: int) -> Any:
    from esper_masks.interop.sb3 import LifecycleVecEnv

    return LifecycleVecEnv(envs, action=SB3[way], rules=RULES, seed=0, mode="compiled")


def ours(way: str, envs: int) -> PPO:
    return build(em.ruleset(RULES), TrainSettings(envs=envs, compile=OURS[way]), CONFIG)


# -- what must hold before anything is timed ---------------------------------------------------------------------------


def check_adapter(way: str, envs: int = 64) -> None:
    """The adapter gives what the environment gives, and its masks.

    Raises:
        AssertionError: it does not.
    """
    env, venv, joint = LifecycleEnv(em.ruleset(RULES), envs, mode="compiled"), adapter(way, envs), way == "sb3 joint"
    logits = torch.zeros(envs, env.engine.layout.logit_size)
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
    rows = torch.stack([torch.as_tensor(row) for row in made])
    assert torch.equal(wanted, rows), f"{what} differs"


def illegal_share(run: Callable[[], Any], env: LifecycleEnv) -> float:
    """Of the actions of a rollout."""
    before = env.illegal_actions.sum()
    run()
    return int(env.illegal_actions.sum() - before) / (env.num_envs * CONFIG.steps)


# -- what is timed -----------------------------------------------------------------------------------------------------


def speeds(envs: int, seconds: float) -> list[Result]:
    """A row for every way: steps of environments in a second, rollout alone and with the update."""
    from benchmarks.sb3_peer import Sb3Training

    ways: dict[str, Way] = {}
    rows: dict[str, Result] = {}
    for way in (*OURS, *SB3):
        start = perf_counter()
        trained: Any
        if way in OURS:
            trained = ours(way, envs)
            env, parameters = trained.env, sum(p.numel() for p in trained.policy.parameters())
        else:
            trained = Sb3Training(adapter(way, envs), CONFIG, TrainSettings().width)
            env, parameters = trained.venv.host.env, trained.parameters()
        share = illegal_share(trained.rollout, env)
        assert (share > 0) == (way == "sb3 heads"), f"{way}: {share:.2%} of the actions are illegal"
        trained.iterate()
        rows[way] = {"way": way, "envs": envs, "parameters": parameters, "illegal_share": share}
        rows[way]["first_s"] = perf_counter() - start  # all that a program waits for, once
        ways[way] = {"rollout": partial(collect, trained), "iterate": trained.iterate}
    for what in ("rollout", "iterate"):
        times: dict[str, list[float]] = {way: [] for way in ways}
        began = perf_counter()
        while min(map(len, times.values())) < FEWEST or perf_counter() - began < seconds * len(ways):
            for way, runs in ways.items():
                first = times[way][0] if times[way] else TURN_S
                start, rounds = perf_counter(), math.ceil(TURN_S / first)
                for _ in range(rounds):
                    runs[what]()
                times[way].append((perf_counter() - start) / rounds)
        for way, each in times.items():
            steps = envs * CONFIG.steps
            rows[way] |= {f"{what}_per_s": steps / min(each), f"{what}_per_s_median": steps / statistics.median(each)}
            rows[way][f"{what}_turns"] = len(each)
    for row in rows.values():
        for what in ("rollout", "iterate"):
            row[f"{what}_x"] = {peer: row[f"{what}_per_s"] / rows[peer][f"{what}_per_s"] for peer in SB3}
    return list(rows.values())


def collect(trained: Any) -> None:
    """A rollout without the figures that ours logs of it, which sb3 does not have."""
    if isinstance(trained, PPO):
        trained.at = trained.acting.rollout(trained.at)
    else:
        trained.rollout()


def run(options: argparse.Namespace) -> Result:
    """All rows and profiles."""
    torch.set_num_threads(1)
    result = machine("cpu")
    for name in () if options.only_profile else ("sb3-contrib", "stable-baselines3", "gymnasium"):
        result["versions"][name] = version(name)
    result |= {"rules": RULES, "config": asdict(CONFIG) | {"target_kl": None}, "width": TrainSettings().width}
    result |= {"threads": 1, "rows": [], "profiles": []}
    if not options.only_profile:
        for way in SB3:
            check_adapter(way)
        for envs in options.envs:
            result["rows"] += speeds(envs, options.seconds)
            print(f"{envs:,} environments: done", file=sys.stderr, flush=True)
    for envs in options.profile:
        for way in PROFILED:
            ppo = ours(way, envs)
            for _ in range(2):
                ppo.iterate()
            row = {"way": way, "envs": envs, "seconds": profile(ppo, FEWEST)}
            result["profiles"].append({**row, "decisions_alone_s": decisions_alone(ppo, FEWEST)})
            print(f"profile of {way}, {envs:,} environments: done", file=sys.stderr, flush=True)
    return result


# -- what is shown -----------------------------------------------------------------------------------------------------


def print_result(console: Console, result: Result) -> None:
    """Speeds, then the shares of an iteration."""
    others = ", ".join(f"{name} {number}" for name, number in result["versions"].items() if name != "esper_masks")
    console.print(f"{result['machine']['cpu']}, 1 thread\n{others}\n")
    console.print("rollout, whole  thousand environment steps a second, the fastest turn")
    console.print("/heads, /joint  times as fast as sb3 heads and sb3 joint")
    console.print("illegal         share of actions of a fresh policy")
    console.print("first           seconds until all is built and has run, once")
    for envs in dict.fromkeys(row["envs"] for row in result["rows"]):
        table = new_table(
            f"{envs:,} envs", "rollout", "/heads", "/joint", "whole", "/heads", "/joint", "illegal", "first"
        )
        for row in (row for row in result["rows"] if row["envs"] == envs):
            cells = [row["way"]]
            for what in ("rollout", "iterate"):
                cells += [f"{row[f'{what}_per_s'] / 1000:,.1f}", *(f"{row[f'{what}_x'][peer]:.2f}" for peer in SB3)]
            table.add_row(*cells, f"{row['illegal_share']:.1%}", f"{row['first_s']:.0f}s")
        console.print(table)
    if result["profiles"]:
        console.print("one iteration, ms (share of it)")
        heads = [f"{row['way'].removeprefix('ours ')}\n{row['envs']:,}" for row in result["profiles"]]
        table = new_table("", *heads)
        for phase, names in (("rollout", ROLLOUT), ("update", UPDATE)):
            for name in (None, *names):
                cells = [_part(row, phase, name) for row in result["profiles"]]
                table.add_row(phase if name is None else f"  {name}", *cells)
        table.add_row("decisions alone", *(f"{1000 * row['decisions_alone_s']:.1f}" for row in result["profiles"]))
        console.print(table)


def _part(row: Result, phase: str, name: str | None) -> str:
    seconds = row["seconds"]
    whole = sum(sum(part.values()) for part in seconds.values())
    took = sum(seconds[phase].values()) if name is None else seconds[phase][name]
    return f"{1000 * took:.{0 if took >= 0.1 else 1}f} ({took / whole:.0%})"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_speed", description="See the module.")
    parser.add_argument("--envs", type=int, nargs="+", default=[8, 64, 1024], metavar="N", help="of the comparison")
    parser.add_argument("--profile", type=int, nargs="*", default=[1024, 8192], metavar="N", help="of the profiles")
    parser.add_argument("--only-profile", action="store_true", help="leave the comparison out; needs no sb3-contrib")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="for each way and half (default: 3)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the result as JSON")
    parser.add_argument("--from", dest="source", metavar="FILE", help="print a result instead of measuring")
    options = parser.parse_args(arguments)
    try:
        if options.output:
            check_output(options.output, filter(None, [options.source]))
    except OSError as error:
        parser.error(str(error))
    peer = LIBRARIES["sb3"]
    if not (options.only_profile or options.source) and find_spec(peer.module) is None:
        parser.error(f"{peer.package} is not installed (pip install 'esper-masks[sb3]')")
    if options.source:
        result = json.loads(Path(options.source).read_text(encoding="utf-8"))
    else:
        with tempfile.TemporaryDirectory() as folder:  # compile times are those of a first run
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
            result = run(options)
    print_result(Console(highlight=False), result)
    if options.output:
        write_file(options.output, f"{json.dumps(result, indent=1)}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
