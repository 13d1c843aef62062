"""Drop-in replacements for two generations of mask functions: same names, arguments and results, computed by the rules.

    from esper_masks.compat import esper_2025_12 as action_masks    # one import changes

Each translates arguments and nothing else. A batch goes through ``MaskEngine``; one environment goes through
``OneEnvironment``, which reads the same rules with Python integers.
"""

from esper_masks.compat import esper_2025_12, esper_2026_06

__all__ = ["esper_2025_12", "esper_2026_06"]
