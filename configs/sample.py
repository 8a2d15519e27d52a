r"""Sampling: prompts in, text out, from any checkpoint.

Without a checkpoint it first trains the small model of configs/diffusion.py under
`workdir/base` (2 minutes on 2 cores; reused next time), then samples in seconds.
  python -m mdx.main --config=configs/sample.py --workdir=runs/sample --config.show=true
  python -m mdx.main --config=configs/sample.py --workdir=runs/sample2 \
    --config.init.checkpoint=runs/diffusion --config.prompts='It was' \
    --config.sampler.name=confidence --config.sampler.temperature=0.5
Writes samples.jsonl (a row a line), samples.html, the denoising viewer, and results.json: with
a second model as judge, how likely and how varied the texts are.
  python -m mdx.main --config=configs/sample.py --workdir=runs/judged --config.num_samples=64 \
    --config.init.checkpoint=runs/diffusion --config.quality.scorer=runs/ar
"""

from ml_collections import config_dict

from mdx import samplers
from mdx.configs import diffusion


def get_config(arg=None):
  """Every field of the samplers with its default; what it means: mdx/samplers."""
  base = diffusion.get_config(arg)
  return config_dict.ConfigDict(dict(
      mode="sample",
      seed=0,
      init=dict(
          checkpoint="",  # a run's workdir, a checkpoint, an export, a Hugging Face directory
          params="ema",  # which weights of it: ema or raw
          adapter="",  # directory of a PEFT adapter for it
          weights="",  # int8: weights of one byte
          special_tokens="",  # never: no [CLS], <s> around prompts; "" = as its tokenizer has it
          base=base),  # trained first where no checkpoint is given
      prompts="",  # a .jsonl file with `text` or `tokens` a line, or a text; "" = no prompt
      num_samples=4,  # rows of each prompt
      batch_size=8,  # rows decoded together
      # Fields of other rules than `name` stay at their defaults. "" = the rule of the model's
      # authors, or the one that suits how it was trained.
      sampler=dict(samplers.defaults(), name=""),
      quality=dict(  # of the texts, by a second model; see eval.generative
          scorer="",  # a run, checkpoint or export; hf:DIRECTORY or hf:NAME; "" = not scored
          params="ema",  # which weights of a run: ema or raw
          max_length=1024,  # tokens of the scorer that are read of a text
          num_samples=16,  # draws a text of a scorer whose likelihood is a bound
          batch_size=8),  # texts scored together
      dtype="",  # of activations: float32 or bfloat16; "" = as in training
      mesh=dict(base.mesh),
      show=False,  # replay the first row in the terminal
      viewer_rows=8,  # rows of samples.html; 0 writes none
      animation=False,  # also samples.gif and samples.png of the first row
      export=dict(format="huggingface", path="", model_type="", dtype=""),  # of mode=export
  ))
