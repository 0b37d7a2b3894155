"""A predictor and a trainer made from a config. What a script does before them is in `startup`, and here too."""

import logging
import weakref
from collections import OrderedDict
from collections.abc import Mapping

import torch
from fvcore.nn.precise_bn import get_bn_modules

import detectron2.data.transforms as T
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader, build_detection_train_loader
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format, verify_results
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from . import hooks
from .startup import create_ddp_model, default_argument_parser, default_setup, default_writers
from .train_loop import AMPTrainer, SimpleTrainer, TrainerBase

__all__ = [
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "default_writers",
    "DefaultPredictor",
    "DefaultTrainer",
]


class DefaultPredictor:
    """A model for single images, with the weights MODEL.WEIGHTS and the size of test images.

    Attributes:
        metadata: of the first data set of DATASETS.TEST, if there is one.
    """

    def __init__(self, cfg):
        """Raises AssertionError if INPUT.FORMAT is neither RGB nor BGR."""
        self.input_format = cfg.INPUT.FORMAT
        assert self.input_format in ("RGB", "BGR"), f"INPUT.FORMAT: {self.input_format!r}; use RGB or BGR"
        self.cfg = cfg.clone()  # the caller may change its own
        self.model = build_model(self.cfg)
        self.model.eval()
        if len(cfg.DATASETS.TEST):
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        shortest = cfg.INPUT.MIN_SIZE_TEST
        self.aug = T.ResizeShortestEdge([shortest, shortest], cfg.INPUT.MAX_SIZE_TEST)

    @torch.no_grad()
    def __call__(self, original_image):
        """
        Args:
            original_image: (H, W, 3) uint8 array, always BGR.

        Returns:
            dict: the model's output for the image, in pixels of the original.
        """
        if original_image.ndim != 3 or original_image.shape[2] != 3:
            raise ValueError(f"DefaultPredictor takes BGR images (H, W, 3), and got the shape {original_image.shape}")
        if self.input_format == "RGB":
            original_image = original_image[:, :, ::-1]
        height, width = original_image.shape[:2]
        image = self.aug.get_transform(original_image).apply_image(original_image)
        tensor = torch.as_tensor(image.astype("float32").transpose(2, 0, 1)).to(self.cfg.MODEL.DEVICE)
        return self.model([{"image": tensor, "height": height, "width": width}])[0]


def _forwarded(name: str) -> property:
    """An attribute that lives in the wrapped trainer."""
    return property(
        lambda self: getattr(self._trainer, name),
        lambda self, value: setattr(self._trainer, name, value),
    )


