"""The world: environments that follow a lifecycle, grounded in logs of real runs."""
