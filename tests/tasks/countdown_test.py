r"""Countdown as a task: both formats by exact vectors, drawing, splits, files, errors."""

import itertools
import re

import numpy as np
import pytest

from mdx import tasks
from mdx.tasks import countdown
from mdx.tasks import problems

_SPLITS = problems.SPLITS


@pytest.fixture(name="steps", scope="module")
def _steps():
  return countdown.Countdown()


@pytest.fixture(name="text", scope="module")
def _text():
  return countdown.Countdown(format="expression", num_numbers=4, max_number=50, max_value=500,
                             num_train=1000)


def _example(target=56, numbers=(3, 5, 7)):
  return {"numbers": numbers, "target": target}


def _tokens(text):
  return re.findall("[0-9]+|.", text)


def _is_solution(numbers, target, answer):
  """Another checker, for well-formed answers: eval, and counting what comes in and out."""
  left, results = list(numbers), []
  for step in answer.split(","):
    side, result = step.split("=")
    if eval(side) != int(result) or int(result) < 1:  # pylint: disable=eval-used
      return False
    used = [int(n) for n in re.split(r"[-+*/]", side)]
    for n in used:
      if n not in left:
        return False
      left.remove(n)
    left.append(int(result))
    results.append(int(result))
  return left == [target]


@pytest.mark.slow
def test_default_sizes_and_shapes(steps):
  assert [len(steps.examples(s)) for s in _SPLITS] == [12000, 512, 1024]
  pairs = steps.training_pairs("train")
  assert len(set(pairs)) == len(pairs) > 20_000
  assert {(len(_tokens(p)), len(_tokens(a))) for p, a in pairs} == {
      (steps.prompt_length, steps.answer_length)}
  assert {t for p, a in pairs for t in _tokens(p + a)} == set(steps.symbols)


@pytest.mark.parametrize("num_numbers", [2, 3, 4, 6])
def test_lengths_hold_for_any_number_of_numbers(num_numbers):
  task = countdown.Countdown(num_numbers=num_numbers, num_train=50)
  for prompt, answer in task.training_pairs("train"):
    assert len(_tokens(prompt)) == task.prompt_length
    assert len(_tokens(answer)) == task.answer_length


@pytest.mark.slow
def test_no_problem_is_in_two_splits_even_of_two_seeds_and_formats(steps):
  other = countdown.Countdown(seed=1, format="expression", num_train=2000)
  keys = {s: {e["key"] for t in (steps, other) for e in t.examples(s)} for s in _SPLITS}
  for a, b in itertools.combinations(_SPLITS, 2):
    assert not keys[a] & keys[b]
  for e in steps.examples("train")[:100]:
    assert e["key"] == ",".join(map(str, sorted(e["numbers"]))) + f">{e['target']}"


@pytest.mark.slow
def test_drawn_solutions_are_right_in_both_formats(steps, text):
  for task in (steps, text, countdown.Countdown(num_numbers=4, num_train=1000)):
    rows = [(e, a) for e in task.examples("train") for a in e["answers"]]
    result = task.score([e for e, _ in rows], [a for _, a in rows])
    assert result["correct"].all() and (result["reward"] == 1).all()
    assert result["reward"].dtype == np.float32 and result["correct"].dtype == bool


def test_steps_with_one_symbol_changed_are_judged_as_an_independent_checker_does(steps):
  rng = np.random.default_rng(0)
  examples, answers = steps.examples("train")[:3000], []
  operators = "+-*/"
  for e in examples:
    tokens = _tokens(e["answer"])
    i = rng.choice([i for i, t in enumerate(tokens) if t not in ",="])
    tokens[i] = (str(rng.integers(1, 60)) if tokens[i].isdigit() else
                 str(rng.choice([o for o in operators if o != tokens[i]])))
    answers.append("".join(tokens))
  expected = [_is_solution(e["numbers"], e["target"], a) for e, a in zip(examples, answers)]
  assert steps.score(examples, answers)["correct"].tolist() == expected
  assert 0 < sum(expected) < 200  # 4*1 and 4/1 are the same, for instance


