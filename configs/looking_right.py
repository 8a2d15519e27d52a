r"""A decoder fine-tuned for sequence labelling, some of its layers without the causal mask.

Dukić & Šnajder 2024, arXiv:2401.14556 ("Looking Right is Sometimes Right"): layers are cut into
groups, and each code of a digit a group (bottom to top, 1 = without the causal mask) is a cell
of the grid; the best on validation is tested. Without arguments a causal model of the packaged
text is trained first, and the task is which words of a paragraph are spoken (half an hour on 2
cores):
  python -m mdx.main --config=configs/looking_right.py --workdir=runs/looking_right
A decoder of Hugging Face in four groups of layers (16 codes), on a CoNLL file:
  python -m mdx.main --config=configs/looking_right.py:groups=4,conll --workdir=runs/ner \
    --config.models.decoder.init.checkpoint=Llama-2-7b-hf \
    --config.run.data.source.path=train.txt --config.run.data.source.validation_path=dev.txt \
    --config.run.data.source.test_path=test.txt
"""

import itertools

from mdx import config as config_lib
from mdx.configs import finetune


def get_config(arg=None):
  """groups=N (2), conll (files of yours instead of the packaged task)."""
  values = config_lib.parse_arg(arg, groups=2, conll=False)
  if not 1 <= values["groups"] <= 6:
    raise ValueError(f"configs/looking_right.py takes groups=1 .. 6, got {values['groups']}.")
  config = finetune.get_config("table")
  base = config.models.causal.init.base
  if values["conll"]:
    config.run = finetune.get_config("conll")
    config.run.init.base = None
    config.run.optimizer.update(learning_rate=2e-4, schedule="cosine", b2=0.95, layer_decay=1.0)
    config.models = dict(decoder=dict(init=dict(checkpoint="")))
    task = {}
  else:
    config.run.network.num_layers = 2 * values["groups"]
    base.network = config.run.network
    config.models = dict(decoder=dict(init=dict(base=base)))
    task = config.tasks.speech
  config.run.objective = dict(name="tagging", labels=(),
                              attention=dict(name="groups", code="0" * values["groups"]))
  if task:
    task.objective = dict(name="tagging")
  config.tasks = dict(tagging=task)
  codes = tuple("".join(code) for code in itertools.product("01", repeat=values["groups"]))
  config.grid = (dict(key="objective.attention.code", values=codes),)
  return config
