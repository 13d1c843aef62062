"""The rule sets that ship with the package, by name: ``ruleset``, ``rulesets``.

esper_2025_11   November 2025
esper_2025_12   December 2025
esper_2026_06   June 2026
"""

from esper_masks.errors import RulesError
from esper_masks.rules import MaskRules
from esper_masks.rulesets import esper_2025_11, esper_2025_12, esper_2026_06

_RULESETS: dict[str, MaskRules] = {
    rules.name: rules for rules in (esper_2025_11.RULES, esper_2025_12.RULES, esper_2026_06.RULES)
}


def rulesets() -> tuple[str, ...]:
    """Names that ``ruleset`` knows, oldest first."""
    return tuple(_RULESETS)


def ruleset(name: str) -> MaskRules:
    """The rules of that name.

    >>> ruleset("esper-2025-12").head_names
    ('slot', 'blueprint', 'blend', 'op')

    Raises:
        RulesError: an unknown name; the message lists the known ones.
    """
    try:
        return _RULESETS[name]
    except (KeyError, TypeError):
        raise RulesError(f"unknown rule set {name!r}; known: {', '.join(_RULESETS)}") from None
