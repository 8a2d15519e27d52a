r"""Claims: a decoder that tags words gains from layers without the causal mask where the tag needs
what stands to the right, and nowhere else.

Dukić & Šnajder 2024, arXiv:2401.14556, who find that on tasks of several words it helps most
near the output, and that the best code depends on the task. On the toy grammar: a causal model of
four layers is pre-trained on sentences whose determiners are all written alike, then fine-tuned on
1000 short documents, from whose tags alone it learns the genders. `agreement`: a determiner has the
gender of the noun to its right. `subject`: a verb has that of the noun to its left. A code has a
digit for the bottom and the top pair of layers, 1 without the mask.
  python -m mdx.main --config=configs/claims/looking_right.py --workdir=runs/claims/looking_right

Measured on 2 cores of an AMD EPYC (very busy: 33 minutes; 12 of CPU time), seeds 0-2;
entity F1 on test of the codes 00, 01, 10 and 11; two-sided paired t over the seeds:
  agreement (a class by the word to the right): 0.560, 1.000, 0.997, 0.999
  reproduced: each of 01, 10 and 11 beats 00 (p < 0.001); inconclusive which of them is best
    (01 against 10 p = 0.20, against 11 p = 0.23; 10 against 11 p = 0.20)
  subject (by the word to the left): 0.997, 0.988, 0.700 +- 0.25, 0.812 +- 0.23
  inconclusive: 01, 10 and 11 against 00: p = 0.40, 0.18, 0.31
Where the left context is enough, unmasked bottom layers did harm with some seeds within these 300
steps, those near the output did not: the paper's advice, though not significant here.
"""

from ml_collections import config_dict

from mdx.configs import ar
from mdx.configs import finetune

_CODES = ("00", "01", "10", "11")


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/looking_right.py takes no argument, got {arg!r}.")
  run = finetune.get_config("speech")
  run.update(steps=300, eval_steps=100, checkpoint_steps=10_000, batch_size=32)
  run.network.update(num_layers=4, width=64, num_heads=2, mlp_width=192)
  run.optimizer.update(learning_rate=1e-3, layer_decay=1.0, warmup_steps=20)
  run.tokenizer.path = "grammar"
  run.objective.attention = dict(name="groups", code="00")
  run.data.update(length=32)
  run.data.source = dict(name="grammar_tags", task="agreement", num_train=1000, num_held_out=400)
  base = ar.get_config()
  base.update(steps=600, batch_size=32, eval_steps=0, checkpoint_steps=10_000)
  base.network = run.network
  base.optimizer.learning_rate = 3e-3
  base.tokenizer.path = "grammar"
  base.data.length = 32
  base.data.source = dict(name="grammar", num_sentences=2, num_documents=8000, num_validation=400,
                          one_determiner=True)
  base.eval.update(baselines=False, final_samples=1)
  base.sampler.num_samples = 0
  run.init.base = base
  arms = {f"{task}_{code}": dict(objective=dict(attention=dict(code=code)),
                                 data=dict(source=dict(task=task)))
          for task in ("agreement", "subject") for code in _CODES}
  pairs = [("agreement", code, "00") for code in _CODES[1:]]
  pairs += [("agreement", "01", "10"), ("agreement", "01", "11"), ("agreement", "10", "11")]
  pairs += [("subject", code, "00") for code in _CODES[1:]]
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="layers without the causal mask help a tag that needs the right context",
      seeds=(0, 1, 2),
      run=run,
      arms=arms,
      grids=dict(),
      choose_by="",
      measures=("test_entity_f1", "entity_f1", "best_step"),
      comparisons=tuple(dict(name=f"{task}: {left} beats {right}", left=f"{task}_{left}",
                             right=f"{task}_{right}", measure="test_entity_f1")
                        for task, left, right in pairs)))
