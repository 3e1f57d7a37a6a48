"""Pruning of n-gram models by relative entropy: Stolcke (1998), "Entropy-based pruning of backoff language models".

Leaving out one entry (h, w) changes the probabilities after h alone: w gets its share of backing off, and the weight of
backing off after h changes so that they sum to one again. The relative entropy between the two models is then

    D = -p(h) { p(w|h) [ln p(w|h') + ln alpha' - ln p(w|h)] + [ln alpha' - ln alpha] sum over backed-off v of p(v|h) }

(equation 4), with h' the history without its first word. Entries for which exp(D) - 1, the relative change of the training
text's perplexity, is below a threshold go; those that longer entries still begin with stay.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from intermodal.core.errors import ConfigError
from intermodal.decode.ngram import NGram
from intermodal.decode.ngram_tree import Tree

Array = np.ndarray[Any, Any]

_LEAST = 1e-7
"""What single precision leaves of a sum that is to be zero: shares of backing off below it count as it."""


def prune(model: NGram, threshold: float) -> NGram:
    """Return a model without the entries that change the perplexity by less than ``threshold`` (1e-8 is common).

    The weights of backing off are computed anew, so that each history's probabilities sum to one.

    Raises:
        ConfigError: if the threshold is negative or not finite.
    """
    if not 0 <= threshold < np.inf:
        raise ConfigError(f"The threshold of pruning is a number of at least 0, such as 1e-8; found {threshold}.")
    tree = Tree.of(model)
    keep = np.ones(len(tree.keys), bool)
    for n in range(model.order, 1, -1):
        here = slice(tree.levels[n], tree.levels[n + 1])
        keep[here] = np.expm1(entropy_changes(tree, n, model.start)) >= threshold
        if n < model.order:
            longer = slice(tree.levels[n + 1], tree.levels[n + 2])
            keep[tree.parent(longer)[keep[longer]]] = True
    return _kept(tree, keep).model(model.words, closed=model.closed)


def entropy_changes(tree: Tree, n: int, start: int) -> Array:
    """Return the relative entropy D, in nats, that leaving out each of the entries of length ``n`` alone would cost.

    Args:
        tree: of the model.
        n: at least 2.
        start: the number of ``<s>``, which is certain at the beginning of a history.
    """
    here = slice(tree.levels[n], tree.levels[n + 1])
    parent, logp = tree.parent(here), tree.logp[here]
    _, shorter = tree.backed_off(tree.link[parent], tree.word(here))
    p, q = np.exp(logp), np.exp(shorter)
    left, left_shorter = _left(parent, p, here.start)[parent], _left(parent, q, here.start)[parent]
    rises = np.log(left + p) - np.log(left_shorter + q) - (np.log(left) - np.log(left_shorter))
    alpha = np.log(left + p) - np.log(left_shorter + q)
    history = np.exp(_log_prob(tree, here.start, start))[parent]
    return -history * (p * (shorter + alpha - logp) + rises * left)


def _left(parent: Array, p: Array, above: int) -> Array:
    """Return, for each node that may be a history, what its entries leave of one."""
    return np.maximum(1.0 - np.bincount(parent, p, above), _LEAST)


def _log_prob(tree: Tree, count: int, start: int) -> Array:
    """Return ln p of the whole sequence of each of the first nodes."""
    total = np.zeros(count)
    for low, high in zip(tree.levels[1:], tree.levels[2:], strict=False):
        if low >= count:
            break
        part = slice(low, high)
        total[part] = total[tree.parent(part)] + tree.logp[part]
        if low == 1:
            total[low + start] = 0.0
    return total


def _kept(tree: Tree, keep: Array) -> Tree:
    """Return a tree with some of the nodes, and new weights of backing off."""
    out = Tree(tree.size)
    number = np.where(keep, np.cumsum(keep) - 1, -1)
    link = tree.link.copy()
    while len(gone := np.flatnonzero(~keep[link])):
        link[gone] = tree.link[link[gone]]
    for n, (low, high) in enumerate(zip(tree.levels[1:], tree.levels[2:], strict=False), 1):
        nodes = low + np.flatnonzero(keep[low:high])
        if not len(nodes):
            break
        keys = number[tree.keys[nodes] // tree.size] * tree.size + tree.keys[nodes] % tree.size
        out.append(keys, tree.logp[nodes], np.zeros(len(nodes)), number[link[nodes]])
        if n > 1:
            _reweight(out, n)
    return out


def _reweight(tree: Tree, n: int) -> None:
    """Set the weights of backing off of the histories of the entries of length ``n``, which are the last ones."""
    here = slice(tree.levels[n], tree.levels[n + 1])
    parent = tree.parent(here)
    _, shorter = tree.backed_off(tree.link[parent], tree.word(here))
    left = np.log(_left(parent, np.exp(tree.logp[here]), here.start))
    left -= np.log(_left(parent, np.exp(shorter), here.start))
    histories = np.unique(parent)
    tree.backoff[histories] = left[histories]
