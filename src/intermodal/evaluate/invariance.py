"""How invariant and how equivariant any encoder of pictures is, to rotation, scale, translation and flips.

A fixed set of pictures goes through the encoder as it is and transformed. For each transformation T and encoder f
(:mod:`intermodal.metrics.equivariance`):

- *invariance*: the mean cosine of f(x) and f(Tx), on a scale on which 1 is no change and 0 as different as another picture;
- *found*: how often, of all untransformed pictures, x is the one nearest to Tx;
- *equivariance*: the R^2 with which a linear map, fitted on half of the pictures, predicts f(Tx) from f(x) on the others.
  An invariant encoder is equivariant in a trivial way; *beyond the identity* is the share of the error of f(x) itself that
  the map takes away;
- *read-out*: how well T's parameter (angle, scale, shift, which flip) can be predicted linearly from f(x) and f(Tx) on
  pictures that were not fitted; 0 is chance, 1 is exact. An invariant encoder has forgotten it.

Where a transformation uncovers the ground of a picture, the ground's own colour is filled in if the border has one (emoji
stand on white), else the picture is continued by reflection, so that a fill is as small a cue as it can be. Quarter turns
and flips are exact permutations of pixels; the others are bilinear interpolations. A turned or enlarged picture loses what
leaves the frame, whatever the encoder.

Shapes: N pictures, C, H, W channels, height and width (H = W), D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from intermodal.core.errors import DataError
from intermodal.data.emoji import EmojiPictures
from intermodal.evaluate.encoding import Encoder, embed_pictures
from intermodal.evaluate.frozen_data import LabelledPart
from intermodal.metrics.equivariance import Errors, invariance, linear_map_errors, r_squared, read_out
from intermodal.metrics.retrieval import retrieval

MOST = 400
LEAST = 16
"""Fewer pictures than this are not worth a linear map."""
SIDE = 128
"""Photographs are cut square and shrunk to this side."""
SEED = 0
GROUND = 0.9
"""A picture has a ground of one colour if so much of its border has that colour."""
NEAR = 12
"""... up to this difference in each channel, of 255."""


@dataclass(frozen=True)
class Transformation:
    """One transformation of a square picture about its centre.

    Attributes:
        family: ``rotation``, ``scale``, ``translation``, ``mirror`` (left and right change places) or ``upside_down``.
        at: where it stands on its family's axis: degrees counter-clockwise, factor, share of the side.
        shift: to the right and down, as shares of the side.
    """

    family: str
    at: float
    shift: tuple[float, float] = (0.0, 0.0)

    @property
    def target(self) -> tuple[float, ...]:
        """What a read-out has to predict: the angle's cosine and sine, log2 of the factor, the shift, or which flip."""
        if self.family == "rotation":
            return math.cos(math.radians(self.at)), math.sin(math.radians(self.at))
        if self.family == "scale":
            return (math.log2(self.at),)
        return self.shift if self.family == "translation" else (1.0 if self.family == "mirror" else -1.0,)

    def matrix(self) -> Tensor:
        """Return the 2 x 3 matrix from places in the result to places in the picture (both -1..1, x right, y down)."""
        angle = math.radians(self.at) if self.family == "rotation" else 0.0
        scale = self.at if self.family == "scale" else 1.0
        flip_x = -1.0 if self.family == "mirror" else 1.0
        flip_y = -1.0 if self.family == "upside_down" else 1.0
        cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
        right, down = 2 * self.shift[0], 2 * self.shift[1]
        rows = [[flip_x * cos, -sin, -right], [sin, flip_y * cos, -down]]
        return torch.tensor(rows, dtype=torch.float64)


ANGLES = tuple(float(a) for a in range(-150, 181, 30) if a)
SCALES = (0.5, 0.7, 0.85, 1.2, 1.5, 2.0)
SHIFTS = (0.1, 0.2, 0.3)
_WAYS = ((1, 0), (-1, 0), (0, 1), (0, -1))
FAMILIES = ("rotation", "scale", "translation", "mirror", "upside_down")
TRANSFORMATIONS = (
    *(Transformation("rotation", angle) for angle in ANGLES),
    *(Transformation("scale", scale) for scale in SCALES),
    *(Transformation("translation", s, (s * x, s * y)) for s in SHIFTS for x, y in _WAYS),
    Transformation("mirror", 1.0),
    Transformation("upside_down", 1.0),
)
READ_OUTS = {"rotation": ("rotation",), "scale": ("scale",), "translation": ("translation",)} | {
    "flip": ("mirror", "upside_down")
}
"""What is read out, and of which families' pictures."""


