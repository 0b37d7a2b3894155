"""Masks and keypoints, and detections scaled to an output size, against values measured on Detectron2."""

import numpy as np
import pytest
import torch

from detectron2.modeling import detector_postprocess
from detectron2.structures import (
    BitMasks,
    Boxes,
    Instances,
    Keypoints,
    PolygonMasks,
    ROIMasks,
    polygons_to_bitmask,
)
from tests.standin import says
from tests.standin.structure_facts import GOLDEN, array, close, outcome


class TestPostprocess:
    GOLDEN = GOLDEN["postprocess"]

    def detections(self, field="pred_boxes"):
        fields = {
            field: Boxes(array("post/boxes_in").clone()),
            "scores": torch.arange(6) / 10,
            "pred_classes": torch.arange(6),
        }
        return Instances(tuple(self.GOLDEN["input_image_size"]), **fields)

    def test_boxes(self):
        detections = self.detections()
        result = detector_postprocess(detections, *self.GOLDEN["output_hw"])
        close(result.pred_boxes.tensor, "post/boxes_out_150x160")
        close(result.scores, "post/scores_out")
        close(result.pred_classes, "post/classes_out")
        assert list(result.image_size) == self.GOLDEN["out_image_size"]
        assert len(result) == self.GOLDEN["kept"]
        assert len(detections) == self.GOLDEN["input_instances_len_unchanged"]
        np.testing.assert_allclose(detections.pred_boxes.tensor, self.GOLDEN["input_after"], rtol=1e-6)

    def test_other_inputs(self):
        proposals = detector_postprocess(self.detections("proposal_boxes"), *self.GOLDEN["output_hw"])
        assert len(proposals) == self.GOLDEN["uses_proposal_boxes_when_no_pred_boxes"]
        bare = Instances((60, 80), scores=torch.ones(2))
        assert outcome(lambda: detector_postprocess(bare, 10, 10)) == self.GOLDEN["without_boxes"]
        assert len(detector_postprocess(self.detections()[:0], 10, 10)) == self.GOLDEN["empty"]

    def test_masks_are_pasted(self):
        boxes = torch.tensor([[10.0, 5.0, 40.0, 30.0], [20.0, 30.0, 20.0, 50.0]])
        detections = Instances((60, 80), pred_boxes=Boxes(boxes), pred_masks=array("post/mask_probs_in"))
        result = detector_postprocess(detections, 120, 160)
        assert str(result.pred_masks.dtype) == self.GOLDEN["mask_dtype"]
        assert list(result.pred_masks.shape) == self.GOLDEN["mask_shape"]
        close(result.pred_boxes.tensor, "post/mask_boxes_out")
        close(result.pred_masks, "post/mask_out")


