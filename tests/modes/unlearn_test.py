"""configs/unlearn.py and configs/masked_finetuning.py as a user starts them."""

import json

import pytest

from mdx import modes
from mdx.build import setup as setup_lib
from mdx.configs import masked_finetuning
from mdx.configs import unlearn

import tiny

_SMALL = {"steps": 4, "eval_steps": 2, "checkpoint_steps": 4, "batch_size": 8,
          "network.num_layers": 1, "network.width": 16, "network.num_heads": 2,
          "network.mlp_width": 16, "data.source.num_retain": 16, "data.source.num_validation": 8,
          "eval.num_batches": 1}


def _config(arg, **changes):
  config = unlearn.get_config(arg)
  trained = [config.init.base] + [one.base for one in config.frozen.values() if "base" in one]
  for one in (config, *trained):
    with one.unlocked():
      tiny.changed(one, _SMALL)
      one.mode = "train"
  return tiny.changed(config, changes)


@pytest.mark.slow
def test_a_frozen_model_is_trained_once_from_the_base_and_what_is_forgotten_is_evaluated(tmp_path):
  config = _config("generic")
  results = modes.run("train", config, str(tmp_path))
  frozen = tmp_path / "frozen" / "reinforced"
  made = json.loads((frozen / "config.json").read_text())["config"]
  assert made["init"]["checkpoint"] == str(tmp_path / "base")
  assert made["data"]["source"]["part"] == "forget"
  before = (frozen / "results.json").stat().st_mtime_ns
  assert [point["updates"] for point in results["curve"]] == [0, 2, 4]
  assert {"forget_nats", "retain_nats"} <= set(results["curve"][0])
  assert 0 < results["forget_probability"] < 1 and 0 <= results["exact_forget"] <= 1
  assert modes.run("train", config, str(tmp_path))["retain_nats"] == results["retain_nats"]
  assert (frozen / "results.json").stat().st_mtime_ns == before


def test_an_overlap_is_refused_before_anything_is_trained_or_written(tmp_path):
  rows = tmp_path / "rows.jsonl"
  rows.write_text('{"text": "ab", "set": "forget"}\n{"text": "ab", "set": "retain"}\n')
  config = _config(None)
  for one in (config, config.init.base):
    one.tokenizer.path = "char"
    with one.unlocked():
      one.data.source = dict(name="unlearning", path=str(rows), holdout_every=0)
  with pytest.raises(ValueError, match="rows.jsonl, line 1 is to be forgotten, and .* line 2"):
    modes.run("train", config, str(tmp_path / "run"))
  assert not (tmp_path / "run" / "base" / "weights").exists()


def test_questions_need_a_source_that_has_some(tmp_path):
  config = tiny.config("diffusion")
  config.eval.evaluators = ("questions",)
  with pytest.raises(ValueError, match="has questions, and data.source has none; use a source"):
    setup_lib.setup(config, str(tmp_path))
  with pytest.raises(ValueError, match="eval.questions.num_questions must be at least 0, got -1"):
    with config.unlocked():
      config.eval.questions = dict(num_questions=-1)
    setup_lib.setup(config, str(tmp_path))


def test_two_methods_at_once_are_refused():
  with pytest.raises(ValueError, match="takes one variant, got .*; choose from npo, ascent, difference"):
    unlearn.get_config("npo,generic")
  with pytest.raises(ValueError, match="takes one variant, got .*; choose from masked, plain, random, reversed, diffusion"):
    masked_finetuning.get_config("plain,random")
