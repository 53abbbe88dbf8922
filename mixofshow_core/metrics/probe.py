"""Which of some named answers do features show: a linear probe (multinomial logistic regression)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..errors import MixOfShowError


@dataclass(frozen=True)
class LinearProbe:
    """answers: C words; weight [C, D] and bias [C] act on (features - mean) / scale, both [D]."""

    answers: tuple[str, ...]
    weight: torch.Tensor
    bias: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def __post_init__(self) -> None:
        count, width = self.weight.shape
        if (
            len(self.answers) != count
            or self.bias.shape != (count,)
            or self.mean.shape != (width,)
            or self.scale.shape != (width,)
        ):
            raise MixOfShowError(
                f"A probe of {len(self.answers)} answers cannot have weights of shape "
                f"{tuple(self.weight.shape)}: one row per answer is needed."
            )

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """[N, D] -> [N, C]."""
        if features.ndim != 2 or features.shape[1] != self.weight.shape[1]:
            raise MixOfShowError(
                f"This probe reads features of width {self.weight.shape[1]}, not a tensor of shape "
                f"{tuple(features.shape)}: they come from another evaluator."
            )
        return (features.float() - self.mean) / self.scale @ self.weight.T + self.bias

    def answer(self, features: torch.Tensor) -> tuple[str, ...]:
        """The likeliest answer for every row of [N, D]."""
        return tuple(self.answers[i] for i in self.logits(features).argmax(1).tolist())


def fit_probe(features: torch.Tensor, labels: Sequence[str], decay: float = 3e-3, steps: int = 60) -> LinearProbe:
    """Fit [N, D] against N words by L-BFGS on the cross entropy, averaged so that every answer weighs the same."""
    if features.ndim != 2 or len(features) != len(labels):
        raise MixOfShowError(
            f"Fitting a probe needs one label per picture: {len(labels)} labels, features of shape "
            f"{tuple(features.shape)}."
        )
    answers = tuple(sorted(set(labels)))
    if len(answers) < 2:
        raise MixOfShowError(f"Fitting a probe needs at least two different labels, not only {list(answers)}.")
    target = torch.tensor([answers.index(label) for label in labels])
    balance = len(labels) / (len(answers) * torch.bincount(target).float())
    mean, scale = features.float().mean(0), features.float().std(0) + 0.05
    rows = (features.float() - mean) / scale
    weight = torch.zeros(len(answers), rows.shape[1], requires_grad=True)
    bias = torch.zeros(len(answers), requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(rows @ weight.T + bias, target, weight=balance) + decay * weight.pow(2).sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    return LinearProbe(answers, weight.detach(), bias.detach(), mean, scale)
