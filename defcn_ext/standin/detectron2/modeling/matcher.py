"""Assigns predictions to ground-truth objects by thresholds on a pairwise quality such as IoU. Can be scripted."""

import torch


class Matcher:
    """Matches each of `N` predictions to the best of `M` objects and labels it by how good that match is.

    Args:
        thresholds: increasing, above 0; they cut the range of quality into len(thresholds) + 1 intervals. A value
            equal to a threshold belongs to the interval above it.
        labels: one for each interval: 1 positive, 0 negative, -1 ignored.
        allow_low_quality_matches: also label 1 the predictions that are the best of some object, however low.
    """

    def __init__(self, thresholds: list[float], labels: list[int], allow_low_quality_matches: bool = False) -> None:
        assert all([t > 0 for t in thresholds]), f"thresholds must be above 0, got {thresholds}"
        assert list(thresholds) == sorted(thresholds), f"thresholds must increase, got {thresholds}"
        assert all([label in (-1, 0, 1) for label in labels]), f"labels must be -1, 0 or 1, got {labels}"
        assert len(labels) == len(thresholds) + 1, f"{len(thresholds)} thresholds need {len(thresholds) + 1} labels"
        self.thresholds = list(thresholds)
        self.labels = list(labels)
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Matches all predictions.

        Args:
            match_quality_matrix: (M, N), not negative.

        Returns:
            Index of the best object (N,), int64, and label (N,), int8. Without objects: all 0, and all the lowest
            interval's label.
        """
        assert match_quality_matrix.dim() == 2, f"expected (M, N), got {match_quality_matrix.shape}"
        num_objects, num_predictions = match_quality_matrix.shape
        device = match_quality_matrix.device
        if num_objects == 0:
            matches = torch.zeros(num_predictions, dtype=torch.int64, device=device)
            return matches, torch.full_like(matches, self.labels[0], dtype=torch.int8)
        assert torch.all(match_quality_matrix >= 0), "match quality must not be negative"

        quality, matches = match_quality_matrix.max(dim=0)
        thresholds = torch.tensor(self.thresholds, dtype=quality.dtype, device=device)
        labels = torch.tensor(self.labels, dtype=torch.int8, device=device)
        match_labels = labels[torch.bucketize(quality, thresholds, right=True)]
        if self.allow_low_quality_matches:
            self.set_low_quality_matches_(match_labels, match_quality_matrix)
        return matches, match_labels

    def set_low_quality_matches_(self, match_labels: torch.Tensor, match_quality_matrix: torch.Tensor) -> None:
        """Sets label 1, in place, where a prediction reaches the highest quality of any object (ties included).

        The match itself stays: such a prediction may belong to an object that it fits better than that one.
        """
        if match_quality_matrix.numel() == 0:
            return
        best_of_object = match_quality_matrix.max(dim=1, keepdim=True).values
        match_labels[(match_quality_matrix == best_of_object).any(dim=0)] = 1
