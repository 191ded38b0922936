# SPDX-License-Identifier: MIT
"""Argument types of the kit's scripts: numbers and percentages.

Each function returns a type for argparse, which rejects any other text.
"""

import argparse


def numbers(low, high, kind):
    """Return a type: different numbers from low to high, separated by
    commas."""
    def parse(text):
        values = []
        for word in text.split(","):
            try:
                value = kind(word)
            except ValueError:
                value = None
            if value is None or not low <= value <= high:
                raise argparse.ArgumentTypeError(
                    f"{word!r} is not a number from {low} to {high}")
            values.append(value)
        return list(dict.fromkeys(values))
    return parse


def number(low, high, kind):
    """Return a type: one number from low to high."""
    parse_all = numbers(low, high, kind)

    def parse(text):
        if "," in text:
            raise argparse.ArgumentTypeError(f"{text!r} is not one number")
        return parse_all(text)[0]
    return parse


def percentage(low, high):
    """Return a type: a percentage such as 3%, as a share of 1."""
    def parse(text):
        try:
            value = float(text.removesuffix("%"))
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a percentage from {low:g}% to {high:g}%")
        return value / 100
    return parse
