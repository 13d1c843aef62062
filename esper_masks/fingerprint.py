"""Checkpoints that know the rules they were made under."""

from typing import Any

import torch
from torch import Tensor

from esper_masks.errors import RulesError
from esper_masks.rules import MaskRules


class UnderRules:
    """For a module: its ``state_dict`` holds the fingerprint of its rules, and another's is refused."""

    rules: MaskRules
    fingerprint: str

    def get_extra_state(self) -> Tensor:
        """The rules' fingerprint, uint8 ``[32]``."""
        return torch.tensor(list(bytes.fromhex(self.fingerprint)), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Refuse the fingerprint of other rules.

        Raises:
            RulesError: the checkpoint was made under other rules.
        """
        found = bytes(state.to(torch.uint8).tolist()).hex() if isinstance(state, Tensor) else repr(state)
        if found != self.fingerprint:
            raise RulesError(
                f"this checkpoint was made under other rules or rule switches (fingerprint {found[:12]}); the "
                f"{type(self).__name__} has {self.rules.name} ({self.fingerprint[:12]})"
            )