@pytest.mark.parametrize("answer, grade", [
    ("5+3=8,8*7=56", 2), ("7*8=56,3+5=8", 0), ("3+5=8,7*8=56", 2),
    ("3+5=8,8*7=57", 1), ("3+5=9,9*7=56", 1), ("3*5=15,15*7=105", 1),
    ("3*5=15,15-7=8", 1), ("3+5=8,8*8=64", 0), ("3+5=8", 0), ("3+5=8,8*7=56,", 0),
    ("3+5=8,3*7=21", 0), ("5+3=8, 8*7=56", 0), ("05+3=8,8*7=56", 0), ("5+3=8,8*7=56=56", 0),
    ("", 0), (",", 0), ("3-5=-2,7*8=56", 0), ("5+3=8,7*8=56\n", 0), ("5+3=8,7**8=56", 0)])
def test_steps_reward_vectors(answer, grade):
  task = countdown.Countdown(number_reward=0.1)
  result = task.score([_example()], [answer])
  np.testing.assert_allclose(result["reward"], [[0, 0.1, 1][grade]], rtol=1e-6)
  assert result["correct"].tolist() == [grade == 2]
  assert countdown.Countdown().score([_example()], [answer])["reward"] == [float(grade == 2)]


def test_division_in_steps_must_be_exact():
  task = countdown.Countdown()
  assert task.score([_example(5, (4, 2, 3))], ["4/2=2,2+3=5"])["correct"].all()
  assert not task.score([_example(6, (7, 2, 3))], ["7/2=3,3+3=6"])["correct"].any()


@pytest.mark.parametrize("completion, grade", [
    (r"so \boxed{(3+5)*7}", 2), (r"\boxed{1} then \boxed{(5+3) \times 7}", 2),
    (r"\boxed{(3+5)*7} no, \boxed{3+5+7}", 1), (r"\boxed{(3+5)*7 = 56}", 2),
    (r"\boxed{(3+5)*7 = 57}", 2), (r"\boxed{56 = (3+5)*7}", 2),
    ("<answer>(3+5)*7</answer>", 2), (r"<answer>7+3+5</answer> \boxed{(3+5)\cdot 7}", 2),
    ("(3+5)*7", 2), ("(3+5)*7=56", 2), ("it is (3+5)*7", 0), (r"\boxed{(3+5)*7*1}", 0),
    (r"\boxed{3*7+5*7}", 0), (r"\boxed{7/(3-3)+5}", 0), (r"\boxed{56}", 0), (r"\boxed{}", 0),
    (r"\boxed{((3+5)*7}", 0), (r"\boxed{(3+5)7}", 2), (r"\boxed{35+7}", 0), ("", 0),
    (r"\boxed{3+5**7}", 0), (r"\boxed{3//5+7}", 0), (r"\boxed{-(-3-5)*7}", 2)])
def test_expression_reward_vectors(completion, grade):
  task = countdown.Countdown(format="expression", number_reward=0.1)
  result = task.score([_example()], [completion])
  np.testing.assert_allclose(result["reward"], [[0, 0.1, 1][grade]], rtol=1e-6)
  assert result["correct"].tolist() == [grade == 2]


@pytest.mark.parametrize("answer", [
    r"\left(3+5\right)\times 7", "(3+5)·7", "(3+5)⋅7", "(3+5)∗7", "$(3+5)*7$", r"\((3+5)*7\)",
    r"\[(3+5)\cdot7\]", "(3+5)*7.", "(3+5)*7 = 56.", "= (3+5)*7", "(3+5)*7 = 8*7 = 56", "(3+5)(7)",
    "7(3+5)", "[3+5]*7", r"\{3+5\}\ast 7", r"{(3+5)}\times{7}", r"\text{(3+5)*7}", "`(3+5)*7`",
    "**(3+5)*7**", "Answer: (3+5)*7", "the answer is (3+5)*7", r"\bigl(3 + 5\bigr)\,\cdot\,7",
    "（3+5）×７", "(3+5)x7", "(3 + 5) X 7", r"\boxed{(3+5)*7}", r"(3+5)\*7", r"\displaystyle(3+5)*7"])
