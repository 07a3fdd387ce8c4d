"""Configuration: Detectron2's YAML files and keys, and one node more, ``MRSSL``.

:func:`get_cfg` gives the subset of Detectron2's keys that the embedded engine understands, with
Detectron2's names and defaults, so that the same YAML file drives either engine.
:func:`add_mrssl_config` adds the node ``MRSSL`` to any ``CfgNode``, Detectron2's own included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode as CN

from mrssl.config_values import number_faults, value_of
from mrssl.detectron2_keys import detectron2_keys
from mrssl.errors import MrsslError, one_line

#: The one switch between pretraining and fine-tuning (``MODEL.ROI_HEADS.NAME``).
DISTORTION_ROI_HEADS = "DistortionROIHeads"

#: The peer pretext (``MODEL.META_ARCHITECTURE``): no detector, the whole slice is restored.
WHOLE_SLICE_RESTORATION = "WholeSliceRestoration"


class ConfigError(MrsslError):
    """A configuration file or override that cannot be used; the message names the key."""


def is_pretraining(cfg: CN) -> bool:
    """Whether ``cfg`` asks for a pretext task, and so for no labels."""
    return cfg.MODEL.ROI_HEADS.NAME == DISTORTION_ROI_HEADS or restores_whole_slices(cfg)


def restores_whole_slices(cfg: CN) -> bool:
    """Whether the pretext task is not to find, name and restore regions, but the peer's."""
    return cfg.MODEL.META_ARCHITECTURE == WHOLE_SLICE_RESTORATION


def check_masks(cfg: CN) -> None:
    """See that a model that learns from labels has a mask head: volumes are scored by masks.

    Args:
        cfg: the configuration.

    Raises:
        ConfigError: ``MODEL.MASK_ON`` is False, Detectron2's default; a pretext does without masks.
    """
    if not (cfg.MODEL.MASK_ON or is_pretraining(cfg)):
        raise ConfigError(
            "MODEL.MASK_ON False: only pretraining does without masks; set it to True"
        )


def with_values(cfg: CN, values: Mapping[str, Any]) -> CN:
    """A frozen copy of ``cfg`` in which keys with dots have other values, whatever their type."""
    cfg = cfg.clone()
    cfg.defrost()
    for key, value in values.items():
        *path, name = key.split(".")
        node = value_of(cfg, ".".join(path)) if path else cfg
        node[name] = value
    cfg.freeze()
    return cfg


def with_new_keys(cfg: CN) -> CN:
    """A configuration as an earlier version wrote it, with the defaults of what is new since."""
    defaults = type(cfg)()
    add_mrssl_config(defaults)
    _fill(cfg.MRSSL, defaults.MRSSL)
    return cfg


def _fill(node: CN, defaults: CN) -> None:
    for key, value in defaults.items():
        if key not in node:
            node[key] = value
        elif isinstance(value, CN):
            _fill(node[key], value)


