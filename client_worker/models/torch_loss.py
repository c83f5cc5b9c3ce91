"""What a PyTorch loss takes for labels, what its outputs mean, and over how much it is a mean."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from client_worker.models.torch_backend import torch
from warren_shared.errors import ConfigError
from warren_shared.tensors.evaluation import (
    MAX_CLASSES,
    Evaluation,
    most_likely,
    of_classes,
    of_scores,
)
from warren_shared.tensors.layout import Array

nn: Final = torch.nn
CLASSES: Final = "classes"  # labels are numbers of classes, outputs a score for each
BINARY: Final = "binary"  # labels are 0 to 1, an output is a probability or a logit
NUMBERS: Final = "numbers"
MODULES: Final = {
    nn.CrossEntropyLoss: CLASSES,
    nn.NLLLoss: CLASSES,
    nn.BCELoss: BINARY,
    nn.BCEWithLogitsLoss: BINARY,
    nn.MSELoss: NUMBERS,
    nn.L1Loss: NUMBERS,
    nn.SmoothL1Loss: NUMBERS,
    nn.HuberLoss: NUMBERS,
}
FUNCTIONS: Final = {
    nn.functional.cross_entropy: nn.CrossEntropyLoss,
    nn.functional.nll_loss: nn.NLLLoss,
    nn.functional.binary_cross_entropy: nn.BCELoss,
    nn.functional.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    nn.functional.mse_loss: nn.MSELoss,
    nn.functional.l1_loss: nn.L1Loss,
    nn.functional.smooth_l1_loss: nn.SmoothL1Loss,
    nn.functional.huber_loss: nn.HuberLoss,
}


@dataclass(frozen=True)
class Loss:
    """A loss of PyTorch's own, known exactly, or any ``function(output, y)`` without a kind."""

    function: Any
    kind: str | None

    @classmethod
    def of(cls, loss: Any) -> "Loss":
        """Return ``loss`` as it is used here.

        Raises ConfigError for one whose parameters would not be trained, or that is no mean.
        """
        if loss in FUNCTIONS:
            loss = FUNCTIONS[loss]()
        if isinstance(loss, type) or not callable(loss):
            raise ConfigError(f"loss={loss!r}: give a function of (output, y), such as"
                              " torch.nn.CrossEntropyLoss()")  # fmt: skip
        if isinstance(loss, nn.Module):
            if any(True for _ in loss.parameters()):
                raise ConfigError("the loss has parameters, which would not be federated: make it"
                                  " a part of the module, and give step=")  # fmt: skip
            if getattr(loss, "reduction", "mean") != "mean":
                raise ConfigError(f"the loss has reduction={loss.reduction!r}: the learning rate is"
                                  " that of a mean over a batch; leave reduction out")  # fmt: skip
        return cls(loss, MODULES.get(type(loss)))

    @property
    def of_logits(self) -> bool:
        """Whether a binary loss takes logits for outputs."""
        return type(self.function) is nn.BCEWithLogitsLoss

    def __call__(self, output: Any, y: Any) -> Any:
        """The mean loss of a batch."""
        return self.function(output, self.fitting(output, y))

    def fitting(self, output: Any, y: Any) -> Any:
        """Return labels in the shape and dtype that the loss takes.

        A column of outputs (n, 1) beside labels (n,) would be spread out to (n, n).
        Raises ConfigError for labels that the loss does not take.
        """
        if self.kind is None or not (isinstance(output, torch.Tensor) and torch.is_tensor(y)):
            return y
        if self.kind == CLASSES:
            return self._classes(output, y)
        if y.shape != output.shape:
            if y.numel() != output.numel() or len(y) != len(output):
                raise ConfigError(f"outputs have shape {list(output.shape)} and labels"
                                  f" {list(y.shape)}: give a label for each output")  # fmt: skip
            y = y.reshape(output.shape)
        y = y.to(output.dtype)
        if self.kind == BINARY and not bool(((y >= 0) & (y <= 1)).all()):
            raise ConfigError(_wrong(y[(y < 0) | (y > 1)], self._name, "0 to 1"))
        return y

    def _classes(self, output: Any, y: Any) -> Any:
        if y.is_floating_point():
            if y.shape == output.shape:
                return y  # probabilities of classes
            raise ConfigError(f"{self._name} takes whole numbers of classes, and labels are"
                              f" {str(y.dtype).removeprefix('torch.')} of shape {list(y.shape)}:"
                              " convert them with y.long()")  # fmt: skip
        if y.ndim == output.ndim and y.shape[1:] == (1,):
            y = y[:, 0]
        y = y.long()
        high = output.shape[1 if output.ndim > 1 else 0]
        right = ((y >= 0) & (y < high)) | (y == self.function.ignore_index)
        if not bool(right.all()):
            raise ConfigError(_wrong(y[~right], self._name, f"whole numbers from 0 to {high - 1}"))
        return y

    @property
    def _name(self) -> str:
        return type(self.function).__name__

    def weight(self, output: Any, y: Any) -> float:
        """How much a batch's mean counts in that of several: its rows, or what the loss divides by.

        A cross-entropy divides by the weights of the labels that it does not ignore.
        """
        if self.kind != CLASSES or not torch.is_tensor(y) or y.is_floating_point():
            return float(len(y))
        labels = self._classes(output, y)
        labels = labels[labels != self.function.ignore_index]
        weights = self.function.weight
        return float(len(labels.ravel()) if weights is None else weights[labels].sum())

    def counts(self, outputs: Array, labels: Array) -> Evaluation | None:
        """Right and wrong predictions of a model that answers one question; None of any other."""
        if self.kind == CLASSES and outputs.ndim == 2 and 2 <= outputs.shape[1] <= MAX_CLASSES:
            if labels.shape == outputs.shape:
                labels = labels.argmax(axis=1)
            labels = labels.reshape(len(labels), -1)[:, 0]
            there = labels != self.function.ignore_index
            if not there.any():
                return None
            return of_classes(labels[there], most_likely(outputs[there]), outputs.shape[1])
        if self.kind == BINARY and outputs.size == len(outputs):
            if not np.isin(labels, (0, 1)).all():
                return None  # soft labels have no ROC curve
            return of_scores(labels, outputs, 0.0 if self.of_logits else 0.5)
        return None

    @property
    def is_counted(self) -> bool:
        """Whether outputs may mean something that can be counted."""
        return self.kind in (CLASSES, BINARY)


def _wrong(values: Any, loss: str, words: str) -> str:
    found = ", ".join(f"{float(value):g}" for value in torch.unique(values)[:3])
    return f"{values.numel()} labels such as {found}: {loss} takes {words}; map the labels to that"