@dataclass(frozen=True)
class PictureSet:
    """The pictures that are transformed.

    Attributes:
        image_NCHW: uint8, square.
        ground_NC: the colour of each one's ground, 0..255; -1 where it has none and is continued by reflection.
    """

    image_NCHW: Tensor
    ground_NC: Tensor

    def __len__(self) -> int:
        return len(self.image_NCHW)


@dataclass(frozen=True)
class Invariance:
    """How one encoder answers to transformations.

    Attributes:
        curves: for each family its places (as on :attr:`Transformation.at`) and the invariance and equivariance there.
        invariance, found, equivariance, identity, gain: by family; see the module's text.
        readout: by what is read out.
    """

    curves: dict[str, list[tuple[float, float, float]]]
    invariance: dict[str, float]
    found: dict[str, float]
    equivariance: dict[str, float]
    identity: dict[str, float]
    gain: dict[str, float]
    readout: dict[str, float]

    def figures(self) -> dict[str, float]:
        """Return all figures by name: ``invariance_rotation`` and so on."""
        kinds = ("invariance", "found", "equivariance", "gain", "readout")
        return {f"{kind}_{name}": value for kind in kinds for name, value in getattr(self, kind).items()}


def take_pictures(part: LabelledPart, most: int = MOST) -> PictureSet:
    """Choose pictures of a part, the same for every encoder: a seeded random choice.

    Raises:
        DataError: if there are too few to fit anything.
    """
    if len(part) < LEAST:
        raise DataError(
            f"Invariance is measured on at least {LEAST} pictures; {part.source.name} has {len(part)} with a label."
        )
    chosen = sorted(np.random.default_rng(SEED).permutation(len(part))[:most].tolist())
    on_white = isinstance(part.source, EmojiPictures)
    return picture_set([part.picture(i) for i in chosen], ground=(255, 255, 255) if on_white else None)


def picture_set(pictures: list[Image.Image], ground: tuple[int, int, int] | None = None) -> PictureSet:
    """Cut pictures square and to one size, and find the colour that they stand on.

    Args:
        pictures: at least one.
        ground: the colour on which all stand; None to look at each one's border.
    """
    sides = {min(p.size) for p in pictures}
    side = sides.pop() if len(sides) == 1 and max(sides or {SIDE}) <= SIDE else SIDE
    image_NCHW = torch.stack([_square(p, side) for p in pictures])
    grounds = [_ground(image) if ground is None else ground for image in image_NCHW]
    return PictureSet(image_NCHW, torch.tensor(grounds, dtype=torch.float32))


