"""The learner: proximal policy optimization of policies whose actions have several heads.

ppo          ``PPO``: rollout, advantages, update
learner      what an update does to the policy: a step of the optimizer, eager or as one graph
config       ``PPOConfig``: the hyper-parameters
policy       the networks: ``FactoredActorCritic``, and the same with a recurrence
rollouts     ``Collector``: the policy acts, and what it did goes to a buffer
gae          generalized advantage estimation
moments      running means and spreads, which normalize observations and returns
train        ``TrainSettings``, ``build``, ``train``: a training from its settings to its end, or to Ctrl-C
trained      ``load_policy``, ``TrainedPolicy``: what was learned, in use and compared with baselines
checkpoint   a training in a file, to resume it
logs         the log folder: its lock, figures and curve
processes    the processes of one training, as torchrun starts them
"""
