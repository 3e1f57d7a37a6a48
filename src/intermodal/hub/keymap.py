"""Key maps between a published checkpoint and ours: one declaration, read in both directions, strict.

A map is a list of rules. A pattern is a key in which ``{i}`` stands for any one dotted part (or a piece of
one) and ``{q,k,v}`` for those words in that order, which makes it several patterns::

    KeyMap(
        rename("text_model.final_layer_norm.{p}", "text.final_norm.{p}"),
        fuse("encoder.layers.{i}.self_attn.{q,k,v}_proj.{p}", "blocks.{i}.attention.qkv.{p}"),
        transpose("visual.proj", "image_projection.weight"),
        ignored=("text_model.embeddings.position_ids",),
    )

Each operation is linear and undone exactly, so gradients map as weights do.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from intermodal.core.checkpoint import check_tensors
from intermodal.core.errors import CheckpointError

Convert = Callable[[Sequence[Tensor]], Sequence[Tensor]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """Some published keys, the keys of ours that hold the same numbers, and how to go either way.

    Attributes:
        published: patterns; all have the same fields in braces.
        ours: patterns with the same fields.
        to_ours: published tensors, in the patterns' order, to ours.
        to_published: the inverse.
    """

    published: tuple[str, ...]
    ours: tuple[str, ...]
    to_ours: Convert
    to_published: Convert

    def __post_init__(self) -> None:
        fields = {frozenset(re.findall(r"\{(\w+)\}", p)) for p in (*self.published, *self.ours)}
        if len(fields) != 1:
            raise ValueError(f"The fields in braces differ: {self.published} and {self.ours}.")


def rename(published: str, ours: str) -> Rule:
    """Return a rule for a tensor that only has another name."""
    return Rule((published,), (ours,), list, list)


def fuse(published: str, ours: str, axis: int = 0, sizes: Sequence[int] | None = None) -> Rule:
    """Return a rule for tensors that we keep as one, joined along ``axis``.

    Args:
        published: a pattern with one ``{a,b,c}``.
        ours: a pattern without one.
        axis: where they are joined.
        sizes: the parts' sizes along it, as proportions; None where they are equal.
    """
    parts = expand(published)
    return Rule(
        parts,
        (ours,),
        lambda ts: [torch.cat(list(ts), dim=axis)],
        lambda ts: divide(ts[0], sizes or [1] * len(parts), axis),
    )


def split(published: str, ours: str, sizes: Sequence[int], axis: int = 0) -> Rule:
    """Return a rule for one published tensor that we keep as several.

    Args:
        published: a pattern without ``{a,b}``.
        ours: a pattern with one.
        sizes: the parts' sizes along ``axis``, as proportions: ``(1, 2)`` for a third and two thirds.
        axis: where it is cut.
    """
    return Rule(
        (published,),
        expand(ours),
        lambda ts: divide(ts[0], sizes, axis),
        lambda ts: [torch.cat(list(ts), dim=axis)],
    )


def transpose(published: str, ours: str) -> Rule:
    """Return a rule for a matrix that we keep transposed."""
    return Rule((published,), (ours,), lambda ts: [ts[0].T], lambda ts: [ts[0].T])


def reshape(published: str, ours: str, published_shape: Sequence[int], our_shape: Sequence[int]) -> Rule:
    """Return a rule for a tensor of another shape; one size on each side may be -1."""
    return Rule(
        (published,),
        (ours,),
        lambda ts: [ts[0].reshape(tuple(our_shape))],
        lambda ts: [ts[0].reshape(tuple(published_shape))],
    )


class KeyMap:
    """Rules that together use every key, and the published keys that are ignored.

    Args:
        rules: no key may fit two of them.
        ignored: patterns of published keys that hold nothing to load, such as stored position indices.
    """

    def __init__(self, *rules: Rule, ignored: Sequence[str] = ()) -> None:
        self.rules = rules
        self.ignored = [_regex(p) for p in ignored]

    def load(
        self, published: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], where: Path | str
    ) -> dict[str, Tensor]:
        """Return our tensors from a published checkpoint's, having checked every name and shape.

        Args:
            published: the checkpoint's tensors.
            expected: our keys and their shapes, as the model has them.
            where: the checkpoint, for the error.

        Raises:
            CheckpointError: listing, by their published names, the keys that are missing or left over and
                those of another shape.
        """
        model = {k: torch.empty(shape, device="meta") for k, shape in expected.items()}
        wanted = {k: tuple(t.shape) for k, t in self.to_published(model).items()}
        found = self._used(published)
        check_tensors(found, wanted, where)
        return {k: t.contiguous() for k, t in self.to_ours(found).items()}

    def to_ours(self, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return our tensors from published ones (ignored keys among them are dropped).

        Raises:
            CheckpointError: if a key fits no rule, or a rule lacks one of its keys.
        """
        return _convert(self._used(published), [(r.published, r.ours, r.to_ours) for r in self.rules])

    def to_published(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return published tensors from ours.

        Raises:
            CheckpointError: if a key fits no rule, or a rule lacks one of its keys.
        """
        return _convert(ours, [(r.ours, r.published, r.to_published) for r in self.rules])

    def _used(self, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {k: t for k, t in published.items() if not any(p.fullmatch(k) for p in self.ignored)}


def expand(pattern: str) -> tuple[str, ...]:
    """Return the patterns that ``{a,b}`` in a pattern stands for; the pattern alone if there is none."""
    found = re.search(r"\{(\w+(?:,\w+)+)\}", pattern)
    if found is None:
        return (pattern,)
    return tuple(pattern[: found.start()] + w + pattern[found.end() :] for w in found[1].split(","))


def divide(tensor: Tensor, proportions: Sequence[int], axis: int) -> list[Tensor]:
    """Cut a tensor along ``axis`` in the given proportions.

    Raises:
        CheckpointError: if its size is no multiple of their sum.
    """
    unit, rest = divmod(tensor.shape[axis], sum(proportions))
    if rest:
        raise CheckpointError(
            f"A tensor of shape {list(tensor.shape)} cannot be cut in the proportions {list(proportions)}."
        )
    return list(tensor.split([unit * p for p in proportions], dim=axis))


def _convert(
    tensors: Mapping[str, Tensor], rules: Sequence[tuple[tuple[str, ...], tuple[str, ...], Convert]]
) -> dict[str, Tensor]:
    """Apply rules ``(from, to, operation)``, each once for every combination of fields that occurs."""
    patterns = [(_regex(p), n, part) for n, rule in enumerate(rules) for part, p in enumerate(rule[0])]
    groups: dict[tuple[int, tuple[tuple[str, str], ...]], dict[int, Tensor]] = {}
    unused, missing = [], []
    for key, tensor in tensors.items():
        fits = [(n, part, found) for regex, n, part in patterns if (found := regex.fullmatch(key))]
        if len(fits) > 1:
            raise ValueError(f"The key {key} fits {len(fits)} rules of the map: it must fit one.")
        if not fits:
            unused.append(key)
        for n, part, found in fits:
            groups.setdefault((n, tuple(sorted(found.groupdict().items()))), {})[part] = tensor
    out: dict[str, Tensor] = {}
    for (n, fields), parts in groups.items():
        source, target, operation = rules[n]
        missing += [p.format(**dict(fields)) for part, p in enumerate(source) if part not in parts]
        if len(parts) == len(source):
            results = operation([parts[part] for part in range(len(source))])
            out |= {p.format(**dict(fields)): t for p, t in zip(target, results, strict=True)}
    if unused or missing:
        problems = [f"{len(missing)} missing: {', '.join(missing[:8])}"] if missing else []
        problems += [f"{len(unused)} left over: {', '.join(unused[:8])}"] if unused else []
        raise CheckpointError(f"The tensors do not fit the key map: {'; '.join(problems)}.")
    return out


def _regex(pattern: str) -> re.Pattern[str]:
    """Turn a pattern into a regular expression in which each field is a named group without a dot."""
    pieces = re.split(r"\{(\w+)\}", pattern)
    seen: set[str] = set()
    out = ""
    for n, piece in enumerate(pieces):
        if n % 2 == 0:
            out += re.escape(piece)
        else:
            out += f"(?P={piece})" if piece in seen else f"(?P<{piece}>[^.]+?)"
            seen.add(piece)
    return re.compile(out)
