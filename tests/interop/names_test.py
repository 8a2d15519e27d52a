"""Names and shapes in the files of every family: older names, copies, parts, and what is wrong."""

import json
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from mdx import interop
from mdx.interop import safetensors as files
from mdx.utils import tree
import hf_dirs
import tiny

ROOT = pathlib.Path(__file__).parents[1] / "golden"
EMBEDDING = {"llama": ("model.embed_tokens.weight", "lm_head.weight"),
             "bert": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
             "roberta": ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
             "electra-generator": ("electra.embeddings.word_embeddings.weight",
                                   "generator_lm_head.weight"),
             "modernbert": ("model.embeddings.tok_embeddings.weight", "decoder.weight"),
             "distilbert": ("distilbert.embeddings.word_embeddings.weight",
                            "vocab_projector.weight"),
             "nomic": ("nomic_bert.embeddings.word_embeddings.weight",
                       "cls.predictions.decoder.weight"),
             "deberta": ("deberta.embeddings.word_embeddings.weight",
                         "cls.predictions.decoder.weight")}
BIASED = ("bert", "roberta", "nomic", "deberta")  # with a bias of the decoder and another


def _changed(name, path, change=lambda tensors: None, **config):
  """A copy of a stored model, changed."""
  shutil.copytree(ROOT / f"{name}-tiny", path)
  tensors = hf_dirs.tensors_of(path)
  change(tensors)
  safetensors_numpy.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()},
                              path / "model.safetensors")
  written = interop.load_config(path) | config
  (path / "config.json").write_text(json.dumps(written))
  return path


def _assert_round_trip(source, out):
  params = hf_dirs.loaded(source)
  interop.save(out, params, hf_dirs.spec_of(source), like=source)
  want, have = hf_dirs.tensors_of(source), hf_dirs.tensors_of(out)
  assert have.keys() == want.keys()
  for key in want:
    np.testing.assert_array_equal(have[key], want[key], err_msg=key, strict=True)
  return params


def test_old_names_of_bert_and_what_is_beside_the_network_go_through_unchanged(tmp_path):
  def age(tensors):
    for key in [k for k in tensors if "LayerNorm" in k]:
      tensors[key.replace("weight", "gamma").replace("bias", "beta")] = tensors.pop(key)
    tensors["bert.pooler.dense.weight"] = np.ones((16, 16), np.float32)
    tensors["cls.seq_relationship.bias"] = np.ones(2, np.float16)
    tensors["bert.embeddings.position_ids"] = np.arange(64)[None]
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]

  source = _changed("bert", tmp_path / "in", age, architectures=["BertForPreTraining"])
  params = _assert_round_trip(source, tmp_path / "out")
  assert tree.fingerprint(params) == tree.fingerprint(hf_dirs.loaded(ROOT / "bert-tiny"))
  assert interop.compute_dtype(source) == "float32"


def test_the_head_of_deberta_has_either_name_and_kinds_are_a_text_or_a_list(tmp_path):
  def publish(tensors):
    for key in [k for k in tensors if k.startswith("cls.")]:
      new = key.replace("predictions.transform.", "predictions.").replace("cls.predictions.", "")
      tensors[f"lm_predictions.lm_head.{new}"] = tensors.pop(key)
    tensors["mask_predictions.dense.weight"] = np.ones((2, 2), np.float32)

  source = _changed("deberta", tmp_path / "in", publish, pos_att_type="p2c|c2p", architectures=None)
  params = _assert_round_trip(source, tmp_path / "out")
  assert tree.fingerprint(params) == tree.fingerprint(hf_dirs.loaded(ROOT / "deberta-tiny"))


