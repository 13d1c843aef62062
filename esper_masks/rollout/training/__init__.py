"""The learner: proximal policy optimization of factored policies.

ppo          ``PPO``: rollouts, advantages, updates
config       ``PPOConfig``
policy       ``FactoredActorCritic`` and its recurrent form
rollouts     how a policy acts in an environment
gae          generalized advantage estimation
moments      running means and variances
train        a training from settings to the end; ``load_policy``
trained      ``TrainedPolicy``: what was trained, in use
checkpoint   a training, saved and loaded
logs         metrics, curves
lock         one training at a time in a folder
stopping     Ctrl-C and signals
processes    one process among several
"""
