"""The transformer against a forward pass in numpy and float64, and its invariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import attention
from mdx.networks import layers
from mdx.networks import transformer
from mdx.utils import rng
from mdx.utils import tree

import tiny

FULL, CAUSAL, BLOCKS = attention.Full(), attention.Causal(), attention.BlockCausal(2)
BASE = dict(num_layers=2, width=16, num_heads=4, mlp_width=24, vocab_size=11, max_length=12)
OPTIONS = {
    "rms_swiglu_rope": {},
    "layer_gelu_learned_biases": dict(norm="layer", mlp="gelu", position="learned", use_bias=True),
    "geglu_no_positions_grouped": dict(mlp="geglu", position="none", num_kv_heads=2),
    "relu_wide_heads_untied": dict(mlp="relu", head_dim=6, tied=False, norm_eps=0.1),
    "one_kv_head_head_bias": dict(num_kv_heads=1, head_bias=True, rope_theta=50.0),
    "layer_swiglu_biases_untied_head_bias": dict(norm="layer", use_bias=True, tied=False,
                                                 head_bias=True),
    "time": dict(time_conditioning=True, mlp="gelu"),
    "time_layer_biases": dict(time_conditioning=True, norm="layer", use_bias=True),
}
# Documents of 1 and 3 positions have the first two factors, those of 4 the last two.
LONGROPE = {"longrope": dict(rope_scaling=("longrope", 3.0, 1.2, 1.0, 2.0, 4.0, 6.0))}
CAPPED = {"soft_caps": dict(attention_softcap=0.8, logit_softcap=2.5, num_kv_heads=2)}
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 0], [1, 2, 2, 2, 2, 3, 3, 3]])
POSITIONS = np.array([[0, 1, 2, 0, 1, 2, 3, 0], [0, 0, 1, 2, 3, 0, 1, 2]])
TOKENS = np.random.default_rng(5).integers(0, 11, (2, 8)).astype(np.int32)
TIME = np.array([0.25, 0.875], np.float32)


def _spec(**fields):
  return transformer.Transformer(**BASE | fields)


@functools.cache
def _random_params(**fields):
  """Every parameter drawn at random, none at its initial zero or one."""
  draw = np.random.default_rng(3)

  def value(path, leaf):
    noise = draw.normal(size=leaf.shape)
    if path.endswith("kernel"):
      noise /= leaf.shape[-2] ** 0.5
    elif path.endswith("scale"):
      noise = 1 + 0.3 * noise
    return jnp.asarray(noise, jnp.float32)

  return tree.map_with_path(value, jax.eval_shape(_spec(**fields).network().init, rng.root(0)))


def _reference_norm(spec, p, x):
  if spec.norm == "layer":
    x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x ** 2).mean(-1, keepdims=True) + spec.norm_eps)
  return x * p["scale"] + p.get("bias", 0.0)


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def _activation(name, x):
  if name == "relu":
    return np.maximum(x, 0)
  if name == "swiglu":
    return x * _sigmoid(x)
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))


def _linear(p, x):
  return x @ p["kernel"] + p.get("bias", 0.0)


def _reference_rotate(spec, x, positions):
  """x [L, H] rotated as complex numbers (x_i, x_{i + H/2})."""
  half = x.shape[-1] // 2
  angle = positions[:, None] * spec.rope_theta ** (-np.arange(half) / half)
  turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angle)
  return np.concatenate([turned.real, turned.imag], axis=-1)


def _capped(x, cap):
  return cap * np.tanh(x / cap) if cap else x


def _reference_attention(spec, p, x, mask, positions):
  """One row: x [L, D], mask [L, L], one head after the other."""
  width, outs = spec.per_head, []
  query, key, value = (_linear(p[name], x) for name in "qkv")
  for head in range(spec.num_heads):
    group = head * spec.kv_heads // spec.num_heads
    q, k, v = (y[:, i * width:(i + 1) * width]
               for y, i in ((query, head), (key, group), (value, group)))
    if spec.position == "rope":
      q, k = (_reference_rotate(spec, y, positions) for y in (q, k))
    scores = _capped(q @ k.T / np.sqrt(width), spec.attention_softcap)
    scores = np.where(mask, np.exp(scores), 0)
    outs.append(scores / scores.sum(-1, keepdims=True) @ v)
  return _linear(p["o"], np.concatenate(outs, axis=-1))


def _reference_mlp(spec, p, x):
  if "gate" in p:
    return _linear(p["down"], _activation(spec.mlp, _linear(p["gate"], x)) * _linear(p["up"], x))
  return _linear(p["down"], _activation(spec.mlp, _linear(p["up"], x)))


def _reference_condition(p, time):
  angle = 1000 * time * 10000.0 ** (-np.arange(128) / 128)
  x = _linear(p["in"], np.concatenate([np.sin(angle), np.cos(angle)]))
  x = _linear(p["out"], x * _sigmoid(x))
  return x * _sigmoid(x)


def _reference_row(spec, params, tokens, mask, positions, time):
  """Hidden states and logits of one row, float64."""
  x = params["embed"]["embedding"][tokens]
  if spec.position == "learned":
    x = x + params["position_embed"]["embedding"][positions]
  for i in range(spec.num_layers):
    p = jax.tree.map(lambda leaf: leaf[i], params["layers"])  # pylint: disable=cell-var-from-loop
    shift, scale, gate = np.zeros((2, 1)), np.zeros((2, 1)), np.ones((2, 1))
    if spec.time_conditioning:
      values = _linear(p["modulation"], _reference_condition(params["time_embed"], time))
      shift, scale, gate = values.reshape(2, 3, spec.width).swapaxes(0, 1)
    y = _reference_norm(spec, p["attention_norm"], x) * (1 + scale[0]) + shift[0]
    x = x + gate[0] * _reference_attention(spec, p["attention"], y, mask, positions)
    y = _reference_norm(spec, p["mlp_norm"], x) * (1 + scale[1]) + shift[1]
    x = x + gate[1] * _reference_mlp(spec, p["mlp"], y)
  hidden = _reference_norm(spec, params["final_norm"], x)
  kernel = params["embed"]["embedding"].T if spec.tied else params["lm_head"]["kernel"]
  logits = hidden @ kernel + (params["lm_head"]["bias"] if spec.head_bias else 0)
  return hidden, _capped(logits, spec.logit_softcap)[:, :spec.vocab_size]


def _reference(spec, params, seen, time):
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  rows = []
  for i in range(2):
    mask = SEGMENTS[i][:, None] == SEGMENTS[i][None]
    block = POSITIONS[i] // 2
    mask = np.tril(mask) if seen == CAUSAL else mask & (block[:, None] >= block) if (
        seen == BLOCKS) else mask
    rows.append(_reference_row(spec, params, TOKENS[i], mask, POSITIONS[i], float(time[i])))
  return [np.stack(x) for x in zip(*rows)]


@functools.cache
def _jitted(seen, **fields):
  network = _spec(**fields).network()

  def run(params, tokens, positions, segments, time):
    hidden = network.encode(params, types.Inputs(tokens, positions, segments), attention=seen,
                            time=time).last
    return hidden, network.head(params, hidden, "lm")

  return jax.jit(run)


def _run(params, seen=FULL, tokens=TOKENS, positions=POSITIONS, segments=SEGMENTS, time=TIME,
         **fields):
  return _jitted(seen, **fields)(params, tokens, positions, segments, time)


@functools.cache
def _loss_and_grad(**fields):
  network = _spec(**fields).network()

  def loss(params):
    hidden = network.encode(params, types.Inputs(TOKENS, segment_ids=SEGMENTS), attention=FULL,
                            time=TIME).last
    return -jnp.square(jax.nn.log_softmax(network.head(params, hidden)[..., :11])).mean()

  return jax.jit(jax.value_and_grad(loss))


def _assert_same_loss_and_gradient(found, expected):
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected)


@pytest.mark.parametrize("name,seen", tiny.first([(name, seen) for name in OPTIONS for seen in (
    FULL, CAUSAL)] + [
        ("soft_caps", CAUSAL), ("rms_swiglu_rope", BLOCKS), ("layer_gelu_learned_biases", BLOCKS)], 3))
def test_every_option_computes_what_a_plain_forward_pass_computes(name, seen):
  fields = (OPTIONS | CAPPED)[name]
  params = _random_params(**fields)
  hidden, logits = _run(params, seen, **fields)
  expected_hidden, expected_logits = _reference(_spec(**fields), params, seen, TIME)
  close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4)
  close(hidden, expected_hidden)
  close(logits[..., :11], expected_logits)
  assert np.abs(expected_logits).max() > 1


def test_without_positions_a_row_counts_from_zero_and_without_segments_sees_all():
  params = _random_params()
  counted = _run(params, positions=np.tile(np.arange(8), (2, 1)), segments=np.ones((2, 8), int))
  np.testing.assert_allclose(_run(params, positions=None, segments=None)[0], counted[0], rtol=1e-5,
                             atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rms_swiglu_rope", "time_layer_biases"])
def test_unrolled_layers_compute_the_same_as_scanned_ones(name):
  params = _random_params(**OPTIONS[name])
  _assert_same_loss_and_gradient(_loss_and_grad(**OPTIONS[name], scan_layers=False)(params),
                                 _loss_and_grad(**OPTIONS[name])(params))


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", [True, False], ids=["scanned", "unrolled"])
def test_remat_recomputes_more_and_changes_neither_loss_nor_gradient(scan_layers):
  params, products = _random_params(), []
  for policy in ("none", "dots", "full", "attention"):
    run = _loss_and_grad(remat=policy, scan_layers=scan_layers)
    _assert_same_loss_and_gradient(run(params), _loss_and_grad()(params))
    products.append(str(jax.make_jaxpr(run)(params)).count("dot_general"))
  assert set(layers.REMAT) == {"none", "dots", "full", "attention"}
  assert products[0] < products[1] < products[2] and products[0] < products[3]


@pytest.mark.slow
def test_bfloat16_keeps_float32_parameters_and_logits_and_agrees_loosely():
  network = _spec(dtype="bfloat16", time_conditioning=True, use_bias=True).network()
  assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(network.init, rng.root(0)))} == {
      jnp.dtype("float32")}
  fields = OPTIONS["time_layer_biases"]
  params = _random_params(**fields)
  hidden, logits = _run(params, dtype="bfloat16", **fields)
  assert hidden.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
  expected = _run(params, **fields)[1][..., :11]
  difference = np.asarray(logits[..., :11] - expected)
  assert 1e-5 < np.sqrt((difference ** 2).mean()) / np.std(expected) < 0.05
  _, grads = _loss_and_grad(dtype="bfloat16", **fields)(params)
  assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["rms_swiglu_rope", "layer_swiglu_biases_untied_head_bias"])
def test_padding_columns_of_the_vocabulary_have_probability_0_and_no_gradient(name):
  fields = OPTIONS[name]
  params = _random_params(**fields)
  logits = _run(params, **fields)[1]
  assert logits.shape[-1] == 16 and (jax.nn.softmax(logits)[..., 11:] == 0).all()
  network = _spec(**fields).network()
  grads = jax.grad(lambda p: jax.nn.logsumexp(network.head(p, jnp.ones((3, 16)))).sum())(params)
  used = grads["embed"]["embedding"] if "lm_head" not in params else grads["lm_head"]["kernel"].T
  assert (used[11:] == 0).all() and (used[:11] != 0).all()


@pytest.mark.parametrize("seen", [FULL, CAUSAL], ids=["full", "causal"])
def test_changing_one_document_leaves_the_hidden_states_of_the_others_unchanged(seen):
  params = _random_params()
  changed = np.where(SEGMENTS == 2, (TOKENS + 3) % 11, TOKENS)
  before, after = _run(params, seen)[0], _run(params, seen, tokens=changed)[0]
  np.testing.assert_array_equal(before[SEGMENTS != 2], after[SEGMENTS != 2])
  assert (before[SEGMENTS == 2] != after[SEGMENTS == 2]).any(axis=-1).all()


@pytest.mark.parametrize("name, seen", [
    *((name, seen) for name in ("rms_swiglu_rope", "layer_gelu_learned_biases")
      for seen in (FULL, CAUSAL)), pytest.param("longrope", CAUSAL, marks=pytest.mark.slow)])
def test_packed_documents_are_read_as_if_they_stood_alone(name, seen):
  fields = (OPTIONS | LONGROPE)[name]
  params = _random_params(**fields)
  packed = _run(params, seen, **fields)[0]
  for row, segment in ((0, 2), (1, 2), (1, 3)):
    where = SEGMENTS[row] == segment
    alone = _run(params, seen, tokens=TOKENS[row][where][None], positions=None, segments=None,
                 time=TIME[:1], **fields)[0]
    np.testing.assert_allclose(packed[row][where], alone[0], rtol=1e-5, atol=1e-5)


def test_causal_attention_does_not_look_ahead_and_full_attention_does():
  params, kept = _random_params(), dict(positions=None, segments=None)
  changed = TOKENS.copy()
  changed[:, 5] = (changed[:, 5] + 1) % 11
  before, after = _run(params, CAUSAL, **kept)[0], _run(params, CAUSAL, tokens=changed, **kept)[0]
  np.testing.assert_array_equal(before[:, :5], after[:, :5])
  assert (before[:, 5:] != after[:, 5:]).any(axis=-1).all()
  before, after = _run(params, FULL, **kept)[0], _run(params, FULL, tokens=changed, **kept)[0]
  assert (before != after).any(axis=-1).all()


@pytest.mark.parametrize("name", ["rms_swiglu_rope", "layer_swiglu_biases_untied_head_bias"])
def test_the_head_of_gathered_positions_is_the_gathered_head(name):
  params, network = _random_params(**OPTIONS[name]), _spec(**OPTIONS[name]).network()
  hidden = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 16)), jnp.float32)
  index = np.array([3, 14, 0])
  np.testing.assert_allclose(network.head(params, hidden.reshape(16, 16)[index], "lm"),
                             network.head(params, hidden, "lm").reshape(16, 16)[index], rtol=1e-6)


@pytest.mark.slow
def test_a_new_model_with_time_conditioning_starts_as_the_identity_and_listens_once_trained():
  fields = OPTIONS["time"]
  params = jax.jit(_spec(**fields).network().init)(rng.root(0))
  one, other = (_run(params, time=t, **fields)[0] for t in (TIME, TIME / 2))
  np.testing.assert_array_equal(one, other)
  x = params["embed"]["embedding"][TOKENS]
  np.testing.assert_allclose(one, x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5),
                             rtol=1e-4)
  params = _random_params(**fields)
  one, other = (_run(params, time=t, **fields)[0] for t in (TIME, TIME * np.float32([1, 0.5])))
  np.testing.assert_array_equal(one[0], other[0])
  assert (one[1] != other[1]).any(axis=-1).all()


def test_the_time_may_differ_from_position_to_position():
  params, fields = _random_params(**OPTIONS["time"]), OPTIONS["time"]
  one = _run(params, time=np.repeat(TIME[:, None], 8, axis=1), **fields)[0]
  np.testing.assert_allclose(one, _run(params, **fields)[0], rtol=1e-5, atol=1e-5)


@functools.cache
def _compiled_encode(seen, **fields):
  network = _spec(**fields).network()

  def run(params, tokens, rows):
    inputs = types.Inputs(tokens, rows.pop("positions", None), rows.pop("segment_ids", None))
    hidden = network.encode(params, inputs, attention=seen, **rows)
    return hidden.last if hidden.cache is None else (hidden.last, hidden.cache)

  return jax.jit(
      lambda params, tokens, rows: run(params, tokens, dict(rows)),
      compiler_options={"xla_backend_optimization_level": 0})


def _encode(fields, params, tokens, seen, **rows):
  return _compiled_encode(seen, **fields)(params, tokens, rows)


@pytest.mark.parametrize("name, scan_layers", tiny.first([
    *((name, is_scanned) for name in ("one_kv_head_head_bias", "layer_gelu_learned_biases", "time")
      for is_scanned in (True, False)), pytest.param("longrope", True, marks=pytest.mark.slow)], 2))
def test_places_run_against_a_fresh_cache_are_those_of_the_whole_row(name, scan_layers):
  fields = (OPTIONS | LONGROPE)[name]
  params, fields = _random_params(**fields), fields | dict(scan_layers=scan_layers)
  rows = dict(positions=jnp.asarray(POSITIONS), segment_ids=jnp.asarray(SEGMENTS),
              time=TIME if name == "time" else None)
  whole = _encode(fields, params, TOKENS, FULL, **rows)
  again, cache = _encode(fields, params, TOKENS, FULL, cache=(), **rows)
  np.testing.assert_array_equal(again, whole)
  heads = _spec(**fields).kv_heads
  assert [x.shape for x in cache] == [(2, 2, 8, heads, 4)] * 2
  slots = jnp.array([[1, 4, 8], [0, 6, 7]])  # 8: none
  tokens = jnp.take_along_axis(TOKENS, slots, axis=1, mode="clip")
  part, new = _encode(fields, params, tokens, FULL, cache=cache, slots=slots, **rows)
  for row, i in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2)):
    np.testing.assert_allclose(part[row, i], whole[row, slots[row, i]], rtol=2e-5, atol=2e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), new, cache)


def test_a_call_against_a_cache_writes_its_own_places_and_reads_the_others_as_they_were():
  params, changed, rows = _random_params(), TOKENS.copy(), dict(positions=None, segment_ids=None)
  changed[:, 2] = (changed[:, 2] + 1) % 11
  changed[:, 5] = (changed[:, 5] + 1) % 11
  _, cache = _encode({}, params, TOKENS, FULL, cache=(), **rows)
  slots = jnp.array([[2], [2]])
  _, new = _encode({}, params, changed[:, 2:3], FULL, cache=cache, slots=slots, **rows)
  for old, now in zip(cache, new):
    same = (old == now).all(axis=(0, 1, 3, 4))
    np.testing.assert_array_equal(same, np.arange(8) != 2)
  # The first layer's keys of a changed place depend on its token alone.
  _, whole = _encode({}, params, changed, FULL, cache=(), **rows)
  np.testing.assert_allclose(new[0][0, :, 2], whole[0][0, :, 2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seen", [CAUSAL, BLOCKS], ids=["causal", "blocks"])
def test_what_a_causal_cache_holds_does_not_depend_on_later_blocks(seen):
  params, changed = _random_params(), TOKENS.copy()
  changed[:, 4:] = (changed[:, 4:] + 1) % 11
  caches = [_encode({}, params, tokens, seen, cache=())[1] for tokens in (TOKENS, changed)]
  for one, other in zip(*caches):
    np.testing.assert_allclose(one[:, :, :4], other[:, :, :4], rtol=1e-5, atol=1e-6)
    assert not np.allclose(one[:, :, 4:], other[:, :, 4:])


def test_a_cache_of_rows_that_are_too_long_is_refused():
  cache = tuple(jnp.zeros((2, 1, 13, 4, 4)) for _ in "kv")
  with pytest.raises(ValueError, match="a row of 13 tokens exceeds network.max_length 12"):
    _encode({}, _random_params(), jnp.zeros((1, 1), jnp.int32), FULL, cache=cache,
            slots=jnp.zeros((1, 1), jnp.int32))


@pytest.mark.slow
def test_initial_parameters_have_the_scales_that_are_documented():
  spec = _spec(num_layers=8, width=64, mlp_width=96, init_std=0.3, tied=False, use_bias=True)
  params = tree.flatten(jax.jit(spec.network().init)(rng.root(1)))
  branch = np.sqrt(0.5 / spec.num_layers)
  expected = {"embed/embedding": 0.3, "layers/attention/q/kernel": 64 ** -0.5,
              "layers/mlp/up/kernel": 64 ** -0.5, "lm_head/kernel": 64 ** -0.5,
              "layers/attention/o/kernel": branch * 64 ** -0.5,
              "layers/mlp/down/kernel": branch * 96 ** -0.5}
  for path, std in expected.items():
    np.testing.assert_allclose(np.std(params[path]), std, rtol=0.12, err_msg=path)
  for path, leaf in params.items():
    if path.endswith(("scale", "bias")):
      assert (leaf == path.endswith("scale")).all(), path
  kernels = params["layers/attention/q/kernel"]
  assert not np.allclose(kernels[0], kernels[1]), "layers must not start alike"


@pytest.mark.parametrize("fields,message", [
    (dict(num_heads=3), "num_heads 3 does not divide width 16"),
    (dict(num_kv_heads=3), "num_kv_heads 3 does not divide num_heads 4"),
    (dict(head_dim=5), "even head width, got 5"),
    (dict(num_layers=0), "network.num_layers must be at least 1, got 0"),
    (dict(vocab_size=0), "network.vocab_size must be at least 1"),
    (dict(head_dim=-4), "network.head_dim must be at least 0, got -4"),
    (dict(num_kv_heads=-2), "network.num_kv_heads must be at least 0, got -2"),
    (dict(mlp_width=-8), "network.mlp_width must be at least 0, got -8"),
    (dict(init_std=-0.1), "network.init_std must be at least 0, got -0.1"),
    (dict(mlp="silu"), "network.mlp is 'silu'; choose from swiglu, geglu, geglu_erf, gelu, "),
    (dict(head="value"), "network.head is 'value'; choose from lm, rtd"),
    (dict(local_radius=-1), "network.local_radius must be at least 0, got -1"),
    (dict(post_norm=True, time_conditioning=True), "network.post_norm and time_conditioning excl"),
    (dict(post_norm=True, first_norm=False), "network.first_norm=False is of pre-norm blocks"),
    (dict(global_every=3), "network.global_every needs a local_radius"),
    (dict(global_first=1), "network.global_first needs a local_radius"),
    (dict(embed_width=8), "embed_width 8 is not width 16, so a tied head needs .*head_transform"),
    (dict(rope_scaling=("yarn", 2.0)), "network.rope_scaling is .*yarn.*; expected"),
    (dict(rope_scaling=("linear", 0.0)), "network.rope_scaling is .*positive numbers"),
    (dict(attention_softcap=-1.0), "network.attention_softcap must be at least 0, got -1"),
    (dict(attention_chunk=4, attention_dropout=0.1), "attention_chunk is of the attention_backend"),
    (dict(attention_softcap=5.0, attention_backend="cudnn"), "network.attention_softcap is not in"),
    (dict(rope_scaling=("longrope", 4.0, 1.0, 1.0, 1.0)), "longrope.*; expected .*2 short and 2 lo"),
    (dict(rope_scaling=LONGROPE["longrope"]["rope_scaling"], adaptations=(
        dict(name="prompt_tuning"),)), "network.rope_scaling longrope rotates by the length"),
    (dict(norm="batch"), "network.norm is 'batch'; choose from rms, layer"),
    (dict(position="alibi"), "network.position is 'alibi'; choose from rope, learned, none"),
    (dict(remat="some"), "network.remat is 'some'; choose from none, dots, attention, full"),
    (dict(dtype="float16"), "network.dtype is 'float16'; choose from float32, bfloat16"),
])
def test_a_wrong_field_is_refused_in_one_line(fields, message):
  with pytest.raises(ValueError, match=message) as caught:
    _spec(**fields)
  assert "\n" not in str(caught.value)


def test_a_wrong_call_is_refused_in_one_line():
  network = _spec(time_conditioning=True).network()
  params = _random_params(time_conditioning=True)
  for call, message in (
      (lambda: network.encode(params, types.Inputs(jnp.zeros((1, 13), jnp.int32)), attention=FULL,
                              time=jnp.zeros(1)), "13 tokens exceeds network.max_length 12"),
      (lambda: network.encode(params, types.Inputs(jnp.zeros((1, 4), jnp.int32)), attention=FULL),
       "needs an objective that passes `time`"),
      (lambda: network.encode(params, types.Inputs(
          jnp.zeros((1, 4), jnp.int32), token_types=jnp.zeros((1, 4), jnp.int32)), attention=FULL,
                              time=jnp.zeros(1)),
       "no token types; set network.token_types"),
      (lambda: network.head(params, jnp.zeros((1, 16)), "value"), "the head 'lm', not 'value'")):
    with pytest.raises(ValueError, match=message) as caught:
      call()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rms_swiglu_rope", "layer_gelu_learned_biases", "time"])
def test_unstacked_parameters_give_the_same_with_and_without_a_cache(name):
  fields = OPTIONS[name] | {"scan_layers": False}
  params, network = _random_params(**fields), _spec(**fields).network()
  time = TIME if "time" in name else None
  slots = jnp.array([[1, 4], [0, 8]])

  def run(params):
    whole, _, cache, _ = network.encode(params, types.Inputs(TOKENS), attention=BLOCKS, time=time,
                                     cache=())
    part = network.encode(params, types.Inputs(TOKENS[:, :2]), attention=BLOCKS, time=time,
                          cache=cache, slots=slots).last
    return whole, part, network.head(params, whole)

  flat = network.unstack(params)
  assert "layers" not in flat and {"layers_0", "layers_1"} <= set(flat)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), run(flat),
               run(params))


def test_layers_that_are_scanned_stay_stacked():
  params = _random_params(scan_layers=True)
  assert _spec(scan_layers=True).network().unstack(params) is params


@pytest.mark.parametrize("scan_layers", [True, False], ids=["scanned", "unrolled"])
def test_each_layer_sees_what_its_attention_allows(scan_layers):
  # One layer after another, each with an attention of its own, on the parameters of that layer.
  params = _random_params()
  values = (attention.Local(1), CAUSAL)
  found = _run(params, attention.PerLayer(values), scan_layers=scan_layers)[1]
  spec, numbers = _spec(), jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  for row in range(2):
    same = SEGMENTS[row][:, None] == SEGMENTS[row][None]
    gap = np.subtract.outer(np.arange(8), np.arange(8))
    masks = [same & (np.abs(gap) <= 1), same & (gap >= 0)]
    x = numbers["embed"]["embedding"][TOKENS[row]]
    for i, mask in enumerate(masks):
      p = jax.tree.map(lambda leaf, i=i: leaf[i], numbers["layers"])
      x = x + _reference_attention(spec, p["attention"],
                                   _reference_norm(spec, p["attention_norm"], x), mask,
                                   POSITIONS[row])
      x = x + _reference_mlp(spec, p["mlp"], _reference_norm(spec, p["mlp_norm"], x))
    logits = _reference_norm(spec, numbers["final_norm"], x) @ numbers["embed"]["embedding"].T
    np.testing.assert_allclose(found[row, :, :11], logits[:, :11], rtol=2e-4, atol=2e-4)
