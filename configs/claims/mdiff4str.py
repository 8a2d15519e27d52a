r"""Claim: replaced tokens in training make masked diffusion read words better.

MDiff4STR, arXiv:2512.01422: token-replacement noise against none, and against twice as many draws
of masks, which cost as much. Rendered words that are no words of training (configs/mdiff4str.py);
accuracy of whole words in three calls, in one, when committed tokens are written anew, and from
left to right.
  python -m mdx.main --config=configs/claims/mdiff4str.py --workdir=runs/claims/mdiff4str

Three seeds, one very busy core of an AMD EPYC, 49 minutes; words of 400 that are right:
                        none            replaced        two_draws (costs as much as replaced)
  3 calls               .469 +- .006    .488 +- .034    .525 +- .009
  1 call                .356 +- .004    .398 +- .031    .415 +- .022
  written anew          .462 +- .001    .482 +- .036    .519 +- .006
  from left to right    .438 +- .020    .473 +- .020    .522 +- .011
All eight comparisons are inconclusive (Holm). Replaced tokens are ahead of none in all rows and
behind twice as many masks in all rows, by about a spread. Without replaced tokens writing anew
costs nothing either, other than in the prototype that the sizes were guessed from.
"""

from ml_collections import config_dict

from mdx.configs import mdiff4str

_RULES = dict(mean_confidence=dict(steps=(3, 1), eos_stop="row"), rewriting=dict(steps=(3,)),
              autoregressive=dict(eos_stop=("row",)))


def get_config(arg=None):
  """Arms and comparisons; takes no argument."""
  if arg:
    raise ValueError(f"configs/claims/mdiff4str.py takes no argument, got {arg!r}.")
  run = mdiff4str.get_config()
  run.update(steps=1200, batch_size=32, eval_steps=0, checkpoint_steps=10_000, log_steps=300)
  run.objective.update(num_draws=2, strategies=("random",))
  run.network.update(width=48, mlp_width=96, context_width=48)
  run.optimizer.update(learning_rate=3e-3)
  run.data.length = 7
  run.data.update(num_patches=10)
  run.data.source.update(width=40)
  run.data.source.update(longest=6, noise=30.0, bar=3, num_validation=400)
  run.eval.update(final_samples=1, num_samples=1)
  run.eval.rules = _RULES
  arms = dict(none=dict(objective=dict(replaces=False)),
              two_draws=dict(objective=dict(replaces=False, num_draws=4)), replaced={})
  measures = ("word_accuracy_mean_confidence_3", "word_accuracy_mean_confidence_1",
              "word_accuracy_rewriting_3", "word_accuracy_autoregressive_row")
  return config_dict.ConfigDict(dict(
      mode="claim", statement="replaced tokens in training make masked diffusion read words better",
      seeds=(0, 1, 2), run=run, arms=arms, grids=dict(), choose_by="",
      measures=(*measures, "similarity_mean_confidence_3", "nfe_mean_confidence_3",
                "nfe_autoregressive_row"),
      comparisons=tuple(
          dict(name=f"replaced beats {right}, {measure.removeprefix('word_accuracy_')}",
               left="replaced", right=right, measure=measure)
          for right in ("two_draws", "none") for measure in measures)))
