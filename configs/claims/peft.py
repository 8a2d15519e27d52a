r"""Claim: a few trained parameters are worth as much as all of them on a task with few labels.

The table of the review of parameter-efficient fine-tuning (Xu et al. 2023, arXiv:2312.12148), with
half fine-tuning (Hui et al. 2024, arXiv:2404.18466), at small size: a masked model pre-trained for
600 steps on the packaged requests is fine-tuned for 200 on 70 of them with their intents (one of
7). Accuracy on test, parameters that are trained (the head of the task with them), seconds of a run
on a CPU with its compiling. The rate of each arm is the better one of two on another seed.
  python -m mdx.main --config=configs/claims/peft.py --workdir=runs/claims/peft

Measured on 2 cores of an AMD EPYC, other work beside it (13 minutes), seeds 0-2; accuracy on test;
two-sided paired t over the seeds, p corrected by Holm:
  full 0.801 +- 0.044, half 0.816 +- 0.034, ia3 0.766 +- 0.051, head 0.766 +- 0.048,
  lora 0.761 +- 0.051, bottleneck 0.736 +- 0.050
  inconclusive: lora beats the head alone: difference -0.005 +- 0.021, p = 0.746
  inconclusive: ia3 beats full: -0.035 +- 0.035, p = 0.690
  inconclusive: lora beats full: -0.040 +- 0.024, p = 0.394
  inconclusive: bottleneck beats full: -0.065 +- 0.031, p = 0.339
  inconclusive: half beats full: +0.015 +- 0.023, p = 0.746
Rates chosen: full 1e-3, half 3e-3, ia3 and head 1e-2, lora and bottleneck 3e-3, of two each.
`trained_parameters` of half counts all weights: half of the layers' matrices move at a time.
"""

from ml_collections import config_dict

from mdx.configs.claims import common

_LOW, _MIDDLE, _HIGH = (1e-3, 3e-3), (3e-3, 1e-2), (1e-2, 3e-2)


def _put(*tables):
  return dict(adaptations=tables)


# Arm -> what it changes, and its rates.
_ARMS = dict(
    full=(dict(), _LOW),
    head=(dict(optimizer=dict(trainable="task/.*")), _HIGH),
    ia3=(_put(dict(name="ia3")), _HIGH),
    lora=(_put(dict(name="lora", rank=4)), _MIDDLE),
    bottleneck=(_put(dict(name="bottleneck", width=8)), _MIDDLE),
    half=(dict(optimizer=dict(masks=(dict(name="half", round_steps=100),))), _LOW))


def get_config(arg=None):
  """Arms and comparisons; takes no argument."""
  if arg:
    raise ValueError(f"configs/claims/peft.py takes no argument, got {arg!r}.")
  base = common.encoder("intents", eval_steps=0, steps=600, objective=dict(
      name="mlm", mask_rate=0.15, mask_draw="exact_count"))
  base.network.update(head="lm", position="rope", scan_layers=True)
  base.eval.probe.num_labels = 0
  run = common.finetuned(base, eval_steps=0)
  others = [arm for arm in _ARMS if arm != "full"]
  return config_dict.ConfigDict(dict(
      mode="claim", statement="a few trained parameters are worth as much as all of them",
      seeds=(0, 1, 2), tuning_seeds=(3,), run=run,
      arms={arm: changes for arm, (changes, _) in _ARMS.items()},
      grids={arm: dict(key="optimizer.learning_rate", values=rates)
             for arm, (_, rates) in _ARMS.items()},
      choose_by="accuracy", measures=("test_accuracy", "trained_parameters", "seconds"),
      comparisons=(dict(name="lora beats the head alone", left="lora", right="head",
                        measure="test_accuracy"),
                   *(dict(name=f"{arm} beats full", left=arm, right="full",
                          measure="test_accuracy") for arm in others if arm != "head"))))
