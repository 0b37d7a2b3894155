"""Step four: how much each selected pair pulls its score up and down.

A weighting step takes the scene, the selected pairs, their quality (P,) and the training progress in [0, 1], and
returns the pairs with `positive` and `negative` filled in. A rule without this step is
hard: every pair is a full positive, everything else a full negative.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from defcn_ext.structures import Pairs

from .scene import Scene

Weighting = Callable[[Scene, Pairs, Tensor, float], Pairs]
