"""Instances and ImageList, against values measured on Detectron2."""

import copy
import pickle

import numpy as np
import pytest
import torch

from detectron2.structures import (
    Boxes,
    ImageList,
    Instances,
)
from tests.standin.structure_facts import ERRORS, GOLDEN, array, close, outcome


class TestInstances:
    GOLDEN = GOLDEN["instances"]

    def make(self):
        boxes = Boxes(array("boxes/b1")[:3])
        return Instances((100, 120), boxes=boxes, classes=torch.tensor([2, 0, 1]), names=["a", "b", "c"])

    def test_size_and_length(self):
        instances = self.make()
        assert len(instances) == self.GOLDEN["len"]
        assert list(instances.image_size) == self.GOLDEN["image_size"]
        assert outcome(lambda: len(Instances((3, 4)))) == self.GOLDEN["len_without_fields"]

    def test_setting_fields(self):
        instances = self.make()
        assert outcome(lambda: instances.set("x", [1, 2])) == self.GOLDEN["assign_wrong_length"]
        assert outcome(lambda: setattr(instances, "x", 3)) == self.GOLDEN["assign_no_len"]
        assert outcome(lambda: setattr(instances, "image_size", (3, 4))) == self.GOLDEN["image_size_assign"]
        assert outcome(lambda: instances.set("classes", [5, 6, 7])) == self.GOLDEN["set_overwrites"]
        assert instances.classes == [5, 6, 7]
        assert outcome(lambda: setattr(instances, "_private", 3)) == self.GOLDEN["private_attribute"]
        assert not instances.has("_private")
        kwargs = Instances((3, 4), scores=torch.ones(2))
        assert list(kwargs.get_fields()) == self.GOLDEN["kwargs_constructor"]
        assert outcome(lambda: kwargs.set("x", [1, 2, 3]))["ok"] != self.GOLDEN["first_field_fixes_length"]

    def test_image_size_as_a_field_does_not_change_the_image_size(self):
        instances = Instances((3, 4))
        instances.image_size = (7, 8)
        assert instances.has("image_size") == self.GOLDEN["image_size_assign_creates_field"]
        assert list(instances.image_size) == self.GOLDEN["image_size_after_assign"]

    def test_reading_fields(self):
        instances = self.make()
        assert outcome(lambda: instances.nothing) == self.GOLDEN["missing_field"]
        assert outcome(lambda: instances.get("nothing")) == self.GOLDEN["get_missing"]
        assert hasattr(instances, "nothing") == self.GOLDEN["hasattr_missing"]
        assert outcome(lambda: instances.remove("nothing")) == self.GOLDEN["remove_missing"]
        assert outcome(lambda: "classes" in instances) == self.GOLDEN["in_operator"]
        assert outcome(lambda: iter(instances)) == self.GOLDEN["iter"]
        assert outcome(lambda: next(iter(instances))) == self.GOLDEN["iter_next"]
        instances.get_fields()["more"] = [0, 0, 0]
        assert instances.has("more") == self.GOLDEN["get_fields_is_live"]
        instances.remove("more")
        assert not instances.has("more")

    @pytest.mark.parametrize(
        "name, index", [("index_int_0", 0), ("index_minus1", -1), ("index_minus2", -2), ("index_1", 1)]
    )
    def test_int_index(self, name, index):
        chosen = self.make()[index]
        golden = self.GOLDEN[name]
        assert len(chosen) == golden["len"]
        assert chosen.classes.tolist() == golden["classes"]
        assert chosen.names == golden.get("names", ["abc"[index]])
        assert chosen.image_size == (100, 120)

    def test_other_indices(self):
        instances = self.make()
        assert outcome(lambda: instances[3]) == self.GOLDEN["index_3"]
        assert outcome(lambda: instances[-4]) == self.GOLDEN["index_minus4"]
        assert outcome(lambda: instances[np.int64(1)]) == self.GOLDEN["index_numpy_int"]
        golden = self.GOLDEN["index_mask_type"]
        numbers = Instances(tuple(self.GOLDEN["indexed_image_size"]), i=torch.arange(4))
        mask = [True, False, True, False]
        assert numbers[torch.tensor(mask)].i.tolist() == golden["mask"]
        assert numbers[torch.tensor([3, 3, 0])].i.tolist() == golden["long"]
        assert numbers[1:3].i.tolist() == golden["slice"]
        assert numbers[[2, 0]].i.tolist() == golden["list_of_int"]
        assert outcome(lambda: numbers[np.array(mask)]) == golden["numpy_mask"]
        assert numbers[1:3].image_size == numbers.image_size
        assert outcome(lambda: instances[torch.tensor([True, False, True])]) == golden["index_list_field_with_mask"]
        names = Instances((9, 9), names=["a"])
        assert outcome(lambda: names["names"]) == golden["string"]

    def test_cat(self):
        golden = self.GOLDEN["cat"]
        one = Instances((9, 9), a=torch.arange(2), l=["x", "y"], b=Boxes(torch.ones(2, 4)))
        two = Instances((9, 9), a=torch.arange(3), l=["p", "q", "r"], b=Boxes(torch.ones(3, 4)))
        both = Instances.cat([one, two])
        assert len(both) == golden["len"]
        assert both.a.tolist() == golden["a"]
        assert both.l == golden["l"]
        assert list(both.b.tensor.shape) == golden["b"]
        assert (Instances.cat([one]) is one) == golden["single_returns_same_object"]
        assert outcome(lambda: Instances.cat([])) == golden["empty_list"]
        other = Instances((9, 8), a=torch.arange(1))
        assert outcome(lambda: Instances.cat([one, other])) == golden["size_mismatch"]
        small = Instances((9, 9), a=torch.arange(3))
        assert outcome(lambda: Instances.cat([one, small])) == golden["missing_field_in_second"]
        assert list(Instances.cat([small, one]).get_fields()) == golden["extra_field_in_second_is_dropped"]
        odd = Instances((9, 9), a=range(3))
        assert outcome(lambda: Instances.cat([odd, odd])) == golden["unsupported_type"]
        assert outcome(lambda: Instances.cat([one, [1]])) == golden["not_instances"]
        assert len(one.cat([one, two])) == golden["callable_on_an_instance"]

    def test_to_str_copy_pickle(self):
        instances = self.make()
        moved = instances.to("cpu")
        assert moved.names == self.GOLDEN["to_keeps_non_tensor"]
        assert torch.equal(moved.boxes.tensor, instances.boxes.tensor)
        assert str(instances).startswith(self.GOLDEN["str_head"])
        assert (repr(instances) == str(instances)) == self.GOLDEN["repr_equals_str"]
        assert "names: ['a', 'b', 'c']" in str(instances)
        assert "num_instances=0" in str(Instances((1, 2)))
        assert outcome(lambda: copy.deepcopy(instances)) == self.GOLDEN["deepcopy"]
        loaded = pickle.loads(pickle.dumps(instances))
        assert type(loaded).__name__ == self.GOLDEN["pickle"]["type"]
        assert loaded.classes.tolist() == [2, 0, 1]
        assert loaded.image_size == (100, 120)


