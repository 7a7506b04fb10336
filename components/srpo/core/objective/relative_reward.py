"""SRPO: a reward that is the difference between a positive and a negative control word (paper, section 3.2).

A CLIP-like reward is ``f_img . f_txt``. A control word goes before the prompt, in the reward's text only; the velocity
model always sees the plain prompt. ``C1`` is the text feature of the prompt with the wanted word, ``C2`` with the
other. Shapes: features are ``[B, D]`` of unit norm; rewards, discounts and losses ``[B]``.
"""

from typing import Literal

import torch
from torch import Tensor

Form = Literal["stable", "srp", "sgp", "cfg", "plain"]


def with_word(word: str, prompt: str) -> str:
    """The reward's text: ``"<word>. <prompt>"``, or the plain prompt when ``word`` is empty."""
    return f"{word}. {prompt}" if word else prompt


def relative_reward(image: Tensor, wanted: Tensor, other: Tensor, k: Tensor, form: Form = "stable") -> Tensor:
    """The reward of ``image`` for the wanted against the other word.

    ==========  ===============================  =======================================
    ``plain``   ``f . C1``                       give the plain prompt as ``wanted``
    ``sgp``     ``f . C1``                       semantic guided preference
    ``srp``     ``f . (C1 - C2)``                eq. 8
    ``cfg``     ``f . ((1 - k) C2 + k C1)``      eq. 10
    ``stable``  ``f . ((1 + k) C1 - C2)``        as the released trainer, "more stable"
    ==========  ===============================  =======================================

    Args:
        image, wanted, other: ``[B, D]``, unit norm.
        k: discount, ``[B]``.

    Returns:
        ``[B]``.
    """
    towards, away = (image * wanted).sum(-1), (image * other).sum(-1)
    if form in ("plain", "sgp"):
        return towards
    if form == "srp":
        return towards - away
    if form == "cfg":
        return (1 - k) * away + k * towards
    if form == "stable":
        return (1 + k) * towards - away
    raise ValueError(f"form is {form!r}: it must be 'stable', 'srp', 'sgp', 'cfg' or 'plain'")


def branch_reward(
    inverted: Tensor, image: Tensor, positive: Tensor, negative: Tensor, k: Tensor, form: Form = "stable"
) -> Tensor:
    """The reward that a branch maximises: positive against negative in *denoise*, the other way in *inversion*.

    Recovery flips its sign between the branches, so both push the velocity the same way; what the two texts share is
    weighted by about ``k_denoise - k_inversion``, which is what keeps the reward from being hacked.

    Args:
        inverted: bool ``[B]``, which images are of the inversion branch.
        image, positive, negative: ``[B, D]``, unit norm.
        k: discount, ``[B]``.
        form: see :func:`relative_reward`.
    """
    swap = inverted[:, None]
    wanted, other = torch.where(swap, negative, positive), torch.where(swap, positive, negative)
    return relative_reward(image, wanted, other, k, form)


def image_pair_reward(inverted: Tensor, clean: Tensor, noised: Tensor, k: Tensor) -> Tensor:
    """The relative reward of a scorer without text: the image against a slightly noised copy of it.

    ``clean`` and ``noised`` are its scores ``[B]``; the two take the place of the positive and the negative text.
    ``inverted`` is bool ``[B]``: which images are of the inversion branch.
    """
    return (1 + k) * torch.where(inverted, noised, clean) - torch.where(inverted, clean, noised)


def reward_loss(reward: Tensor, margin: float | None, weight: Tensor | float = 1.0) -> Tensor:
    """The loss of each sample: ``relu(margin - weight r)``, or ``-weight r`` without a margin.

    With a margin there is no gradient once the reward has reached it. ``weight`` is the multiplier lambda of eq. 6.
    """
    return -weight * reward if margin is None else torch.relu(margin - weight * reward)
