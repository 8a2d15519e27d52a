"""Explanations of the keys of configs: each has one, and it is that of the source."""

import importlib
import pathlib
import re

import tiny

from mdx import config as config_lib
from mdx import configs
from mdx.build import explain
from mdx.configs import common
from mdx.configs import mdpo
from mdx.objectives.tokens import electra
from mdx.samplers import confidence
from mdx.utils import comments

_FOLDER = pathlib.Path(configs.__path__[0])


def _keys(name):
  config = importlib.import_module(f"mdx.configs.{name}").get_config()
  return config, explain.of_config(config, _FOLDER / f"{name}.py")


def test_every_key_of_every_config_is_explained_with_its_default():
  assert len(tiny.CONFIGS + tiny.OTHERS) > 15
  for name in ("common", *tiny.CONFIGS, *tiny.OTHERS):
    config, keys = _keys(name)
    flat = config_lib.flatten(config)
    found = {key.name: key for key in keys}
    assert len(found) == len(keys)
    closed = tuple(f"{key.name}." for key in keys if key.kind.startswith("config of its own"))
    wanted = {key for key in flat if not (closed and key.startswith(closed))}
    assert wanted <= set(found), name
    for key in wanted:
      assert config_lib.to_dict(found[key].value) == flat[key] and found[key].kind
      assert found[key].about, f"configs/{name}.py: {key} has no comment, nor a docstring"


def test_explanations_are_those_of_the_source():
  keys = {key.name: key for key in _keys("mdpo")[1]}
  line = next(x for x in (_FOLDER / "mdpo.py").read_text().splitlines() if " group_size=8" in x)
  assert keys["rollout.group_size"].about == line.partition("#")[2].strip()
  assert keys["rollout.group_size"].kind == "whole number"
  assert keys["rollout.filter_once"].kind == "True or False"
  # Of a component the docstring counts, of the rule that is named and then of the others.
  assert keys["rollout.sampler.steps"].about == explain.attributes(
      confidence.Confidence)["steps"]
  assert keys["objective.name"].about.startswith("one of ") and "espo" in keys["objective.name"].about
  assert keys["init.base"].kind.startswith("config of its own")
  assert not any(name.startswith("init.base.") for name in keys)
  # Of a key that only its table explains, that; of one that another file explains, that.
  assert keys["export.path"].about == "a new directory"
  assert keys["mesh.data"].about == comments.of_file(_FOLDER / "common.py")["mesh.data"]


def test_attributes_of_a_docstring_are_read_with_their_continuations_and_bases():
  found = explain.attributes(electra.Electra)
  assert found["rtd_weight"] == "factor of the second term."
  assert found["generator_depth"] == "its share of the layers."
  assert "no generator" in found["generator"] and "mask_rate" in found


def test_comments_behind_and_above_keys(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text('''
config = ConfigDict(dict(  # no key
    one=1,  # first
    # Above two
    # and three.
    two=2, three=3,
    table=dict(  # of four
        four=4),
    short=dict(five=5),  # of short
))
config.six = 6  # sixth
# A reason.
config.table.update(four=5, seven=7)
config.one = 2  # not this
other.eight = 8  # nor this
''')
  assert comments.of_file(file) == {
      "one": "first", "two": "Above two and three.", "three": "Above two and three.",
      "table": "of four", "short": "of short", "six": "sixth"}


def test_hints_name_keys_of_tables():
  config = mdpo.get_config()
  hint = lambda *args: config_lib.did_you_mean_key(*args)
  assert hint("width", common.get_config()) == " Did you mean network.width?"
  assert hint("lr", config, "optimizer") == " Did you mean 'optimizer.learning_rate'?"
  assert hint("grup_size", config, "rollout") == " Did you mean 'rollout.group_size'?"
  assert re.search("init.base.network.num_layers", hint("num_layers", config))
  assert hint("updatez", config) == " Did you mean 'updates'?"
