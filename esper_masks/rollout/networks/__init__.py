"""Real networks, thousands of hosts at once, whose seeds a controller plants.

layers       linear maps and convolutions, each host's own
blueprints   what a seed can be
hosts        the networks that seeds grow in
compact      hosts and the seeds that they have side by side, and the steps that train them
population   what is done to all of them
memory       whether so many fit
tasks        what they are trained on, and the splits
samples      which samples a host is given when
twins        the same hosts without seeds
lifecycles   which seeds are trained when, with what share; the states
dynamics     ``NetworkDynamics``: what a controller's step does, the reward, the observation
score        what networks are worth at the end
plans        fixed plans, and the other baselines
"""
