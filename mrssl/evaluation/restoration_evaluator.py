"""The pretext's third question: how much of what a distortion took away is given back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mrssl.evaluation.evaluator import EvaluationError, Results, SliceEvaluator
from mrssl.evaluation.metrics import mean_of_finite, psnr, ssim_map

#: Columns of a region's row of values.
_METRICS = ("PSNR", "PSNR-distorted", "SSIM", "SSIM-distorted")


class RestorationEvaluator(SliceEvaluator):
    """PSNR and SSIM inside the distorted regions, after restoration against before.

    Every ground-truth region counts once, whether the detector found it or not: one that it missed
    stays as it was distorted, and gains nothing. Under ``restoration``, means over the regions:

    - ``PSNR``, ``SSIM``: the restored slice against the clean one, inside the region's mask;
    - ``PSNR-distorted``, ``SSIM-distorted``: the same for the distorted slice;
    - ``PSNR-gain``, ``SSIM-gain``: the first less the second;
    - ``PSNR-<type>``, ``PSNR-gain-<type>``, ``SSIM-gain-<type>``: over the regions that have the
      type; nan where there is none.
    - ``false-change``: mean absolute difference between the restored and the clean slice over whole
      slices without a region, in units of the intensity range; what the detector spoils where
      nothing was wrong. nan where there is no such slice.

    PSNR is in dB and at most 60 (:data:`mrssl.evaluation.metrics.MAX_PSNR`), so that one perfect
    region does not make the mean infinite.

    Reads ``clean``, ``distorted``, ``masks``, ``types``, ``restored``.
    """

    def __init__(self, type_names: Sequence[str]) -> None:
        """Score restorations; the columns of ``types`` are in the order of ``type_names``."""
        super().__init__()
        self.type_names = list(type_names)

    def _record(self, truth: Mapping[str, Any], prediction: Mapping[str, Any]) -> dict[str, Any]:
        clean, distorted = np.asarray(truth["clean"]), np.asarray(truth["distorted"])
        restored = np.asarray(prediction["restored"])
        if not clean.shape == distorted.shape == restored.shape:
            raise EvaluationError(
                f"{truth.get('file_name', '')}, image_id {truth['image_id']}: the clean slice is "
                f"{clean.shape}, distorted {distorted.shape}, restored {restored.shape}"
            )
        masks = np.asarray(truth["masks"], bool)
        types = np.asarray(truth["types"], bool).reshape(-1, len(self.type_names))
        if len(masks) != len(types):
            raise ValueError(f"{len(masks)} masks, {len(types)} rows of types")
        if not len(masks):
            change = float(np.abs(np.subtract(restored, clean, dtype=np.float64)).mean())
            return {"values": np.zeros((0, len(_METRICS))), "types": types, "change": change}
        values = _values_of_regions(clean, distorted, restored, masks)
        return {"values": values, "types": types, "change": None}

    def _score(self, records: list[dict[str, Any]]) -> Results:
        values = np.concatenate([record["values"] for record in records])
        types = np.concatenate([record["types"] for record in records])
        columns = dict(zip(_METRICS, values.T, strict=True))
        for name in ("PSNR", "SSIM"):
            columns[f"{name}-gain"] = columns[name] - columns[f"{name}-distorted"]
        metrics = {name: mean_of_finite(column) for name, column in columns.items()}
        for name in ("PSNR", "PSNR-gain", "SSIM-gain"):
            for index, type_name in enumerate(self.type_names):
                metrics[f"{name}-{type_name}"] = mean_of_finite(columns[name][types[:, index]])
        changes = [record["change"] for record in records if record["change"] is not None]
        metrics["false-change"] = mean_of_finite(changes)
        return {"restoration": metrics}


def _values_of_regions(
    clean: npt.NDArray, distorted: npt.NDArray, restored: npt.NDArray, masks: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """The columns of ``_METRICS`` for each of the (N, H, W) masks; nan for an empty mask."""
    restored_ssim, distorted_ssim = ssim_map(restored, clean), ssim_map(distorted, clean)
    rows = [
        (
            psnr(restored, clean, mask),
            psnr(distorted, clean, mask),
            mean_of_finite(restored_ssim[mask]),
            mean_of_finite(distorted_ssim[mask]),
        )
        for mask in masks
    ]
    return np.array(rows, np.float64)
