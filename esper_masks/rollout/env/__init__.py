"""The world: environments that follow a lifecycle, grounded in logs of real runs.

env           ``LifecycleEnv``: a batch of environments, and their step
dynamics      what happens in a step, as a part: the protocol, and what an environment checks of it
rule_dynamics the dynamics of any rule set, from the rules alone
calibrated    the dynamics of growing networks: the op, growth, the reward, the observation; and ``Assumptions``
scheduled     those of June 2026: ramps, gates, cooldowns; and ``ScheduledAssumptions``
ramps         how a share changes along them
shaped        the shaped reward of June 2026
mechanics     what a lifecycle does by itself, for each rule set
calibration   statistics of real runs, which set the distributions
measure       how these statistics are taken from logs
baselines     policies without a network
"""