def _square(picture: Image.Image, side: int) -> Tensor:
    picture = picture.convert("RGB")
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    box = (left, top, left + short, top + short)
    picture = picture.resize((side, side), Image.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def _ground(image_CHW: Tensor) -> tuple[int, ...]:
    edges = (image_CHW[:, 0], image_CHW[:, -1], image_CHW[:, 1:-1, 0], image_CHW[:, 1:-1, -1])
    border_CP = torch.cat(edges, dim=1).int()
    colour_C1 = border_CP.median(dim=1, keepdim=True).values
    same = ((border_CP - colour_C1).abs() <= NEAR).all(0).double().mean()
    return tuple(colour_C1[:, 0].tolist()) if same >= GROUND else (-1,) * len(image_CHW)


def transform(pictures: PictureSet, transformation: Transformation) -> Tensor:
    """Return the transformed pictures, uint8 ``(N, C, H, W)``."""
    image_NCHW, ground_NC11 = pictures.image_NCHW.float(), pictures.ground_NC[:, :, None, None]
    matrix_23 = transformation.matrix()
    out_NCHW = torch.empty_like(image_NCHW)
    bare_N = ground_NC11[:, 0, 0, 0] < 0
    for rows, mode in ((~bare_N, "zeros"), (bare_N, "reflection")):
        if not rows.any():
            continue
        ground = ground_NC11[rows].clamp(min=0)  # taken away first, so that what is filled in as zero is the ground
        centred = image_NCHW[rows] - ground
        grid_1HW2 = F.affine_grid(matrix_23.float()[None], [1, *centred.shape[1:]], align_corners=False)
        grid_NHW2 = grid_1HW2.expand(len(centred), -1, -1, -1)
        moved = F.grid_sample(centred, grid_NHW2, mode="bilinear", padding_mode=mode, align_corners=False)
        out_NCHW[rows] = moved + ground
    return out_NCHW.round().clamp(0, 255).to(torch.uint8)


def measure_invariance(
    encoders: Sequence[Encoder], pictures: PictureSet, report: Callable[[float], None]
) -> list[Invariance]:
    """Send the pictures through encoders under every transformation and measure what changes.

    Args:
        encoders: each turns PIL images into rows.
        pictures: at least :data:`LEAST`.
        report: told the share that is done.

    Returns:
        one result an encoder.

    Raises:
        TrainingError: if a feature is not finite.
    """
    plain = _encode(encoders, pictures.image_NCHW)
    moved: list[list[Tensor]] = []
    for number, transformation in enumerate(TRANSFORMATIONS):
        report(0.8 * number / len(TRANSFORMATIONS))
        moved.append(_encode(encoders, transform(pictures, transformation)))
    found = []
    for number, x_ND in enumerate(plain):
        report(0.8 + 0.2 * number / len(plain))
        found.append(_measure(x_ND, [rows[number] for rows in moved]))
    report(1.0)
    return found


def _measure(x_ND: Tensor, moved: list[Tensor]) -> Invariance:
    fitted_N = torch.arange(len(x_ND)) % 2 == 0
    errors = [linear_map_errors(x_ND, y_ND, fitted_N) for y_ND in moved]
    alike = [invariance(x_ND, y_ND) for y_ND in moved]
    right = list(range(len(x_ND)))
    gallery = F.normalize(x_ND.double(), dim=1)
    found = [retrieval(F.normalize(y_ND.double(), dim=1), gallery, right, ks=(1,))["R@1"] for y_ND in moved]
    of = {family: [i for i, t in enumerate(TRANSFORMATIONS) if t.family == family] for family in FAMILIES}
    pooled = {family: sum((errors[i] for i in rows), Errors(0.0, 0.0, 0.0)) for family, rows in of.items()}
    return Invariance(
        {family: _curve(family, rows, alike, errors) for family, rows in of.items()},
        {family: float(np.mean([alike[i] for i in rows])) for family, rows in of.items()},
        {family: float(np.mean([found[i] for i in rows])) for family, rows in of.items()},
        {family: e.equivariance for family, e in pooled.items()},
        {family: e.of_identity for family, e in pooled.items()},
        {family: e.gain for family, e in pooled.items()},
        {name: _readable(name, families, x_ND, moved, fitted_N) for name, families in READ_OUTS.items()},
    )


def _encode(encoders: Sequence[Encoder], image_NCHW: Tensor) -> list[Tensor]:
    """Return the features of pictures, ``(N, D)`` in float32 for each encoder."""
    arrays = image_NCHW.permute(0, 2, 3, 1).contiguous().numpy()
    pictures = (Image.fromarray(array) for array in arrays)
    return [torch.from_numpy(rows) for rows in embed_pictures(encoders, pictures, len(arrays), lambda share: None)]


def _curve(family: str, rows: list[int], alike: list[float], errors: list[Errors]) -> list[tuple[float, float, float]]:
    """Return place, invariance and equivariance; transformations at one place (shifts) are taken together."""
    places = sorted({TRANSFORMATIONS[i].at for i in rows})
    found = []
    for place in places:
        here = [i for i in rows if TRANSFORMATIONS[i].at == place]
        pooled = sum((errors[i] for i in here), Errors(0.0, 0.0, 0.0))
        found.append((place, float(np.mean([alike[i] for i in here])), pooled.equivariance))
    if family == "rotation":  # half a turn is the same both ways
        found.insert(0, (-180.0, *found[-1][1:]))
    return found


def _readable(name: str, families: tuple[str, ...], x_ND: Tensor, moved: list[Tensor], fitted_N: Tensor) -> float:
    rows = [i for i, t in enumerate(TRANSFORMATIONS) if t.family in families]
    features = torch.cat([torch.cat([x_ND, moved[i]], dim=1) for i in rows])
    targets = torch.cat([torch.tensor([TRANSFORMATIONS[i].target]).expand(len(x_ND), -1) for i in rows])
    groups = torch.arange(len(x_ND)).repeat(len(rows))
    predicted, target = read_out(features, targets, groups, fitted_N.repeat(len(rows)))
    if name == "flip":  # accuracy, on a scale on which guessing is 0
        right = torch.where(predicted == 0, 0.5, (predicted.sign() == target.sign()).double())
        return 2 * float(right.mean()) - 1
    return r_squared(predicted, target)