def check_data_set(key: str, name: Any) -> None:
    """See that ``name``, in ``key``, may be a path or a registered name.

    Raises:
        ConfigError: it is no text, or one of those that a Windows path's backslashes make of it.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{key} {name!r}: a path or a registered name is needed")
    if any(ord(character) < 32 for character in name):
        raise ConfigError(f"{key} {name!r}: in a path write / or double the \\")


def check_empty_slices(cfg: CN) -> None:
    """See that one key says whether slices without any instance are trained on, not two.

    Raises:
        ConfigError: ``DATALOADER.FILTER_EMPTY_ANNOTATIONS`` contradicts ``MRSSL.DATA.KEEP_EMPTY``.
    """
    filters, keeps = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, cfg.MRSSL.DATA.KEEP_EMPTY
    if filters and keeps and not is_pretraining(cfg):
        raise ConfigError(
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS True: MRSSL.DATA.KEEP_EMPTY decides, and is True"
        )


def check_numbers(cfg: CN) -> None:
    """See that every number is one that its key can have.

    Raises:
        ConfigError: one is not; of several, the line names the first.
    """
    if faults := number_faults(cfg):
        raise ConfigError(faults[0])


def check_norms(cfg: CN, known: Sequence[str], *, engine: str) -> None:
    """See that the norms of the model's parts are among those that an engine has.

    Raises:
        ConfigError: one is not.
    """
    for part in ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD"):
        norm = cfg.MODEL[part].get("NORM", "")
        if norm not in known:
            names = ", ".join(map(repr, known))
            raise ConfigError(f"MODEL.{part}.NORM {norm!r}: {engine} has {names}")


def check_fixed(cfg: CN, fixed: Mapping[str, Any], *, engine: str) -> None:
    """See that keys of which an engine knows one value only have it: no key is ignored in silence.

    Args:
        cfg: the configuration.
        fixed: key -> value; lists and tuples are alike.
        engine: what the message calls it.

    Raises:
        ConfigError: one has another; the line names it.
    """
    for key, value in fixed.items():
        found = value_of(cfg, key)
        if (list(found) if isinstance(found, tuple) else found) != value:
            raise ConfigError(f"{key} {found!r}: {engine} has {value!r} only")


def add_mrssl_config(cfg: CN) -> None:
    """Add the node ``MRSSL`` with its defaults to ``cfg``, in place."""
    # Detectron2's CfgNode is a subclass of fvcore's, and merging wants the very same class.
    make = type(cfg)
    node = cfg.MRSSL = make()

    # -- data: how volumes become slices ----------------------------------------------------------
    node.DATA = make()
    # What is stepped through to make slices: "auto", DICOM slices as the scanner made them, else
    # the axis of coarsest spacing (the first of equals); the plane "sagittal", "coronal" or
    # "axial"; or an array axis, "D", "H" or "W": Right, Anterior and Superior of NIfTI, and slices,
    # rows and columns of DICOM.
    node.DATA.SLICE_AXIS = "auto"
    # Neighbouring slices stacked as the three input channels; 0 repeats the slice itself.
    node.DATA.NEIGHBOR_STEP = 1
    # Intensity range of a volume, mapped to [0, 1] and clipped: percentiles of its foreground.
    node.DATA.NORMALIZATION = "percentile"  # "percentile", "zscore" or "window"
    node.DATA.PERCENTILES = (0.5, 99.5)
    node.DATA.ZSCORE_RANGE = (-3.0, 3.0)  # standard deviations mapped to [0, 1]
    node.DATA.WINDOW = (0.0, 1.0)  # raw intensities mapped to [0, 1] by "window"
    # Slices with a smaller share of foreground pixels are left out of training without labels.
    node.DATA.MIN_FOREGROUND = 0.05
    # Label volumes: one instance per "class" or per connected "component" of each class.
    node.DATA.INSTANCES = "class"
    # Instances of fewer pixels in a slice are left out.
    node.DATA.MIN_INSTANCE_PIXELS = 4
    # Train on slices without any instance too (as negatives). It decides, not Detectron2's
    # DATALOADER.FILTER_EMPTY_ANNOTATIONS.
    node.DATA.KEEP_EMPTY = True
    # Decoded volumes kept in memory, per loader worker, in MiB.
    node.DATA.CACHE_MIB = 2048
    # Share of the training slices that may turn out to be unreadable; they are skipped and listed.
    node.DATA.MAX_UNREADABLE = 0.02
    # Seconds that a loader worker may take for one batch before the run is stopped; 0 = any.
    node.DATA.WORKER_TIMEOUT = 900
    # Regular expression whose first group is the subject in a path within the data set; "" = by the
    # format.
    node.DATA.SUBJECT_PATTERN = ""

    # -- augmentation of labelled slices -----------------------------------------------------------
    node.AUGMENT = make()
    node.AUGMENT.SCALE = (0.85, 1.2)  # zoom about the centre
    node.AUGMENT.ROTATE = 10.0  # degrees, +-
    # Share of the side, +-. With little, a detector learns where in the picture a structure is wont
    # to lie, and names alike ones wrongly where a scan was centred elsewhere.
    node.AUGMENT.TRANSLATE = 0.15
    # Greatest displacement by a smooth random field, as a share of the side.
    node.AUGMENT.ELASTIC = 0.0
    node.AUGMENT.GAMMA = (0.7, 1.4)
    node.AUGMENT.CONTRAST = (0.8, 1.2)
    # The same before distorting, and with them INPUT.CROP and INPUT.RANDOM_FLIP.
    node.AUGMENT.PRETRAIN = False

    # -- pretext: where and how slices are distorted -----------------------------------------------
    node.PRETEXT = make()
    node.PRETEXT.REGIONS = (1, 6)  # regions a slice, inclusive
    node.PRETEXT.REGION_SIZE = (0.08, 0.40)  # side of a region as a share of the slice's side
    # Also "tissue": what of a blob is alike in intensity. Its outline is the anatomy's, but for
    # where the tissue runs on beyond the blob, so less of it is a seam that gives the region away.
    node.PRETEXT.REGION_SHAPES = ("rectangle", "ellipse", "blob")
    node.PRETEXT.FEATHER = (0.0, 0.15)  # width of the soft edge as a share of the region's side
    # Least distance of two regions' centres, in half sums of their greater sides: 1 keeps regions
    # apart (but for corners of rectangles), less lets them overlap.
    node.PRETEXT.SEPARATION = 1.0
    node.PRETEXT.MIN_FOREGROUND = 0.25  # of a region's pixels
    node.PRETEXT.CLEAN_SHARE = 0.1  # slices left undistorted
    node.PRETEXT.TOLERANCE = 0.02  # a pixel counts as changed beyond this difference, in [0, 1]
    node.PRETEXT.MIN_CHANGED = 0.1  # share of the region that must change, else it is drawn again
    # Distortion types, or ("all",). How often each is drawn: WEIGHTS of equal length, or () for
    # equal shares, but that ("all", "motion") draws motion twice as often as any other.
    node.PRETEXT.DISTORTIONS = ("all",)
    node.PRETEXT.WEIGHTS = ()
    node.PRETEXT.COMPOSE = (1, 1)  # distortions a region, inclusive
    node.PRETEXT.SEVERITY = (0.3, 1.0)
    # Curricula: ((iteration, value), ...) joined linearly; () = constant. Factors on the upper
    # ends of SEVERITY and REGIONS.
    node.PRETEXT.SEVERITY_CURRICULUM = ()
    node.PRETEXT.REGIONS_CURRICULUM = ()
    # 2.5-D: share of regions in which all channels are distorted alike; in the others, only the
    # slice itself (the middle channel) is.
    node.PRETEXT.ALL_CHANNELS = 1.0
    # Share of slices whose foreign tissue comes from another subject, not another slice of the
    # volume; where the data are in a slice store, or fit into CACHE_MIB.
    node.PRETEXT.OTHER_SUBJECT = 0.5

    # -- the two branches of the pretext -----------------------------------------------------------
    node.DISTORTION_HEAD = make()
    node.DISTORTION_HEAD.IN_FEATURES = ("p2", "p4")  # the two scales: fine, context
    # Surroundings that the branches see of a region, in cells of the restored crop on each side;
    # without them, what was lost could only be guessed from what is left.
    node.DISTORTION_HEAD.MARGIN = 8
    node.DISTORTION_HEAD.MAX_ROIS = 4  # positive proposals a slice that the two branches learn from
    node.DISTORTION_HEAD.CONV_DIM = 32
    # "BN" learns types faster than "GN": normalising each region by itself takes away
    # the contrast and noise level that tell types apart.
    node.DISTORTION_HEAD.NORM = "BN"
    node.TYPE_HEAD = make()
    node.TYPE_HEAD.CONV_DIM = 64
    # The loss sums over the types; at full weight the encoder that both branches share restores
    # half as many dB in as many steps and tells the types apart hardly better.
    node.TYPE_HEAD.LOSS_WEIGHT = 0.25
    node.RESTORATION_HEAD = make()
    node.RESTORATION_HEAD.RESOLUTION = 48  # restored pixels a side; + 2 MARGIN a multiple of 8
    node.RESTORATION_HEAD.L1_WEIGHT = 0.5
    node.RESTORATION_HEAD.L2_WEIGHT = 0.5
    node.RESTORATION_HEAD.SSIM_WEIGHT = 0.25
    node.RESTORATION_HEAD.LOSS_WEIGHT = 1.0
    # The box head besides tells where in the volume each proposal lies; 0 leaves the branch out.
    node.POSITION_HEAD = make()
    node.POSITION_HEAD.LOSS_WEIGHT = 0.0
    # A decoder besides restores the whole slice from the pyramid alone, by mean squared error: what
    # only finds distortions may forget what a slice shows. 0 leaves the branch out.
    node.SLICE_DECODER = make()
    node.SLICE_DECODER.LOSS_WEIGHT = 0.0

    # -- transfer ---------------------------------------------------------------------------------
    node.TRANSFER = make()
    node.TRANSFER.SCOPE = "detector"  # "backbone", "fpn", "rpn" or "detector"
    # Groups within the scope that start anew all the same, by their names in the load report:
    # ("box_head",), say.
    node.TRANSFER.REINIT = ()
    # Learning-rate factor of the loaded parameters, and iterations for which they stay frozen
    # (what MODEL.BACKBONE.FREEZE_AT names stays so for good).
    node.TRANSFER.LR_FACTOR = 1.0
    # Further factor on it for each stage below the heads, which are the seventh: stem, res2, res3,
    # res4, res5, FPN, heads. Below 1, early layers change less.
    node.TRANSFER.LAYER_DECAY = 1.0
    node.TRANSFER.FREEZE_ITERS = 0

    # -- evaluation of volumes ---------------------------------------------------------------------
    node.EVALUATION = make()
    # Instances with a lower score are left out of the volumes that Dice and distances are measured
    # on. A detector that was trained briefly is sure of nothing: then 0.5 leaves hardly any.
    node.EVALUATION.SCORE_THRESHOLD = 0.5
    # Name the structures of a volume together, by scores and by where the classes lie to each other
    # in the training volumes, instead of each slice by itself. For several classes of which each
    # stands once in a volume; without effect on one class, where INSTANCES is "component", or where
    # classes share label values.
    node.EVALUATION.JOINT_NAMES = False

    # -- training ---------------------------------------------------------------------------------
    node.SOLVER = make()
    node.SOLVER.OPTIMIZER = "SGD"  # "SGD" or "ADAMW"
    node.SOLVER.BEST_METRIC = ""  # "task/metric" kept as model_best.pth; "" = by the task
    node.SOLVER.PATIENCE = 0  # evaluations without a better metric before stopping; 0 = never
    node.SOLVER.KEEP_CHECKPOINTS = 2
    # Decay of a moving average of the weights, which then is what is evaluated and exported;
    # 0 = none. 0.999 remembers about the last thousand iterations.
    node.SOLVER.EMA_DECAY = 0.0
    # Parts in which SOLVER.IMS_PER_BATCH goes through the model, for less memory: one update each.
    node.SOLVER.ACCUMULATE = 1
    # Of SOLVER.AMP: "bfloat16", "float16", or "auto": what the device and the engine are best with.
    node.SOLVER.AMP_DTYPE = "auto"
    node.SOLVER.CHANNELS_LAST = False  # faster convolutions on some devices
    node.SOLVER.COMPILE = False  # torch.compile of the backbone: minutes first, then faster steps
    node.LOG_PERIOD = 20
    node.WANDB_PROJECT = ""  # report to Weights & Biases too, which must be installed; "" = no
    node.PICTURE_PERIOD = 0  # iterations between TensorBoard pictures; 0 = at each evaluation


def get_cfg() -> CN:
    """The embedded engine's configuration: Detectron2's keys and defaults, and the ``MRSSL`` node.

    Detectron2's own plus :func:`add_mrssl_config` accepts every file that this accepts.
    """
    c = detectron2_keys()
    add_mrssl_config(c)
    return c


def load_cfg(
    config_file: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    cfg: CN | None = None,
) -> CN:
    """Defaults, then ``config_file`` (with its ``_BASE_``), then ``KEY VALUE`` overrides; frozen.

    Args:
        config_file: a YAML file with Detectron2's keys, or None.
        overrides: a flat list ``[KEY, VALUE, KEY, VALUE, ...]``.
        cfg: the defaults to start from (Detectron2's own, with ``MRSSL`` added); :func:`get_cfg`
            if None.

    Raises:
        ConfigError: a missing or unreadable file, an unknown key or a value of the wrong type;
            one line that names the file and the key.
        ConfigError: a number that its key cannot have.
    """
    cfg = get_cfg() if cfg is None else cfg
    if config_file is not None:
        try:
            # Detectron2's own default would run what a YAML file asks for.
            cfg.merge_from_file(str(config_file), allow_unsafe=False)
        except Exception as error:  # yaml, yacs and iopath each raise their own
            raise ConfigError(f"{config_file}: {_told(error)}") from error
    if len(overrides) % 2:
        raise ConfigError(f"overrides come as KEY VALUE pairs; {overrides[-1]!r} has no value")
    try:
        cfg.merge_from_list(list(overrides))
    except Exception as error:
        raise ConfigError(f"command line: {_told(error)}") from error
    check_numbers(cfg)
    cfg.freeze()
    return cfg


def _told(error: Exception) -> str:
    """``error`` on one line, and what is most often behind it where a list was wanted."""
    text = one_line(error)
    if "(<class 'tuple'> vs. " in text:
        text += "; a list of one has a comma: ('x',)"
        text += ", and a path has / or a double \\" if "\\" in text else ""
    return text
