"""The identity of a run: values that differ from their defaults."""

import copy

import pytest

from mdx import config as config_lib
from mdx.build import identity
from mdx.configs import diffusion
from mdx.configs import mdpo

_LATER = ("rewards", "dynamic_sampling", "max_refills", "max_turns", "max_reply_length",
          "long_prompts", "filter_once", "mesh")


def test_keys_that_came_later_change_no_identity():
  for config, paths in ((diffusion.get_config(), [("frozen",), ("adaptations",),
                                                  ("eval", "evaluators")]),
                        (mdpo.get_config("mdpo"), [("rollout", key) for key in _LATER])):
    config = config_lib.to_dict(config)
    before = copy.deepcopy(config)
    for *above, last in paths:
      table = before
      for key in above:
        table = table[key]
      del table[last]
    assert identity.run_hash(config) == identity.run_hash(before)
    assert not identity.differences(before, config)


@pytest.mark.parametrize("key, value", [
    ("steps", 7), ("seed", 1), ("objective", {"name": "mlm"}),
    ("frozen", {"teacher": {"checkpoint": "runs/big"}}), ("adaptations", [{"name": "lora"}])])
def test_what_is_computed_changes_it(key, value):
  config = config_lib.to_dict(diffusion.get_config())
  assert identity.run_hash(config | {key: value}) != identity.run_hash(config)


def test_a_field_at_its_default_is_as_good_as_absent():
  config = config_lib.to_dict(diffusion.get_config())
  config["network"]["dropout"] = 0.0
  config["optimizer"]["eps"] = 1e-8
  config["objective"] |= {"carry_over": True}
  plain = config_lib.to_dict(diffusion.get_config())
  assert identity.run_hash(config) == identity.run_hash(plain)
  config["objective"]["carry_over"] = False
  assert identity.run_hash(config) != identity.run_hash(plain)
  # A schedule is a table with defaults of its own, so it is compared as it stands.
  one, two = ({**plain, "objective": {**plain["objective"], "schedule": {"name": "linear", **eps}}}
              for eps in ({}, {"eps": 1e-4}))
  assert identity.run_hash(one) != identity.run_hash(two)


def test_the_mesh_of_rollouts_changes_no_identity():
  config = config_lib.to_dict(mdpo.get_config("mdpo"))
  other = {**config, "rollout": {**config["rollout"], "mesh": {"data": -1, "tensor": 2}}}
  assert identity.run_hash(config) == identity.run_hash(other)
  assert not identity.differences(config, other)
