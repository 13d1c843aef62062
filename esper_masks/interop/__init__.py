"""The environment and its masks in the forms of other libraries; each module imports its library when asked for.

gymnasium    a ``gymnasium.vector.VectorEnv``, registered as ``esper/Lifecycle-v0``
sb3          a ``VecEnv`` of stable-baselines3 for sb3-contrib's ``MaskablePPO``
torchrl      an ``EnvBase`` of TorchRL, and ``FactoredCategorical`` for a ``ProbabilisticActor``
pettingzoo   masks beside an observation, as PettingZoo wants them
rllib        masks beside an observation, as RLlib wants them
hosts        what the adapters share: environments, and actions in several forms

``True``, or 1, is legal in all of them.
"""

from importlib import import_module

MODULES = ("gymnasium", "pettingzoo", "rllib", "sb3", "torchrl")

__all__ = list(MODULES)


def __getattr__(name: str) -> object:
    if name in MODULES:
        return import_module(f"esper_masks.interop.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(MODULES)}")