def image_list_cases():
    a, b = array("imagelist/a"), array("imagelist/b")
    exact = torch.full((3, 64, 32), 6.0)
    return {
        "two_div0": lambda: ImageList.from_tensors([a, b]),
        "two_div1": lambda: ImageList.from_tensors([a, b], 1),
        "two_div32": lambda: ImageList.from_tensors([a, b], 32),
        "two_div32_pad7.5": lambda: ImageList.from_tensors([a, b], 32, 7.5),
        "single_div32": lambda: ImageList.from_tensors([a], 32),
        "single_div0": lambda: ImageList.from_tensors([a]),
        "single_exact": lambda: ImageList.from_tensors([exact], 32),
        "square64_div32": lambda: ImageList.from_tensors([a, b], 32, padding_constraints={"square_size": 64}),
        "square0_div32": lambda: ImageList.from_tensors([a, b], 32, padding_constraints={"square_size": 0}),
        "constraint_div16_overrides": lambda: ImageList.from_tensors(
            [a, b], 32, padding_constraints={"size_divisibility": 16}
        ),
        "square70_div32": lambda: ImageList.from_tensors([a, b], 32, padding_constraints={"square_size": 70}),
        "square_smaller_than_image": lambda: ImageList.from_tensors(
            [a, b], 32, padding_constraints={"square_size": 32}
        ),
        "single_square_smaller": lambda: ImageList.from_tensors([a], 32, padding_constraints={"square_size": 32}),
        "2d_tensors": lambda: ImageList.from_tensors([a[0], b[0]], 32),
        "channel_mismatch": lambda: ImageList.from_tensors([a, b[:2]]),
        "empty": lambda: ImageList.from_tensors([]),
        "tuple": lambda: ImageList.from_tensors((a, b), 32),
        "uint8": lambda: ImageList.from_tensors([a.to(torch.uint8), b.to(torch.uint8)], 32, 5),
        "not_tensor": lambda: ImageList.from_tensors([a.numpy()]),
    }


