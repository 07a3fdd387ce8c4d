"""Artefacts of acquisition, made in the k-space of the region.

The region's crop is taken for a field of view of its own: its discrete Fourier transform is the
k-space that the artefact changes. Only the axis concerned is transformed where that suffices.
Convention: ``k = fft(image)``, DC at index 0, forward transform unscaled.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy import fft

from mrssl.distortions.base import (
    DISTORTION_REGISTRY,
    Distortion,
    DistortionContext,
    Params,
    Stage,
    draw_seed,
    draw_sign,
    generator,
)


def modulate_lines(patch: np.ndarray, gain: np.ndarray, axis: int) -> np.ndarray:
    """Multiply k-space lines by a gain and go back to the magnitude image.

    Args:
        patch: float32 (C, h, w).
        gain: float or complex (n,), n = the patch's length along ``axis``; index 0 is DC.
        axis: -2 (lines stacked along y) or -1.

    Returns:
        float32 (C, h, w), the magnitude, at least 0.
    """
    lines = fft.fft(patch, axis=axis)
    gain = gain.astype(np.complex64)
    lines *= gain[:, None] if axis == -2 else gain
    return np.abs(fft.ifft(lines, axis=axis, overwrite_x=True))


def line_numbers(length: int) -> np.ndarray:
    """Signed numbers of k-space lines in the order of the transform, DC first; int (length,).

    What goes over the lines in the order of their acquisition goes over these: counted from 0 on,
    the numbers would jump between -1 and 0, in the middle of what the image is made of.
    """
    return fft.ifftshift(np.arange(length) - length // 2)


def draw_axis(rng: np.random.Generator) -> int:
    """The phase-encoding axis: -2 (y) or -1 (x), with equal chance."""
    return -2 if rng.random() < 0.5 else -1


@DISTORTION_REGISTRY.register()
class Ghosting(Distortion):
    """Copies of the region, displaced along the phase-encoding axis, by a periodic motion.

    Motion or flow of a period of ``period`` lines modulates the signal from line to line; a
    modulation ``1 + 2 a sin(2 pi j / period + phase)`` of line j gives two ghosts of amplitude a
    displaced by +- N / period pixels, N lines in all, j counted from DC (Wood and Henkelman, "MR
    image artifacts from periodic motion", Medical Physics 1985). The line of the mean brightness is
    left as it is, and those beside it nearly, by a phase near 0 or pi: ghosts, not a brighter or
    darker region, are the sign.

    Severity: ghost amplitude ``0.8 * severity`` of the original.
    """

    name = "ghosting"
    stage = Stage.ACQUISITION

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {
            "axis": draw_axis(rng),
            "period": float(rng.uniform(2.5, 6.0)),
            "phase": float(rng.uniform(-0.3, 0.3)) + (np.pi if rng.random() < 0.5 else 0.0),
            "intensity": 0.8 * severity,
        }

    @staticmethod
    def gain(length: int, params: Params) -> np.ndarray:
        """Gain of each k-space line; float64 (length,)."""
        angle = 2 * np.pi * line_numbers(length) / params["period"] + params["phase"]
        gain = 1 + 2 * params["intensity"] * np.sin(angle)
        gain[0] = 1
        return gain

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        axis = params["axis"]
        return modulate_lines(patch, self.gain(patch.shape[axis], params), axis)


@DISTORTION_REGISTRY.register()
class Aliasing(Distortion):
    """Fold-over: the field of view is too small along the phase-encoding axis.

    Acquiring every R-th of N lines only sums R copies of the image, displaced by N / R pixels:
    ``x_R(n) = (1 / R) sum over r < R of x(n - r N / R)``, exactly so where R divides N (Pruessmann
    et al., "SENSE", Magnetic Resonance in Medicine 1999). The other lines are weakened by w, not
    always dropped, as after an imperfect unfolding: ``|(1 - w) x + w x_R|``.

    Severity: ``w = severity``, the share taken from the lines between; R is 2 or 3.
    """

    name = "aliasing"
    stage = Stage.ACQUISITION

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {
            "axis": draw_axis(rng),
            "factor": int(rng.integers(2, 4)),
            "weakening": severity,
        }

    @staticmethod
    def gain(length: int, params: Params) -> np.ndarray:
        """Gain of each k-space line; float64 (length,)."""
        kept = line_numbers(length) % params["factor"] == 0
        return np.where(kept, 1.0, 1.0 - params["weakening"])

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        axis = params["axis"]
        return modulate_lines(patch, self.gain(patch.shape[axis], params), axis)


@DISTORTION_REGISTRY.register()
class Motion(Distortion):
    """Rigid motion between the lines of one acquisition.

    Lines are acquired in order; at a few moments the patient moves, and the lines from then on are
    those of the moved image: ``K'(j) = K_m(j)`` with m the pose at the time of line j (Shaw et al.,
    "MRI k-space motion artefact augmentation", MIDL 2019). The lines around DC keep the first pose,
    so that the artefact is ghosting and blur and not a mere displacement.

    Severity: rotations up to ``15 * severity`` degrees, displacements up to ``0.15 * severity`` of
    the side; each is at least half of that.
    """

    name = "motion"
    stage = Stage.ACQUISITION

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        axis = draw_axis(rng)
        length = shape[axis]
        events = []
        # Before the centre and after it: (first line, end, degrees, dy, dx) in centred order.
        before, after = rng.uniform(0.42, 0.48), rng.uniform(0.52, 0.58)
        middle = length // 2  # of DC; in a small region the shares may round to it
        before = min(round(before * length), middle)
        after = max(round(after * length), middle + 1)
        for first, last in ((0, before), (after, length)):
            scale = severity * rng.uniform(0.5, 1.0, 3)
            degrees = 15.0 * scale[0] * draw_sign(rng)
            dy, dx = (
                0.15 * part * side * draw_sign(rng)
                for part, side in zip(scale[1:], shape, strict=True)
            )
            events.append([first, last, float(degrees), float(dy), float(dx)])
        return {"axis": axis, "events": events}

    @staticmethod
    def lines(patch: np.ndarray, params: Params) -> np.ndarray:
        """The lines acquired; complex64 (C, h, w), transformed along the axis, DC first."""
        axis = params["axis"]
        length = patch.shape[axis]
        lines = fft.fft(patch, axis=axis)
        for first, last, degrees, dy, dx in params["events"]:
            moved = fft.fft(move(patch, degrees, dy, dx), axis=axis)
            chosen = (np.arange(first, last) - length // 2) % length
            index = (slice(None), chosen) if axis == -2 else (..., chosen)
            lines[index] = moved[index]
        return lines

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        lines = self.lines(patch, params)
        return np.abs(fft.ifft(lines, axis=params["axis"], overwrite_x=True))


def move(patch: np.ndarray, degrees: float, dy: float, dx: float) -> np.ndarray:
    """Rotate about the centre and displace, in pixels; mirrored at the border; (C, h, w)."""
    _, h, w = patch.shape
    matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), degrees, 1.0)
    matrix[:, 2] += np.array((dx, dy))
    out = np.empty_like(patch)
    for source, target in zip(patch, out, strict=True):
        cv2.warpAffine(source, matrix, (w, h), dst=target, borderMode=cv2.BORDER_REFLECT_101)
    return out


@DISTORTION_REGISTRY.register()
class KspaceSpikes(Distortion):
    """Spikes in k-space: stripes over the whole region (herringbone).

    A discharge adds one large sample at (v, u). Its inverse transform is a plane wave, so it is
    added in closed form, together with the mirrored sample that keeps the image real: a sample of
    ``I * |K(0)|``, with ``K(0)`` the DC of the patch, adds
    ``2 I mean(patch) cos(2 pi (v y / h + u x / w) + phase)`` (Graves and Mitchell, "Body MRI
    artifacts in clinical practice", JMRI 2013).

    Severity: I = ``0.25 * severity`` for each of one to three spikes; where the mean is below
    0.1, as in air, 0.1 takes its place.
    """

    name = "kspace_spikes"
    stage = Stage.ACQUISITION

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        spikes = []
        for _ in range(int(rng.integers(1, 4))):
            angle = rng.uniform(-np.pi / 2, np.pi / 2)
            reach = rng.uniform(0.15, 0.35)  # cycles a pixel
            v, u = round(reach * np.sin(angle) * shape[0]), round(reach * np.cos(angle) * shape[1])
            spikes.append([v, u, float(rng.uniform(0, 2 * np.pi))])
        return {"intensity": 0.25 * severity, "spikes": spikes}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        _, h, w = patch.shape
        y, x = np.arange(h) * (2 * np.pi / h), np.arange(w) * (2 * np.pi / w)
        wave = np.zeros((h, w), dtype=np.float32)
        for v, u, phase in params["spikes"]:
            # cos(a + b) by two outer products instead of a cosine a pixel.
            a, b = v * y + phase, u * x
            rows = np.stack([np.cos(a), -np.sin(a)], axis=1).astype(np.float32)
            wave += rows @ np.stack([np.cos(b), np.sin(b)]).astype(np.float32)
        level = np.maximum(patch.mean(axis=(1, 2), keepdims=True), np.float32(0.1))
        return patch + wave * (level * np.float32(2 * params["intensity"]))


@DISTORTION_REGISTRY.register()
class Zipper(Distortion):
    """Zipper lines: a radio transmitter leaks into the room.

    A tone of one frequency is, in every readout, a complex exponential of constant modulus, hence a
    point at one place along the readout axis; its phase differs from line to line, so that a dotted
    line appears across the region, alternating in brightness (Graves and Mitchell, "Body MRI
    artifacts in clinical practice", JMRI 2013): ``|v + (-1)^j a u_j|`` in line j, with u_j of
    U(0.5, 1). Several tones, each as wide as its band.

    Severity: amplitude ``0.15 + 0.75 * severity`` in intensities.
    """

    name = "zipper"
    stage = Stage.NOISE

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        axis = draw_axis(rng)
        length = shape[axis]
        width = max(1, round(length / 20))
        tones = int(rng.integers(3, 6))
        places = (np.arange(tones) + rng.uniform(0.2, 0.8, tones)) / tones
        starts = np.minimum((places * length).astype(int), length - width)
        return {
            "axis": axis,
            "starts": starts.tolist(),
            "width": width,
            "amplitude": 0.15 + 0.75 * severity,
            "seed": draw_seed(rng),
        }

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        out = patch.copy()
        view = out if params["axis"] == -1 else out.transpose(0, 2, 1)
        rng = generator(params["seed"])
        lines = view.shape[1]
        alternate = np.where(np.arange(lines) % 2, -1.0, 1.0)
        for start in params["starts"]:
            dots = alternate * rng.uniform(0.5, 1.0, lines) * params["amplitude"]
            view[:, :, start : start + params["width"]] += dots[:, None].astype(np.float32)
        return np.abs(out, out=out)
