"""Where an iteration of our training spends its time: timers around the methods that it calls, each without what is
called from within it.
"""

import timeit
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

import esper_masks as em
from esper_masks.rollout import PPO

ROLLOUT = ("one graph", "environment", "masks and sampling", "network", "normalizing", "buffer", "figures", "rest")
UPDATE = (
    "network",
    "masks and scoring",
    "backward: scoring, loss",
    "backward: network",
    "optimizer",
    "normalizing",
    "minibatches",
    "rest",
)


class Clock:
    """Seconds of each section of a phase; what a section calls counts for the section that it is."""

    def __init__(self) -> None:
        self.phase, self.seconds = "", dict[tuple[str, str], float]()
        self._within: list[float] = []  # seconds of sections inside each that is running
        self._undo: list[Callable[[], None]] = []

    def wrap(self, owner: Any, method: str, section: str, phase: str = "") -> None:
        """Time a method of an object or module; ``phase`` is what begins with it."""
        original, own = getattr(owner, method), method in vars(owner)

        def timed(*arguments: Any, **named: Any) -> Any:
            self.phase = phase or self.phase
            start = perf_counter()
            self._within.append(0.0)
            try:
                return original(*arguments, **named)
            finally:
                self.add(section, perf_counter() - start)

        setattr(owner, method, timed)
        self._undo.append(lambda: setattr(owner, method, original) if own else delattr(owner, method))

    def add(self, section: str, took: float) -> None:
        """A section ended."""
        key = self.phase, section
        self.seconds[key] = self.seconds.get(key, 0.0) + took - self._within.pop()
        if self._within:
            self._within[-1] += took

    def wrap_backward(self, policy: Any) -> None:
        """The backward pass, split where the gradient reaches what the network gave."""
        backward, forward, began = torch.autograd.backward, policy.forward, 0.0

        def timed(*arguments: Any, **named: Any) -> None:
            nonlocal began
            began = perf_counter()
            backward(*arguments, **named)

        def reached(gradient: Tensor) -> None:
            self._within.append(0.0)
            self.add("backward: scoring, loss", perf_counter() - began)

        def hooked(*arguments: Any, **named: Any) -> Any:
            logits, *others = forward(*arguments, **named)
            if logits.requires_grad:
                (logits if logits._base is None else logits._base).register_hook(reached)  # of the value's column too
            return logits, *others

        torch.autograd.backward, policy.forward = timed, hooked
        self._undo.append(lambda: setattr(torch.autograd, "backward", backward))
        self._undo.append(lambda: delattr(policy, "forward"))

    def stop(self) -> None:
        """Take all timers away."""
        while self._undo:
            self._undo.pop()()


@contextmanager
def timed(ppo: PPO) -> Iterator[Clock]:
    """A training with timers in it."""
    clock, policy, buffer = Clock(), ppo.policy, ppo.buffer
    try:
        clock.wrap_backward(policy)
        clock.wrap(policy, "forward", "network")
        clock.wrap(torch.autograd, "backward", "backward: network")
        clock.wrap(ppo, "rollout", "rest", "rollout")
        clock.wrap(ppo, "update", "rest", "update")
        clock.wrap(ppo.env, "step", "environment")
        clock.wrap(policy.step, "forward", "masks and sampling")
        clock.wrap(policy.step, "evaluate", "masks and scoring")
        clock.wrap(ppo.obs_moments, "forward", "normalizing")
        clock.wrap(ppo.obs_moments, "scale", "normalizing")
        clock.wrap(ppo.obs_moments, "measure", "normalizing")
        clock.wrap(ppo.acting, "_compiled", "one graph")
        for method in ("at", "write", "clear"):
            clock.wrap(buffer, method, "buffer")
        clock.wrap(buffer, "masks", "figures")
        clock.wrap(buffer, "minibatch", "minibatches")
        clock.wrap(em.ActionMasks, "count", "figures")
        for method in ("step", "zero_grad"):
            clock.wrap(ppo.optimizer, method, "optimizer")
        clock.wrap(nn.utils, "clip_grad_norm_", "optimizer")
        yield clock
    finally:
        clock.stop()


def profile(ppo: PPO, rounds: int) -> dict[str, Any]:
    """Seconds of each section in the fastest of some iterations; it has run before."""
    best: dict[tuple[str, str], float] = {}
    with timed(ppo) as clock:
        for _ in range(rounds):
            clock.seconds = defaultdict(float)
            ppo.iterate()
            if not best or sum(clock.seconds.values()) < sum(best.values()):
                best = dict(clock.seconds)
    assert all(name in (ROLLOUT if phase == "rollout" else UPDATE) for phase, name in best), sorted(best)
    parts = {"rollout": ROLLOUT, "update": UPDATE}
    return {phase: {name: best.get((phase, name), 0.0) for name in names} for phase, names in parts.items()}


def decisions_alone(ppo: PPO, rounds: int) -> float:
    """Seconds for the masks and decisions of a rollout and nothing else, which a graph of all does not tell."""
    env, buffer = ppo.env, ppo.buffer
    with torch.no_grad():
        logits, *_ = ppo.policy(ppo.obs_moments(env.obs))
    decide = partial(ppo.policy.step, env.states, logits, env.total_seeds, out=buffer.at(0))
    return min(timeit.repeat(decide, number=buffer.steps, repeat=rounds + 1)[1:])
