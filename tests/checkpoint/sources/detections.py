"""A converted file, loaded as anyone would, beside the detections of the code that it comes from."""

import io
from contextlib import redirect_stdout

import numpy as np
import torch

from defcn_ext.checkpoint import Checkpoint
from defcn_ext.checkpoint.convert import convert
from defcn_ext.checkpoint.writing import write
from defcn_ext.predictor import Predictor
from defcn_ext.tools import convert_checkpoint


def picture(height, width, seed=0):
    """(H, W, 3) uint8, smooth enough that a detector sees shapes in it."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, height // 16, width // 16)))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    return (smooth.permute(1, 2, 0).numpy() * 0.8 + rng.uniform(0, 50, (height, width, 3))).astype(np.uint8)


def randomised(model, seed=0, spread=0.5):
    """Weights and statistics that no fresh model has, of maps that neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)

    def draw(shape, scale):
        return torch.randn(shape, generator=generator) * scale

    for name, value in model.state_dict().items():
        if name.endswith("running_var") or (value.dim() == 1 and name.endswith("weight")):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.dim() > 1:
            value.copy_(draw(value.shape, (1.5 / value[0].numel()) ** 0.5))
        elif value.dtype.is_floating_point:
            value.copy_(draw(value.shape, 0.2 * spread))
    return model.eval()


def calibrated(model, run, wanted):
    """Gives the outputs of convs a mean and a deviation, so that scores and boxes are of all kinds.

    Args:
        run: calls the model.
        wanted: (mean, deviation) by the name of a conv.
    """
    seen = {name: [] for name in wanted}
    modules = {name: model.get_submodule(name) for name in wanted}
    hooks = [
        m.register_forward_hook(lambda _, x, y, name=n: seen[name].append(y.flatten())) for n, m in modules.items()
    ]
    run()
    for name, module in modules.items():
        values, (mean, deviation) = torch.cat(seen[name]), wanted[name]
        factor = deviation / values.std()
        module.weight.data *= factor
        module.bias.data = (module.bias.data - values.mean()) * factor + mean
    for hook in hooks:
        hook.remove()
    return model


def converted(path, state, extras=None, **kwargs):
    """The conversion, written to `path` as the command writes it."""
    done = convert(Checkpoint("in.pth", state, extras or {}), **kwargs)
    write(done, path)
    return done


def command(source, out, *args):
    """Status and report of the command line."""
    text = io.StringIO()
    with redirect_stdout(text):
        status = convert_checkpoint.main([str(source), str(out), *args])
    return status, text.getvalue()


def load(path, image, *opts):
    """The detector in a converted file, for images of one size, which they keep."""
    sizes = ("INPUT.MIN_SIZE_TEST", str(min(image.shape[:2])), "INPUT.MAX_SIZE_TEST", str(max(image.shape[:2])))
    return Predictor.load(path, opts=["MODEL.DEVICE", "cpu", *sizes, *opts])


@torch.no_grad()
def everywhere(predictor, image):
    """(R, 4) boxes and (R, K) final scores at all points."""
    model = predictor.model
    images = model.preprocess_image([predictor._inputs(image)])
    points, features = model.extract(images.tensor)
    said = model.predict(points, features, model.test_branch)
    scores = said.score_logits()[0].sigmoid()
    if said.centerness is not None:
        scores = model.branches[model.test_branch].final_scores(scores, said.centerness[0].expand_as(scores))
    return said.boxes[0], scores


def assert_same_detections(instances, boxes, scores, labels, *, at_least=10):
    """Equal boxes, scores and classes, in whatever order near ones come; those of no area count for nothing."""
    full = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    theirs = torch.cat([boxes, 1e3 * scores[:, None], 1e6 * labels[:, None]], dim=1)[full]
    parts = (instances.pred_boxes.tensor, 1e3 * instances.scores[:, None], 1e6 * instances.pred_classes[:, None])
    ours = torch.cat(parts, dim=1)
    assert len(ours) == len(theirs) >= at_least
    nearest = torch.cdist(ours.double(), theirs.double(), p=torch.inf).argmin(1)
    assert len(nearest.unique()) == len(theirs)
    assert_close(ours[:, :4], ours[:, 4] / 1e3, theirs[nearest, :4], theirs[nearest, 4] / 1e3)
    assert torch.equal(ours[:, 5], theirs[nearest, 5])


def assert_close(boxes, scores, boxes2, scores2):
    """Scores to 1e-4; boxes to 1e-4 of their coordinates, near 0 of 10 pixels."""
    torch.testing.assert_close(scores, scores2, atol=1e-4, rtol=0)
    torch.testing.assert_close(boxes, boxes2, atol=1e-3, rtol=1e-4)
