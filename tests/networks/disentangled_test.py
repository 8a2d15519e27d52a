"""Disentangled attention: scores by their definition, buckets of DeBERTa, packed rows, refusals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention
from mdx.networks import disentangled
from mdx.networks import transformer
from mdx.utils import rng

OWN = dict(max_distance=16, buckets=6)
SPEC = dict(num_layers=2, width=8, num_heads=2, mlp_width=8, vocab_size=11, position="none",
            max_length=16)


def _spec(own, **fields):
  return transformer.Transformer(**SPEC | fields, disentangled=own)


def _draw(*shape, seed=0):
  return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def test_scores_are_those_of_the_definition():
  length, own = 5, disentangled.Disentangled(**OWN)
  index = disentangled.table_index(length, own)
  query, key = _draw(2, length, 3, 4), _draw(2, length, 3, 4, seed=1)
  tables = _draw(2 * own.span, 3, 4, seed=2), _draw(2 * own.span, 3, 4, seed=3)
  for keys, queries in ((tables[0], tables[1]), (tables[0], None), (None, tables[1])):
    have = disentangled.biases(query, key, *(
        None if table is None else jnp.asarray(table[index]) for table in (keys, queries)))
    want = np.zeros((2, 3, length, length))
    for b, n, i, j in itertools.product(*map(range, want.shape)):
      row = own.span + int(disentangled.buckets(np.array(i - j), own))
      want[b, n, i, j] += 0 if keys is None else query[b, i, n] @ keys[row, n]
      want[b, n, i, j] += 0 if queries is None else key[b, j, n] @ queries[row, n]
    np.testing.assert_allclose(have, want, atol=1e-5)


def test_near_distances_have_a_bucket_each_and_far_ones_share_them():
  own = disentangled.Disentangled(max_distance=512, buckets=256)
  found = disentangled.buckets(np.arange(-511, 512), own)
  np.testing.assert_array_equal(found, -found[::-1])
  np.testing.assert_array_equal(found[511 - 128:511 + 129], np.arange(-128, 129))
  # Of `transformers` 5.24, make_log_bucket_position(torch.tensor([...]), 256, 512).
  at = [129, 130, 150, 200, 256, 300, 400, 510, 511]
  np.testing.assert_array_equal(found[[511 + i for i in at]],
                                [129, 130, 143, 169, 192, 207, 233, 255, 255])
  assert list(disentangled.table_index(2, disentangled.Disentangled(max_distance=2, buckets=0))
              ) == [3, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(256, 512), (8, 64), (32, 128)])
def test_buckets_are_those_of_transformers(sizes):
  torch = pytest.importorskip("torch")
  deberta = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")
  at = np.arange(-700, 701)
  own = disentangled.Disentangled(buckets=sizes[0], max_distance=sizes[1])
  want = deberta.make_log_bucket_position(torch.tensor(at), *sizes).long().numpy()
  np.testing.assert_array_equal(disentangled.buckets(at, own), want)


@pytest.mark.slow
def test_a_packed_document_and_every_way_to_run_the_layers_give_the_same_states():
  spec = _spec(dict(OWN, is_shared=False), remat="full")
  params = spec.network().init(rng.root(0))
  params = jax.tree.map(lambda x: x + 0.3 * jnp.asarray(_draw(*x.shape)), params)
  document, before = [5, 9, 2, 6, 5, 3], [3, 1, 4, 1]
  tokens = jnp.asarray([before + document, before + document, document + before])
  segments = jnp.asarray([[1] * 4 + [2] * 6, [1] * 10, [1] * 6 + [0] * 4])

  def run(spec):
    network = spec.network()

    def loss(params):
      states = network.encode(params, types.Inputs(tokens, segment_ids=segments),
                              attention=attention.Full()).last
      return jnp.sin(states[:2]).sum(), states

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

  (_, states), gradient = run(spec)
  packed, joined, alone = states
  np.testing.assert_allclose(packed[4:], alone[:6], atol=1e-5)
  assert np.abs(joined[4:] - alone[:6]).max() > 1e-2
  (_, unrolled), other = run(_spec(spec.disentangled, scan_layers=False))
  np.testing.assert_allclose(unrolled, states, atol=1e-5)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4, rtol=1e-4), gradient, other)
  assert np.abs(gradient["relative_embed"]["embedding"]).sum() > 0
  assert np.abs(gradient["layers"]["attention"]["table_q"]["kernel"]).sum() > 0


@pytest.mark.parametrize("own, fields, message", [
    (dict(OWN, kinds=("p2p",)), {}, "kinds is .*'p2p'.*; expected 'c2p', 'p2c' or both"),
    (dict(OWN, kinds=()), {}, "kinds is .*; expected"),
    (dict(OWN, buckets=2), {}, "buckets 2 do not fit max_distance 16; expected 0, or at least 4"),
    (dict(OWN, buckets=32), {}, "buckets 32 do not fit"),
    (dict(max_distance=1), {}, "max_distance"), (3, {}, "disentangled is 3; expected a table"),
    (OWN, dict(position="rope"), "takes position none or learned, not rope"),
    (OWN, dict(num_kv_heads=1), "num_kv_heads 2 like num_heads, got 1"),
    (OWN, dict(attention_backend="splash"), "needs the attention_backend xla, not splash")])
def test_what_it_does_not_have_is_refused(own, fields, message):
  with pytest.raises(ValueError, match=message) as error:
    _spec(own, **fields)
  assert "\n" not in str(error.value)


def test_caches_and_rows_of_two_streams_are_refused():
  network = _spec(OWN).network()
  params = jax.eval_shape(network.init, rng.root(0))
  encode = lambda **options: jax.eval_shape(lambda params: network.encode(
      params, types.Inputs(jnp.zeros((1, 4), jnp.int32)), **options), params)
  with pytest.raises(ValueError, match="has no cache; use sampler.cache=none"):
    encode(attention=attention.Full(), cache=())
  with pytest.raises(ValueError, match="puts 2 streams into a row"):
    encode(attention=attention.TwoStream(2))
