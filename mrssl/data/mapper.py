"""From a standard dataset dict to the sample that a detector trains on, in the core's own terms.

Shape letters: C = 3 neighbouring slices, H, W the resized slice, N instances, K distortion types.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from fvcore.common.config import CfgNode

from mrssl.config import ConfigError, is_pretraining, restores_whole_slices
from mrssl.data.augmentation import SliceAugmentation
from mrssl.data.cache import VolumeCache
from mrssl.data.cropping import RandomCrop, window_from_shares, window_to_shares
from mrssl.data.donors import SLICE_KEYS, DonorPool, slice_name
from mrssl.data.labels import ClassValues, boxes_of_masks, instances_of_slice
from mrssl.distortions import Distorter, SliceDistorter, WholeSliceDistorter
from mrssl.errors import MrsslError

#: Samples carry intensities in [0, 255], so that 8-bit slices suit the same PIXEL_MEAN and _STD.
INTENSITY_SCALE = 255.0
#: Fields of the dataset dict that travel with the sample.
METADATA = (
    "file_name",
    "series",
    "image_id",
    "slice_index",
    "num_slices",
    "subject_id",
    "spacing",
    "axes",
    "height",
    "width",
)
_TRAIN, _EVALUATE = 0, 1


class SliceMapper:
    """Read, stack neighbours, crop, resize, augment and, while pretraining, distort one slice.

    What is to be larger than it was scanned is enlarged when it has been distorted: an enlarged
    slice has no detail of its own, and noise or an edge drawn on its finer grid would be found by
    that alone, in whatever tissue.

    Everything random follows from ``(seed, epoch, image_id)``: the sample is the same in whatever
    worker or process it is made, and after any resume. Evaluation draws from seed 0 and epoch 0,
    and where the curricula end, so that figures of different runs are of the same samples.

    Args:
        cache: decoded, normalised volumes.
        min_sizes: the shorter side is resized to one of these; (0,) leaves the size alone.
        max_size: bound of the longer side.
        neighbor_step: distance of the slices in the first and third channel; 0 repeats the slice.
        crop: of the slice before it is resized; None for none.
        augmentation: None for none.
        distorter: None for labelled slices.
        donors: where the distorter's foreign tissue comes from; another slice of the same volume
            if None.
        class_values: label values of the classes, in the order of the category ids.
        instances: "class" or "component".
        min_instance_pixels: smaller instances are left out.
        seed: see above.
        training: whether to augment and to draw from ``seed``.
    """

    def __init__(
        self,
        *,
        cache: VolumeCache,
        min_sizes: Sequence[int],
        max_size: int,
        neighbor_step: int = 1,
        crop: RandomCrop | None = None,
        augmentation: SliceAugmentation | None = None,
        distorter: SliceDistorter | None = None,
        donors: DonorPool | None = None,
        class_values: Sequence[ClassValues] = (),
        instances: str = "class",
        min_instance_pixels: int = 4,
        seed: int = 0,
        training: bool = True,
    ) -> None:
        self.cache = cache
        self.min_sizes = tuple(min_sizes)
        self.max_size = max_size
        self.neighbor_step = neighbor_step
        self.crop = crop
        self.augmentation = augmentation
        self.distorter = distorter
        self.donors = donors or DonorPool()
        self.class_values = tuple(class_values)
        self.instances = instances
        self.min_instance_pixels = min_instance_pixels
        self.seed = seed
        self.training = training

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        *,
        training: bool,
        class_values: Sequence[ClassValues] = (),
        seed: int = 0,
        records: Sequence[dict[str, Any]] = (),
    ) -> SliceMapper:
        """Build from ``INPUT`` and ``MRSSL``.

        Args:
            cfg: the configuration.
            training: whether to augment and to draw from ``seed``.
            class_values: as in the data set.
            seed: of the samples.
            records: the data set's dicts, to draw donors of other subjects from.

        Raises:
            ConfigError: windows are asked for in pretraining, and augmentation is not; or elastic
                changes, of which the position branch would not know.
        """
        node, pretraining = cfg.MRSSL, is_pretraining(cfg)
        augment = training and (not pretraining or node.AUGMENT.PRETRAIN)
        if pretraining and augment and node.AUGMENT.ELASTIC and node.POSITION_HEAD.LOSS_WEIGHT:
            raise ConfigError(
                f"MRSSL.AUGMENT.ELASTIC {node.AUGMENT.ELASTIC}: it would move what "
                "MRSSL.POSITION_HEAD learns the place of; set it to 0"
            )
        if training and cfg.INPUT.CROP.ENABLED and not augment:
            raise ConfigError(
                "INPUT.CROP.ENABLED True: in pretraining only with MRSSL.AUGMENT.PRETRAIN True"
            )
        sizes = cfg.INPUT.MIN_SIZE_TRAIN if training else (cfg.INPUT.MIN_SIZE_TEST,)
        cache = VolumeCache.from_config(cfg)
        share = node.PRETEXT.OTHER_SUBJECT
        return cls(
            cache=cache,
            min_sizes=sizes,
            max_size=cfg.INPUT.MAX_SIZE_TRAIN if training else cfg.INPUT.MAX_SIZE_TEST,
            neighbor_step=node.DATA.NEIGHBOR_STEP,
            crop=RandomCrop.from_config(cfg) if augment else None,
            augmentation=SliceAugmentation.from_config(cfg) if augment else None,
            distorter=_distorter(cfg) if pretraining else None,
            donors=DonorPool(records, share=share, cache_bytes=cache.max_bytes)
            if pretraining
            else None,
            class_values=class_values,
            instances=node.DATA.INSTANCES,
            # What is scored is every labelled pixel.
            min_instance_pixels=node.DATA.MIN_INSTANCE_PIXELS if training else 1,
            seed=seed,
            training=training,
        )

    def __call__(
        self, record: dict[str, Any], epoch: int = 0, iteration: int = 0
    ) -> dict[str, Any]:
        """Make the sample of one slice.

        Args:
            record: a standard dataset dict.
            epoch: pass over the data; with the seed and the image id it fixes the sample.
            iteration: for the curricula of the distortions; in evaluation their last one is taken.

        Returns:
            ``image`` float32 (C, H, W) in [0, 255]; ``boxes`` float32 (N, 4) XYXY; ``classes``
            int64 (N,); ``masks`` bool (N, H, W); ``seed`` int, for whatever is sampled later;
            while pretraining ``clean`` as ``image``, ``types`` float32 (N, K), ``to_volume`` (see
            :func:`volume_matrix`), and ``records``, ``donor`` (the slice that foreign tissue
            came from, by ``SLICE_KEYS``) and ``view`` (how both slices are shown, see
            :meth:`show`), from which :func:`mrssl.distortions.replay` and :meth:`enlarge` make
            ``image`` again;
            ``skipped``, a list with the (name, reason) of the donor, only where the one drawn could
            not be read; and the dict's own metadata (``height``, ``width`` while pretraining those
            of ``image``, since the ground truth is made on its grid).
        """
        stream = (_TRAIN, self.seed, epoch) if self.training else (_EVALUATE, 0, 0)
        rng = np.random.default_rng([*stream, record["image_id"]])
        sample = {key: record[key] for key in METADATA if key in record}
        sample["seed"] = int(rng.integers(2**31 - 1))
        image = self.stack(record)
        whole = image.shape[1:]
        everything = (slice(0, whole[0]), slice(0, whole[1]))
        rows, columns = self.crop.sample(whole, rng) if self.crop else everything
        size = int(self.min_sizes[rng.integers(len(self.min_sizes))])
        change = self.augmentation.sample(rng) if self.augmentation else None
        window = window_to_shares((rows, columns), whole)
        view: dict[str, Any] = {"window": window, "size": size, "augmentation": change}
        if self.distorter is not None:
            lengths = len(range(whole[0])[rows]), len(range(whole[1])[columns])
            larger = resized_shape(lengths, size, self.max_size)
            enlarged = larger[0] * larger[1] > lengths[0] * lengths[1]
            view |= {"size": min(lengths), "enlarged": larger} if enlarged else {"enlarged": None}
        image = self.show(image, view)
        height, width = image.shape[1:]

        if self.distorter is not None:
            donor, substitute = self.donors.draw(record, len(self.cache.image(record)), rng)
            try:
                pixels = self.stack(donor)
            except MrsslError as error:  # no fault of this slice
                sample["skipped"] = [(slice_name(donor), str(error))]
                donor, pixels = substitute, self.stack(substitute)
            # Shown otherwise, foreign tissue would be found by its scale or contrast.
            pixels = self.show(pixels, view)
            iteration = iteration if self.training else sys.maxsize
            result = self.distorter(image, rng, donor=pixels, iteration=iteration)
            masks = self.enlarge(result.masks, view)
            height, width = masks.shape[1:]
            grown = np.diag([width / image.shape[2], height / image.shape[1], 1.0])
            sample |= {
                "image": self.enlarge(result.image, view) * np.float32(INTENSITY_SCALE),
                "clean": self.enlarge(result.clean, view) * np.float32(INTENSITY_SCALE),
                "boxes": _region_boxes(masks, result.records, grown),
                "masks": masks,
                "classes": np.zeros(len(masks), np.int64),
                "types": result.types,
                "records": result.records,
                "donor": {key: donor[key] for key in SLICE_KEYS if key in donor},
                "view": view,
                "height": height,
                "width": width,
                "to_volume": volume_matrix(
                    record,
                    whole,
                    (rows, columns),
                    image.shape[1:],
                    grown @ self._moved(change, image),
                ),
            }
            return sample

        sample["image"] = image * np.float32(INTENSITY_SCALE)
        if record.get("label_file"):
            label = self.cache.label(record)[record["slice_index"]]
            if self.training:
                label = label[rows, columns]
                if label.shape != (height, width):
                    label = self._resize_label(label, height, width)
                if change is not None and self.augmentation is not None:
                    label = self.augmentation.apply_label(label, change)
            # In evaluation the ground truth keeps the slice's own grid: it is what is scored.
            masks, classes = instances_of_slice(
                label, self.class_values, self.instances, self.min_instance_pixels
            )
            sample |= {"masks": masks, "classes": classes, "boxes": boxes_of_masks(masks)}
        return sample

    def stack(self, record: dict[str, Any]) -> np.ndarray:
        """The slice between its neighbours, float32 (C, H, W) in [0, 1]; ends are repeated."""
        volume = self.cache.image(record)
        index = record["slice_index"] + np.array([-1, 0, 1]) * self.neighbor_step
        return volume[index.clip(0, len(volume) - 1)]

    def show(self, image: np.ndarray, view: Mapping[str, Any]) -> np.ndarray:
        """Crop, resize and augment a slice, as it is to be distorted.

        Args:
            image: float32 (C, H', W') in [0, 1], from :meth:`stack`.
            view: of a sample of this mapper, also after a round trip through JSON: ``window``,
                first and last row and column as shares of the sides, since a donor may be of
                another size; ``size`` of the shorter side, as in :func:`resized_shape`;
                ``augmentation``, from :meth:`SliceAugmentation.sample`, or None; and ``enlarged``,
                the height and width that :meth:`enlarge` gives, or None.

        Returns:
            float32 (C, H, W) in [0, 1].
        """
        rows, columns = window_from_shares(view["window"], image.shape[1:])
        image = image[:, rows, columns]
        image = self._resize(image, *resized_shape(image.shape[1:], view["size"], self.max_size))
        if view["augmentation"] is not None and self.augmentation is not None:
            image = self.augmentation.apply_image(image, view["augmentation"])
        return image

    def enlarge(self, image: np.ndarray, view: Mapping[str, Any]) -> np.ndarray:
        """A slice or masks from :meth:`show`'s grid to the sample's.

        Args:
            image: float32 (C, H', W') in [0, 1], or bool (N, H', W').
            view: as in :meth:`show`.

        Returns:
            The same (C, H, W) or (N, H, W).
        """
        shape = view["enlarged"]
        if not shape or image.shape[1:] == tuple(shape):
            return image
        if image.dtype != bool:
            return self._resize(image, *shape)
        masks = np.zeros((len(image), *shape), bool)
        for mask, small in zip(masks, image, strict=True):
            mask[:] = self._resize_label(small, *shape)
        return masks

    def _moved(self, change: dict[str, float] | None, image: np.ndarray) -> np.ndarray:
        if change is None or self.augmentation is None:
            return np.eye(3)
        height, width = image.shape[1:]
        return self.augmentation.matrix((height, width), change)

    @staticmethod
    def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
        if image.shape[1:] == (height, width):
            return image
        shrinking = height * width < image.shape[1] * image.shape[2]
        how = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
        return np.stack([cv2.resize(c, (width, height), interpolation=how) for c in image])

    @staticmethod
    def _resize_label(label: np.ndarray, height: int, width: int) -> np.ndarray:
        # Not INTER_NEAREST: it takes floor(x * scale), without the half pixel, so that labels lie
        # up to half a pixel beside their image.
        exact = cv2.INTER_NEAREST_EXACT
        return cv2.resize(label.astype(np.float32), (width, height), interpolation=exact).astype(
            label.dtype
        )


def _distorter(cfg: CfgNode) -> SliceDistorter:
    return WholeSliceDistorter() if restores_whole_slices(cfg) else Distorter.from_config(cfg)


def volume_matrix(
    record: Mapping[str, Any],
    whole: tuple[int, int],
    window: tuple[slice, slice],
    shape: tuple[int, int],
    moved: np.ndarray,
) -> np.ndarray:
    """Where the points of a sample lie in the scanned volume.

    Args:
        record: a standard dataset dict.
        whole: height and width of the slice as it was read.
        window: rows and columns of it that the sample shows.
        shape: height and width that the window was resized to.
        moved: float (3, 3), what augmentation then did to points (x, y, 1).

    Returns:
        float32 (3, 3): times a column vector (x, y, 1) in pixels of the sample, the millimetres
        from the volume's centre along columns, rows and slices.
    """
    depth_mm, row_mm, column_mm = record["spacing"]
    rows, columns = window
    top, left = rows.start or 0, columns.start or 0
    lengths = len(range(whole[0])[rows]), len(range(whole[1])[columns])
    scale_y, scale_x = (new / old for new, old in zip(shape, lengths, strict=True))
    shown = np.array([[scale_x, 0, -left * scale_x], [0, scale_y, -top * scale_y], [0, 0, 1]])
    slice_mm = (record["slice_index"] - (record["num_slices"] - 1) / 2) * depth_mm
    scanned = np.array(
        [
            [column_mm, 0, -whole[1] / 2 * column_mm],
            [0, row_mm, -whole[0] / 2 * row_mm],
            [0, 0, slice_mm],
        ]
    )
    return (scanned @ np.linalg.inv(moved @ shown)).astype(np.float32)


def _region_boxes(
    masks: np.ndarray, records: Sequence[Mapping[str, Any]], grown: np.ndarray
) -> np.ndarray:
    """Boxes of distorted regions: tight, or of the whole region where too little changed.

    Args:
        masks: bool (N, H, W) on the sample's grid.
        records: of the N regions, on the grid that was distorted; none of a whole slice.
        grown: float (3, 3), from that grid to the sample's.

    Returns:
        float32 (N, 4), XYXY.
    """
    boxes = boxes_of_masks(masks)
    for box, record in zip(boxes, records, strict=False):
        if record.get("unchanged"):
            box[:] = np.asarray(record["box"]) * np.tile(grown.diagonal()[:2], 2)
    return boxes


def resized_shape(shape: tuple[int, int], size: int, max_size: int) -> tuple[int, int]:
    """Height and width with the shorter side at ``size``, or the longer at ``max_size``.

    As Detectron2's ``ResizeShortestEdge``; ``size`` 0 leaves the shape alone.
    """
    height, width = shape
    if size == 0:
        return height, width
    scale = min(size / min(height, width), max_size / max(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)
