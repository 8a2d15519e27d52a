"""The viewer's page carries decodes exactly, inert and within its size; pictures and terminal."""

import base64
import hashlib
import html.parser
import io
import json
import re

import numpy as np
from PIL import Image
import pytest
from rich import console as rich_console

from mdx import tasks
from mdx.report import denoising
from mdx.report import denoising_pictures
from mdx.report import denoising_terminal
from mdx.samplers import trajectory

MASK = 3
NAN = np.nan
HOSTILE = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\u2028a\u2029",
           "\ud800", "<!--<script>", "&amp;", "\u202e\x1b[2J\x1b]0;x\x07", "", "\n", " a\n\n", "\t",
           "\ufffd", "\U0001f642", "@data@", "@script_hash@"]


def text_of(token):
  return HOSTILE[token] if token < len(HOSTILE) else f" word{token}"


def random_trace(seed=0, num_frames=9, num_places=17, *, change=0.2, is_rich=True, vocab=60):
  draws = np.random.default_rng(seed)
  frames = np.full((num_frames, num_places), MASK)
  frames[0, :3] = 7, 8, 9
  for f in range(1, num_frames):
    new = draws.choice([MASK, *range(vocab)], num_places)
    frames[f] = np.where(draws.random(num_places) < change, new, frames[f - 1])
  confidence = np.round(draws.random(frames.shape), 3)
  confidence = np.where((frames == MASK) | (draws.random(frames.shape) < .1), NAN, confidence)
  extra = {}
  if is_rich:
    extra = dict(notes=tuple(f"{f} {HOSTILE[f % len(HOSTILE)]}" for f in range(num_frames)),
                 is_given=draws.random(num_places) < .2,
                 predictions=draws.integers(0, vocab, (num_frames - 1, num_places)))
  return denoising.Trace("".join(HOSTILE), frames, confidence.astype(np.float32),
                         HOSTILE[seed % 2], **extra)


class _Page(html.parser.HTMLParser):
  """Collects tags and the contents of scripts, as a browser would find them."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.scripts, self._in_script = [], [], False
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    self._in_script = tag == "script"
    if self._in_script:
      self.scripts.append("")

  def handle_endtag(self, tag):
    self._in_script = False

  def handle_data(self, data):
    if self._in_script:
      self.scripts[-1] += data


def read(path):
  page = _Page(path.read_text(encoding="utf-8"))
  return json.loads(page.scripts[0]), page


def rebuild(row, ids):
  """Frames, confidences and predictions of a row of the page's data."""
  tokens, ratings, guesses = [], [], []
  shown, rated = np.full(row["length"], MASK), np.full(row["length"], NAN)
  for change in row["frames"]:
    numbers, place = iter(change), -1
    for gap in numbers:
      place += gap
      token = next(numbers)
      value = next(numbers) if token else None
      shown[place], rated[place] = ids[token], NAN if value is None else value / 1000
    tokens.append(shown.copy())
    ratings.append(rated.copy())
  guess = np.full(row["length"], MASK)
  for change in row["predictions"] or ():
    places = np.cumsum(change[::2], dtype=int) - 1
    guess[places] = [ids[t] for t in change[1::2]]
    guesses.append(guess.copy())
  return np.array(tokens), np.array(ratings), np.array(guesses)


@pytest.mark.parametrize("traces", [
    [random_trace(0), random_trace(1, 2, 30), random_trace(2, 40, 5, is_rich=False)],
    [random_trace(3, 1, 4, is_rich=False)], [random_trace(4, 30, 3, change=0.0)]],
    ids=["several", "one_frame", "nothing_happens"])
def test_the_page_holds_every_frame_exactly(tmp_path, traces):
  path = tmp_path / "page.html"
  assert denoising.write_html(path, traces, text_of, MASK, "a heading", {"steps": 4}) == ()
  data, _ = read(path)
  assert data["heading"] == "a heading" and data["settings"] == [["steps", "4"]]
  assert data["cuts"] == [] and data["scale"] == [0, 1] and len(data["rows"]) == len(traces)
  assert data["texts"][1:] == [text_of(i) for i in data["ids"][1:]] and data["ids"][0] == MASK
  for row, trace in zip(data["rows"], traces):
    frames, confidence, predictions = rebuild(row, data["ids"])
    np.testing.assert_array_equal(frames, trace.frames)
    np.testing.assert_allclose(confidence, trace.confidence, atol=1e-6)
    assert row["steps"] == list(range(len(trace.frames)))
    assert row["prompt"] == trace.prompt and row["title"] == trace.title
    assert (row["notes"] or []) == list(trace.notes)
    if trace.predictions is None:
      assert row["predictions"] is None and row["given"] == []
    else:
      np.testing.assert_array_equal(row["given"], np.flatnonzero(trace.is_given))
      is_masked = trace.frames[:-1] == MASK
      np.testing.assert_array_equal(predictions[is_masked], trace.predictions[is_masked])


