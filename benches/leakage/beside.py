"""What the frames of an answer tell an observer who has streams of his own under way.

All streams of a server leave at the same times, so a stream of one's own shows when a slot's departure was meant to be, and what is left of
a frame's time is how far it left before or behind. One stream of the observer's has a text that goes on, the other has ended: the two
states that a stream can be in.
"""

from dataclasses import dataclass

import numpy as np

import classify
from classify import FIRST, padded

# Frames that are further apart, in milliseconds, did not leave together.
NEAR = 8.0
# Parts of a stream whose order is a feature of its own.
PARTS = 8


@dataclass(frozen=True)
class Seen:
    """Segments of an observed connection, and those of each connection of the observer's own."""

    segments: list
    own: tuple = ()


def features(seen, which="all"):
    """Numbers of one trace by name: those of its segments alone, and their distances to those of the observer's own."""
    told = classify.features(seen.segments, which)
    if which in ("all", "times"):
        for number, own in enumerate(seen.own):
            told |= {f"{name} of own {number}": value for name, value in distances(seen.segments, own).items()}
    return told


def distances(segments, own):
    """How long after the nearest segment of the observer's own each one left, in milliseconds; negative if before it."""
    at, ours = (np.array([segment.at for segment in part if segment.down and segment.size]) for part in (segments, own))
    if not len(ours):
        raise ValueError("a stream of the observer's own without an answer")
    distance = (at[:, None] - ours[None, :]) / 1e6
    nearest = distance[np.arange(len(at)), np.abs(distance).argmin(axis=1)]
    together = nearest[np.abs(nearest) < NEAR]
    told = {f"distance {index}": value for index, value in enumerate(padded(np.where(np.abs(nearest) < NEAR, nearest, NEAR), FIRST))}
    quantiles = (0.1, 0.25, 0.5, 0.75, 0.9)
    told |= {f"distance at {part}": np.quantile(together, part) if len(together) else NEAR for part in quantiles}
    before = together < 0
    told |= {
        "frames together": len(together),
        "frames before": before.sum(),
        # From here on all leave on one side: what a change of the order within the stream looks like.
        "last before": np.flatnonzero(before)[-1] if before.any() else -1,
        "last behind": np.flatnonzero(~before)[-1] if (~before).any() else -1,
    }
    for number, part in enumerate(np.array_split(before, PARTS)):
        told[f"frames before in part {number}"] = part.mean() if len(part) else -1.0
    return told
