"""The config keys of the trainer."""

from detectron2.config import CfgNode as CN


def add_engine_config(cfg: CN) -> None:
    """Adds the keys that `defcn_ext.engine` reads. With the defaults a training step is Detectron2's own.

    Detectron2's own trainers pass over them all, and run the same config with what they have.

    One key of Detectron2 means more here: SEED also sets the augmentation of every sample; left at -1, the data order
    differs from run to run.
    """
    # Stores weights and activations as NHWC ("channels last"). Faster on the CPU and for half precision on GPUs.
    cfg.MODEL.CHANNELS_LAST = False

    # Autocast as with SOLVER.AMP.ENABLED, but on any device: with that key, Detectron2's own trainer asks for a GPU.
    cfg.SOLVER.AMP.ANY_DEVICE = False
    # Number type of autocast: "float16", "bfloat16", or "auto" for the fastest that the device has, float32 on a CPU
    # without bfloat16 instructions. Losses are scaled for float16 on GPUs.
    cfg.SOLVER.AMP.DTYPE = "float16"
    # Each step goes through its IMS_PER_BATCH images in this many parts (a divisor of the images of one process), so
    # that a large batch fits into memory. Gradients are the mean over the parts.
    cfg.SOLVER.ACCUMULATE = 1

    # "SGD" (with SOLVER.MOMENTUM, SOLVER.NESTEROV) or "ADAMW" (betas 0.9 and 0.999).
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Factor on the learning rate of the pre-trained part: `backbone.bottom_up`, or `backbone` where there is no FPN.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # With SOLVER.CLIP_GRADIENTS.ENABLED, CLIP_VALUE bounds the norm of all gradients together, whatever CLIP_TYPE.
    cfg.SOLVER.CLIP_GRADIENTS.FULL_MODEL = False

    # A cosine up to BASE_LR, then a cosine down, in place of SOLVER.LR_SCHEDULER_NAME, WARMUP_* and STEPS.
    cfg.SOLVER.ONE_CYCLE = CN()
    cfg.SOLVER.ONE_CYCLE.ENABLED = False
    # Part of the run, in (0, 1), at which the learning rate is highest.
    cfg.SOLVER.ONE_CYCLE.PEAK = 0.3
    # Learning rate of the first and of the last iteration, as a factor on BASE_LR.
    cfg.SOLVER.ONE_CYCLE.START_FACTOR = 0.04
    cfg.SOLVER.ONE_CYCLE.END_FACTOR = 4e-6

    # Exponential moving average of the weights, used in evaluation and written as the weights of every checkpoint.
    cfg.SOLVER.EMA = CN()
    cfg.SOLVER.EMA.ENABLED = False
    # Weight of the old average at each step, in [0, 1). Step n uses min(DECAY, (1 + n) / (10 + n)).
    cfg.SOLVER.EMA.DECAY = 0.999
