"""Fields of samplers: what has no meaning is refused in one line, before anything is compiled."""

import dataclasses

import pytest

from mdx import samplers
from mdx.networks import attention as attention_lib
from mdx.objectives.tokens import mlm

import driving
import oracle

MODEL = driving.Memory()
FORWARD = driving.Memory(attention_lib.Causal(), rule="autoregressive")


def test_a_field_means_the_same_in_every_rule_that_has_it():
  usual = samplers.defaults()
  for rule in samplers.SAMPLERS.values():
    for field in dataclasses.fields(rule):
      if field.name in usual:
        assert field.default == usual[field.name]
  assert "eta" in usual and "mask_id" not in usual


@pytest.mark.parametrize("name", [x for x in samplers.SAMPLERS if x not in driving.LEARNED])
def test_a_table_of_all_fields_at_their_defaults_serves_every_rule(name):
  model = FORWARD if samplers.SAMPLERS[name].searches else MODEL
  sampler = driving.build(model, **samplers.defaults() | dict(name=name, confidence="margin"))
  assert sampler == driving.build(model, name=name, confidence="margin")
  assert (sampler.mask_id, sampler.eos_id) == (driving.MASK_ID, driving.EOS_ID)


@pytest.mark.parametrize("name,fields,message", [
    ("confidence", dict(eta=0.1), "sampler 'confidence' has no field 'eta'; it is a field of remdm."),
    ("ancestral", dict(schedule="cosine"), "sampler 'ancestral' has no field 'schedule'; it is a "
     "field of confidence, rcr."),
    ("rcr", dict(threshold=0.5), "it is a field of threshold, klass, hierarchical, token_editing."),
    ("klass", dict(low_threshold=0.1), "it is a field of hierarchical.")])
def test_a_field_that_the_rule_does_not_read_names_those_that_do(name, fields, message):
  with pytest.raises(ValueError) as caught:
    samplers.check_fields(samplers.defaults() | dict(fields, name=name))
  assert message in str(caught.value)


def test_a_table_may_serve_several_rules():
  given = dict(name="confidence", rcr_stat="max", steps=4)
  assert samplers.select(given, also=["rcr"]) == dict(name="confidence", steps=4)
  assert samplers.select(dict(given, name="rcr")) == dict(given, name="rcr")


def test_defaults_leave_everything_off():
  sampler = driving.build(MODEL, name="confidence")
  assert (sampler.confidence, sampler.cache, sampler.guidance_scale) == ("probability", "none", 0)
  assert (sampler.top_k, sampler.top_p, sampler.eos, sampler.eos_stop) == (0, 1, "allow", "never")
  assert (sampler.schedule, sampler.block) == ("even", 64)


@pytest.mark.parametrize("fields,message", [
    (dict(confidence="best"), "confidence is 'best'; choose from probability, margin, entropy, "),
    (dict(schedule="sine"), "sampler.schedule is 'sine'; choose from even, linear, cosine"),
    (dict(cache="full"), "sampler.cache is 'full'; choose from none, prefix, dual, block"),
    (dict(eos="never"), "sampler.eos is 'never'; choose from allow, forbid, last"),
    (dict(eos="ramp", confidence="entropy"), "sampler.eos ramp needs a rule that counts steps"),
    (dict(name="threshold", eos="ramp"), "sampler.eos ramp needs a rule that counts steps"),
    (dict(eos_stop="yes"), "sampler.eos_stop is 'yes'; choose from never, block, row"),
    (dict(name="remdm", remdm="min"), "sampler.remdm is 'min'; choose from cap, rescale, confidence, loop"),
    (dict(name="rcr", rcr_stat="mean"), "sampler.rcr_stat is 'mean'; choose from latest, max"),
    (dict(gen_length=0), "sampler.gen_length must be at least 1, got 0"),
    (dict(steps=0), "sampler.steps must be at least 1, got 0"),
    (dict(name="klass", kl_steps=0), "sampler.kl_steps must be at least 1"),
    (dict(name="klass", kl_top_k=-1), "sampler.kl_top_k must be at least 1"),
    (dict(name="factor", factor=0.0), "sampler.factor must lie in \\(0, inf\\), got 0.0"),
    (dict(temperature=-0.5), "sampler.temperature must be at least 0, got -0.5"),
    (dict(block_length=-4), "sampler.block_length must be at least 0"),
    (dict(top_k=-1), "sampler.top_k must be at least 0"),
    (dict(name="token_editing", edit_steps=-1), "sampler.edit_steps must be at least 0"),
    (dict(guidance_scale=-1.0), "sampler.guidance_scale must be at least 0"),
    (dict(name="entropy_bounded", entropy_bound=-0.1), "sampler.entropy_bound must be at least 0"),
    (dict(name="threshold", threshold=1.2), "sampler.threshold must lie in \\[0, 1\\], got 1.2"),
    (dict(name="hierarchical", low_threshold=-0.1), "sampler.low_threshold must lie"),
    (dict(name="token_editing", edit_threshold=2), "sampler.edit_threshold must lie"),
    (dict(name="remdm", eta=1.5), "sampler.eta must lie"),
    (dict(name="remdm", loop_on=1.1), "loop_on must lie"), (dict(name="remdm", loop_off=-1), "loop_off must lie"),
    (dict(name="remdm", loop_alpha=7), "loop_alpha must lie"),
    (dict(name="remdm", remdm="loop", loop_on=0.2, loop_off=0.4), "loop_off 0.4 must lie below loop_on 0.2"),
    (dict(top_p=0.0), "sampler.top_p must lie in \\(0, 1\\], got 0.0"),
    (dict(top_p=1.5), "sampler.top_p must lie"),
    (dict(block_length=48), "block_length 48 does not divide gen_length 64; use a divisor"),
    (dict(block_length=16, steps=6), "steps 6 is not divisible by the 4 blocks of 16 tokens; use a "
     "multiple of 4"),
    (dict(name="klass", kl_threshold=-1.0), "sampler.kl_threshold must be at least 0"),
])
def test_values_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message) as caught:
    driving.build(MODEL, **dict(name="confidence") | fields)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", [dict(eos="forbid"), dict(eos="last"), dict(eos_stop="row"),
                                    dict(eos_stop="block")])
