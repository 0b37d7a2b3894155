"""Normalisation layers, and the names they have in a config."""

from collections.abc import Callable

import torch
from fvcore.nn.distributed import differentiable_all_reduce
from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.utils import comm


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine part never change: four buffers and no parameter.

    Starts as the identity, so `running_var` is 1 - eps. State dicts of version 0 or 1 may lack the running
    statistics; they then become 0 and 1, which is what those old files mean by it.
    """

    _version = 3

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        # Backward through F.batch_norm would keep the input alive for gradients that nobody asks for.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        version = local_metadata.get("version")
        if version is None or version < 2:
            # torch hands over a shallow copy of the caller's dict, so filling in the gaps does not leak out.
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        return f"num_features={self.num_features}, eps={self.eps}"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replaces every (Sync)BatchNorm2d below `module` by a frozen one; returns the module to use instead."""
        return _convert(module, (nn.BatchNorm2d, nn.SyncBatchNorm), cls)

    @classmethod
    def convert_frozenbatchnorm2d_to_batchnorm2d(cls, module: nn.Module) -> nn.Module:
        """Replaces every frozen norm below `module` by a trainable BatchNorm2d with the same statistics."""
        return _convert(module, (FrozenBatchNorm2d,), nn.BatchNorm2d)


def _convert(module: nn.Module, source: tuple[type, ...], target: type) -> nn.Module:
    if isinstance(module, source):
        converted = target(module.num_features, module.eps).to(module.running_mean.device)
        # Old norms keep their batch counter when frozen, so that a state dict has the same keys before and after.
        if hasattr(module, "num_batches_tracked") and not hasattr(converted, "num_batches_tracked"):
            converted.register_buffer("num_batches_tracked", module.num_batches_tracked.clone())
        state = {k: v.detach().clone() for k, v in module.state_dict().items()}
        converted.load_state_dict(state, strict=False)
        return converted.train(module.training)
    for name, child in module.named_children():
        replaced = _convert(child, source, target)
        if replaced is not child:
            setattr(module, name, replaced)
    return module


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the workers by an all-reduce that autograd knows of.

    Args:
        stats_mode: "" gives every worker the same weight; "N" weighs by its batch size, which may then be 0.
    """

    def __init__(self, *args, stats_mode: str = "", **kwargs):
        super().__init__(*args, **kwargs)
        assert stats_mode in ("", "N"), f"NaiveSyncBatchNorm: stats_mode {stats_mode!r} is neither '' nor 'N'"
        self._stats_mode = stats_mode

    def forward(self, input: Tensor) -> Tensor:
        if comm.get_world_size() == 1 or not self.training:
            return super().forward(input)
        mean, var, seen = self._statistics(input.float())
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        with torch.no_grad():
            # When no worker had an image (weight 0) there is nothing to learn from.
            momentum = self.momentum * seen
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(var.detach(), momentum)
        return (input * scale[:, None, None] + shift[:, None, None]).to(input.dtype)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (C,) and variance (C,) over all workers, and 0 or 1: whether any of them had an image."""
        share = float(len(x)) if self._stats_mode == "N" else 1.0
        assert share == 0 or len(x) > 0, "NaiveSyncBatchNorm: an empty batch needs stats_mode='N'"
        if share:
            local = torch.cat([x.mean(dim=(0, 2, 3)), x.square().mean(dim=(0, 2, 3)), x.new_ones(1)]) * share
        else:
            # Adding x.sum() keeps the empty input in the graph: every worker must take part in the backward reduce.
            local = x.new_zeros(2 * self.num_features + 1) + x.sum()
        total = differentiable_all_reduce(local)
        weight = total[-1].detach()
        mean, mean_of_squares = (total[:-1] / weight.clamp(min=1.0)).chunk(2)
        return mean, mean_of_squares - mean.square(), weight.clamp(max=1.0)


class CycleBatchNormList(nn.ModuleList):
    """Norms with statistics of their own and one shared affine part, used in turn: one per call, round and round.

    For heads that see the pyramid levels one after the other, always all of them and in the same order.

    Args:
        length: the number of norms.
        kwargs: for `bn_class`; must have `num_features`.
    """

    def __init__(self, length: int, bn_class: Callable = nn.BatchNorm2d, **kwargs):
        affine = kwargs.pop("affine", True)
        super().__init__([bn_class(**kwargs, affine=False) for _ in range(length)])
        self._affine = affine
        if affine:
            channels = self[0].num_features
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
        self._next = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self[self._next](x)
        self._next = (self._next + 1) % len(self)
        if self._affine:
            x = x * self.weight[:, None, None] + self.bias[:, None, None]
        return x

    def extra_repr(self) -> str:
        return f"affine={self._affine}"


class LayerNorm(nn.Module):
    """Layer norm over the channels of (N, C, H, W). `normalized_shape` is C."""

    def __init__(self, normalized_shape: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps = eps
        self.normalized_shape = (normalized_shape,)

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "nnSyncBN": nn.SyncBatchNorm,
    "naiveSyncBN": NaiveSyncBatchNorm,
    "naiveSyncBN_N": lambda channels: NaiveSyncBatchNorm(channels, stats_mode="N"),
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
    "LN": LayerNorm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """The norm that a config names, or that a callable makes, for `out_channels`; None for "" and None.

    Raises:
        KeyError: an unknown name.
    """
    if norm is None or norm == "":
        return None
    if isinstance(norm, str):
        if norm not in _NORMS:
            raise KeyError(f"unknown norm {norm!r}; known: {', '.join(_NORMS)}")
        norm = _NORMS[norm]
    return norm(out_channels)
