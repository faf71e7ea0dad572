"""How well a classifier tells two classes of traces apart, by features of sizes and times.

The figure is the AUC: the probability that a trace of class 1 gets a higher score than one of class 0. The classifier is
fitted on the first half of the recording and scores the second half, which has no part in fitting or in scaling. There is
one split: in cross-validation the errors of the parts depend on each other, so that equal classes may come to 0.3 and an
interval of the scores is too narrow. The 95 % interval comes from resampling the second half. The permutation baseline
repeats everything with shuffled labels: it shows what chance gives with this number of traces, so that 0.5 means what it
says.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier, GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer

# Traces of each class, at the least: fewer say nothing.
LEAST = 10
RESAMPLES = 1000
# Segments whose times and sizes are features of their own.
FIRST = 48
SETS = ("all", "sizes", "times")


@dataclass
class Result:
    """What one pair came to."""

    traces: int
    auc: float
    low: float
    high: float
    chance: float = None
    p: float = None


def features(trace, which="all"):
    """Numbers of one trace, by name. Times count from the last segment of the request, in milliseconds."""
    sent = [segment for segment in trace if not segment.down and segment.size]
    down = [segment for segment in trace if segment.down and segment.size]
    if not sent or not down:
        raise ValueError("a trace without a request or without an answer")
    asked = max(segment.at for segment in sent if segment.at <= down[0].at)
    times = np.array([segment.at - asked for segment in down]) / 1e6
    sizes = np.array([segment.size for segment in down], float)
    gaps = np.diff(times) if len(times) > 1 else np.zeros(1)
    told = {}
    if which in ("all", "sizes"):
        told |= {
            "request bytes": sum(segment.size for segment in sent),
            "answer bytes": sizes.sum(),
            "segments": len(down),
            "largest": sizes.max(),
            "smallest": sizes.min(),
        }
        told |= {f"size {index}": value for index, value in enumerate(padded(sizes, FIRST))}
    if which in ("all", "times"):
        bare = [segment.at - asked for segment in trace if segment.down and not segment.size]
        told |= {
            "first": times[0],
            "last": times[-1],
            "gap mean": gaps.mean(),
            "gap deviation": gaps.std(),
            "acknowledgements": len(bare),
            "first acknowledgement": bare[0] / 1e6 if bare else -1,
        }
        told |= {f"gap {part}": np.quantile(gaps, part) for part in (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)}
        told |= {f"gap {index}": value for index, value in enumerate(padded(gaps, FIRST))}
        # How far each segment is from an even pace, and what a change of work within the stream does to that.
        pace = times - np.polyval(np.polyfit(np.arange(len(times)), times, 1), np.arange(len(times))) if len(times) > 2 else 0 * times
        told |= {f"off pace {index}": value for index, value in enumerate(padded(pace, FIRST))}
        told["off pace"] = np.abs(pace).mean()
        # Timers that fire on whole milliseconds of a clock show in the fraction how late a thread was that was woken by them.
        phase = np.array([segment.at % 1_000_000 for segment in down]) / 1e6
        told |= {f"phase {index}": value for index, value in enumerate(padded(phase, FIRST))}
        turn = np.exp(2j * np.pi * phase).mean()
        told |= {"phase spread": abs(turn), "phase mean": np.angle(turn)}
        steps = np.abs(np.diff(gaps)) if len(gaps) > 1 else np.zeros(1)
        for name, part in zip("abcd", np.array_split(gaps, 4), strict=True):
            told[f"gap deviation {name}"] = part.std() if len(part) else 0
            told[f"gap mean {name}"] = part.mean() if len(part) else 0
        told["jitter"] = steps.mean()
    return told


def padded(values, length):
    """Exactly `length` numbers; a trace without such a segment has -1."""
    return np.concatenate([values[:length], np.full(max(0, length - len(values)), -1.0)])


def matrix(traces, which="all", describe=features):
    rows = [describe(trace, which) for trace in traces]
    table = np.array([[row[name] for name in rows[0]] for row in rows])
    varies = table.std(axis=0) > 0
    return table[:, varies] if varies.any() else table[:, :1]


def halves(labels):
    """Which traces the classifier is fitted on: the first half of each class."""
    fitted = np.zeros(len(labels), bool)
    for label in (0, 1):
        places = np.flatnonzero(labels == label)
        fitted[places[: len(places) // 2]] = True
    return fitted


def scores(table, labels, fitted, seed):
    """The scores of the traces that the classifiers are not fitted on."""
    models = [
        GradientBoostingClassifier(n_estimators=80, max_depth=3, subsample=0.7, max_features="sqrt", random_state=seed),
        ExtraTreesClassifier(n_estimators=150, min_samples_leaf=3, random_state=seed),
        make_pipeline(
            QuantileTransformer(n_quantiles=min(50, int(fitted.sum())), output_distribution="normal"),
            LogisticRegression(C=0.05, max_iter=500),
        ),
    ]
    seen, held = table[fitted], table[~fitted]
    return sum(model.fit(seen, labels[fitted]).predict_proba(held)[:, 1] for model in models)


def auc(score, labels):
    """The share of pairs in the right order; ties count half."""
    ones, zeros = score[labels == 1], score[labels == 0]
    less = (ones[:, None] > zeros[None, :]).mean()
    return float(less + (ones[:, None] == zeros[None, :]).mean() / 2)


def interval(score, labels, seed):
    """95 % of what resampling each class gives."""
    random = np.random.default_rng(seed)
    places = [np.flatnonzero(labels == label) for label in (0, 1)]
    drawn = []
    for _ in range(RESAMPLES):
        take = np.concatenate([random.choice(part, len(part)) for part in places])
        drawn.append(auc(score[take], labels[take]))
    return tuple(float(value) for value in np.quantile(drawn, [0.025, 0.975]))


def classify(traces, labels, seed=0, permutations=0, which="all", describe=features):
    """The result for traces in the order of their recording; `describe` gives the features of one."""
    labels, table = np.asarray(labels), matrix(traces, which, describe)
    if min((labels == 0).sum(), (labels == 1).sum()) < LEAST:
        raise ValueError(f"each class needs {LEAST} traces")
    fitted = halves(labels)
    score, held = scores(table, labels, fitted, seed), labels[~fitted]
    result = Result(len(labels), auc(score, held), *interval(score, held, seed))
    if permutations:
        random, by_chance = np.random.default_rng(seed + 1), []
        for _ in range(permutations):
            shuffled = np.empty_like(labels)
            for half in (fitted, ~fitted):
                shuffled[half] = random.permutation(labels[half])
            by_chance.append(auc(scores(table, shuffled, fitted, seed), shuffled[~fitted]))
        result.chance = float(np.mean(by_chance))
        result.p = (1 + sum(value >= result.auc for value in by_chance)) / (1 + permutations)
    return result
