"""What is told apart: for each pair, requests of two classes that differ in one secret and in nothing that a request shows.

A pair makes trials. A trial is one observed request, requests that precede it (the same number of the same sizes in both
classes), requests that the observer has under way meanwhile, and a check of the answer: a trial whose answer is not of its
class is left out and counted. No prompt occurs twice, so a classifier cannot recognize one.
"""

import string
from dataclasses import dataclass, field

from sealed import COMPLETIONS, GENERATE

# Nothing that a model writes: a stop text that never occurs.
NEVER = "\u16a0\u16a1\u16a2"
SEARCHES = 240
# Tokens of an answer whose drafts count. Longer ones of a small model repeat themselves, so that most of their drafts are accepted.
SPECULATED = 20
# Tokens of a stream of the observer's own: it lasts longer than the observed one.
BESIDE = 128


@dataclass
class Ask:
    """A request under a key of the run, by name."""

    body: dict
    path: str = COMPLETIONS
    key: str = "user"


@dataclass
class Trial:
    label: int
    ask: Ask
    before: list = field(default_factory=list)
    check: object = lambda told: True
    # Requests of the observer's own, under way at the same time.
    own: list = field(default_factory=list)


class Maker:
    """Makes the trials of a pair. `oracle(body)` answers a body on an unshaped server of its own; `counter` reads its metrics."""

    def __init__(self, random, oracle, counter):
        self.random, self.oracle, self.counter = random, oracle, counter

    def name(self):
        return "".join(self.random.choice(string.ascii_lowercase) for _ in range(self.random.randint(3, 9)))

    def code(self, length, topic=None):
        """Code of exactly `length` characters, about one of two topics or about neither."""
        text = ""
        while len(text) < length:
            words = {word: self.name() for word in "abcd"} | {"n": self.random.randint(1, 9999)}
            text += self.random.choice(TOPICS.get(topic, NEUTRAL)).format(**words)
        return text[-length:] if topic is None else text[:length]

    def prompt_with(self, length, accept, **options):
        """A prompt whose greedy answer is accepted, and that answer."""
        for _ in range(SEARCHES):
            prompt = self.code(length)
            told = self.oracle({"prompt": prompt, **options})
            if accept(told):
                return prompt, told
        raise CannotMake(f"no prompt of {SEARCHES} has such an answer")


class CannotMake(Exception):
    """This model writes no answers of a class."""


NEUTRAL = (
    "def {a}({b}, {c}):\n    return {b} + {c} * {n}\n\n",
    "{a} = [{b} for {b} in range({n})]\n",
    "class {a}:\n    def __init__(self, {b}):\n        self.{c} = {b}\n\n",
    "if {a} > {n}:\n    {b} = {c}({d})\n",
)
TOPICS = {
    0: (
        "def invoice_total_{a}(items, tax):\n    subtotal = sum(item.price for item in items)\n    return subtotal * (1 + tax / {n})\n\n",
        "salary_{a} = employee.hours * employee.rate + bonus_{b}\n",
        "def discount_{a}(price, percent):\n    return price - price * percent / 100\n\n",
    ),
    1: (
        "def breadth_first_{a}(graph, start):\n    queue, seen = [start], set()\n    while queue:\n        node = queue.pop(0)\n\n",
        "for row in range(len(matrix_{a})):\n    for column in range(len(matrix_{a}[row])):\n",
        "def is_palindrome_{a}(text):\n    return text == text[::-1]\n\n",
    ),
}


def stream(prompt, most, **options):
    usage = {"include_usage": True}
    return Ask({"prompt": prompt, "max_tokens": most, "stream": True, "stream_options": usage, **options})


def whole(prompt, most, **options):
    return Ask({"prompt": prompt, "max_tokens": most, **options})


def equal(make, label):
    """Both classes are one: what is found here is found by accident."""
    return Trial(label, stream(make.code(200), 32))


def topic(make, label):
    """Two topics, prompts of one length."""
    return Trial(label, stream(make.code(300, label), 64))


def answer_length(make, label, ask=stream):
    """2 against 60 tokens of 64 at most, ended by a stop text."""
    prompt, told = make.prompt_with(120, lambda told: told["tokens"] == 60, max_tokens=60)
    text = told["text"]
    # Among the first tokens; the other class has a stop text of the same form that does not occur, until its 60th token.
    stop = text[:3] if label == 0 else unique_end(text)
    wanted = range(1, 5) if label == 0 else range(40, 65)
    return Trial(label, ask(prompt, 64, stop=[stop]), check=lambda told: told["tokens"] in wanted)


