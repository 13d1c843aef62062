"""The world: environments that follow a lifecycle, grounded in logs of real runs.

env           ``LifecycleEnv``: a batch of environments, stepped as one
dynamics      what happens in a step: seeds, growth, rewards
mechanics     what a lifecycle does by itself
state         ``State`` and ``Outcome``, and what is assumed
calibration   statistics of real runs
measure       how they are measured from logs
baselines     policies without a network
noise         normal numbers from uniforms
"""
