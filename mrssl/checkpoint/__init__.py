"""Checkpoints: files, names, provenance, transfer and export."""

from mrssl.checkpoint.export import ExportReport, export_checkpoint, stock_config
from mrssl.checkpoint.groups import GROUPS, SCOPES, group_of
from mrssl.checkpoint.io import CheckpointError, load_checkpoint, same_content, save_checkpoint
from mrssl.checkpoint.names import to_detectron2, to_torchvision
from mrssl.checkpoint.provenance import Provenance, input_differences
from mrssl.checkpoint.transfer import LoadReport, load_for_transfer, load_strict

__all__ = [
    "GROUPS",
    "SCOPES",
    "CheckpointError",
    "ExportReport",
    "LoadReport",
    "Provenance",
    "export_checkpoint",
    "group_of",
    "input_differences",
    "load_checkpoint",
    "load_for_transfer",
    "load_strict",
    "same_content",
    "save_checkpoint",
    "stock_config",
    "to_detectron2",
    "to_torchvision",
]
