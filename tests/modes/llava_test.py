"""Connectors as runs: an encoder and a language model first, stages, and what is refused."""

import json

import jax
import numpy as np
import pytest

import mdx
from mdx import modes
from mdx.build import setup as setup_lib
from mdx.configs import llava
from mdx.data import pipeline
from mdx.utils import tree

import tiny


def _config(arg=None):
  config = llava.get_config(arg)
  small = dict(network=dict(num_layers=1, width=16, num_heads=2, mlp_width=16), steps=2,
               batch_size=8, log_steps=1, checkpoint_steps=2, eval_steps=0)
  chain = [config, config.frozen.encoder.base, config.init.base]
  if arg == "stage2":
    chain += [config.init.base.frozen.encoder.base, config.init.base.init.base]
  for one in chain:
    one.network.update(small["network"])
    one.update({k: v for k, v in small.items() if k != "network"})
    one.data.source.update(num_train=16, num_validation=8)
    one.eval.update(final_samples=1)
    if "rules" in one.eval:
      one.eval.rules = dict(confidence=dict(steps=(2,)))
  return config


@pytest.mark.slow
def test_stages_train_the_connector_then_adapters_and_measure_slots(tmp_path):
  first = modes.run("train", _config(), str(tmp_path / "run"))
  names = ("colour", "shape", "place", "word")
  assert all(0 <= first[f"{name}_accuracy_confidence_2"] <= 1 for name in names)
  assert first["trained_parameters"] == 2 * (16 * 16 + 16)
  assert (tmp_path / "run" / "frozen" / "encoder" / "results.json").exists()
  _check_the_library_answers_as_the_evaluation(tmp_path / "run")
  second = _config("stage2")
  second.init.checkpoint = str(tmp_path / "run")
  second.frozen.encoder.checkpoint = str(tmp_path / "run" / "frozen" / "encoder")
  run = setup_lib.setup(second, str(tmp_path / "second"))
  trained = set(tree.flatten(tree.part(run.shapes.params, run.optimizer.trains)))
  assert trained and {path.split("/")[0] for path in trained} == {"connector", "model"}
  assert all("lora_" in path for path in trained if path.startswith("model"))
  modes.run("train", second, str(tmp_path / "second"))
  stored = lambda name: tree.flatten(tiny.stored(tmp_path / name)[1]["params"])
  before, after = stored("run"), stored("second")
  for path, leaf in before.items():
    assert np.array_equal(leaf, after[path]) == (not path.startswith("connector")), path
  with jax.set_mesh(run.mesh):
    start = tree.flatten(setup_lib._starting(run, second.init.checkpoint))
  assert all(np.array_equal(leaf, start[path]) for path, leaf in before.items())


def _check_the_library_answers_as_the_evaluation(workdir):
  rows = json.loads((workdir / "words.json").read_text())["rows"]
  model = mdx.load(str(workdir))
  with np.load(workdir / "words.npz") as file:
    images = list(file["original"])
  records = pipeline.labelled_records(model.data, "validation")
  prompts = [record["prompt"] for record in records][:len(images)]
  fields = dict(name="confidence", steps=2, temperature=0.0, batch_size=3)
  found = model.read_images(images, prompts, **fields)
  asked = [model.tokenizer.decode(row.prompt_tokens) for row in found]
  assert [a + row.text for a, row in zip(asked, found)] == [row["steps"][-1] for row in rows]
  encoder = mdx.load(str(workdir / "frozen" / "encoder"), params="raw")
  assert [row.text for row in model.read_images(images, prompts, encoder=encoder, **fields)] == [
      row.text for row in found]
  assert encoder.encode(images).shape == (len(images), 16)


@pytest.mark.parametrize("change, message", [
    (lambda c: c.frozen.encoder.base.network.update(width=32),
     "num_features is 16, and the encoder has states of width 32; set it to 32"),
    (lambda c: c.frozen.encoder.__setitem__("base", None), "alone is of a model with a base"),
    (lambda c: c.frozen.encoder.update(alone=False), "objective.encoder is 'encoder', which is none"),
    (lambda c: c.data.source.update(shown="none"), "rows of layout 'answered'; use a source of layout"),
    (lambda c: c.data.update(num_patches=9), "16 patches of 48 values, but data.num_patches is 9"),
    (lambda c: c.eval.slots.update(shape=()), "eval.slots.shape is .*give a list of words")])
def test_what_does_not_fit_is_one_line_before_anything_is_written(change, message, tmp_path):
  config = _config()
  config.objective.num_features = 16
  with config.unlocked():
    change(config)
  with pytest.raises(ValueError, match=message) as error:
    setup_lib.setup(config, str(tmp_path / "run"))
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
