"""What a Swin Transformer is made of. Maps are (N, H, W, C), except for images."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

NormLayer = Callable[[int], nn.Module]
# Added to the attention logits of cells that are neighbours only because the map was rolled.
APART = -100.0


def window_partition(x: Tensor, window_size: int) -> Tensor:
    """(N, H, W, C) -> (N * windows, window_size, window_size, C); H and W are multiples of the window."""
    n, h, w, c = x.shape
    x = x.view(n, h // window_size, window_size, w // window_size, window_size, c)
    return x.transpose(2, 3).reshape(-1, window_size, window_size, c)


def window_reverse(windows: Tensor, window_size: int, H: int, W: int) -> Tensor:
    """The inverse of `window_partition`."""
    x = windows.reshape(-1, H // window_size, W // window_size, window_size, window_size, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, H, W, windows.shape[-1])


def _shift_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """(windows, L, L) for a map rolled by `shift`: 0 where two cells of a window belong together, else `APART`."""
    parts = []
    for size in (height, width):
        position = torch.arange(size, device=device)
        parts.append((position >= size - window).long() + (position >= size - shift).long())
    region = (3 * parts[0][:, None] + parts[1])[None, ..., None]
    region = window_partition(region, window).flatten(1)
    return torch.where(region[:, :, None] == region[:, None, :], 0.0, APART)


class Mlp(nn.Module):
    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        drop: float = 0.0,
    ):
        super().__init__()
        hidden_features = hidden_features or in_features
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_features, out_features or in_features)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class WindowAttention(nn.Module):
    """Self-attention of the L cells of a window, with a learned bias for each relative position.

    Args:
        window_size: (height, width) in cells; L is their product.
        qk_scale: of the logits; by default head size ** -0.5.
    """

    def __init__(
        self,
        dim: int,
        window_size: tuple[int, int],
        num_heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.scale = qk_scale
        self.attn_drop = attn_drop
        height, width = window_size
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * height - 1) * (2 * width - 1), num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        cells = torch.cartesian_prod(torch.arange(height), torch.arange(width))
        offset = cells[:, None] - cells[None] + torch.tensor([height - 1, width - 1])
        self.register_buffer("relative_position_index", offset[..., 0] * (2 * width - 1) + offset[..., 1])
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (N * windows, L, C) and mask (windows, L, L), added to the logits -> (N * windows, L, C)."""
        count, length, dim = x.shape
        windows = 1 if mask is None else len(mask)
        # (3, N, windows, heads, L, C / heads)
        qkv = self.qkv(x).view(-1, windows, length, 3, self.num_heads, dim // self.num_heads).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        bias = bias if mask is None else bias + mask[:, None]
        dropout = self.attn_drop if self.training else 0.0
        x = F.scaled_dot_product_attention(*qkv, attn_mask=bias.to(qkv.dtype), dropout_p=dropout, scale=self.scale)
        return self.proj_drop(self.proj(x.transpose(2, 3).reshape(count, length, dim)))


class SwinTransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        shift_size: cells by which the windows are shifted; 0 or half the window.
        drop_path: probability that an image skips a branch while training.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 7,
        shift_size: int = 0,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        norm_layer: NormLayer = nn.LayerNorm,
    ):
        super().__init__()
        assert 0 <= shift_size < window_size, f"Swin: shift {shift_size} is not within the window {window_size}"
        self.window_size = window_size
        self.shift_size = shift_size
        self.norm1 = norm_layer(dim)
        self.attn = WindowAttention(dim, (window_size, window_size), num_heads, qkv_bias, qk_scale, attn_drop, drop)
        self.drop_path = StochasticDepth(drop_path, "row")
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=drop)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window, shift = self.window_size, self.shift_size
        # Padding cells take part in the attention, as they did when the released weights were trained.
        x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        padded_height, padded_width = x.shape[1:3]
        mask = None
        if shift:
            x = x.roll((-shift, -shift), dims=(1, 2))
            mask = _shift_mask(padded_height, padded_width, window, shift, x.device)
        windows = self.attn(window_partition(x, window).flatten(1, 2), mask)
        x = window_reverse(windows, window, padded_height, padded_width)
        if shift:
            x = x.roll((shift, shift), dims=(1, 2))
        return x[:, :height, :width]


class PatchMerging(nn.Module):
    """(N, H, W, C) -> (N, H / 2, W / 2, 2 C), odd sizes padded."""

    def __init__(self, dim: int, norm_layer: NormLayer = nn.LayerNorm):
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class BasicLayer(nn.Module):
    """Blocks on one resolution, shifted and unshifted in turn, and the step to the next resolution.

    Args:
        drop_path: one probability per block.
        downsample: class of that step; None for the last layer.
        block_options: for every `SwinTransformerBlock`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        drop_path: Sequence[float],
        norm_layer: NormLayer,
        downsample: type[PatchMerging] | None,
        use_checkpoint: bool,
        **block_options,
    ):
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.blocks = nn.ModuleList(
            SwinTransformerBlock(
                dim,
                num_heads,
                window_size,
                shift_size=window_size // 2 if i % 2 else 0,
                drop_path=probability,
                norm_layer=norm_layer,
                **block_options,
            )
            for i, probability in enumerate(drop_path)
        )
        self.downsample = downsample(dim, norm_layer) if downsample is not None else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map after the blocks, and the input of the next layer."""
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.use_checkpoint else block(x)
        return x, x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """(N, C, H, W) images -> (N, H / patch_size, W / patch_size, embed_dim), sizes padded to whole patches."""

    def __init__(
        self, patch_size: int = 4, in_chans: int = 3, embed_dim: int = 96, norm_layer: NormLayer | None = None
    ):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.norm = norm_layer(embed_dim) if norm_layer is not None else None

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, -x.shape[3] % self.patch_size, 0, -x.shape[2] % self.patch_size))
        x = self.proj(x).permute(0, 2, 3, 1)
        return x if self.norm is None else self.norm(x)
