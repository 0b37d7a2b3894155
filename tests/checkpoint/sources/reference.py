"""Slow and obvious forward passes of other code bases, from the entries of their files and plain torch functions."""

import torch
import torch.nn.functional as F
from torchvision.ops import box_iou

STRIDES = (8, 16, 32, 64, 128)
D2 = "backbone.bottom_up."


watched = {}  # outputs of the convs that it names


def conv(s, name, x, stride=1):
    weight = s[f"{name}.weight"]
    out = F.conv2d(x, weight, s.get(f"{name}.bias"), stride=stride, padding=weight.shape[-1] // 2)
    if name in watched:
        watched[name].append(out.flatten())
    return out


def calibrate(s, run, wanted):
    """Gives the outputs of convs a mean and a deviation, so that scores and boxes are of all kinds."""
    watched.update({name: [] for name in wanted})
    run()
    for name, (mean, deviation) in wanted.items():
        values = torch.cat(watched.pop(name))
        factor = deviation / values.std()
        s[f"{name}.weight"] = s[f"{name}.weight"] * factor
        s[f"{name}.bias"] = (s[f"{name}.bias"] - values.mean()) * factor + mean


def frozen_norm(s, name, x):
    weight, bias, mean, var = (
        s[f"{name}.{x}"][:, None, None] for x in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def resnet18(s, x):
    """C3, C4, C5 by Detectron2's names."""

    def layer(name, x, stride=1):
        return frozen_norm(s, f"{D2}{name}.norm", conv(s, D2 + name, x, stride))

    x = F.max_pool2d(layer("stem.conv1", x, 2).relu(), 3, 2, 1)
    stages = []
    for stage in (2, 3, 4, 5):
        for block in (0, 1):
            name, stride = f"res{stage}.{block}.", 2 if stage > 2 and block == 0 else 1
            short = layer(f"{name}shortcut", x, stride) if f"{D2}{name}shortcut.weight" in s else x
            x = (layer(f"{name}conv2", layer(f"{name}conv1", x, stride).relu()) + short).relu()
        stages.append(x)
    return stages[1:]


def pyramid(s, stages, lateral, output, p6, p7, *, from_p5, relu):
    """P3 to P7; `lateral` and `output` are the names of three convs, fine to coarse."""
    c3, c4, c5 = (conv(s, name, x) for name, x in zip(lateral, stages))
    m4 = c4 + F.interpolate(c5, scale_factor=2)
    m3 = c3 + F.interpolate(m4, scale_factor=2)
    maps = [conv(s, name, x) for name, x in zip(output, (m3, m4, c5))]
    sixth = conv(s, p6, maps[2] if from_p5 else stages[2], 2)
    return [*maps, sixth, conv(s, p7, sixth.relu() if relu else sixth, 2)]


def detectron2_pyramid(s, image, *, from_p5):
    names = [[f"backbone.fpn_{kind}{level}" for level in (3, 4, 5)] for kind in ("lateral", "output")]
    tops = "backbone.top_block.p6", "backbone.top_block.p7"
    return pyramid(s, resnet18(s, image), *names, *tops, from_p5=from_p5, relu=True)


def tower(s, convs, norms, x):
    """Convs with their norms, of 32 groups, where they have names; a ReLU after each."""
    for index, name in enumerate(convs):
        x = conv(s, name, x)
        if norms:
            x = F.group_norm(x, 32, s[f"{norms[index]}.weight"], s[f"{norms[index]}.bias"])
        x = x.relu()
    return x


def rows(x, channels):
    """(1, A C, H, W) to (H W A, C)."""
    return x[0].permute(1, 2, 0).reshape(-1, channels)


def grid(x, stride, offset):
    """(H W, 2) points of a map, row by row."""
    height, width = x.shape[-2:]
    return torch.tensor([[(c + offset) * stride, (r + offset) * stride] for r in range(height) for c in range(width)])


def ltrb_boxes(points, distances):
    return torch.cat([points - distances[:, :2], points + distances[:, 2:]], 1)


def delta_boxes(centres, sides, deltas):
    """From anchors of (width, height) `sides` around `centres`."""
    middle = centres + deltas[:, :2] * sides
    half = sides * deltas[:, 2:].clamp(max=torch.log(torch.tensor(1000 / 16)).item()).exp() / 2
    return torch.cat([middle - half, middle + half], 1)


def select(levels, limit, image_size, iou, count=100, clip_first=False):
    """Final boxes, scores and classes.

    Args:
        levels: (boxes (R, 4), final scores, what candidates are ordered by, which are any (all R, K)) of each level.
        limit: candidates of a level.
    """
    boxes, scores, labels = [], [], []
    for level_boxes, final, order, allowed in levels:
        entries = allowed.flatten().nonzero().squeeze(1)
        best = entries[order.flatten()[entries].argsort(descending=True)[:limit]]
        boxes.append(level_boxes[best // final.shape[1]])
        scores.append(final.flatten()[best])
        labels.append(best % final.shape[1])
    boxes, scores, labels = (torch.cat(x) for x in (boxes, scores, labels))
    inside = boxes.clamp(min=0).minimum(torch.tensor([image_size[1], image_size[0]] * 2))
    compared, kept = inside if clip_first else boxes, []
    for index in scores.argsort(descending=True).tolist():
        rivals = [k for k in kept if labels[k] == labels[index]]
        if not rivals or box_iou(compared[[index]], compared[rivals]).nan_to_num(0).max() <= iou:
            kept.append(index)
    kept = kept[:count]
    return inside[kept], scores[kept], labels[kept]
