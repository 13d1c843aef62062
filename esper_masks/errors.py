"""What can go wrong, one class a cause."""


class RulesError(ValueError):
    """A rule set that contradicts itself, or a name, switch or fingerprint that it does not have."""


class SlotStateError(ValueError):
    """Input that does not fit the rules: a slot state, a seed total, an enabled mask, a slot id."""


class InvalidStateMachineError(RuntimeError):
    """A row in which no action is legal."""
