r"""Claim: masks where a recogniser is confident make better encoders of mixed speech.

Baskar et al. 2022, arXiv:2202.12719 (Ask2Mask), on synthetic speech (data.toys.phones): half of the
2500 recordings are of another domain, and 60 % of all frames are quiet junk. The scorer is trained
by CTC on 40 transcribed clean recordings of the domain; the encoder is w2v-BERT of three small
conformer blocks. All arms mask the same share of every row, exactly: at random, by confidence,
by confidence with recordings weighted by it, and where the confidence is lowest (control).
Measured by a ridge probe of phones from 15 clean recordings of the domain.
  python -m mdx.main --config=configs/claims/ask2mask.py:scorer \
    --workdir=runs/claims/ask2mask_scorer
  python -m mdx.main --config=configs/claims/ask2mask.py --workdir=runs/claims/ask2mask

It has not been run over seeds, so there is no verdict. Measured of the scorer, one seed (20 seconds
on one core of an AMD EPYC; character error rate 0.234): its mean confidence is 0.301 on frames of
the domain, 0.122 on those of the other and 0.120 on junk. The confidence is that of the most likely
label without the blank; with the blank it would be 0.917, 0.926 and 0.929, and prefer junk.
Of the masked frames of 2048 recordings, 28.1 % in every arm, junk is 61.1 % at random (59.4 %
of all frames are), 47.9 % by confidence and 63.8 % where it is lowest; clean frames of the domain
are 20.0, 32.6 and 16.9 %. Weighted recordings weigh 1.29 in the domain and 0.71 outside of it.
"""

from mdx.configs import ctc
from mdx.configs import w2v_bert
from mdx.configs.claims import common
from mdx.configs.claims import w2v_bert as w2v_bert_claim


def get_config(arg=None):
  """Arms and comparisons; "scorer": the run of the recogniser."""
  if arg == "scorer":
    run = ctc.get_config("scratch")
    w2v_bert_claim.toy(run)
    run.data.transcript_length = 16
    run.data.source = dict(name="phones", num_train=40)
    run.network.num_layers = 2
    run.steps = 400
    return run
  if arg:
    raise ValueError(f"configs/claims/ask2mask.py takes scorer or no argument, got {arg!r}.")
  run = w2v_bert.get_config()
  w2v_bert_claim.toy(run)
  run.steps = 400
  run.network.num_layers = 3
  run.data.source = dict(name="phones", other_share=0.5, junk_share=0.6)
  run.objective.update(mask_rate=0.08, span=4, num_distractors=15, context_layers=2)
  run.objective.codes.update(num_codes=24, code_width=24, decay=0.994)
  run.eval.evaluators = ("frame_probe",)
  run.eval.frame_probe = dict(num_recordings=15, num_draws=5, pool=64, ridge=1.0,
                              source=dict(name="phones"))
  run.frozen = dict(scorer=dict(checkpoint="runs/claims/ask2mask_scorer", params="raw"))
  asked = lambda **fields: dict(objective=dict(ask=dict(scorer="scorer", **fields)))
  arms = dict(random=asked(temperature=float("inf")), ask=asked(temperature=0.1),
              ask_weighted=asked(temperature=0.1, weighted=True),
              lowest=asked(temperature=0.1, reverse=True))
  claim = common.claim(
      "masks where a recogniser is confident make better encoders of mixed speech", run, arms,
      tuple(dict(name=f"{left} beats {right}", left=left, right=right, measure="probe_accuracy")
            for left, right in (("ask", "random"), ("ask", "lowest"), ("ask_weighted", "random"))))
  claim.seeds = (0, 1, 2, 3, 4)
  claim.measures = ("probe_accuracy", "frame_probe_best", "held_out_code_perplexity",
                    "held_out_contrast_accuracy", "held_out_masked_share", "seconds")
  return claim
