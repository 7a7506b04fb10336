"""Scores of images under a reward whose text features are known: for judging, not for training."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from srpo.core.contracts.tensors import TextFeatures


def prompt_scores(features: Tensor, texts: TextFeatures, prompt_ids: Sequence[str]) -> dict[str, Tensor]:
    """``score`` and ``srp`` of images, each ``[B]`` on the CPU.

    Args:
        features: unit image features ``[B, D]``.
        texts: the reward's text features.
        prompt_ids: the prompt of each image.

    ``score`` is the cosine with the plain prompt (alignment); ``srp`` the mean cosine with the prompt under each
    positive word less the mean under each negative word (style), over all words of the reward.
    """
    features = features.float().cpu()
    plain = torch.from_numpy(np.stack([texts(prompt_id) for prompt_id in prompt_ids]))

    def mean_feature(words: Sequence[str]) -> Tensor:
        return torch.from_numpy(
            np.stack([np.mean([texts(prompt_id, word) for word in words], axis=0) for prompt_id in prompt_ids])
        )

    style = mean_feature(texts.positive_words) - mean_feature(texts.negative_words)
    return {"score": (features * plain).sum(-1), "srp": (features * style).sum(-1)}