def test_hostile_text_is_inert(tmp_path):
  path = tmp_path / "page.html"
  denoising.write_html(path, [random_trace()], text_of, MASK, HOSTILE[0],
                       {text: text for text in HOSTILE})
  clean = tmp_path / "clean.html"
  denoising.write_html(clean, [random_trace(is_rich=False)._replace(prompt="", title="")],
                       lambda t: "x", MASK)
  data, page = read(path)
  # The same elements and the same program, whatever the texts are.
  assert page.tags == read(clean)[1].tags and page.scripts[1] == read(clean)[1].scripts[1]
  assert not set(page.scripts[0]) & set("<>&\u2028\u2029") and page.scripts[0].isascii()
  assert data["heading"] == HOSTILE[0] and data["settings"] == [[t, t] for t in HOSTILE]
  for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
    assert sink not in page.scripts[1]


def test_the_page_loads_nothing_and_allows_only_its_own_script(tmp_path):
  path = tmp_path / "page.html"
  denoising.write_html(path, [random_trace()], text_of, MASK)
  _, page = read(path)
  assert [t for t, _ in page.tags if t in ("link", "img", "iframe", "object", "base")] == []
  assert not [a for _, a in page.tags if {"src", "href"} & set(a)]
  text = path.read_text(encoding="utf-8")
  assert set(re.findall(r"https?://[^\"]*", text)) == {"http://www.w3.org/2000/svg"}
  assert "url(" not in text and "@import" not in text
  policy = next(a["content"] for _, a in page.tags
                if a.get("http-equiv") == "Content-Security-Policy")
  digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
  assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}';" in policy


