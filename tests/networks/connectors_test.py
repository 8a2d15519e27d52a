"""Connectors: numbers of parameters and vectors, closed forms, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import config as config_lib
from mdx.networks import connectors
from mdx.utils import rng
from mdx.utils import tree

STATES = jax.random.normal(rng.root(0), (2, 5, 6))


def _made(name, **fields):
  link = config_lib.build(connectors.CONNECTORS, dict(name=name, **fields), what="connector",
                          num_features=6, width=8)
  return link, link.part().init(rng.root(1))


@pytest.mark.parametrize("name, vectors, number", [
    ("linear", 5, 6 * 8 + 8), ("mlp", 5, 6 * 8 + 8 * 8 + 2 * 8),
    ("resampler", 3, 3 * 8 + 2 * (8 * 8 + 8) + 2 * (6 * 8 + 8))])
def test_each_has_its_parameters_and_vectors(name, vectors, number):
  link, params = _made(name, **({"num_queries": 3, "num_heads": 2} if name == "resampler" else {}))
  assert tree.count(params) == number
  found = link(params, STATES)
  assert found.shape == (2, vectors, 8) and found.dtype == jnp.float32
  assert link.part().is_served and link.part().is_fresh


def test_the_maps_are_those_of_their_formulas():
  link, params = _made("linear")
  np.testing.assert_allclose(link(params, STATES), STATES @ params["kernel"] + params["bias"][None, None],
                             atol=1e-6)
  link, params = _made("mlp")
  first, second = params["first"]["kernel"], params["second"]["kernel"]
  np.testing.assert_allclose(link(params, STATES),
                             jax.nn.gelu(STATES @ first, approximate=False) @ second, atol=1e-5)


def test_a_resampler_reads_a_set_and_mixes_what_each_head_attends_to():
  link, params = _made("resampler", num_queries=3, num_heads=2)
  params["queries"] = 3 * params["queries"]
  found = np.array(link(params, STATES))
  np.testing.assert_allclose(link(params, STATES[:, ::-1]), found, atol=1e-5)
  x = np.array(STATES[1])
  x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
  maps = {k: np.array(params[k]["kernel"]) for k in ("query", "key", "value", "out")}
  queries, mixed = np.array(params["queries"]), []
  for part in (slice(0, 4), slice(4, 8)):
    scores = (queries @ maps["query"])[:, part] @ (x @ maps["key"])[:, part].T / 2
    probs = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    mixed.append(probs @ (x @ maps["value"])[:, part])
  np.testing.assert_allclose(found[1], queries + np.concatenate(mixed, 1) @ maps["out"], atol=1e-4)


@pytest.mark.parametrize("name, fields, message", [
    ("resampler", dict(num_heads=3), "num_heads 3 does not divide the width 8"),
    ("resampler", dict(num_queries=0), "num_queries must be at least 1"),
    ("mlp", dict(num_queries=2), "has no field 'num_queries'"), ("conv", {}, "choose from")])
def test_what_does_not_fit_is_one_line(name, fields, message):
  with pytest.raises(ValueError, match=message):
    _made(name, **fields)
