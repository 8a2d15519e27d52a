r"""Model output is hostile input: no checker raises, runs it, hangs, or pays for it."""

import importlib.util
import os
import random
import time

import pytest

from mdx import tasks

_DATA = os.path.join(os.path.dirname(__file__), "data")
_HAS_MATH = importlib.util.find_spec("math_verify") is not None
_CONFIGS = {
    "sudoku": {"name": "sudoku", "num_test": 20},
    "sudoku_partial": {"name": "sudoku", "num_test": 20, "partial_reward": True},
    "sudoku_unique": {"name": "sudoku", "num_test": 20, "unique": True, "min_givens": 4},
    "steps": {"name": "countdown", "num_test": 20, "number_reward": 0.1},
    "expression": {"name": "countdown", "num_test": 20, "format": "expression",
                   "number_reward": 0.1},
    "gsm8k": {"name": "gsm8k", "path": f"{_DATA}/gsm8k_extract.jsonl",
              "test_path": f"{_DATA}/gsm8k_extract.jsonl"},
    "math": {"name": "math", "path": f"{_DATA}/math_extract.jsonl", "time_limit": 0.5,
             "test_path": f"{_DATA}/math_extract.jsonl"},
}
_LONG = [piece * (10**6 // len(piece)) for piece in (
    "(", "-", "9", "1,", "9,999", "1+", "{", "}", "\\", "\\boxed{", "\\boxed{1}", "<answer>",
    "</answer>", "=", "$", " ", "\n", "\0", "é", "\ud800", "1=", ".", "-.", "9**", "[", "\\frac{")]
_PIECES = [
    "9**9**9", "1/0", "nan", "inf", "1e999", "-0", "0x10", "\0", "\ud800", "\u202e", "٣", "½",
    "💥", "\\boxed{", "}", "{", "\\", "<answer>", "</answer>", "$", "%", "#### ", "=", ",", ".",
    "-", "+", "*", "/", "(", ")", "\\frac", "^", "_", "\n", "\r", "\x7f", "1", "23", "9" * 50, "x",
    "\\text{", "\\left(", "\\infty", "\\sqrt", "__import__('os')", "lambda:0"]


@pytest.fixture(params=sorted(_CONFIGS), name="task")
def _task(request):
  if request.param == "math" and not _HAS_MATH:
    pytest.skip("math-verify is not installed")
  return tasks.build(_CONFIGS[request.param])


def _is_quick(task):
  return type(task).__name__ != "Math"


def _score(task, completions):
  """Scores each completion for a few examples; fails unless it takes reasonable time."""
  examples = task.examples("test")[:2 if _is_quick(task) else 1]
  pairs = [(e, c) for c in completions for e in examples]
  start = time.perf_counter()
  result = task.score(*zip(*pairs))
  assert time.perf_counter() - start < 60
  assert len(result["reward"]) == len(result["correct"]) == len(pairs)
  assert ((result["reward"] >= 0) & (result["reward"] <= 1)).all()
  return result


def test_random_text_scores_nothing_and_raises_nothing(task):
  rng = random.Random(0)
  count = 1500 if _is_quick(task) else 40
  completions = ["".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(40)))
                 for _ in range(count)]
  assert not _score(task, completions)["correct"].any()


def test_random_fragments_raise_nothing(task):
  rng = random.Random(1)
  count = 3000 if _is_quick(task) else 60
  texts = ["".join(rng.choices(_PIECES, k=rng.randrange(12))) for _ in range(count)]
  _score(task, texts)
  _score(task, [f"\\boxed{{{t}}}" for t in texts[:count // 2]])
  _score(task, [f"<answer>{t}</answer>" for t in texts[:count // 2]])


@pytest.mark.slow
def test_a_million_characters_are_handled_in_moments(task):
  assert not _score(task, _LONG)["correct"].any()
  boxed = [f"\\boxed{{{t}}}" for t in _LONG] + [f"<answer>{t[:15_000]}</answer>" for t in _LONG]
  assert not _score(task, boxed)["correct"].any()


def test_numbers_that_would_take_for_ever_are_refused(task):
  numbers = ["9**9**9", "9^9^9", "99999999999999999999999999999999999999999999", "1e999999999",
             "2*" * 60 + "2", "1/0", "(1-1)/(1-1)", "0/0", "nan", "inf", "-inf"]
  if not _is_quick(task):
    numbers += ["9^{9^{9^{9}}}", "\\sum_{n=1}^{10^{9}} n^{n}", "\\operatorname{zeros}(10^9,10^9)"]
  assert not _score(task, [f"\\boxed{{{n}}}" for n in numbers])["correct"].any()


def test_no_code_of_a_completion_is_run(task, tmp_path):
  target = tmp_path / "pwned"
  calls = [f"__import__('os').system('touch {target}')", f"open('{target}','w').write('x')",
           f"exec(\"open('{target}','w')\")", f"[c for c in ().__class__.__base__.__subclasses__()]"
           f" or open('{target}','w')", f"$(touch {target})", f"`touch {target}`"]
  forms = [f.format(c) for c in calls for f in (
      "{}", "\\boxed{{{}}}", "<answer>{}</answer>", "\\boxed{{\\text{{{}}}}}", "\\boxed{{f({})}}",
      "\\boxed{{\\operatorname{{max}}({},1)}}", "\\boxed{{x_{{{}}}}}")]
  assert not _score(task, forms)["correct"].any()
  assert not target.exists()
