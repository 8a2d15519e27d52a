r"""Supervised fine-tuning of a masked diffusion model on conversations (LLaDA's, arXiv:2502.09992).

The loss is over the assistant's answers, all of them; several conversations share a row and do
not see one another. Without a checkpoint it trains from random weights on 456 packaged
conversations: 2 minutes on 2 cores to 0.21 +- 0.07 bits per character of held-out answers.
  python -m mdx.main --config=configs/sft.py --workdir=runs/sft
On yours, from a model of yours, with a Jinja template (or the one beside its tokenizer.json):
  python -m mdx.main --config=configs/sft.py --workdir=runs/mine \
    --config.init.checkpoint=runs/owt --config.tokenizer.path=gpt2/tokenizer.json \
    --config.tokenizer.chat_template=chat.jinja --config.data.source.path=chat.jsonl
Then talk to it: lines {"messages": [...]} of a file for --config.prompts of configs/sample.py.
"""

from mdx.configs import common


def get_config(arg=None):
  """LLaDA's loss on answers, packed."""
  config = common.get_config(arg)
  config.update(steps=400, batch_size=32, eval_steps=100)
  config.objective = dict(
      name="diffusion", schedule=dict(name="linear", eps=1e-4), time="lattice",
      mask_draw="bernoulli", normalizer="per_supervised_token")
  config.tokenizer.update(path="asset:chat_bpe512.json", chat_template="asset:chat.jinja")
  config.data = dict(
      length=96,
      source=dict(name="chat", path="asset:chat.jsonl", validation_path="", field="",
                  holdout_every=-1),
      packing="first_fit",  # or pad: one conversation a row
      fill="eos_multiple",  # or pad; with packing pad also eos (LLaDA), eos_together (Dream)
      fill_multiple=16,  # of eos_multiple
      too_long="error",  # or skip
      on_error="stop",  # or skip: records that cannot be read or do not fit
      append_eos=True,
      isolate_documents=True)
  config.eval.update(baselines=False, final_samples=16)
  config.sampler.num_samples = 0
  return config