def test_rules_for_the_end_of_text_need_its_id(fields):
  with pytest.raises(ValueError, match="need a tokenizer with an end-of-text id"):
    samplers.build(dict(name="confidence", **fields), MODEL, mask_id=0)


@pytest.mark.parametrize("name", [name for name, rule in samplers.SAMPLERS.items()
                                  if not rule.counts_steps and name not in driving.LEARNED])
def test_rules_that_choose_their_own_number_of_steps_ignore_steps(name):
  model = FORWARD if samplers.SAMPLERS[name].searches else MODEL
  assert driving.build(model, name=name, block_length=16, steps=7).steps == 7


def test_an_unknown_rule_or_field_names_the_choices():
  with pytest.raises(ValueError, match="unknown sampler name 'beams'; choose from ancestral, .*rcr"):
    driving.build(MODEL, name="beams")
  with pytest.raises(ValueError, match="stepps"):
    driving.build(MODEL, name="rcr", stepps=3)


def test_a_schedule_comes_from_the_model():
  joint = oracle.random_joint()
  objective = mlm.MaskedLM(network=joint.network(), mask_id=joint.mask_id)
  assert samplers.build({"name": "ancestral"}, objective, mask_id=1).noise == {"name": "linear"}
  objective, _ = driving.model()
  assert driving.build(objective, name="ancestral").noise == objective.schedule


class _Classifier:
  """An objective that predicts no tokens."""

  def reader(self):
    """Nothing reads it."""


def test_models_that_cannot_be_decoded_so_are_refused():
  with pytest.raises(ValueError, match="trained with _Classifier does not predict masked tokens"):
    samplers.build({"name": "rcr"}, _Classifier(), mask_id=0)
  with pytest.raises(ValueError, match="beam, conditional_beam, mode_search search the texts of "
                     "models from left to right .*Memory gives no text"):
    driving.build(MODEL, name="beam")
  with pytest.raises(ValueError, match="cache block needs a block-causal or causal model"):
    driving.build(MODEL, name="rcr", cache="block")
  blocks = driving.Memory(attention_lib.BlockCausal(4))
  with pytest.raises(ValueError, match="blocks of 6 tokens are no multiples of the model's "
                                       "block_length 4"):
    driving.build(blocks, name="rcr", cache="block", gen_length=12, block_length=6, steps=2)
  with pytest.raises(ValueError, match="blocks of 1 tokens"):
    driving.build(blocks, name="autoregressive", cache="block")
  assert driving.build(blocks, name="rcr", cache="block", block_length=8).block == 8
  assert driving.build(driving.Memory(attention_lib.Causal()), name="rcr", cache="block")


def test_an_empty_list_of_a_config_is_the_default_of_a_tuple():
  table = samplers.defaults() | dict(name="threshold", speed_range=[])
  assert driving.build(MODEL, **table) == driving.build(MODEL, name="threshold")
  with pytest.raises(ValueError, match="has no field 'speed_range'; it is a field of unmasking"):
    driving.build(MODEL, **table | dict(speed_range=[0.0, 1.0]))
