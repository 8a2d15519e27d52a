"""Adapters, prefixes and prompts against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention
from mdx.networks import transformer
from mdx.networks.adaptation import inserted
from mdx.utils import rng

DRAW = np.random.default_rng(0)


def _spec(*adaptations, **fields):
  return transformer.Transformer(**dict(
      num_layers=2, width=8, num_heads=2, mlp_width=12, vocab_size=11, adaptations=adaptations)
                                 | fields)


def _last(spec, params, kind=attention.Full(), **inputs):
  run = lambda params, inputs: spec.network().encode(params, inputs, attention=kind).last
  return np.asarray(jax.jit(run)(params, types.Inputs(**inputs)))


def _draw(*shape):
  return DRAW.normal(size=shape).astype(np.float32)


def test_a_parallel_adapter_reads_the_input_of_its_branch():
  own = dict(adapter_down=_draw(6, 2), adapter_up=_draw(2, 6))
  x, hidden = _draw(1, 3, 6), _draw(1, 3, 6)
  one = inserted.Bottleneck(width=2, is_parallel=True, scale=4.0)
  want = hidden + 4 * np.maximum(x @ own["adapter_down"], 0) @ own["adapter_up"]
  np.testing.assert_allclose(one.branch(own, x, hidden), want, rtol=1e-5)
  plain = inserted.Bottleneck(width=2).branch(own, x, hidden)
  gelu = np.asarray(jax.nn.gelu(hidden @ own["adapter_down"]))
  np.testing.assert_allclose(plain, hidden + gelu @ own["adapter_up"], rtol=1e-5)


def test_the_input_of_a_branch_is_what_its_layer_reads():
  one = inserted.Bottleneck(width=2, is_parallel=True, targets=("mlp",))
  for fields in ({}, dict(post_norm=True)):
    # up and down of a plain MLP beside the adapter's are one wider MLP, with relu.
    spec = _spec(one, num_layers=1, mlp="relu", **fields)
    base = spec.network().init(rng.root(0))
    own = dict(adapter_down=_draw(1, 8, 2), adapter_up=_draw(1, 2, 8))
    whole = base | {"layers": base["layers"] | {"mlp_branch": own}}
    join = lambda x, y, axis: jnp.concatenate([x, y], axis)
    mlp = base["layers"]["mlp"]
    wide = {name: leaf for name, leaf in base["layers"].items() if name != "mlp_branch"} | {"mlp": {
        "up": {"kernel": join(mlp["up"]["kernel"], own["adapter_down"], 2)},
        "down": {"kernel": join(mlp["down"]["kernel"], own["adapter_up"], 1)}}}
    tokens, wider = jnp.arange(10).reshape(2, 5), fields | dict(mlp_width=14)
    np.testing.assert_allclose(
        _last(spec, whole, tokens=tokens),
        _last(_spec(num_layers=1, mlp="relu", **wider), base | {"layers": wide}, tokens=tokens),
        atol=1e-5)


def test_the_maps_of_compacter_are_sums_of_kronecker_products():
  one = inserted.Compacter(width=4, summands=2, rank=3)
  own = {name: _draw(*leaf.shape) for name, leaf in one.leaves((6, 6), (None, None)).items()}
  for name, got in zip(("phm_down", "phm_up"), one.maps(own)):
    want = sum(np.kron(own["phm_rule"][i], own[f"{name}_s"][i] @ own[f"{name}_t"][i])
               for i in range(2))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  assert one.maps(own)[0].shape == (6, 4)


def test_a_gated_prefix_is_attention_of_its_own_times_its_gate():
  one, query, mixed = inserted.GatedPrefix(length=3), _draw(1, 2, 4, 6), _draw(1, 2, 4, 6)
  own = dict(gated_keys=_draw(3, 2, 6), gated_values=_draw(3, 2, 6), prefix_gate=_draw(2))
  want = mixed.copy()
  for head in range(4):
    key, value = (own[f"gated_{x}"][:, head // 2] for x in ("keys", "values"))
    weight = np.exp(query[0, :, head] @ key.T / 6 ** 0.5)
    seen = weight / weight.sum(axis=1, keepdims=True) @ value
    want[0, :, head] += np.tanh(own["prefix_gate"][head // 2]) * seen
  np.testing.assert_allclose(one.attended(own, query, mixed), want, atol=1e-5)


@pytest.mark.slow
def test_a_prompt_of_a_causal_model_is_what_tokens_of_its_embeddings_would_be():
  spec, tokens = _spec(inserted.Prompt(length=3)), jnp.arange(10).reshape(2, 5)
  params = spec.network().init(rng.root(0))
  base = {name: leaf for name, leaf in params.items() if name != "prompt"}
  base["embed"] = {"embedding": base["embed"]["embedding"].at[7:10].set(params["prompt"]["prompt"])}
  got = _last(spec, params | {"embed": base["embed"]}, attention.Causal(), tokens=tokens)
  before = jnp.broadcast_to(jnp.array([[7, 8, 9]]), (2, 3))
  want = _last(_spec(), base, attention.Causal(),
               tokens=jnp.concatenate([before, tokens], axis=1))[:, 3:]
  np.testing.assert_allclose(got, want, atol=1e-5)
  # Of packed rows every document reads it, and nothing else of its neighbours.
  both = lambda tokens: _last(spec, params, tokens=tokens,
                              segment_ids=jnp.array([[1, 1, 2, 2, 2]]))
  one, other = both(tokens[:1]), both(tokens[:1].at[0, 0].set(9))
  np.testing.assert_allclose(one[:, 2:], other[:, 2:], atol=1e-6)
  assert np.abs(one[:, :2] - other[:, :2]).max() > 1e-3


def test_a_perceptron_makes_the_prompt():
  one = inserted.Prompt(length=3, hidden=4)
  own = {name: _draw(*leaf.shape) for name, leaf in one.leaves((6, 6), (None, None)).items()}
  x = own["prompt"]
  for i in range(3):
    x = (np.maximum(x, 0) if i else x) @ own[f"prompt_w{i}"] + own[f"prompt_b{i}"]
  np.testing.assert_allclose(one.prompt(own), x, rtol=1e-4)


@pytest.mark.parametrize("make, message", [
    (lambda: _spec(inserted.Prompt(), position="learned"), "position is learned, and a prompt would "
     "take the fixed positions"),
    (lambda: _spec(inserted.Prompt(), attention_backend="splash"), "need the attention_backend xla"),
    (lambda: _spec(inserted.Compacter(summands=3, width=6)), "summands 3 does not divide the "
     "network's width 8"),
    (lambda: inserted.Compacter(summands=3, width=4), "summands 3 does not divide width 4"),
    (lambda: inserted.Prompt(length=0), "adaptation.length must be at least 1, got 0")])
def test_what_does_not_fit_is_one_line(make, message):
  with pytest.raises(ValueError, match=message) as error:
    make()
  assert "\n" not in str(error.value)
