"""Writes tests/golden/NAME-tiny: random models of `transformers` and what it computes with them.

  python tests/interop/make_golden.py [NAME ...]      (needs torch and transformers: extra parity)

Every directory has config.json, model.safetensors and logits.npz: `input_ids` [3, 24] with `logits`,
and the same rows with `attention_mask`, 0 on padding, as `padded_logits`. Decoders are padded
on the left. Dream and SDAR, for which `transformers` has no class, are computed by its Qwen2 and
Qwen3 with a mask that shows everything, or the blocks up to a token's own. The layers of their
published code (DreamLM's and JetAstra's, with SDAR's fused norm and flash attention replaced by
plain torch), run once on these weights and rows, gave the same logits to 4e-6. `lora`
writes llama-lora-tiny, an adapter by the library `peft` for llama-tiny, with the logits of both.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
_ROWS, _LENGTH, _VOCAB, _BLOCK = 3, 24, 43, 4
_SIZES = dict(vocab_size=_VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
              intermediate_size=24, max_position_embeddings=64)
_IDS = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
_GROUPED = dict(num_key_value_heads=2) | _IDS
_LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0,
               high_freq_factor=4.0, original_max_position_embeddings=16)
# name -> class of transformers, its options, entries of config.json over its own
MODELS = {
    "llama": ("Llama", dict(_GROUPED, rope_parameters=_LLAMA3, tie_word_embeddings=True), {}),
    "mistral": ("Mistral", dict(_GROUPED, sliding_window=6), {}),
    "qwen2": ("Qwen2", dict(_GROUPED, rope_parameters=dict(rope_type="default", rope_theta=500.0)),
              {}),
    "qwen2-window": ("Qwen2", dict(_GROUPED, num_hidden_layers=3, use_sliding_window=True,
                                   sliding_window=6, max_window_layers=1), {}),
    "qwen3": ("Qwen3", dict(_GROUPED, head_dim=6, tie_word_embeddings=True), {}),
    "qwen3_moe": ("Qwen3Moe", dict(_GROUPED, head_dim=6, num_experts=6, num_experts_per_tok=2,
                                  moe_intermediate_size=8, norm_topk_prob=True, rope_parameters=dict(
                                      rope_type="yarn", rope_theta=10000.0, factor=4.0,
                                      original_max_position_embeddings=16)), {}),
    "phi3": ("Phi3", dict(_GROUPED, num_attention_heads=2, num_key_value_heads=1,
                          original_max_position_embeddings=8, rope_parameters=dict(
                              rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.5,
                              short_factor=[1.0, 1.5], long_factor=[1.25, 6.0])), {}),
    "dream": ("Qwen2", _GROUPED, dict(model_type="Dream", architectures=["DreamModel"],
                                      mask_token_id=3)),
    "sdar": ("Qwen3", dict(_GROUPED, head_dim=6), dict(
        model_type="sdar", architectures=["SDARForCausalLM"], mask_token_id=3, block_size=_BLOCK)),
    "bert": ("Bert", dict(_IDS, hidden_act="gelu"), {}),
    "roberta": ("Roberta", dict(pad_token_id=1, bos_token_id=0, eos_token_id=2, type_vocab_size=1),
                {}),
    "electra-generator": ("Electra", dict(_IDS, embedding_size=8), {}),
    "electra-discriminator": ("Electra", dict(_IDS, embedding_size=8), {}),
    "modernbert": ("ModernBert", dict(
        _IDS, cls_token_id=1, sep_token_id=2, num_hidden_layers=5, local_attention=8,
        rope_parameters={"full_attention": dict(rope_type="default", rope_theta=700.0),
                         "sliding_attention": dict(rope_type="default", rope_theta=50.0)}), {}),
    "distilbert": ("DistilBert", dict(_IDS, dim=16, n_layers=2, n_heads=4, hidden_dim=24), {}),
    "deberta": ("DebertaV2", dict(
        _IDS, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"],
        share_att_key=True, norm_rel_ebd="layer_norm", position_biased_input=False), {}),
    "deberta-apart": ("DebertaV2", dict(
        _IDS, relative_attention=True, max_relative_positions=6, pos_att_type=["p2c"],
        type_vocab_size=2), {}),
    "nomic": ("NomicBert", dict(_IDS, layer_norm_eps=1e-6), {}),
}
_DECODERS = ("llama", "mistral", "qwen2", "qwen2-window", "qwen3", "qwen3_moe", "phi3", "dream",
             "sdar")


def build(name):
  """The model with every parameter drawn at random."""
  family, options, _ = MODELS[name]
  head = ("ForCausalLM" if name in _DECODERS else
          "ForPreTraining" if name == "electra-discriminator" else "ForMaskedLM")
  sizes = dict(_SIZES)
  if "dim" in options:  # which has its own words for all but these
    sizes = {name: sizes[name] for name in ("vocab_size", "max_position_embeddings")}
  config = getattr(transformers, family + "Config")(**sizes | options)
  config._attn_implementation = "eager"  # pylint: disable=protected-access
  model = getattr(transformers, family + head)(config).eval()
  torch.manual_seed(7)
  with torch.no_grad():
    for key, value in model.named_parameters():
      centre = 1.0 if "norm" in key.lower() and key.endswith("weight") else 0.0
      value.copy_(centre + 0.25 * torch.randn_like(value))
  return model


def visible(name, mask):
  """Additive mask [B, 1, L, L] of the models whose attention is not that of the class."""
  place = torch.arange(mask.shape[1])
  seen = mask[:, None, :].bool() & torch.ones(mask.shape[1], 1, dtype=torch.bool)
  if name == "sdar":
    block = torch.clamp(mask.cumsum(1) - 1, min=0) // _BLOCK
    seen = seen & (block[:, None, :] <= block[:, :, None])
  seen = seen | (place[:, None] == place)  # padding sees itself
  return torch.where(seen, 0.0, -1e30)[:, None]


def score(model, name, ids, mask):
  """Logits as the class computes them."""
  given = visible(name, mask) if name in ("dream", "sdar") else mask
  inputs = {}
  if name in _DECODERS:
    inputs["position_ids"] = torch.clamp(mask.cumsum(1) - 1, min=0)
  with torch.no_grad():
    return model(input_ids=ids, attention_mask=given, **inputs).logits.numpy()


def inputs_of(name, pad_id):
  """Rows, without the padding id, and an attention mask."""
  draw = np.random.default_rng(3)
  ids = draw.integers(3, _VOCAB, (_ROWS, _LENGTH))
  mask = np.ones_like(ids)
  for row, padding in enumerate((0, 5, 11)):
    where = slice(0, padding) if name in _DECODERS else slice(_LENGTH - padding, _LENGTH)
    mask[row, where] = 0
  return ids, mask, np.where(mask == 1, ids, pad_id)


def write_adapter():
  """An adapter of some projections, none of it zero."""
  import peft  # pylint: disable=g-import-not-at-top
  path = GOLDEN / "llama-lora-tiny"
  model = transformers.LlamaForCausalLM.from_pretrained(GOLDEN / "llama-tiny")
  model = peft.get_peft_model(model, peft.LoraConfig(
      r=3, lora_alpha=5, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"))
  torch.manual_seed(11)
  with torch.no_grad():
    for key, value in model.named_parameters():
      if "lora_" in key:
        value.copy_(0.5 * torch.randn_like(value))
    ids = torch.tensor(np.load(GOLDEN / "llama-tiny" / "logits.npz")["input_ids"]).long()
    logits = model.eval()(input_ids=ids).logits.numpy()
  model.save_pretrained(path)
  (path / "README.md").unlink()
  config = json.loads((path / "adapter_config.json").read_text())
  config = config | {"base_model_name_or_path": "llama-tiny"}
  (path / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
  np.savez_compressed(path / "logits.npz", logits=logits)


def main(names):
  """Writes the directories."""
  for name in names:
    if name == "lora":
      write_adapter()
      continue
    path, model = GOLDEN / f"{name}-tiny", build(name)
    ids, mask, padded = map(torch.tensor, inputs_of(name, model.config.pad_token_id))
    model.save_pretrained(path)
    (path / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((path / "config.json").read_text()) | MODELS[name][2]
    (path / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    np.savez_compressed(
        path / "logits.npz", input_ids=ids.numpy().astype(np.int32),
        attention_mask=mask.numpy().astype(np.int32),
        padded_input_ids=padded.numpy().astype(np.int32),
        logits=score(model, name, ids, torch.ones_like(ids)),
        padded_logits=score(model, name, padded, mask))
    print(path, sum(f.stat().st_size for f in path.iterdir()), "bytes")


if __name__ == "__main__":
  main(sys.argv[1:] or [*MODELS, "lora"])
