"""Self-supervised pretraining of whole detectors on MRI.

A detector learns from unlabelled scans by finding distorted regions, naming the distortion and
restoring what was lost. Importing ``mrssl`` itself loads nothing heavy; the parts are imported
from their own packages (:mod:`mrssl.data`, :mod:`mrssl.distortions`, :mod:`mrssl.modeling`, ...).
"""

__version__ = "0.1.0"
