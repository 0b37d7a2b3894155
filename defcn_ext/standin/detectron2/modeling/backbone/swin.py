"""Swin Transformer (Liu et al., 2021): attention within windows, which every second block shifts by half a window."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbone import Backbone
from .swin_blocks import (
    BasicLayer,
    Mlp,
    NormLayer,
    PatchEmbed,
    PatchMerging,
    SwinTransformerBlock,
    WindowAttention,
    window_partition,
    window_reverse,
)

__all__ = [
    "BasicLayer",
    "Mlp",
    "PatchEmbed",
    "PatchMerging",
    "SwinTransformer",
    "SwinTransformerBlock",
    "WindowAttention",
    "window_partition",
    "window_reverse",
]


class SwinTransformer(Backbone):
    """Four layers of strides 4, 8, 16 and 32 (with patches of 4), named p0 to p3.

    Args:
        pretrain_img_size: pixels; only sizes the absolute position embedding.
        patch_size: pixels.
        depths, num_heads: one number per layer.
        window_size: cells.
        drop_path_rate: of the last block; the rates rise linearly from 0.
        ape: add an absolute position embedding to the patches.
        out_indices: the layers to return, each with a norm of its own.
        frozen_stages: -1 trains everything, 0 freezes the patches, 1 also the position embedding, k also the first
            k - 1 layers.
        use_checkpoint: recompute activations in backward, to save memory.
    """

    def __init__(
        self,
        pretrain_img_size: int = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
        norm_layer: NormLayer = nn.LayerNorm,
        ape: bool = False,
        patch_norm: bool = True,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim, norm_layer if patch_norm else None)
        self.absolute_pos_embed = None
        if ape:
            side = pretrain_img_size // patch_size
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, embed_dim, side, side))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.pos_drop = nn.Dropout(drop_rate)
        drop_paths = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(list(depths))
        channels = [embed_dim * 2**i for i in range(len(depths))]
        self.layers = nn.ModuleList(
            BasicLayer(
                channels[i],
                num_heads[i],
                window_size,
                drop_paths[i].tolist(),
                norm_layer,
                PatchMerging if i + 1 < len(depths) else None,
                use_checkpoint,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
                drop=drop_rate,
                attn_drop=attn_drop_rate,
            )
            for i in range(len(depths))
        )
        for i in self.out_indices:
            self.add_module(f"norm{i}", norm_layer(channels[i]))
        self._out_features = [f"p{i}" for i in self.out_indices]
        self._out_feature_channels = {f"p{i}": channels[i] for i in self.out_indices}
        self._out_feature_strides = {f"p{i}": patch_size * 2**i for i in self.out_indices}
        self.apply(_init_weights)
        for module in self._frozen_modules():
            module.requires_grad_(False)
        if ape and frozen_stages >= 1:
            self.absolute_pos_embed.requires_grad_(False)

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.patch_embed, *self.layers[: max(self.frozen_stages - 1, 0)]]

    def train(self, mode: bool = True) -> "SwinTransformer":
        """Frozen parts stay in eval mode, without dropout."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) -> the maps of `out_indices`, (N, C_i, H_i, W_i)."""
        x = self.patch_embed(x)
        if self.absolute_pos_embed is not None:
            position = F.interpolate(self.absolute_pos_embed, size=x.shape[1:3], mode="bicubic")
            x = x + position.permute(0, 2, 3, 1)
        x = self.pos_drop(x)
        outputs = {}
        for i, layer in enumerate(self.layers):
            out, x = layer(x)
            if i in self.out_indices:
                outputs[f"p{i}"] = getattr(self, f"norm{i}")(out).permute(0, 3, 1, 2).contiguous()
        return outputs


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
