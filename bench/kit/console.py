# SPDX-License-Identifier: MIT
"""Wraps and prints messages, for a terminal of 80 columns."""

import sys
import textwrap

COLUMNS = 80


def wrap(text, indent=4, columns=COLUMNS):
    """Return the text as lines; a word that is too long gets its own."""
    return textwrap.wrap(text, columns, subsequent_indent=" " * indent,
                         break_long_words=False,
                         break_on_hyphens=False) or [""]


def say(text):
    """Print a message to stderr."""
    print("\n".join(wrap(text)), file=sys.stderr, flush=True)