@pytest.mark.parametrize("name", tiny.first(EMBEDDING, 2))
def test_a_tied_head_may_be_stored_twice_and_an_untied_one_is_another(name, tmp_path):
  embedding, head = EMBEDDING[name]

  def copy(tensors):
    tensors[head] = tensors[embedding]

  def untie(tensors):
    tensors[head] = tensors[embedding][::-1]
    if name in BIASED:  # whose untied decoder has the bias that is added
      bias = head.replace("weight", "bias")
      tensors[bias] = tensors.pop(bias.replace("decoder.", ""))

  tied = _assert_round_trip(_changed(name, tmp_path / "in", copy), tmp_path / "out")
  assert "kernel" not in tied.get("lm_head", {})
  source = _changed(name, tmp_path / "in2", untie, tie_word_embeddings=False)
  untied = _assert_round_trip(source, tmp_path / "out2")
  np.testing.assert_array_equal(np.asarray(untied["lm_head"]["kernel"])[:, :43].T,
                                np.asarray(untied["embed"]["embedding"])[:43][::-1])


@pytest.mark.parametrize("name", EMBEDDING)
def test_a_stored_head_that_differs_is_the_head_as_in_transformers(name, tmp_path, capsys):
  embedding, head = EMBEDDING[name]

  def differ(tensors):
    tensors[head] = tensors[embedding][::-1]
    if name in BIASED:
      tensors[head.replace("weight", "bias")] = np.full(43, 7, np.float32)

  source = _changed(name, tmp_path / "in", differ, tie_word_embeddings=True)
  params = _assert_round_trip(source, tmp_path / "out")
  np.testing.assert_array_equal(np.asarray(params["lm_head"]["kernel"])[:, :43].T,
                                np.asarray(params["embed"]["embedding"])[:43][::-1])
  if name in BIASED:
    assert (np.asarray(params["lm_head"]["bias"])[:43] == 7).all()
  said = capsys.readouterr().out.splitlines()
  assert said == [f"{path}: {head} is stored and differs from the embedding, so it is the head, "
                  "whatever tie_word_embeddings says." for path in (source,)]
  assert interop.load_config(tmp_path / "out")["tie_word_embeddings"] is False


def test_a_bias_that_is_not_used_is_left_as_it_is(tmp_path):
  def untie(tensors):
    tensors["cls.predictions.decoder.weight"] = tensors[EMBEDDING["bert"][0]][::-1]
    tensors["cls.predictions.decoder.bias"] = np.full(43, 7, np.float32)
    tensors["cls.predictions.bias"] = np.full(43, 8, np.float32)

  source = _changed("bert", tmp_path / "in", untie, tie_word_embeddings=False)
  params = _assert_round_trip(source, tmp_path / "out")
  assert (np.asarray(params["lm_head"]["bias"])[:43] == 7).all()


def test_names_that_torch_compile_wrote_are_read(tmp_path):
  def wrap(tensors):
    for key in list(tensors):
      tensors["_orig_mod." + key.replace("self_attn.", "self_attn._orig_mod.")] = tensors.pop(key)

  source = _changed("llama", tmp_path / "in", wrap)
  want = tree.fingerprint(hf_dirs.loaded(ROOT / "llama-tiny"))
  assert tree.fingerprint(hf_dirs.loaded(source)) == want
  twice = _changed("llama", tmp_path / "in2", lambda tensors: tensors.update(
      {"module.model.norm.weight": tensors["model.norm.weight"]}))
  with pytest.raises(ValueError, match="has tensor 'model.norm.weight' twice"):
    hf_dirs.loaded(twice)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_that_are_no_numbers_are_one_line(dtype, value, tmp_path):
  def spoil(tensors):
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].astype(dtype)
    tensors[name][3, 4] = value

  source = _changed("llama", tmp_path / "in", spoil)
  with pytest.raises(ValueError, match="'model.layers.1.mlp.up_proj.weight' in .* has numbers that "
                                       "are infinite or no numbers"):
    hf_dirs.loaded(source)


def _with(name, value):
  return lambda tensors: tensors.update({name: value})


