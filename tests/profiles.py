"""How Hypothesis looks for examples."""

from __future__ import annotations

import os

import hypothesis

# Two busy cores make timing of single examples meaningless. In CI hypothesis has a profile of its
# own (fixed examples); `make soak` goes on looking for new ones.
hypothesis.settings.register_profile("paravirt", deadline=None, print_blob=True)
hypothesis.settings.register_profile("sanitized", deadline=None, print_blob=True, max_examples=30)
hypothesis.settings.register_profile("soak", deadline=None, print_blob=True, max_examples=2000)
if not os.environ.get("CI"):
    hypothesis.settings.load_profile("paravirt")
