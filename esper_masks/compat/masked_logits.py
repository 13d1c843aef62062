"""Masked logits as both originals kept them: -1e4 under the mask."""

from torch import Tensor

from esper_masks.distributions import categorical
from esper_masks.distributions.softmax import arithmetic

MASKED_LOGIT_VALUE = -1e4


class WithMaskedLogits(categorical.MaskedCategorical):
    """``esper_masks.MaskedCategorical`` that gives its logits as the originals kept them, too."""

    @property
    def masked_logits(self) -> Tensor:
        """Logits ``[..., n]``, -1e4 where illegal: the given ones or, above a floor, the logarithms of ``probs``.

        A legal logit may lie below -1e4. The methods of the distribution are exact there, a softmax of these is not.
        """
        logits = self.log_probs if self.min_prob else arithmetic(self._logits)
        return logits.masked_fill(~self.mask, MASKED_LOGIT_VALUE)