def test_surface_forms_of_a_right_answer(answer):
  task = countdown.Countdown(format="expression")
  for form in (f"\\boxed{{{answer}}}", f"<answer>{answer}</answer>"):
    assert task.score([_example()], [form])["correct"].all(), form


@pytest.mark.parametrize("numbers, target, answer", [
    ((8, 4, 2), 4, r"\frac{8}{4}\times 2"), ((8, 4, 2), 4, r"\dfrac84\cdot 2"),
    ((8, 4, 2), 4, "8 ÷ 4 × 2"), ((8, 4, 2), 4, r"{8 \over 4} \cdot 2"), ((9, 4, 2), 3, "9–4–2"),
    ((8, 4, 2), 4, r"\frac{8 \times 2}{4}"), ((9, 4, 2), 3, "9 − 4 — 2")])
def test_fractions_and_dashes_of_a_right_answer(numbers, target, answer):
  task = countdown.Countdown(format="expression")
  assert task.score([_example(target, numbers)], [f"\\boxed{{{answer}}}"])["correct"].all()


@pytest.mark.parametrize("answer", [
    "(3+5)*7, 3+5", "(3+5)*7 or 3*5*7", "(3+5)*7 = 3*5*7", "56 = 56", "(3+5)*7*", "(3+5)*7!",
    "(3.0+5)*7", "3^5*7", "(3+5)7 8", "x = (3+5)*7x", r"\frac{3+5}{1/7}", "35*7", "(3+5)*7*7/7"])
def test_forms_of_a_wrong_answer(answer):
  task = countdown.Countdown(format="expression")
  assert not task.score([_example()], [f"\\boxed{{{answer}}}"])["correct"].any()


def test_expression_values_are_exact_fractions():
  task = countdown.Countdown(format="expression", num_numbers=4)
  right = _example(24, (8, 8, 3, 3))
  assert task.score([right], [r"\boxed{8 \div (3 - 8 \div 3)}"])["correct"].all()
  # 1e-5 from the target: right for a check with a tolerance, wrong here.
  near = _example(1, (100001, 100000))
  assert not task.score([near], [r"\boxed{100001/100000}"])["correct"].any()
  by_zero = countdown.Countdown(format="expression", number_reward=0.1).score(
      [_example(5, (5, 3, 3))], [r"\boxed{5/(3-3)}"])
  np.testing.assert_allclose(by_zero["reward"], [0.1], rtol=1e-6)


def test_problems_are_read_from_a_file(tmp_path):
  path = tmp_path / "p.jsonl"
  path.write_text("".join(f"{{\"{'nums' if i % 2 else 'numbers'}\": [44, {i}, 19], \"target\": "
                          f"{i + 63}}}\n" for i in range(1, 80)))
  task = countdown.Countdown(path=str(path), format="expression", num_train=50)
  sizes = [len(task.examples(s)) for s in _SPLITS]
  assert sizes[0] == 50 and sizes[1] and sizes[2]
  example = task.examples("train")[0]
  assert example["numbers"][0] == 44 and "44, " in task.prompt(example)
  assert example["key"] == f"{','.join(map(str, sorted(example['numbers'])))}>{example['target']}"
  assert str(example["target"]) in example["prompt"] and example["answer"] == ""
  with pytest.raises(ValueError, match="no solutions to train on"):
    task.training_pairs("train")
  whole = countdown.Countdown(path=str(path), test_path=str(path), format="expression")
  assert len(whole.examples("test")) == 79
  with pytest.raises(ValueError, match="train split has no examples"):
    whole.examples("train")


