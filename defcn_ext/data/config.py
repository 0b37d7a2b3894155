"""Config keys of the data pipeline. Their defaults give Detectron2's own behaviour, plus the check of files."""

from detectron2.config import CfgNode


def add_data_config(cfg: CfgNode) -> None:
    """Adds DATASETS.REGISTER, CLASSES, CHECK_FILES and the INPUT keys below to `cfg`."""
    # One's own COCO-format data: a list of "NAME=JSON:IMAGE_DIR", or in yaml of {name: .., json: .., images: ..}.
    # The names can then be used in DATASETS.TRAIN and DATASETS.TEST.
    cfg.DATASETS.REGISTER = ()

    # Names of the model's classes in the order of its outputs. (): those that the checkpoint names, else those of the
    # first training set. Every data set is matched to them by name, whatever ids its own file gives them.
    cfg.DATASETS.CLASSES = ()

    # "header": before training and evaluation, open every image file and read its header (no pixels): unreadable ones
    # are skipped in training and named in evaluation, and wrong sizes in the json are put right. "none": don't.
    cfg.DATASETS.CHECK_FILES = "header"

    # Share of the training images that DATALOADER.SAMPLER_TRAIN "RandomSubsetTrainingSampler" takes, in (0, 1].
    # Detectron2 reads this key and does not declare it.
    cfg.DATALOADER.setdefault("RANDOM_SUBSET_RATIO", 1.0)

    # Flip horizontally and vertically, each with probability 1/2, whatever INPUT.RANDOM_FLIP.
    cfg.INPUT.FLIP_BOTH = False

    # Brightness, contrast and saturation are each multiplied by a factor drawn from [1 - x, 1 + x]. 0: off.
    cfg.INPUT.COLOR_JITTER = 0.0

    # (lowest, highest) scale, for small data sets: each image is fitted into a square of SCALE_JITTER_SIZE pixels
    # times a scale drawn from the range, then cropped or padded to that square. Replaces the resize to
    # MIN_SIZE_TRAIN. (): off.
    cfg.INPUT.SCALE_JITTER = ()

    # Side of that square in pixels. 0: the largest of MIN_SIZE_TRAIN.
    cfg.INPUT.SCALE_JITTER_SIZE = 0

    # DETR's crops (arXiv 2005.12872, appendix A.4; DATE trains 36 epochs so): half of the images are resized to a short
    # side drawn from SIZES and cropped to sides drawn from CROP, (lowest, highest), at most the image's own; then all
    # are resized to MIN_SIZE_TRAIN. Pixels. The longer side stays within MAX_SIZE_TRAIN in both resizes.
    cfg.INPUT.DETR_CROP = CfgNode()
    cfg.INPUT.DETR_CROP.ENABLED = False
    cfg.INPUT.DETR_CROP.SIZES = (400, 500, 600)
    cfg.INPUT.DETR_CROP.CROP = (384, 600)

    # Pictures mixed with others of the training, for more objects a picture (DEIM, arXiv 2412.04234): the probability
    # of MOSAIC, four pictures in one; MIXUP, another picture shining through; COPY_BLEND, objects of another picture
    # copied in. DEIM has 0.5 each. 0: off. A mixed picture keeps its size; a mosaic reads four files.
    cfg.INPUT.MIX = CfgNode()
    cfg.INPUT.MIX.MOSAIC = 0.0
    cfg.INPUT.MIX.MIXUP = 0.0
    cfg.INPUT.MIX.COPY_BLEND = 0.0
    # (start, stop): shares of SOLVER.MAX_ITER between which pictures are mixed.
    cfg.INPUT.MIX.SHARES = (0.07, 0.5)
    # Most objects that COPY_BLEND takes, and their smallest box in square pixels of the network's input.
    cfg.INPUT.MIX.COPIES = 3
    cfg.INPUT.MIX.MIN_AREA = 100.0
    # (lowest, highest) weight of the picture itself where another shines through.
    cfg.INPUT.MIX.BLEND = (0.45, 0.55)

    # Keep decoded training images in memory (height x width x 3 bytes each, once per loader worker).
    cfg.INPUT.CACHE = False
