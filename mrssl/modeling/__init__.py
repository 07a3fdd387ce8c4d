"""The method's own heads and losses: plain torch, no detector."""

from mrssl.modeling.distortion_branch import DistortionBranch
from mrssl.modeling.improved_mask_head import ImprovedMaskHead
from mrssl.modeling.mask_loss import mask_rcnn_loss, mask_targets
from mrssl.modeling.poolers import PyramidPooler, TwoScalePooler
from mrssl.modeling.position_head import PositionHead, position_loss
from mrssl.modeling.region_encoder import RegionEncoder
from mrssl.modeling.restoration_decoder import RestorationDecoder, whole_slice_loss
from mrssl.modeling.restoration_head import RestorationHead, restoration_loss, ssim_map
from mrssl.modeling.roi_ops import crop_rois, expand_boxes, paste_rois, restore_slice, select_rois
from mrssl.modeling.slice_decoder import SliceDecoder
from mrssl.modeling.type_head import DistortionTypeHead, distortion_type_loss

__all__ = [
    "DistortionBranch",
    "DistortionTypeHead",
    "ImprovedMaskHead",
    "PositionHead",
    "PyramidPooler",
    "RegionEncoder",
    "RestorationDecoder",
    "RestorationHead",
    "SliceDecoder",
    "TwoScalePooler",
    "crop_rois",
    "distortion_type_loss",
    "expand_boxes",
    "mask_rcnn_loss",
    "mask_targets",
    "paste_rois",
    "position_loss",
    "restoration_loss",
    "restore_slice",
    "select_rois",
    "ssim_map",
    "whole_slice_loss",
]
