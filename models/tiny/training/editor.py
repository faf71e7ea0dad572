"""Holes as editors make them: where a cursor stands in a file, and what a client sends of the text around it.

A hole may begin at the cursor, at its line, or some lines above, as `codeseal proxy --hole` lays it out: text from there to
the cursor is `given` behind the middle marker. A tenth of the holes have a piece of another file in front of them, one that
defines a name of the hole. Knows nothing of tokens.
"""

import collections
import re
from dataclasses import dataclass

WORD = re.compile(r"[A-Za-z_]\w*")
DEFINITION = re.compile(r"^\s*(?:def|class|async def) ([A-Za-z_]\w*)|^([A-Z_][A-Z0-9_]{2,}) =", re.M)
# What `END_OF_FILE` in src/prompt/fim.rs puts behind the last line.
END_OF_FILE = "\n"
# Characters before and after a hole, at most: as in the cases that are measured, and as editors send them.
SHORT, LONG = (700, 400), (4500, 1500)
LINES_ABOVE = 8
LINES_OF_A_HOLE = 5
CHARACTERS_OF_A_HOLE = 400
CONTEXT = 0.5  # of the holes; one in five of them has a name that another file defines


@dataclass
class Hole:
    """The parts of one prompt, and what the model should write."""

    files: tuple  # other files, each path, line end and text
    before: str
    given: str
    middle: str
    after: str


class Project:
    """The files of one package, and where names are defined in them."""

    def __init__(self, files):
        self.files = files
        self.defined = collections.defaultdict(list)
        for number, (_, text) in enumerate(files):
            for found in DEFINITION.finditer(text):
                self.defined[found[1] or found[2]].append((number, found.start()))

    def definition(self, names, apart_from, rng):
        """A piece of another file that defines one of the names, as the server writes it into a prompt; or None."""
        known = [(n, at) for name in names for n, at in self.defined.get(name, ()) if n != apart_from]
        if not known:
            return None
        number, at = rng.choice(known)
        path, text = self.files[number]
        first = text.rfind("\n", 0, max(0, at - rng.randint(0, 200))) + 1
        piece = text[first:at + rng.randint(150, 450)]
        return f"{path}\n{piece[:piece.rfind(chr(10)) + 1] or piece}"


def holes(project, per_file, reach, rng):
    """Some holes of each file, with text around them of up to `reach` characters before and after."""
    for number, (_, text) in enumerate(project.files):
        lines = text.split("\n")
        for _ in range(per_file):
            found = best(lines, project, number, reach, rng)
            if found:
                yield found


def best(lines, project, number, reach, rng):
    """One hole, or None. Of three, in two of three draws the one whose names stand around it already: copying them is what
    can be learned, inventing them is not."""
    options = []
    for _ in range(3 if rng.random() < 0.67 else 1):
        found = draw(lines, reach, rng)
        if found is None:
            return None
        around = set(WORD.findall(found.before + found.given + found.after))
        names = WORD.findall(found.middle)
        options.append((sum(name in around for name in names) / max(1, len(names)), found))
    found = max(options, key=lambda option: option[0])[1]
    if rng.random() < CONTEXT:
        around = set(WORD.findall(found.before + found.after))
        piece = project.definition([n for n in WORD.findall(found.middle) if n not in around], number, rng)
        if piece:
            found.files = (piece,)
            found.before, found.after = whole_lines(found.before, reach[0] - 300), found.after[:reach[1] - 200]
    return found


def draw(lines, reach, rng):
    """A hole of one line in two of three draws, otherwise of up to five, to the end of its last line."""
    for _ in range(20):
        count = 1 if rng.random() < 0.67 else rng.randint(2, LINES_OF_A_HOLE)
        first = rng.randrange(max(1, len(lines) - count))
        chunk = lines[first:first + count]
        written = chunk[0].strip()
        if len(written) > 3 and written[0] not in "#\"'" and chunk[-1].strip():
            break
    else:
        return None
    text = "\n".join(chunk)
    cursor = len(chunk[0]) - len(chunk[0].lstrip())
    place = rng.random()
    if place < 0.25:  # inside of the line
        cursor += rng.randrange(len(written))
    elif place < 0.4:  # a new line without its indentation
        cursor = 0
    head = "\n".join(lines[:first]) + "\n" * (first > 0)
    before, given, middle = head, text[:cursor], text[cursor:].rstrip()
    start = rng.random()
    if start < 0.45:  # the hole begins at the cursor
        before, given = head + given, ""
    elif start < 0.75:  # some lines above it
        at = first - rng.randint(1, LINES_ABOVE)
        at = at if at > 0 else 0
        before = "\n".join(lines[:at]) + "\n" * (at > 0)
        given = "\n".join(lines[at:first] + [given])
    if not middle or len(middle) > CHARACTERS_OF_A_HOLE:
        return None
    after = "\n" + "\n".join(lines[first + count:])
    if place < 0.25 and count == 1 and rng.random() < 0.3:  # brackets that an editor has closed already
        closing = re.search(r"[\])}\"':,]+$", middle)
        if closing and closing.start() > 0:
            middle, after = middle[:closing.start()], closing[0] + after
    # As much as an editor sends, in half of the draws less, and in some next to nothing.
    most_before, most_after = reach if rng.random() < 0.5 else (rng.randint(120, reach[0]), rng.randint(20, reach[1]))
    if rng.random() < 0.05:
        after = END_OF_FILE
    return Hole((), whole_lines(before, most_before), given, middle, after[:most_after])


def whole_lines(text, most):
    """The end of a text, from a line's beginning on."""
    if len(text) <= most:
        return text
    text = text[-most:]
    return text[text.find("\n") + 1:]
