"""The rules' fingerprint in checkpoints, so that those of other rules are refused."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from esper_masks.errors import RulesError
from esper_masks.rules import MaskRules


class UnderRules:
    """What makes a module refuse checkpoints of other rules; to be named before ``nn.Module`` among the bases."""

    rules: MaskRules
    fingerprint: str

    @property
    def made_under(self) -> str:
        """Name of the rules, as errors say it."""
        return self.rules.name

    def get_extra_state(self) -> Tensor:
        """The rules' fingerprint, uint8 ``[32]``, which a ``state_dict`` holds beside the persistent buffers."""
        return torch.tensor(list(bytes.fromhex(self.fingerprint)), dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: Any) -> None:
        """Refuse the fingerprint of other rules.

        Raises:
            RulesError: the checkpoint was made under other rules.
        """
        found = bytes(state.to(torch.uint8).tolist()).hex() if isinstance(state, Tensor) else repr(state)
        if found != self.fingerprint:
            raise RulesError(
                f"this checkpoint was made under other rules or rule switches (fingerprint {found[:12]}); this "
                f"{type(self).__name__} has {self.made_under} ({self.fingerprint[:12]})"
            )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        if (key := f"{prefix}_extra_state") in state_dict:
            self.set_extra_state(state_dict[key])  # torch asks last, when the tensors of other rules are in
        super()._load_from_state_dict(state_dict, prefix, *rest)  # type: ignore[misc]  # nn.Module's
