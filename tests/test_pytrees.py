import numpy as np
import pytest

from mtret.errors import UserError
from mtret.pytrees import flatten, match_rules, unflatten

TREE = {"tower": {"b": {"kernel": 1, "bias": 2}, "a": {"embedding": np.arange(3)}}, "log_scale": 4}


def test_leaves_are_named_by_their_path_in_the_trees_own_order():
    assert list(flatten(TREE)) == ["tower/b/kernel", "tower/b/bias", "tower/a/embedding", "log_scale"]
    assert flatten(TREE)["tower/b/bias"] == 2
    assert flatten(TREE)["tower/a/embedding"] is TREE["tower"]["a"]["embedding"]


def test_unflatten_undoes_flatten():
    assert unflatten(flatten(TREE)) == TREE


def test_the_first_rule_that_matches_the_whole_path_counts():
    rules = ((r".*/bias", "first"), (r"tower/.*", "second"), (r"log_scale", "third"), (r".*", "never"))
    assert match_rules(TREE, rules, "x") == {
        "tower": {"b": {"kernel": "second", "bias": "first"}, "a": {"embedding": "second"}},
        "log_scale": "third",
    }


def test_a_parameter_without_a_rule_is_refused_by_name():
    # `kernel` alone would match by re.search: a rule is for the whole path.
    with pytest.raises(UserError, match=r"optim.decay_mask: no rule matches the parameter 'tower/b/kernel'"):
        match_rules(TREE, ((r"kernel", True), (r".*(bias|embedding|scale)", False)), "optim.decay_mask")
