"""What people export: padding and resizing as recorded graphs and as scripts, for images of any size."""

import pytest
import torch
from torch.nn import functional as F

from detectron2.data import transforms as T
from detectron2.structures import ImageList

pytestmark = pytest.mark.filterwarnings("ignore")


def padded(images: list[torch.Tensor]):
    batch = ImageList.from_tensors(images, 4)
    return batch.tensor, batch.image_sizes


@pytest.mark.parametrize(
    "shapes, other, expected",
    [
        ([(3, 10, 10)], [(3, 15, 20)], (1, 3, 16, 20)),
        ([(3, 12, 12)], [(3, 15, 20)], (1, 3, 16, 20)),  # nothing to pad in the recorded one
        ([(10, 10)], [(15, 20)], (1, 16, 20)),
        ([(3, 16, 10), (3, 13, 11)], [(3, 25, 20), (3, 10, 10)], (2, 3, 28, 20)),
    ],
)
def test_a_traced_image_list_pads_other_sizes(shapes, other, expected):
    traced = torch.jit.trace(padded, ([torch.ones(shape) for shape in shapes],))
    images = [torch.rand(shape) for shape in other]
    tensor, sizes = traced(images)
    assert tensor.shape == expected and torch.equal(tensor, padded(images)[0])
    assert [size.tolist() for size in sizes] == [list(shape[-2:]) for shape in other]


def made(tensor: torch.Tensor, sizes: list[tuple[int, int]]):
    return ImageList(tensor, sizes)


def of_tensors(images: list[torch.Tensor]):
    return ImageList.from_tensors(images, 10)


def of_squares(images: list[torch.Tensor]):
    return ImageList.from_tensors(images, 0, 0.0, {"square_size": 25, "size_divisibility": 16})


def test_a_scripted_image_list_has_the_same_images():
    tensor, sizes = torch.rand(2, 10, 20), [(10, 20), (8, 12)]
    eager, scripted = made(tensor, sizes), torch.jit.script(made)(tensor, sizes)
    assert len(scripted) == 2
    assert all(torch.equal(eager[i], scripted[i]) for i in range(2)) and scripted[1].shape == (8, 12)


@pytest.mark.parametrize("make, shape", [(of_tensors, (20, 30)), (of_squares, (32, 32))])
@pytest.mark.parametrize("count", [1, 2])
def test_a_scripted_image_list_pads_alike(make, shape, count):
    images = [torch.rand(3, 10, 20), torch.rand(3, 12, 22)][-count:]
    eager, scripted = make(images), torch.jit.script(make)(images)
    assert torch.equal(eager.tensor, scripted.tensor) and eager.tensor.shape == (count, 3, *shape)
    assert scripted.image_sizes == eager.image_sizes


class Resize(torch.nn.Module):
    """Short side 80, long side 133 at most."""

    def forward(self, image: torch.Tensor):
        height, width = T.ResizeShortestEdge.get_output_shape(image.shape[-2], image.shape[-1], 80, 133)
        return F.interpolate(image[None], (height, width))


def record(model):
    return torch.jit.trace(model, torch.rand(3, 48, 64))


@pytest.mark.parametrize(
    "convert", [torch.jit.script, pytest.param(record, marks=pytest.mark.standin_only("sizes stay in the graph"))]
)
@pytest.mark.parametrize("size, expected", [((48, 64), (80, 107)), ((60, 40), (120, 80)), ((10, 40), (33, 133))])
def test_a_recorded_resize_follows_the_image(convert, size, expected):
    image = torch.rand(3, *size)
    found = convert(Resize())(image)
    assert found.shape[2:] == expected
    torch.testing.assert_close(found, Resize()(image))
