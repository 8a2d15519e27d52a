"""Presets build, and have the sizes that their papers give."""

import jax
import numpy as np
import pytest

from mdx.networks import presets
from mdx.networks import transformer
from mdx.utils import rng
from mdx.utils import tree


def _shapes(**fields):
  spec = transformer.Transformer(**fields)
  return spec, jax.eval_shape(spec.network().init, rng.root(0))


def _matrices(params) -> int:
  return sum(int(np.prod(leaf.shape)) for path, leaf in tree.flatten(params).items()
             if path.startswith(("layers/attention/", "layers/mlp/")) and path.endswith("kernel"))


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_builds_and_counts_its_matrices(name):
  spec, params = _shapes(**presets.preset(name), vocab_size=100)
  assert spec.matmul_params() == _matrices(params)


@pytest.mark.parametrize("fields", [
    dict(mlp="relu"), dict(num_kv_heads=2, head_dim=12),
    dict(use_bias=True, time_conditioning=True), dict(width=80)])
def test_matrices_are_counted_with_every_option(fields):
  spec, params = _shapes(**dict(num_layers=3, width=48, num_heads=4, vocab_size=9) | fields)
  assert spec.matmul_params() == _matrices(params)


@pytest.mark.parametrize("name,vocab_size,expected", [
    # Devlin et al. 2019: 110M. Tables 30528 (30522 padded to 8) and 512 x 768, 12 blocks of
    # 7,087,872, one norm; BERT's segment table, pooler and prediction transform are not built.
    ("bert_base", 30522, (30528 + 512) * 768 + 12 * 7_087_872 + 2 * 768),
    # Nie et al. 2025: 8.02B. Two tables of 126464 x 4096 and 32 blocks of 218,112,000, one norm.
    ("llada_8b", 126464, 8_015_581_184),
])
def test_a_preset_has_the_parameter_count_of_its_paper(name, vocab_size, expected):
  _, params = _shapes(**presets.preset(name), vocab_size=vocab_size)
  assert tree.count(params) == expected


def test_a_preset_is_a_copy():
  presets.preset("tiny")["width"] = 1
  assert presets.preset("tiny")["width"] == 128


def test_an_unknown_preset_lists_the_choices():
  with pytest.raises(ValueError, match="unknown preset 'bert'; choose from bert_base, llada_8b"):
    presets.preset("bert")
