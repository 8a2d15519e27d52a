r"""Masked fine-tuning: a causal model learns facts by recovering documents (arXiv:2510.09885).

  python -m mdx.main --config=configs/masked_finetuning.py --workdir=runs/masked_finetuning
A small causal model that knows 160 fictitious people (kept under `workdir/base`) reads of 40 new
ones that NAME is DESCRIPTION, and is asked for both: descriptions of names (forward) and names of
descriptions (backward). `:plain` is next-token prediction of the same documents, `:random` the
control without information in the prompt, `:reversed` next-token prediction of both directions, and
`:diffusion` a masked diffusion model. On yours, from a model of yours:
  python -m mdx.main --config=configs/masked_finetuning.py --workdir=runs/mine \
    --config.init.checkpoint=Qwen2.5-0.5B --config.data.source.name=jsonl \
    --config.data.source.path=documents.jsonl --config.data.length=256 \
    --config.objective.instruction='Recover the passage: ' \
    --config.objective.separator='Passage: ' --config.eval.evaluators='()'
"""

import copy

from mdx import config as config_lib
from mdx.configs import common
from mdx.data.toys import people

ARMS = ("masked", "plain", "random", "reversed", "diffusion")


def get_config(arg=None):
  """One of ARMS, masked without a name."""
  arm = config_lib.parse_variant(arg, ARMS)[0] or ARMS[0]
  config = common.get_config()
  config.update(steps=200, batch_size=64, log_steps=50, eval_steps=100, checkpoint_steps=200,
                ema_decay=0.0)
  config.network.update(num_layers=2, width=128, num_heads=4, mlp_width=256, max_length=32)
  config.tokenizer.path = people.TOKENIZER
  config.data = dict(
      length=3,
      source=dict(name="people",
                  stage="public",  # new: also what new people are; both: and who; alone: new ones
                  path="", validation_path="", field="", holdout_every=-1),
      packing="pad", append_eos=False, isolate_documents=True, on_error="stop")
  config.optimizer.update(learning_rate=1e-3, schedule="constant", warmup_steps=20,
                          weight_decay=0.0)
  config.init.params = "raw"
  config.eval.update(baselines=False, num_samples=1, final_samples=4, evaluators=("questions",),
                     questions=dict(num_questions=256,  # of each kind; 0 = all
                                    gen_length=0))  # tokens of an answer; 0 = of the longest
  config.sampler.num_samples = 0
  base = copy.deepcopy(config)
  base.update(steps=1200, eval_steps=0, checkpoint_steps=1200)
  base.optimizer.update(learning_rate=3e-3, schedule="cosine", warmup_steps=100)
  if arm == "diffusion":
    base.objective = dict(name="diffusion", mask_draw="exact_count")
    config.objective = copy.deepcopy(base.objective)
  else:
    base.objective = dict(
        name="masked_document",
        min_rate=0.05, max_rate=0.95,  # of the mask rate, which every row draws
        hidden="mask",  # or random: the copy says nothing of the document
        plain_rate=0.5,  # share of the rows that are the document alone
        instruction=people.INSTRUCTION, separator=people.SEPARATOR)  # before copy and document
    config.objective = copy.deepcopy(base.objective)
    config.objective.update(hidden="random" if arm == "random" else "mask",
                            plain_rate=1.0 if arm in ("plain", "reversed") else 0.0)
  config.data.source.stage = "both" if arm == "reversed" else "new"
  config.init.base = base  # config of the training of the model, without a checkpoint
  return config