OTHER_IMAGE_LIST_FACTS = {
    "getitem_returns_unpadded_view",
    "image_sizes_type",
    "single_image_shares_memory_when_no_padding_needed",
    "to",
    "device",
}


def test_every_image_list_fact_is_tested():
    assert set(image_list_cases()) | OTHER_IMAGE_LIST_FACTS == set(GOLDEN["imagelist"])


@pytest.mark.parametrize("name", image_list_cases())
def test_image_list(name):
    golden = GOLDEN["imagelist"][name]
    make = image_list_cases()[name]
    if "raises" in golden:
        with pytest.raises(ERRORS[golden["raises"]]):
            make()
        return
    images = make()
    assert list(images.tensor.shape) == golden["tensor_shape"]
    assert [list(size) for size in images.image_sizes] == golden["image_sizes"]
    assert str(images.tensor.dtype) == golden["dtype"]
    assert len(images) == golden["len"]
    assert list(images[0].shape) == golden["item0_shape"]
    # Without padding the corner shows the picture, and that of `single_div0` was another one.
    if name != "single_div0":
        assert images.tensor[0].flatten()[-1].item() == golden["pad_corner_value"]


def test_image_list_keeps_the_pixels():
    a, b = array("imagelist/a"), array("imagelist/b")
    golden = GOLDEN["imagelist"]
    images = ImageList.from_tensors([a, b], 32)
    close(images.tensor, "imagelist/two_div32")
    assert torch.equal(images[0], a) and torch.equal(images[1], b)
    images[0].fill_(3.0)
    assert (images.tensor[0, 0, 0, 0] == 3) == golden["getitem_returns_unpadded_view"]
    assert type(images.image_sizes[0]).__name__ == golden["image_sizes_type"]
    single = ImageList.from_tensors([a])
    shares = single.tensor.data_ptr() == a.data_ptr()
    assert shares == golden["single_image_shares_memory_when_no_padding_needed"]
    assert type(images.to(torch.float64)).__name__ == golden["to"]
    assert images.to(torch.float64).tensor.dtype == torch.float64
    assert str(images.device) == golden["device"]


@pytest.mark.filterwarnings("ignore")
def test_padding_of_one_image_can_be_traced_for_other_sizes():
    traced = torch.jit.trace(lambda x: ImageList.from_tensors([x], 32).tensor, torch.rand(3, 40, 50), check_trace=False)
    assert traced(torch.rand(3, 70, 20)).shape == (1, 3, 96, 32)
