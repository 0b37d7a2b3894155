from .boxes import giou_loss, paired_iou
from .focal import focal_loss_sum, product_logit
from .normalizer import worker_mean

__all__ = ["focal_loss_sum", "giou_loss", "paired_iou", "product_logit", "worker_mean"]