def _without(name):
  return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize("name, change, config, message", [
    ("modernbert", _with("model.layers.1.attn.Wqkv.weight", np.ones((47, 16), np.float32)), {},
     r"'model.layers.1.attn.Wqkv.weight' in .*model.safetensors has shape \(47, 16\); .* \(48, 16\)"),
    ("modernbert", _with("model.layers.0.attn_norm.weight", np.ones(16, np.float32)), {},
     "'model.layers.0.attn_norm.weight' in .*model.safetensors has no place"),
    ("modernbert", _without("model.layers.4.mlp.Wi.weight"), {},
     "lacks tensor 'model.layers.4.mlp.Wi.weight'"),
    ("qwen2", _with("model.norm.weight", np.ones(16, np.int32)), {},
     "'model.norm.weight' in .*model.safetensors is stored as I32"),
    ("qwen2", _without("model.layers.0.self_attn.k_proj.bias"), {},
     "lacks tensor 'model.layers.0.self_attn.k_proj.bias'"),
    ("qwen3", lambda tensors: None, dict(num_hidden_layers=3), "lacks tensor 'model.layers.2."),
    ("qwen3_moe", _without("model.layers.1.mlp.experts.4.up_proj.weight"), {},
     "lacks tensor 'model.layers.1.mlp.experts.4.up_proj.weight'"),
    ("llada2", lambda tensors: None, dict(first_k_dense_replace=2),
     "lacks tensor 'model.layers.1.mlp.gate_proj.weight'|has no place"),
    ("qwen3", lambda tensors: None, dict(head_dim=8), "q_proj.weight' .* has shape .*24, 16"),
    ("bert", lambda tensors: None, dict(vocab_size=50), r"has shape \(43, 16\); .* \(50, 16\)"),
    ("electra-generator", lambda tensors: None, dict(architectures=["ElectraForPreTraining"]),
     "lacks tensor 'discriminator_predictions.dense.weight'"),
])
def test_weights_that_disagree_with_the_config_are_named_before_any_is_read(
    name, change, config, message, tmp_path, monkeypatch):
  source = _changed(name, tmp_path / "in", change, **config)
  monkeypatch.setattr(files.Reader, "read", lambda *_: pytest.fail("a tensor was read"))
  with pytest.raises(ValueError, match=message) as error:
    interop.load(source, hf_dirs.shapes(hf_dirs.spec_of(source)))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, config, message", [
    ("qwen2", dict(use_sliding_window="yes"), "use_sliding_window = 'yes' is not supported"),
    ("qwen2", dict(use_sliding_window=True, sliding_window=None), "sliding_window is None; expected"),
    ("qwen2-window", dict(max_window_layers=2), "layer_types is .* in the first max_window_layers = 2"),
    ("qwen2-window", dict(max_window_layers=-1), "max_window_layers is -1; expected at least 0"),
    ("qwen3_moe", dict(use_sliding_window=True), "use_sliding_window = True is not supported"),
    ("qwen2", dict(layer_types=["full_attention", "sliding_attention"]), "layer_types has"),
    ("qwen2", dict(attention_bias=True), "attention_bias = True is not supported"),
    ("llama", dict(rope_parameters=dict(rope_type="longrope", factor=2.0)), "rope_scaling .*longr"),
    ("llama", dict(rope_parameters=dict(rope_type="longrope", short_factor=[1.0], long_factor=[
        2.0])), "network.rope_scaling is .*; expected .* 2 short and 2 long factors"),
    ("phi3", dict(rope_parameters=dict(partial_rotary_factor=2)), "partial_rotary_factor is 2"),
    ("phi3", dict(sliding_window=0), "sliding_window is 0; expected None or at least 2"),
    ("llama", dict(rope_parameters=dict(rope_type="yarn")), "rope_scaling .*yarn"),
    ("llama", dict(rope_parameters=dict(rope_type="yarn", factor=2.0, truncate=False)), "truncate"),
    ("qwen3_moe", dict(mlp_only_layers=[0]), r"mlp_only_layers is .0.; expected none"),
    ("qwen3_moe", dict(num_experts_per_tok=7), "per_token 7 exceeds the 6 experts"),
    ("llada_moe", dict(moe_layer_freq=[0, 1]), "moe_layer_freq is .0, 1.; expected 1"),
    ("llada_moe", dict(norm_topk_prob=True), "norm_topk_prob = True is not supported"),
    ("llada2", dict(n_group=3), "groups 3 do not divide the 8 experts"),
    ("llada2", dict(first_k_dense_replace=-1), "first_k_dense_replace -1 are expected"),
    ("llama", dict(hidden_act="mish"), "hidden_act = 'mish' is not supported; expected 'silu'"),
    ("llama", dict(hidden_size=None), "hidden_size is None; expected a positive integer"),
    ("llama", dict(hidden_size=2**70), "hidden_size is 1180591620717411303424; expected at most"),
    ("llama", dict(num_hidden_layers=10**9), "num_hidden_layers is 1000000000; expected at most"),
    ("llama", dict(rms_norm_eps=float("nan")), "rms_norm_eps is nan; expected a positive number"),
    ("llama", dict(rms_norm_eps="1e-6"), "rms_norm_eps is '1e-6'; expected a positive number"),
    ("llama", dict(rope_parameters=None, rope_theta=-1), "rope_theta is -1; expected a positive"),
    ("llama", dict(rope_parameters=dict(rope_theta=float("inf"))), "rope_theta is inf; expected"),
    ("llama", dict(rope_parameters="default"), "rope_parameters is 'default'; expected an object"),
    ("llama", dict(num_key_value_heads=[2]), r"num_key_value_heads is \[2\]; expected a positive"),
    ("llama", dict(num_key_value_heads=-2), "num_key_value_heads is -2; expected a positive"),
    ("llama", dict(max_position_embeddings=64.5), "max_position_embeddings is 64.5; expected a"),
    ("llama", dict(layer_types=3), "it is not the config of a model .TypeError"),
    ("llama", dict(architectures=[{}]), "it is not the config of a model .TypeError"),
    ("llama", dict(model_type=["llama"]), "it is not the config of a model .TypeError"),
    ("bert", dict(layer_norm_eps=float("nan")), "layer_norm_eps is nan; expected a positive"),
    ("bert", dict(type_vocab_size=2**70), "type_vocab_size is 118.*; expected at most"),
    ("modernbert", dict(norm_eps=-1), "norm_eps is -1; expected a positive number"),
    ("modernbert", dict(local_attention="128"), "local_attention is '128'; expected a positive"),
    ("llama", dict(model_type="gpt_neox"), "model_type 'gpt_neox' .* is not known; choose from"),
    ("llama", dict(architectures=["LlamaForSequenceClassification"]), "are not known; expected"),
    ("sdar", dict(block_size=2**70), "block_size is 118.*; expected a positive integer"),
    ("roberta", dict(pad_token_id=-2), "pad_token_id is -2; expected a positive integer"),
    ("sdar", dict(block_size=0), "block_size is 0; expected a positive integer"),
    ("bert", dict(position_embedding_type="relative_key"), "position_embedding_type = 'relative"),
    ("bert", dict(is_decoder=True), "is_decoder = True is not supported"),
    ("roberta", dict(hidden_act="relu"), "hidden_act = 'relu' is not supported"),
    ("roberta", dict(max_position_embeddings=2), "leaves no place behind pad_token_id 1"),
    ("electra-generator", dict(architectures=None), "architectures is missing; expected"),
    ("distilbert", dict(activation="mish"), "activation = 'mish' is not supported"),
    ("distilbert", dict(dim=None), "dim is None; expected a positive integer"),
    ("nomic", dict(head_dim=6), "head_dim = 6 is not supported"),
    ("nomic", dict(hidden_act="relu"), "hidden_act = 'relu' is not supported; expected 'silu'"),
    ("deberta", dict(conv_kernel_size=3), "conv_kernel_size = 3 is not supported"),
    ("deberta", dict(embedding_size=8), "embedding_size = 8 is not supported"),
    ("deberta", dict(attention_head_size=8), "attention_head_size = 8 is not supported"),
    ("deberta", dict(pos_att_type="c2p|p2p"), "pos_att_type 'c2p.p2p' is not supported"),
    ("deberta", dict(relative_attention=False), "relative_attention = False with pos_att_type"),
    ("deberta", dict(norm_rel_ebd="rms"), "norm_rel_ebd = 'rms' is not supported"),
    ("deberta", dict(position_buckets="8"), "position_buckets is '8'; expected a number"),
    ("deberta", dict(share_att_key="yes"), "share_att_key is 'yes'; expected true or false"),
    ("deberta", dict(type_vocab_size=-1), "type_vocab_size is -1; expected a number"),
    ("modernbert", dict(mlp_bias=True), "attention_bias, mlp_bias and classifier_bias differ"),
    ("modernbert", dict(layer_types=["sliding_attention"] * 5), "layer_types .* is not one"),
    ("modernbert", dict(rope_scaling=dict(rope_type="linear")), "rope_scaling is not supported"),
])
def test_an_option_that_is_not_computed_is_refused_by_name(name, config, message, tmp_path):
  source = _changed(name, tmp_path / "in", **config)
  with pytest.raises(ValueError, match=message) as error:
    interop.network_fields(source), interop.objective_fields(source)
  assert "\n" not in str(error.value) and str(source / "config.json") in str(error.value)


