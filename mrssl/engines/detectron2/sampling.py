"""Detectron2's RPN and ROI heads, trained by several processes as by one with the whole batch.

Detectron2 samples anchors and proposals from torch's global generator, and a process divides its
losses by its own samples. So what a slice contributes depends on which process it fell to. Here it
does not; weights, names and results are Detectron2's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.layers import nonzero_tuple
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY, build_model
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Instances
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from mrssl.config import with_values
from mrssl.config_values import value_of
from mrssl.engines.distributed import mean_count

#: What is trained in place of what a configuration names.
_SEEDED = {"RPN": "SeededRPN", "StandardROIHeads": "SeededROIHeads"}


class SeededSampling:
    """Draws for each image of a batch from a seed of its own.

    Attributes:
        seeds: of the images of the next batch; without any, torch's global generator goes on.
    """

    seeds: Sequence[int] = ()
    _left: Iterator[int] = iter(())

    def begin_batch(self) -> None:
        """The next image is the first of a batch."""
        self._left = iter(self.seeds)

    def begin_image(self) -> None:
        """What is drawn now is for the next image."""
        seed = next(self._left, None)
        if seed is not None:
            torch.manual_seed(seed)


@PROPOSAL_GENERATOR_REGISTRY.register()
class SeededRPN(SeededSampling, RPN):
    """``RPN`` whose sample of anchors follows from the image.

    Its losses need nothing: they are sums over a number of anchors that every image has.
    """

    def label_and_sample_anchors(self, *args: Any, **kwargs: Any) -> Any:
        """See ``RPN``."""
        self.begin_batch()
        return super().label_and_sample_anchors(*args, **kwargs)

    def _subsample_labels(self, label: Tensor) -> Tensor:
        self.begin_image()
        return super()._subsample_labels(label)


@ROI_HEADS_REGISTRY.register()
class SeededROIHeads(SeededSampling, StandardROIHeads):
    """``StandardROIHeads`` whose sample follows from the image, with losses of the whole batch."""

    def label_and_sample_proposals(self, *args: Any, **kwargs: Any) -> list[Instances]:
        """See ``ROIHeads``."""
        self.begin_batch()
        return super().label_and_sample_proposals(*args, **kwargs)

    def _sample_proposals(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.begin_image()
        return super()._sample_proposals(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[list[Instances], dict[str, Tensor]]:
        """See ``ROIHeads``; losses are means over the samples of all processes."""
        instances, losses = super().forward(*args, **kwargs)
        if self.training:
            classes = torch.cat([found.gt_classes for found in instances])
            positive = nonzero_tuple((classes >= 0) & (classes < self.num_classes))[0]
            of_all = len(classes) / mean_count(len(classes))
            of_positive = len(positive) / mean_count(len(positive))
            losses = {
                name: loss * (of_positive if name == "loss_mask" else of_all)
                for name, loss in losses.items()
            }
        return instances, losses


def build_seeded_model(cfg: CfgNode) -> nn.Module:
    """Detectron2's ``build_model``, with the classes above in place of those they stand for.

    Inputs in training have ``seed``, an int, beside what Detectron2 wants; other proposal
    generators and ROI heads are left as they are.
    """
    keys = ("MODEL.PROPOSAL_GENERATOR.NAME", "MODEL.ROI_HEADS.NAME")
    names = {key: value_of(cfg, key) for key in keys}
    model = build_model(
        with_values(cfg, {key: _SEEDED.get(name, name) for key, name in names.items()})
    )
    model.register_forward_pre_hook(_hand_seeds_on)
    return model


def _hand_seeds_on(model: nn.Module, args: tuple[Any, ...]) -> None:
    if model.training:
        parts = (part for part in model.modules() if isinstance(part, SeededSampling))
        for number, part in enumerate(parts):
            part.seeds = [x["seed"] + number for x in args[0]]


__all__ = ["SeededROIHeads", "SeededRPN", "SeededSampling", "build_seeded_model"]
