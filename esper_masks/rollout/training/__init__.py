"""The learner: proximal policy optimization of factored policies."""
