"""The distribution inside of what ``Compiled`` compiles."""

from typing import Any

import torch
from torch import Tensor

from esper_masks.drawing import counted_uniforms
from esper_masks.factored import FactoredCategorical
from esper_masks.unrolled import UnrolledHeads


class Fused(FactoredCategorical):
    """The same, which loads row-major logits where they lie, and draws noise where it is used if it has a ``key``."""

    _transposes = False
    key: Tensor | None = None  # of ``random_key``

    def _uniforms(self, sample_shape: Any, noise: Tensor | None) -> Any:
        if noise is not None or self.key is None:
            return super()._uniforms(sample_shape, noise)
        made = counted_uniforms(self.key, self._extended_shape(torch.Size(sample_shape)), self._form.like.dtype)
        return made if isinstance(self._form, UnrolledHeads) else torch.stack(made).movedim(0, -1)
