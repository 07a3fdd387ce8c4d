"""Scans on disk to volumes, slices, labels and dataset dicts."""

from mrssl.data.cache import VolumeCache
from mrssl.data.datasets import Dataset, dataset_options, load_dataset
from mrssl.data.labels import instances_of_slice
from mrssl.data.normalization import intensity_window, normalize
from mrssl.data.sources import FoundVolumes, Refused, VolumeSource, find_volumes, read_volume

__all__ = [
    "Dataset",
    "FoundVolumes",
    "Refused",
    "VolumeCache",
    "VolumeSource",
    "dataset_options",
    "find_volumes",
    "instances_of_slice",
    "intensity_window",
    "load_dataset",
    "normalize",
    "read_volume",
]
