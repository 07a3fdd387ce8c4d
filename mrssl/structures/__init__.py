"""What flows through the pipeline: volumes, and the targets that restoration needs."""

from mrssl.structures.restoration_targets import RestorationTargets
from mrssl.structures.volume import Volume

__all__ = ["RestorationTargets", "Volume"]
