"""The environment and its masks in the forms of other libraries; each module imports its library when asked for.

gymnasium    a ``gymnasium.vector.VectorEnv``, registered as ``esper/Lifecycle-v0``
sb3          a ``VecEnv`` of stable-baselines3 for sb3-contrib's ``MaskablePPO``
torchrl      an ``EnvBase`` of TorchRL, and ``FactoredCategorical`` for a ``ProbabilisticActor``
pettingzoo   a ``ParallelEnv`` whose agents are environments, and masks beside an observation, as PettingZoo wants them
rllib        masks beside an observation, as RLlib wants them; it needs no environment of the package

action_forms   the two forms of an action, for all of them
arrays         the environment with numpy arrays in and out, for Gymnasium, stable-baselines3 and PettingZoo

``True``, or 1, is legal everywhere.
"""

from importlib import import_module

MODULES = ("gymnasium", "pettingzoo", "rllib", "sb3", "torchrl")

__all__ = list(MODULES)


def __getattr__(name: str) -> object:
    if name in MODULES:
        return import_module(f"esper_masks.interop.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(MODULES)}")
