"""Speed of esper_masks against loops over environments and against other libraries' distributions. ``make bench``."""
