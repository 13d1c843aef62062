"""The world: environments that follow a lifecycle, grounded in logs of real runs.

env           ``LifecycleEnv``: a batch of environments, and their step
dynamics      what happens in a step: the op, growth, the reward, the observation; and ``Assumptions``
mechanics     what a lifecycle does by itself, for each rule set
state         ``State`` and ``Outcome``: the tensors of a batch
calibration   statistics of real runs, which set the distributions
measure       how these statistics are taken from logs
baselines     policies without a network
"""
