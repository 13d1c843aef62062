"""The world: environments that follow a lifecycle, grounded in logs of real runs.

env           ``LifecycleEnv``: a batch of environments, and their step
dynamics      what happens in a step, as a part: the protocol, and what an environment checks of it
rule_dynamics the dynamics of any rule set, from the rules alone
choices       choices between few numbers
calibrated    the dynamics of growing networks: the op, growth, the reward, the observation; and ``Assumptions``
dwells        the lifecycles that these have: the op, and stages that are left by themselves
scheduled     those of June 2026: what seeds are worth, the reward; and ``ScheduledAssumptions``
schedule      the lifecycle that these have: ops, gates, ramps, cooldowns
ramps         how a share changes along them
shaped        the shaped reward of June 2026
mechanics     what a lifecycle does by itself, for each rule set
calibration   statistics of real runs, which set the distributions
measure       how these statistics are taken from logs
baselines     policies without a network
"""
