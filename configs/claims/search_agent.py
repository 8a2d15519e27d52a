r"""Claim: masked paragraphs first (RAMP) make a search agent that questions alone do not make.

MaskSearch (arXiv:2505.20285) at small size: the agent of configs/search_agent.py, 111k parameters,
and two-hop questions about entities that no text of training names. Arms of 400 gradient steps:
questions alone (64 of them, solved); RAMP, then these questions; RAMP with few masks first
(curriculum), then the questions; RAMP, then RL without solved questions, by DAPO (arXiv:2503.14476)
or by GRPO as first published. Compared by the right answers to 232 held-out questions.
  python -m mdx.main --config=configs/claims/search_agent.py --workdir=runs/claims/search_agent

Three seeds, one core of an AMD EPYC under heavy load, 20 minutes; paired t, two-sided. Right
answers, mean +- spread over the seeds:
  questions .017 +- .009; ramp_sft .815 +- .035; curriculum_sft .780 +- .110;
  ramp_dapo .945 +- .035; ramp_grpo .777 +- .246 (.888, .948, .496)
  reproduced: RAMP before questions against questions alone, p = .001; RAMP before RL, p < .001
  not reproduced: solved questions beat RL, -.131, p = .013 the other way
  inconclusive: few masks first against a mixture, -.034, p = .593; DAPO against GRPO, +.168,
    p = .306: one seed of GRPO stays behind
Groups without variance: .713 of the first decodes of DAPO, 0.323 after refills, .621 of GRPO. Steps
are equal, decodes are not: DAPO drew 10,965 rollouts, GRPO 3,200. RL also sees the rewards of all
1,736 training questions, the supervised stage 64 solved ones. `questions` learns its 64 by heart
(3e-5 nats a token) and copies no name it has not seen. Without `task.last_rate` RL after RAMP had
no signal (one run, not part of this): a toy whose first stage never answers as the second asks.
"""

from ml_collections import config_dict

from mdx import config as config_lib
from mdx.configs import search_agent

_RAMP, _LAST = 350, 50  # gradient steps of the first stage, and of what follows it


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/search_agent.py takes no argument, got {arg!r}.")

  def small(stages, *, steps, curriculum=False):
    """The supervised stages of a run."""
    base = search_agent.get_config(f"stages={stages}").init.base
    first = base if stages != "both" else base.init.base
    for one in (base, first):
      one.update(eval_steps=0, checkpoint_steps=10_000, log_steps=100)
      one.eval.update(num_batches=1)
    base.steps, first.steps = (_LAST, steps) if stages == "both" else (steps, steps)
    if curriculum:  # a third of the steps with one mask, two, and three
      masks = lambda one, number: one.data.source.task.update(min_masks=number, max_masks=number)
      parts = [config_dict.ConfigDict(config_lib.to_dict(first)) for _ in range(3)]
      for number, part in enumerate(parts, 1):
        part.steps = (steps // 3, steps // 3, steps - 2 * (steps // 3))[number - 1]
        masks(part, number)
        if number > 1:
          part.init.base = parts[number - 2]
      base.init.base = parts[-1]
    found = config_lib.to_dict(base)
    found["init"].setdefault("base", None)  # arms may set it
    return found

  run = search_agent.get_config("stages=ramp")
  run.update(updates=_LAST, eval_steps=_LAST, checkpoint_steps=_LAST, log_steps=10)
  run.optimizer.learning_rate = 1e-3
  run.rollout.update(num_prompts=8)
  run.init.base = small("ramp", steps=_RAMP)
  grpo = search_agent.get_config("grpo")
  with_base = lambda base: dict(updates=0, init=dict(base=base))
  arms = {
      "questions": with_base(small("questions", steps=_RAMP + _LAST)),
      "ramp_sft": with_base(small("both", steps=_RAMP)),
      "curriculum_sft": with_base(small("both", steps=_RAMP, curriculum=True)),
      "ramp_dapo": dict(),
      "ramp_grpo": dict(objective=config_lib.to_dict(grpo.objective), rollout=dict(
          dynamic_sampling=False, rewards=("identity",)))}
  base, trained = (f"table:{name},left_to_right,8" for name in ("base", "trained"))
  better = lambda left, right, own, other, name: dict(
      name=name, left=left, right=right, measure=own, right_measure=other)
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="masked paragraphs first make a better search agent than questions alone",
      seeds=(0, 1, 2),
      run=run,
      arms=arms,
      grids=dict(),
      choose_by="",
      measures=(base, trained, "dead_groups"),
      comparisons=(
          better("ramp_sft", "questions", base, base,
                 "RAMP before questions beats questions alone"),
          better("ramp_dapo", "questions", trained, base,
                 "RAMP before RL beats questions alone"),
          better("ramp_sft", "ramp_dapo", base, trained,
                 "after RAMP, solved questions beat RL"),
          better("curriculum_sft", "ramp_sft", base, base, "few masks first beat a mixture"),
          better("ramp_dapo", "ramp_grpo", trained, trained, "DAPO beats GRPO"))))