@pytest.mark.parametrize("line, message", [
    ("{\"numbers\": [1, 2, 3]}", "no field 'target'"), ("{\"target\": 3}", "'nums' or 'numbers'"),
    ("{\"nums\": [1, 2, 3], \"target\": \"6\"}", "of type int"),
    ("{\"nums\": [1, 2, 3], \"target\": true}", "of type int"),
    ("{\"nums\": [1, \"2\", 3], \"target\": 6}", "positive integers"),
    ("{\"nums\": [1, true, 3], \"target\": 6}", "positive integers"),
    ("{\"nums\": [1, 0, 3], \"target\": 6}", "positive integers"),
    ("{\"nums\": [6], \"target\": 6}", "2 to 6"), ("[1, 2]", "JSON object"),
    ("{\"nums\"", "not JSON"), ("", "no problems"),
    ("{\"nums\": [1, 2, 300], \"target\": 6}", "max_value"),
    ("{\"nums\": [1, 2, 3, 4], \"target\": 6}", "needs 3 numbers")])
def test_a_bad_line_of_a_file_is_named(tmp_path, line, message):
  path = tmp_path / "bad.jsonl"
  path.write_text(line + "\n")
  with pytest.raises(ValueError, match=message) as error:
    countdown.Countdown(path=str(path)).examples("train")
  assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("fields, message", [
    ({"format": "prose"}, "format"), ({"num_numbers": 1}, "num_numbers"),
    ({"num_numbers": 7}, "at most 6"), ({"max_number": 0}, "max_number"),
    ({"max_number": 101}, "max_value"), ({"number_reward": 1.0}, "number_reward"),
    ({"num_test": -1}, "num_test"), ({"path": "nowhere"}, "not a file"),
    ({"num_train": 2.5}, "num_train")])
def test_bad_fields_are_refused_at_once(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    tasks.build({"name": "countdown", **fields})
  assert "\n" not in str(error.value)


def test_what_does_not_exist_is_refused(steps, text):
  with pytest.raises(ValueError, match="split must be one of"):
    steps.examples("dev")
  with pytest.raises(ValueError, match="only .* train problems exist"):
    countdown.Countdown(max_number=3, num_train=10_000).examples("train")
  for name in ("symbols", "prompt_length", "answer_length"):
    with pytest.raises(ValueError, match=f"{name} for format=\"steps\" only"):
      getattr(text, name)
  with pytest.raises(ValueError, match="one example per completion"):
    steps.score([], [""])


def test_a_drawn_answer_has_a_wrong_line_exactly_where_it_is_not_right(steps):
  rng = np.random.default_rng(0)
  num_right = 0
  for example in steps.examples("test")[:60]:
    for change in range(4):
      tokens = _tokens(example["answer"])
      if change:
        tokens[rng.integers(len(tokens))] = str(rng.choice(steps.symbols))
      drawing = steps.render(example, tokens)
      is_right = bool(steps.score([example], ["".join(tokens)])["correct"][0])
      num_right += is_right
      complete = len(drawing.lines) == steps.num_numbers - 1
      assert is_right == (complete and not any(drawing.is_wrong)), tokens
      assert [i for line in drawing.lines for i in line] == list(range(len(tokens)))
  assert 60 <= num_right < 240


def test_an_equation_with_masks_is_not_judged():
  task, masked = countdown.Countdown(), None
  draw = lambda *tokens: np.asarray(task.render(_example(57, (12, 5, 3)), tokens).is_wrong)
  assert not draw("12", "*", "5", "=", masked, ",", "60", "-", "3", "=", "57").any()
  found = draw(masked, "*", "5", "=", "60", ",", "60", "-", "3", "=", "58")
  assert not found[:6].any() and found[6:].all()
  assert draw("12", "*", "4", "=", "48", ",", masked, "+", "9", "=", "57")[:6].all()  # no 4 is given
  missed = draw("12", "*", "5", "=", "60", ",", "60", "+", "3", "=", "63")  # true, but 57 is asked
  assert not missed[:6].any() and missed[6:].all()
  assert countdown.Countdown(format="expression").render(_example(), ["1"]) is None
