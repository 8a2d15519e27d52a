"""Texts of images: distances, figures of every rule, files for the report, and what is refused."""

import json

import jax
import numpy as np
import pytest

from mdx.build import setup as setup_lib
from mdx.eval.evaluators import words
from mdx.report import images
from mdx.utils import rng

import tiny


@pytest.mark.parametrize("left, right, found", [
    ("kitten", "sitting", 1 - 3 / 7), ("", "", 1), ("ab", "", 0), ("abc", "abc", 1), ("ab", "ba", 0)])
def test_similarity_is_one_less_the_edit_distance_over_the_longer_length(left, right, found):
  assert words.similarity(left, right) == pytest.approx(found)


def _config(**changes):
  return tiny.config("mdiff4str", **{
      "eval__evaluators": ("words",), "network__context_width": 16, "data__source__num_train": 16,
      "data__source__num_validation": 10, "network__num_layers": 1,
      "eval__rules": dict(mean_confidence=dict(steps=(2,))), **changes})


@pytest.mark.slow
def test_figures_and_pictures_of_held_out_words(tmp_path):
  run = setup_lib.setup(_config(), str(tmp_path))
  jax.set_mesh(run.mesh)
  evaluator = run.evaluation().members["words"]
  params = jax.jit(run.objective.init)(rng.root(0))
  found = evaluator(params, {}, quick=False)
  assert set(found) == {f"{x}_mean_confidence_2" for x in ("word_accuracy", "similarity", "nfe")}
  assert found["nfe_mean_confidence_2"] == 2 and 0 <= found["similarity_mean_confidence_2"] < 0.6
  assert "mean_confidence, steps 2" in evaluator.text(found) and evaluator.text({}) == ""
  rows = json.loads((tmp_path / words.FILES[1]).read_text())["rows"]
  assert len(rows) == 8 and all(len(x["steps"]) == 3 and x["steps"][0] == "_" * 9 for x in rows)
  with np.load(tmp_path / words.FILES[0]) as file:
    assert file["original"].shape == (8, 16, 64, 1)
  assert images.decoded(tmp_path).startswith(b"\x89PNG") and images.reconstructions(tmp_path) == b""


@pytest.mark.parametrize("config, message", [
    (lambda: tiny.config("mlm", eval__evaluators=("words",)), "words reads texts of images, which objective mlm does"),
    (lambda: tiny.config("mlm", eval__evaluators=("reconstructions",)), "which objective mlm does not predict"),
    (lambda: _config(eval__rules={}), "config.eval.rules is empty"),
    (lambda: _config(network__context_width=0), "context_width is 0, and the encoder of images has width 16"),
    (lambda: _config(data__num_patches=9), "16 patches of 64 values, but data.num_patches is 9"),
    (lambda: _config(data__append_eos=False), "predicts the end of a text; set data.append_eos=True"),
    (lambda: tiny.config("mim", data__channels=9), "16 channels, but data.channels is 9; set it to 16")])
def test_what_does_not_fit_is_one_line_before_anything_is_written(config, message, tmp_path):
  with pytest.raises(ValueError, match=message) as error:
    setup_lib.setup(config(), str(tmp_path / "run"))
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
