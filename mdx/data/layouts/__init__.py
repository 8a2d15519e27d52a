"""Layouts: forms of rows. Everything about a kind of row is said by its `types.Layout`.

Contents: LAYOUTS, by the name that a source gives. A layout is one entry here.
"""

from mdx.data.layouts import dated
from mdx.data.layouts import labelled
from mdx.data.layouts import parts
from mdx.data.layouts import preferences
from mdx.data.layouts import sequences
from mdx.data.layouts import signals
from mdx.data.layouts import speech
from mdx.data.layouts import text
from mdx.data.layouts import unlearning
from mdx.data.layouts import views

_ANSWERED = text.Answered(text.encode_pair, text.pair_texts)
LAYOUTS = {
    "text": text.Text(),
    "answered": _ANSWERED,
    "chat": text.Answered(text.encode_chat, text.chat_texts, text.check_chat),
    "parts": parts.Parts(),
    "labelled": labelled.Labelled(),
    "dated": dated.Dated(),
    "views": views.Views(),
    "triplets": views.Views(("other", "negative"), takes=()),
    "preferences": preferences.Preferences(),
    "unlearning": unlearning.Unlearning(),
    "frames": signals.Signal("frames", "frame_mask", takes=("patches",)),
    "patches": signals.Signal("patches", "patch_mask", takes=("frames", "captioned", "pictured")),
    "speech": speech.Speech(),
    "captioned": signals.Captioned(text.Text()),
    "pictured": signals.Captioned(_ANSWERED),
    "sequences": sequences.Sequences(),
}