def test_both_ways_of_saying_rotary_angles_are_read(tmp_path):
  old = dict(rope_theta=77.0, rope_scaling=dict(type="linear", factor=2.0), rope_parameters=None)
  fields = interop.network_fields(_changed("llama", tmp_path / "old", **old))
  assert (fields["rope_theta"], fields["rope_scaling"]) == (77.0, ("linear", 2.0))
  new = dict(rope_parameters=dict(rope_type="linear", rope_theta=77.0, factor=2.0))
  assert interop.network_fields(_changed("llama", tmp_path / "new", **new)) == fields
  published = dict(layer_types=None, rope_parameters=None, global_rope_theta=9.0,
                   local_rope_theta=None, global_attn_every_n_layers=3)
  fields = interop.network_fields(_changed("modernbert", tmp_path / "encoder", **published))
  assert (fields["rope_theta"], fields["local_rope_theta"], fields["global_every"]) == (9.0, 9.0, 3)


@pytest.mark.parametrize("name, field", [
    ("qwen2", dict(qk_norm=True)), ("qwen3", dict(qkv_bias=True)), ("Dream", dict(post_norm=True)),
    ("llama", dict(local_radius=3)), ("llada", dict(rope_scaling=("linear", 2.0))),
    ("phi3", dict(head_dim=4, rope_scaling=())), ("phi3", dict(rope_scaling=("linear", 2.0))),
    ("bert", dict(position_offset=2)), ("roberta", dict(embed_width=8)),
    ("modernbert", dict(token_types=2)), ("electra", dict(norm_bias=False)),
    ("qwen3_moe", dict(experts=None)), ("llada2_moe", dict(experts=None)),
    ("llada_moe", dict(rotary_share=0.5)), ("distilbert", dict(norm_eps=1e-6)),
    ("distilbert", dict(token_types=2)), ("nomic_bert", dict(use_bias=True)),
    ("deberta-v2", dict(post_norm=False)), ("bert", dict(disentangled=dict(max_distance=8,
                                                                           buckets=0)))])
def test_a_network_that_a_family_does_not_have_is_not_exported_as_it(name, field, tmp_path):
  golden = {"Dream": "dream", "electra": "electra-generator", "llada2_moe": "llada2",
            "nomic_bert": "nomic", "deberta-v2": "deberta"}.get(name, name)
  spec = hf_dirs.spec_of(ROOT / f"{golden}-tiny", **field)
  with pytest.raises(ValueError, match=next(iter(field))) as error:
    interop.save(tmp_path / "out", jax.eval_shape(dict), spec, model_type=name)
  assert "\n" not in str(error.value) and not any(tmp_path.iterdir())
