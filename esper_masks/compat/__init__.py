"""Drop-in replacements for two generations of mask functions: same names, arguments and results, computed by the rules.

    from esper_masks.compat import esper_2025_12 as action_masks    # one import changes

Each only translates arguments; ``Generation`` makes the masks. A batch goes through ``MaskEngine``; one environment
goes through ``OneEnvironment``, which reads the same rules with Python integers.

esper_2025_12   the functions of December 2025
esper_2026_06   those of June 2026, and its distribution
masked_logits   what June's network takes beside the distribution
environment     what both have in common: ``Generation`` and ``OneEnvironment``
"""

from esper_masks.compat import esper_2025_12, esper_2026_06

__all__ = ["esper_2025_12", "esper_2026_06"]
