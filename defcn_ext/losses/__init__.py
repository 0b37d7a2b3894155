from .boxes import giou_loss, iou_loss, normalized_l1, paired_giou, paired_iou
from .focal import focal_loss_sum, product_logit, root_logit
from .normalizer import worker_mean
from .ranking import ranking_loss
from .weighted import dual_losses, soft_label, weighted_loss_sum

__all__ = [
    "dual_losses",
    "focal_loss_sum",
    "giou_loss",
    "iou_loss",
    "normalized_l1",
    "paired_giou",
    "paired_iou",
    "product_logit",
    "root_logit",
    "ranking_loss",
    "soft_label",
    "weighted_loss_sum",
    "worker_mean",
]
