"""Models that are others under another name, bodies without a head, and options beside the usual."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from mdx import interop
from mdx.build import source as source_lib
from mdx.utils import tree
import hf_dirs
import hf_numbers
import tiny

ROOT = pathlib.Path(__file__).parents[1] / "golden"
ALIASES = [("roberta", "xlm-roberta", "XLMRobertaForMaskedLM", "mlm"),
           ("roberta", "camembert", "CamembertForMaskedLM", "mlm"),
           ("llama", "mistral", "MistralForCausalLM", "ar"),
           ("llama", "eurobert", "EuroBertForMaskedLM", "mlm"),
           ("llama", "a2d-llama", "A2DLlamaLMHeadModel", "diffusion"),
           ("qwen2", "a2d-qwen2", "A2DQwen2LMHeadModel", "diffusion"),
           ("qwen3", "a2d-qwen3", "A2DQwen3LMHeadModel", "diffusion")]
BODIES = [("bert", "bert.", "BertModel"), ("roberta", "roberta.", "RobertaModel"),
          ("electra-discriminator", "electra.", "ElectraModel"),
          ("modernbert", "model.", "ModernBertModel"), ("qwen2", "model.", "Qwen2Model"),
          ("distilbert", "distilbert.", "DistilBertModel"),
          ("deberta", "deberta.", "DebertaV2Model"), ("nomic", "nomic_bert.", "NomicBertModel")]


def _copy(name, path, tensors=None, **config):
  shutil.copytree(ROOT / f"{name}-tiny", path)
  written = interop.load_config(path) | config
  (path / "config.json").write_text(json.dumps(written))
  if tensors is not None:
    safetensors_numpy.save_file(tensors, path / "model.safetensors")
  return path


@pytest.mark.parametrize("base, kind, architecture, objective", tiny.first(ALIASES, 2))
def test_an_alias_is_the_same_model_and_keeps_its_name(base, kind, architecture, objective,
                                                       tmp_path):
  changes = dict(rope_scaling=None, rope_parameters=None) if base == "llama" else {}
  source = _copy(base, tmp_path / "in", model_type=kind, architectures=[architecture],
                 sliding_window=None, **changes)
  plain = _copy(base, tmp_path / "plain", **changes)
  assert interop.network_fields(source) == interop.network_fields(plain)
  params = hf_dirs.loaded(source)
  assert tree.fingerprint(params) == tree.fingerprint(hf_dirs.loaded(plain))
  assert interop.objective_fields(source)["name"] == objective
  interop.save(tmp_path / "out", params, hf_dirs.spec_of(source), model_type=kind)
  written = interop.load_config(tmp_path / "out")
  assert (written["model_type"], written["architectures"]) == (kind, [architecture])
  assert interop.network_fields(tmp_path / "out") == interop.network_fields(source)


@pytest.mark.parametrize("window, radius", [(None, 0), (64, 0), (8, 7), (2, 1), ("x", None),
                                            (1, None), (8.0, None)])
def test_the_window_of_mistral_is_a_radius_where_it_does_not_hold_all(window, radius, tmp_path):
  source = _copy("llama", tmp_path / "in", model_type="mistral", sliding_window=window,
                 architectures=["MistralForCausalLM"], max_position_embeddings=64)
  if radius is not None:
    fields = interop.network_fields(source)
    assert (fields["max_length"], fields.get("local_radius", 0)) == (64, radius)
  else:
    with pytest.raises(ValueError, match="sliding_window is .*; expected None or at least 2"):
      interop.network_fields(source)


@pytest.mark.parametrize("name, prefix, architecture", tiny.first(BODIES, 2))
def test_a_body_without_a_head_is_read_and_written(name, prefix, architecture, tmp_path):
  tensors = {key.removeprefix(prefix): value for key, value in hf_dirs.tensors_of(
      ROOT / f"{name}-tiny").items() if key.startswith(prefix)}
  if name == "bert":
    tensors["pooler.dense.weight"] = np.ones((16, 16), np.float32)
  source = _copy(name, tmp_path / "in", tensors, architectures=[architecture])
  body, whole = (tree.flatten(hf_dirs.loaded(path)) for path in (source, ROOT / f"{name}-tiny"))
  assert body.keys() == {k for k in whole if not k.startswith(("head_", "lm_head", "rtd_head"))}
  for path, value in body.items():
    np.testing.assert_array_equal(value, whole[path])
  assert interop.objective_fields(source) == {}
  with pytest.raises(ValueError, match="holds a model without a head.*begin a fine-tuning"):
    source_lib.open_source(str(source)).describe()
  interop.save(tmp_path / "out", hf_dirs.loaded(source), hf_dirs.spec_of(source), like=source)
  out = hf_dirs.tensors_of(tmp_path / "out")
  assert out.keys() == tensors.keys()
  assert interop.load_config(tmp_path / "out")["architectures"] == [architecture]


def test_the_width_of_qwen2s_heads_is_free(tmp_path):
  spec = hf_dirs.spec_of(ROOT / "qwen2-tiny", head_dim=10)
  config = interop.FAMILIES["qwen2"].to_config(spec)
  assert config["head_dim"] == 10
  assert interop.FAMILIES["qwen2"].to_fields(config)["head_dim"] == 10
  assert "head_dim" not in interop.FAMILIES["qwen2"].to_config(hf_dirs.spec_of(ROOT / "qwen2-tiny"))


_SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
              vocab_size=50, max_position_embeddings=64)


def _longrope(length):
  return dict(rope_type="longrope", rope_theta=100.0, original_max_position_embeddings=length,
              short_factor=[1.0, 1.5, 2.0, 3.0], long_factor=[4.0, 5.0, 6.0, 7.0])


@pytest.mark.slow
@pytest.mark.parametrize("name, options", [
    ("Llama", dict(attention_bias=True)), ("Llama", dict(mlp_bias=True)),
    ("Llama", dict(hidden_act="gelu")), ("Llama", dict(hidden_act="relu", attention_bias=True)),
    ("Qwen3", dict(attention_bias=True, head_dim=8)), ("Qwen2", dict(head_dim=12)),
    ("Mistral", dict(sliding_window=None)), ("Mistral", dict(rope_parameters=_longrope(4))),
    ("Qwen2", dict(rope_parameters=_longrope(5))), ("Phi3", dict(
        sliding_window=3, pad_token_id=0, eos_token_id=2))])
def test_biases_and_activations_are_those_of_transformers(name, options, tmp_path):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  torch.manual_seed(0)
  config = getattr(transformers, f"{name}Config")(num_key_value_heads=2, **_SIZES)
  for key, value in options.items():
    setattr(config, key, value)
  model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
  with torch.no_grad():
    for key, value in model.named_parameters():
      if key.endswith("bias"):
        value += torch.randn_like(value)
  model.save_pretrained(tmp_path / "in")
  ids = [1, 5, 7, 9, 11]
  with torch.no_grad():
    law = model(torch.tensor([ids])).logits.log_softmax(-1)[0]
  want = law[torch.arange(4), torch.tensor(ids[1:])].sum().item()
  np.testing.assert_allclose(hf_numbers.causal_log_likelihood(tmp_path / "in", ids), want, rtol=1e-5)
  interop.save(tmp_path / "out", hf_dirs.loaded(tmp_path / "in"), hf_dirs.spec_of(tmp_path / "in"),
               model_type=config.model_type, ids=interop.special_ids(tmp_path / "in"))
  again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
  with torch.no_grad():
    np.testing.assert_allclose(again(torch.tensor([ids])).logits.log_softmax(-1)[0], law, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name, options", [
    ("XLMRoberta", dict(type_vocab_size=1)), ("Camembert", dict(type_vocab_size=1)),
    ("EuroBert", dict(num_key_value_heads=2)), ("Bert", dict(hidden_act="silu")),
    ("Bert", dict(hidden_act="gelu_fast"))])
def test_encoders_are_those_of_transformers(name, options, tmp_path):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  torch.manual_seed(0)
  model = getattr(transformers, f"{name}ForMaskedLM")(
      getattr(transformers, f"{name}Config")(pad_token_id=1, **_SIZES, **options)).eval()
  model.save_pretrained(tmp_path / "in")
  ids = [[0, 5, 7, 9, 11, 2]]
  with torch.no_grad():
    want = model(torch.tensor(ids)).logits.numpy()
  spec = hf_dirs.spec_of(tmp_path / "in")
  have = hf_dirs.logits_of(spec, hf_dirs.loaded(tmp_path / "in"), ids)
  np.testing.assert_allclose(have[..., :50], want, atol=1e-4)