class TestMasks:
    GOLDEN = GOLDEN["masks"]
    HEIGHT, WIDTH = 60, 64

    def polygons(self):
        return PolygonMasks([[np.array(p) for p in of_object] for of_object in self.GOLDEN["polygons"]])

    def bitmasks(self):
        return BitMasks.from_polygon_masks(self.polygons(), self.HEIGHT, self.WIDTH)

    def test_polygons(self):
        masks = self.polygons()
        assert len(masks) == self.GOLDEN["len"]
        close(masks.get_bounding_boxes().tensor, "masks/polygon_bboxes")
        close(masks.area(), "masks/polygon_area")
        close(masks.nonempty(), "masks/polygon_nonempty")
        assert str(masks.polygons[0][0].dtype) == self.GOLDEN["storage_dtype"]
        assert len(masks[1]) == self.GOLDEN["index_int_len"]
        assert outcome(lambda: masks.to("cpu")) == self.GOLDEN["polygon_to_device"]
        assert outcome(lambda: PolygonMasks([[np.zeros(7)]])) == self.GOLDEN["odd_polygon"]
        assert outcome(lambda: PolygonMasks([[np.zeros(4)]])) == self.GOLDEN["too_short_polygon"]
        assert outcome(lambda: PolygonMasks([np.zeros(6)])) == self.GOLDEN["flat_list"]

    def test_polygon_indices_and_cat(self):
        masks = self.polygons()
        by_mask = masks[torch.tensor([True, False, True])]
        by_index = masks[torch.tensor([0, 2])]
        for chosen in (by_mask, by_index, masks[[0, 2]], masks[::2]):
            assert [of_object[0].tolist() for of_object in chosen] == [masks.polygons[i][0].tolist() for i in (0, 2)]
        assert len(PolygonMasks.cat([masks, by_mask])) == 5
        assert PolygonMasks([[]]).nonempty().tolist() == [False]
        assert len(PolygonMasks([]).get_bounding_boxes()) == 0

    @pytest.mark.standin_only("a mask of numpy as an index")
    def test_polygons_are_indexed_by_a_mask_of_numpy(self):
        masks = self.polygons()
        chosen = masks[np.array([True, False, True])]
        assert [of_object[0].tolist() for of_object in chosen] == [masks.polygons[i][0].tolist() for i in (0, 2)]

    def test_bitmasks(self):
        masks = self.bitmasks()
        assert str(masks.tensor.dtype) == self.GOLDEN["bitmask_dtype"]
        for i, mask in enumerate(masks):
            close(mask, f"masks/bitmask_{i}")
            polygons = self.polygons().polygons[i]
            drawn = torch.from_numpy(polygons_to_bitmask(polygons, self.HEIGHT, self.WIDTH))
            close(drawn, f"masks/bitmask_{i}")
        close(masks.get_bounding_boxes().tensor, "masks/bitmask_bboxes")
        close(masks.nonempty(), "masks/bitmask_nonempty")
        assert len(masks[1]) == self.GOLDEN["index_int_len"]

    def test_crop_and_resize(self):
        # The facts do not name the boxes; these are found from the results, which fit few others.
        boxes = torch.tensor([[8.0, 8.0, 52.0, 42.0], [4.0, 4.0, 30.0, 30.0], [0.0, 0.0, 10.0, 10.0]])
        close(self.bitmasks().crop_and_resize(boxes, 7), "masks/crop_and_resize_7")
        close(self.polygons().crop_and_resize(boxes, 7), "masks/polygon_crop_and_resize_7")

    def test_bitmask_indices_and_cat(self):
        masks = self.bitmasks()
        chosen = masks[torch.tensor([False, True, True])]
        assert torch.equal(chosen.tensor, masks.tensor[1:])
        assert BitMasks.cat([masks, chosen]).tensor.shape == (5, self.HEIGHT, self.WIDTH)
        assert BitMasks.from_polygon_masks([], 3, 4).tensor.shape == (0, 3, 4)
        assert BitMasks(np.ones((1, 2, 2), dtype=np.uint8)).to("cpu").tensor.dtype == torch.bool
        with pytest.raises(AssertionError, match=says("G, H, W")):
            BitMasks(torch.zeros(3, 3))

    def test_roi_masks(self):
        masks = ROIMasks(torch.tensor([[[1.0]], [[0.2]]]))
        boxes = Boxes([[1.0, 0.0, 3.0, 2.0], [0.0, 0.0, 4.0, 3.0]])
        pasted = masks.to_bitmasks(boxes, 3, 4)
        assert pasted.tensor[0].int().tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
        assert not pasted.tensor[1].any()
        assert len(masks[:1]) == 1
        with pytest.raises(ValueError, match=says("R, M, M")):
            ROIMasks(torch.ones(2, 2))


class TestKeypoints:
    def test_index_cat_and_types(self):
        keypoints = Keypoints([[[1.0, 2.0, 2.0], [3.0, 4.0, 0.0]], [[5.0, 6.0, 1.0], [7.0, 8.0, 2.0]]])
        assert keypoints.tensor.dtype == torch.float32
        assert keypoints[1].tensor.tolist() == [[[5.0, 6.0, 1.0], [7.0, 8.0, 2.0]]]
        assert len(keypoints[torch.tensor([False, True])]) == 1
        assert len(Keypoints.cat([keypoints, keypoints[0]]).to("cpu")) == 3
        with pytest.raises(AssertionError, match=says("G, P, 3")):
            Keypoints(np.zeros((2, 17, 2)))