class DefaultTrainer(TrainerBase):
    """A whole training from a config: `DefaultTrainer(cfg)`, `resume_or_load()`, `train()`.

    Subclasses change parts by overriding the `build_*` methods.

    Attributes:
        scheduler: of the learning rate.
        checkpointer: saves and loads model and trainer.
        cfg: the config, scaled to the number of workers if REFERENCE_WORLD_SIZE asks for it.
    """

    model = _forwarded("model")
    data_loader = _forwarded("data_loader")
    optimizer = _forwarded("optimizer")

    def __init__(self, cfg):
        super().__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()  # default_setup was not called
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        trainer = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = trainer(create_ddp_model(model, broadcast_buffers=False), data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        # A strong reference would be a cycle, which keeps the model on the GPU until it is collected.
        self.checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume=True):
        """Continues from the last checkpoint in OUTPUT_DIR if `resume` and there is one, else loads MODEL.WEIGHTS."""
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # the checkpoint holds the last finished one

    def build_hooks(self):
        """List of hooks, in their order: time first, output last, so that it sees what the others record."""
        cfg = self.cfg
        everywhere = [hooks.IterationTimer(), hooks.LRScheduler(), self._precise_bn()]
        evaluation = hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate)
        if not comm.is_main_process():
            return [*everywhere, evaluation]
        return [
            *everywhere,
            hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD),
            evaluation,
            hooks.PeriodicWriter(self.build_writers(), period=20),
        ]

    def build_writers(self):
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self):
        """Runs from `start_iter` to `max_iter`.

        Returns:
            OrderedDict of the last evaluation if TEST.EXPECTED_RESULTS is set (rank 0), else None.
        """
        super().train(self.start_iter, self.max_iter)
        if len(self.cfg.TEST.EXPECTED_RESULTS) and comm.is_main_process():
            verify_results(self.cfg, self._last_eval_results)
            return self._last_eval_results

    def run_step(self):
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self):
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg):
        model = build_model(cfg)
        logging.getLogger(__name__).info(f"Model:\n{model}")
        return model

    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        """The evaluator of a test set. There is no default."""
        raise NotImplementedError(
            "To evaluate, override build_evaluator(cfg, dataset_name) of the trainer, or pass `evaluators` to test()"
        )

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """Evaluates on DATASETS.TEST.

        Args:
            evaluators: an evaluator or a list of them, one for each test set; default is `build_evaluator`.

        Returns:
            OrderedDict: results of the only test set, or of each by its name. {} for one without evaluator, and on
            ranks above 0.

        Raises:
            AssertionError: the number of evaluators is not that of test sets.
        """
        logger = logging.getLogger(__name__)
        names = cfg.DATASETS.TEST
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        assert evaluators is None or len(evaluators) == len(names), f"{len(evaluators)} evaluators for {names}"
        results = OrderedDict()
        for index, name in enumerate(names):
            loader = cls.build_test_loader(cfg, name)
            try:
                evaluator = cls.build_evaluator(cfg, name) if evaluators is None else evaluators[index]
            except NotImplementedError as error:
                logger.warning(f"No evaluation on {name}: {error}")
                results[name] = {}
                continue
            results[name] = inference_on_dataset(model, loader, evaluator)
            if comm.is_main_process():
                assert isinstance(results[name], Mapping), f"An evaluator must return a dict, not {results[name]!r}"
                logger.info(f"Evaluation results for {name} in csv format:")
                print_csv_format(results[name])
        return results[names[0]] if len(names) == 1 else results

    @staticmethod
    def auto_scale_workers(cfg, num_workers: int):
        """Rescales the config if REFERENCE_WORLD_SIZE is set and is not `num_workers`.

        Batch size and learning rate grow with the workers, and all lengths in iterations shrink, so that the number
        of epochs stays. A changed config is a new one.

        Raises:
            AssertionError: REFERENCE_WORLD_SIZE does not divide IMS_PER_BATCH.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        was_frozen = cfg.is_frozen()
        cfg = cfg.clone()
        cfg.defrost()
        assert cfg.SOLVER.IMS_PER_BATCH % reference == 0, (
            f"SOLVER.REFERENCE_WORLD_SIZE {reference} does not divide SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH}"
        )
        _scale(cfg, num_workers / reference)
        cfg.SOLVER.REFERENCE_WORLD_SIZE = num_workers  # scaling again must change nothing
        solver = cfg.SOLVER
        logging.getLogger(__name__).info(
            f"Config scaled to {num_workers} workers: batch_size={solver.IMS_PER_BATCH}, "
            f"learning_rate={solver.BASE_LR}, max_iter={solver.MAX_ITER}, warmup={solver.WARMUP_ITERS}"
        )
        if was_frozen:
            cfg.freeze()
        return cfg

    def _evaluate(self):
        self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    def _precise_bn(self):
        if not (self.cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model)):
            return None
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # a second set of workers would double the memory
        loader = self.build_train_loader(cfg)
        return hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, cfg.TEST.PRECISE_BN.NUM_ITER)


def _scale(cfg: CfgNode, scale: float) -> None:
    """Changes the config in place for `scale` times as many workers."""
    solver = cfg.SOLVER
    solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * scale)
    solver.BASE_LR = solver.BASE_LR * scale
    solver.MAX_ITER = round(solver.MAX_ITER / scale)
    solver.WARMUP_ITERS = round(solver.WARMUP_ITERS / scale)
    solver.STEPS = tuple(round(step / scale) for step in solver.STEPS)
    solver.CHECKPOINT_PERIOD = round(solver.CHECKPOINT_PERIOD / scale)
    cfg.TEST.EVAL_PERIOD = round(cfg.TEST.EVAL_PERIOD / scale)