def answer_length_beside(make, label):
    """2 against 60 tokens, seen beside two streams of the observer's own: one whose text goes on, and one that never had any."""
    trial = answer_length(make, label)
    trial.own = [stream(make.code(120), BESIDE), stream(make.code(120), 0, pad_tokens=BESIDE)]
    for ask in trial.own:
        ask.key = "colleague"
    return trial


def unique_end(text):
    """The shortest end of a text that does not occur in it before."""
    for length in range(1, len(text) + 1):
        if text.find(text[-length:]) == len(text) - length:
            return text[-length:]
    return text


def max_tokens(make, label):
    """2 against 32 tokens at most, in one class of frames."""
    most = (2, 32)[label]
    return Trial(label, stream(make.code(120), most, stop=[NEVER]))


def prompt_length(make, label):
    """8 against 320 characters of prompt, in one bucket of sizes."""
    return Trial(label, stream(make.code((8, 320)[label]), 16))


def window_length(make, label):
    """200 against 4,000 characters around the cursor, as editors send them, in one bucket of sizes."""
    return Trial(label, stream(make.code((200, 4000)[label]), 16))


def prefix_cache(make, label, primer="user"):
    """A prompt whose beginning is in the prefix cache of its key, against one whose beginning is not."""
    start, other, end = make.code(1200), make.code(1200), make.code(60)
    primed = whole((other, start)[label] + make.code(60), 1)
    primed.key = primer
    found = range(1, 10**6) if label and primer == "user" else range(1)
    return Trial(label, stream(start + end, 8), [primed], lambda told: told["cached"] in found)


def prefix_of_another_key(make, label):
    """A prompt whose beginning was read under another key, against one that was not sent before."""
    return prefix_cache(make, label, primer="colleague")


def stop_reason(make, label):
    """An answer of 10 tokens that a stop text ends, against one that its length ends."""
    prompt, told = make.prompt_with(120, lambda told: told["tokens"] == 10, max_tokens=10)
    # Both maxima are in one class of frames.
    stop, most = ((unique_end(told["text"]), 32), (NEVER, 10))[label]
    reason = ("stop", "length")[label]
    return Trial(label, stream(prompt, most, stop=[stop]), check=lambda told: told["finish"] == reason)


def speculation(make, label):
    """Answers whose draft tokens are accepted, against answers whose drafts are rejected or absent."""

    def accepted(told):
        after = make.counter("spec_decode_num_accepted_tokens_total")
        right, seen[0] = after - seen[0], after
        return told["tokens"] == SPECULATED and (right >= SPECULATED // 2 if label else right <= 2)

    seen = [make.counter("spec_decode_num_accepted_tokens_total")]
    prompt, _ = make.prompt_with(120, accepted, max_tokens=SPECULATED)
    return Trial(label, stream(prompt, SPECULATED), check=lambda told: told["tokens"] == SPECULATED)


def sampling(make, label):
    """Greedy against sampled answers."""
    options = ({"temperature": 0}, {"temperature": 1.0, "top_p": 0.95})[label]
    return Trial(label, stream(make.code(200), 32, **options))


def whole_topic(make, label):
    """Two topics, answers that are not streamed."""
    return Trial(label, whole(make.code(300, label), 64))


def whole_length(make, label):
    """2 against 60 tokens, answers that are not streamed."""
    return answer_length(make, label, whole)


def whole_prompt_length(make, label):
    """8 against 320 characters of prompt, answers that are not streamed."""
    return Trial(label, whole(make.code((8, 320)[label]), 16))


def generate_topic(make, label):
    """Two topics on `/generate`, whose format has no room for padding."""
    return Trial(label, Ask({"prompt": make.code(300, label)}, GENERATE))


PAIRS = {
    pair.__name__.replace("_", "-"): pair
    for pair in (
        equal,
        topic,
        answer_length,
        answer_length_beside,
        max_tokens,
        prompt_length,
        window_length,
        prefix_cache,
        prefix_of_another_key,
        stop_reason,
        speculation,
        sampling,
        whole_topic,
        whole_length,
        whole_prompt_length,
        generate_topic,
    )
}
SHORT = ("answer-length", "prompt-length", "prefix-cache")