def _decode(seed, num_places=512, num_steps=512):
  """A place a step, three revisions a step, predictions of which a few change."""
  draws = np.random.default_rng(seed)
  order, final = draws.permutation(num_places), draws.integers(4, 30_000, num_places)
  frames, guess = np.full((num_steps + 1, num_places), MASK), final
  predictions = np.empty((num_steps, num_places), int)
  for f in range(1, num_steps + 1):
    shown = order[:num_places * f // num_steps]
    frames[f, shown] = final[shown]
    again = draws.choice(shown, min(3, len(shown)))
    frames[f, again] = MASK if f % 2 else 4
    guess = np.where(draws.random(num_places) < .02, draws.integers(4, 30_000, num_places), guess)
    predictions[f - 1] = guess
  confidence = np.where(frames == MASK, NAN, draws.random(num_places))
  return denoising.Trace("", frames, confidence, predictions=predictions)


@pytest.mark.slow
def test_eight_rows_of_512_tokens_and_steps_fit_two_megabytes_uncut(tmp_path):
  path = tmp_path / "page.html"
  assert denoising.write_html(path, [_decode(s) for s in range(8)], text_of, MASK) == ()
  assert path.stat().st_size < 2_000_000


def test_what_does_not_fit_is_cut_in_order_and_said(tmp_path):
  path = tmp_path / "page.html"
  traces = [random_trace(s, 40, 50, change=0.9) for s in range(4)]
  denoising.write_html(path, [random_trace(0, 1, 3, is_rich=False)], lambda t: "", MASK)
  template = path.stat().st_size
  seen = []
  denoising.write_html(path, traces, text_of, MASK)
  full = path.stat().st_size - template
  for most in (full + 2000, full - 500, full // 2, full // 20):
    cuts = denoising.write_html(path, traces, text_of, MASK, max_bytes=most)
    data, _ = read(path)
    assert data["cuts"] == list(cuts) and path.stat().st_size < most + template
    seen.append(len(cuts))
    assert (data["rows"][0]["predictions"] is None) == any("predictions" in c for c in cuts)
    assert (len(data["rows"]) < 4) == any(f"{len(data['rows'])} of 4 rows" in c for c in cuts)
    steps = data["rows"][0]["steps"]
    assert (len(steps) < 40) == any(f"{len(steps)} of up to 40 frames" in c for c in cuts)
    assert steps[0] == 0 and steps[-1] == 39
    for row, trace in zip(data["rows"], traces):
      np.testing.assert_array_equal(rebuild(row, data["ids"])[0], trace.frames[steps])
      assert row["notes"] == [trace.notes[f] for f in steps]
  assert seen == [0, 1, 2, 3], "nothing, predictions, then frames, then rows"
  with pytest.raises(ValueError, match="raise max_bytes"):
    denoising.write_html(path, traces, text_of, MASK, max_bytes=300)


def test_long_texts_are_cut_visibly(tmp_path):
  path = tmp_path / "page.html"
  trace = random_trace()._replace(prompt="a" * 5000 + "b" * 5000)
  denoising.write_html(path, [trace], text_of, MASK)
  prompt = read(path)[0]["rows"][0]["prompt"]
  assert prompt == "a" * 2000 + " [... 6000 characters left out ...] " + "b" * 2000


def test_confidences_that_are_no_probabilities_set_the_scale(tmp_path):
  path = tmp_path / "page.html"
  trace = denoising.Trace("", np.array([[MASK] * 3, [5, 6, MASK]]),
                          np.array([[NAN] * 3, [-2.5, np.inf, NAN]]))
  denoising.write_html(path, [trace, trace._replace(confidence=-trace.confidence)], text_of, MASK)
  data, _ = read(path)
  assert data["scale"] == [-2.5, 2.5]
  np.testing.assert_array_equal(rebuild(data["rows"][0], data["ids"])[1][1], [-2.5, NAN, NAN])


@pytest.mark.parametrize("fields, message", [
    (dict(frames=np.zeros(3, int)), "frames must be"),
    (dict(frames=np.zeros((0, 3), int)), "frames must be"),
    (dict(confidence=np.zeros((9, 16))), "confidence must be"),
    (dict(notes=("one",)), r"one a frame \(9\) or none, got 1"),
    (dict(is_given=np.zeros(9, bool)), "is_given must be"),
    (dict(predictions=np.zeros((9, 17), int)), "predictions must be")])
def test_fields_that_do_not_fit_each_other_are_refused(tmp_path, fields, message):
  trace = random_trace()._replace(**fields)
  with pytest.raises(ValueError, match=message):
    denoising.write_html(tmp_path / "page.html", [trace], text_of, MASK)
  with pytest.raises(ValueError, match=message):
    denoising.changes(trace, MASK)


def test_a_page_without_a_trace_is_refused(tmp_path):
  with pytest.raises(ValueError, match="one trace at least"):
    denoising.write_html(tmp_path / "page.html", [], text_of, MASK)


SMALL = np.array([[MASK, MASK, MASK, 9], [5, MASK, 6, 9], [5, MASK, MASK, 9], [8, 7, 6, 9]])


def test_changes_tell_written_replaced_and_masked_again():
  done = denoising.changes(denoising.Trace("", SMALL, np.zeros(SMALL.shape)), MASK)
  no = [False] * 4
  np.testing.assert_array_equal(done.is_written, [no, [1, 0, 1, 0], no, [0, 1, 1, 0]])
  np.testing.assert_array_equal(done.is_replaced, [no, no, no, [1, 0, 0, 0]])
  np.testing.assert_array_equal(done.is_remasked, [no, no, [0, 0, 1, 0], no])
  np.testing.assert_array_equal(done.step, [[-1, -1, -1, 0], [1, -1, 1, 0], [1, -1, -1, 0],
                                            [3, 3, 3, 0]])
  np.testing.assert_array_equal(done.revisions, [[0] * 4, [0] * 4, [0, 0, 1, 0], [1, 0, 1, 0]])


def _record(**more):
  """Row 1 of a record of two rows with room for four steps, of which three were taken."""
  pad = lambda x: np.stack([np.zeros_like(x), x])
  canvas = np.concatenate([SMALL[:3], np.zeros((1, 4), int)])
  return trajectory.Trajectory(
      tokens=pad(SMALL[3]), step=pad(np.array([2, 2, 2, -1])), nfe=np.array([4, 3]),
      confidence=pad(np.float32([.8, .7, 0, 0])), log_prob=pad(np.zeros(4)),
      is_free=pad(np.array([True, True, True, False])), canvas=pad(canvas),
      **{name: pad(value) for name, value in more.items()})


def test_a_trace_of_a_full_record_knows_the_confidence_of_every_token():
  step_confidence = np.zeros((4, 4), np.float32)
  step_confidence[0, [0, 1, 2]] = .5, .1, .4
  step_confidence[2, [1, 2]] = .7, .2
  trace = denoising.from_trajectory(
      _record(prediction=np.tile([5, 7, 6, 9], (4, 1)), step_confidence=step_confidence,
              step_log_prob=step_confidence),
      1, MASK, prompt="p", title="t", notes=("a", "b", "c", "d"))
  np.testing.assert_array_equal(trace.frames, SMALL)
  expected = np.float32([[NAN] * 4, [.5, NAN, .4, NAN], [.5, NAN, NAN, NAN], [.8, .7, NAN, NAN]])
  np.testing.assert_array_equal(trace.confidence, expected)  # 0 in the record: not drawn
  np.testing.assert_array_equal(trace.is_given, [False, False, False, True])
  assert trace.predictions.shape == (3, 4) and trace[0] == "p" and trace.notes[3] == "d"
  denoising.changes(trace, MASK)


def test_a_trace_of_canvases_has_no_predictions():
  blank = np.zeros((4, 4), np.float32)
  trace = denoising.from_trajectory(_record(step_confidence=blank), 1, MASK)
  assert np.isnan(trace.confidence[:3]).all() and trace.predictions is None
  np.testing.assert_array_equal(trace.confidence[3], np.float32([.8, .7, NAN, NAN]))
  unfinished = _record(step_confidence=blank)._replace(tokens=np.full((2, 4), MASK))  # masked again, then cut short
  assert np.isnan(denoising.from_trajectory(unfinished, 1, MASK).confidence).all()
  with pytest.raises(ValueError, match='record "canvas" or "full"'):
    denoising.from_trajectory(_record()._replace(canvas=None), 1, MASK)


def test_frames_are_thinned_evenly_with_both_ends():
  assert denoising.even(5, 5).tolist() == [0, 1, 2, 3, 4]
  assert denoising.even(101, 5).tolist() == [0, 25, 50, 75, 100]
  assert denoising.even(9, 1).tolist() == [0, 8]


def test_visible_text_has_no_control_characters():
  assert all(denoising.visible(text).isprintable() for text in HOSTILE)
  assert denoising.visible(" a\n\tb") == " a\u21b5\u2192b"


def test_a_gif_has_every_frame_and_stays_on_the_last(tmp_path):
  path = tmp_path / "decode.gif"
  trace = random_trace(num_frames=12, change=0.05)
  trace = trace._replace(frames=np.repeat(trace.frames[:6], 2, 0), notes=())  # repeated frames
  drawn = denoising_pictures.write_gif(path, trace, text_of, MASK, frame_seconds=0.1,
                                       end_seconds=2.0)
  with Image.open(path) as image:
    assert drawn == image.n_frames == 12 and image.info["loop"] == 0
    durations = []
    for f in range(12):
      image.seek(f)
      durations.append(image.info["duration"])
  assert durations == [100] * 11 + [2000]


def test_more_frames_than_the_most_are_thinned_in_a_gif(tmp_path):
  trace = random_trace(num_frames=50)
  assert denoising_pictures.write_gif(tmp_path / "a.gif", trace, text_of, MASK, max_frames=5) == 5
  with Image.open(tmp_path / "a.gif") as image:
    assert image.n_frames == 5


def test_a_strip_shows_confidence_as_colour_and_masks_as_blocks(tmp_path):
  path = tmp_path / "strip.png"
  confidence = np.where(SMALL == MASK, NAN, 0.0)
  confidence[3] = 0, .5, 1, NAN
  trace = denoising.Trace("", SMALL, confidence)
  drawn = denoising_pictures.write_strip(path, trace, lambda t: "word", MASK, num_frames=2)
  image = Image.open(path).convert("RGB")
  height, advance = image.height // drawn, (image.width - 24) / 72
  assert drawn == 2 and advance > 8
  # Below the letters of each of the four words, in the first and the last frame.
  colours = [[image.getpixel((round(12 + advance * (4 * i + 2)), f * height + 48 + y))
              for i in range(4)] for f, y in ((0, 10), (1, 19))]
  assert len(set(colours[0][:3])) == 1 and colours[0][0] == (200, 205, 214)
  assert colours[1] == [denoising_pictures.colour(c, (0, 1)) for c in (0, .5, 1)] + [(255,) * 3]
  assert denoising_pictures.colour(-1, (0, 1)) == denoising_pictures.colour(0, (0, 1))
  assert denoising_pictures.colour(-1, (-3, 1)) == denoising_pictures.colour(.5, (0, 1))


@pytest.mark.slow
def test_pictures_take_hostile_and_long_texts(tmp_path):
  trace = random_trace(num_places=400, change=0.9)
  long = lambda t: text_of(t) + ("x" * 500 if t % 7 == 0 else "") + ("\n" if t % 3 else "")
  for columns in (40, 72):
    denoising_pictures.write_strip(tmp_path / "a.png", trace, long, MASK, columns=columns)
    with Image.open(tmp_path / "a.png") as image:
      assert image.width < 700 and image.height < 4 * 1700  # lines are wrapped and bounded
      assert (np.asarray(image)[:, -8:] == 255).all()  # nothing runs over the margin
  with pytest.raises(ValueError, match="columns must be 40 at least, got 10"):
    denoising_pictures.write_gif(tmp_path / "a.gif", trace, text_of, MASK, columns=10)


def _replay(trace, texts=text_of, **options):
  file = io.StringIO()
  console = rich_console.Console(file=file, width=60, height=10, **options)
  denoising_terminal.replay(trace, texts, MASK, delay=0, console=console)
  return file.getvalue()


def test_a_replay_to_a_file_is_one_line_a_frame():
  words = {5: "The", 8: "A", 7: " cat", 6: "\n", 9: " sat"}
  trace = denoising.Trace("", SMALL, np.zeros(SMALL.shape), "title", ("", "b", "", "wrong"))
  assert _replay(trace, words.__getitem__).splitlines() == [
      "title", "step 0/3 | ___ sat", "step 1/3 | b | The_\u21b5 sat", "step 2/3 | The__ sat",
      "step 3/3 | wrong | A cat\u21b5 sat"]
  assert denoising_terminal.plain([MASK] * 12 + [5], words.__getitem__, MASK) == "_*12 The"


def test_a_long_replay_to_a_file_is_thinned_and_says_so():
  lines = _replay(random_trace(num_frames=200)).splitlines()
  assert len(lines) == 65 and lines[0].endswith("(64 of 200 frames)")
  assert lines[1].startswith("step 0/199 ") and lines[-1].startswith("step 199/199 ")


def test_a_terminal_shows_the_final_text_in_full_and_colours_by_confidence():
  frames = np.full((3, 80), MASK)
  frames[0, :79] = frames[1, :79] = np.arange(20, 99)
  frames[1, 79], frames[2] = 19, np.arange(20, 100)
  frames[:2, 5] = MASK
  trace = denoising.Trace("", frames, np.where(frames == MASK, NAN, 1.0))
  out = _replay(trace, force_terminal=True, color_system="truecolor")
  assert "48;2;223;235;250m" in out and "\u2591" in out
  out = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\s", "", out)
  first, last = out.split("step1/2")[-1].split("step2/2")[0], out.split("step2/2")[-1]
  assert "word19" in first and "word20" not in first  # the lines around the change
  assert last == "".join(f"word{i}" for i in range(20, 100))


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_model_text_cannot_steer_a_terminal(is_terminal, encoding):
  raw = io.BytesIO()
  file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
  console = rich_console.Console(file=file, force_terminal=is_terminal, color_system=None)
  denoising_terminal.replay(random_trace(change=0.9), text_of, MASK, delay=0, console=console)
  out = raw.getvalue().decode(encoding)
  assert "\x1b[2J" not in out and "\x1b]0" not in out and "\x07" not in out
  assert "\u202e" not in out and "[2J" in out


def test_a_trace_is_drawn_by_a_task_that_shows_its_answers_and_by_no_other(tmp_path):
  frames = np.array([[1, 0, 0, 0] + [0] * 12, [1, 1, 3, 4] + [0] * 12], np.int32)
  plain = denoising.Trace("", frames, np.full(frames.shape, NAN), example="a", is_right=False)
  task = tasks.build(dict(name="sudoku", in_place=True))
  example = {"prompt": "1" + "." * 15}
  trace = denoising.drawn(plain, task, example, str, 0)
  assert trace.box == 2 and trace.lines[1] == (4, 5, 6, 7)
  assert np.flatnonzero(trace.is_wrong[1]).tolist() == [0, 1] and not trace.is_wrong[0].any()
  assert denoising.drawn(plain, object(), example, str, 0) is plain
  words = tasks.build(dict(name="sudoku", instruction="Solve it."))
  assert denoising.drawn(plain, words, example, str, 0) is plain
  path = tmp_path / "page.html"
  denoising.write_html(path, [trace, plain], str, 0)
  rows = read(path)[0]["rows"]
  assert [row["wrong"] for row in rows] == [[[], [0, 1]], None]
  assert rows[0]["lines"] == [list(range(i, i + 4)) for i in (0, 4, 8, 12)] and rows[1]["lines"] == []
  assert all((row["box"], row["example"], row["right"]) == (box, "a", False)
             for row, box in zip(rows, (2, 0)))
  with pytest.raises(ValueError, match="lines must have"):
    denoising.write_html(path, [trace._replace(lines=((0, 1),))], str, 0)
