"""Several centres for each class: how their scores become one score for the class."""

import torch


class NearestCentre:
    """A class scores as the best of its centres; of equal ones the first gets the gradient."""

    def combine(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (n, K, B) for centres -> (n, B) for classes."""
        return scores.amax(1)

    def spread(self, scores: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
        """Slopes (n, B) by the classes' scores -> (n, K, B) by the centres', which are written over."""
        best = scores.amax(1)
        left = slopes
        for centre in scores.unbind(1):
            centre.eq_(best).mul_(left)
            left = left - centre
        return scores


class SoftCentres:
    """A class scores as the mean of its centres' scores, weighted by their softmax over a temperature."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def combine(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (n, K, B) for centres -> (n, B) for classes."""
        return self._weights(scores).mul_(scores).sum(1)

    def spread(self, scores: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
        """Slopes (n, B) by the classes' scores -> (n, K, B) by the centres', whose scores are written over.

        With weights p and mean S the slope of S by the score s_k is p_k (1 + (s_k - S) / temperature).
        """
        weights = self._weights(scores)
        means = (weights * scores).sum(1)
        by_temperature = slopes / self.temperature
        constant = slopes - by_temperature * means
        return scores.mul_(by_temperature[:, None]).add_(constant[:, None]).mul_(weights)

    def _weights(self, scores: torch.Tensor) -> torch.Tensor:
        return (scores / self.temperature).softmax(1)
