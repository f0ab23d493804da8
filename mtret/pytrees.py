"""Named leaves of nested dictionaries: flatten, rebuild, choose by regular expression."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from mtret.errors import UserError

Tree = Mapping[str, Any]


def flatten(tree: Tree) -> dict[str, Any]:
    """{"a": {"b": x}} -> {"a/b": x}, in the tree's own order."""
    return flatten_dict(tree, sep="/")


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    return unflatten_dict(leaves, sep="/")


def match_rules(tree: Tree, rules: Sequence[tuple[str, Any]], what: str) -> dict[str, Any]:
    """A tree of the same structure; a leaf's value is that of the first rule whose expression matches its whole path.

    Raises UserError when a leaf is matched by no rule: a new parameter must be decided on, not fall through.
    """
    values = {}
    for path in flatten(tree):
        found = [value for pattern, value in rules if re.fullmatch(pattern, path)]
        if not found:
            raise UserError(f"{what}: no rule matches the parameter '{path}'; add one (first match counts)")
        values[path] = found[0]
    return unflatten(values)
