"""Writes many simple, correct Python documents from the templates in idioms/*.txt and patterns.py.

A template names a function or a class, lists other names, parameters and
docstrings for it and gives one or more bodies; every document is one draw.
Each body is run against the example of its template before anything is
written. Draws whose name and docstring fall in a held-out twentieth are kept
apart. Writes `idioms.json` and `idioms_held_out.json`.

The template language, one mark at the start of a line:

    # name other_name ...          a function        % Name ...      a class
    @ arg:type=name,name ...       parameters        > type          what it returns
    " docstring with {arg}         ^ import line     ~ var=name,name local names
    ? arguments => result          an example        ===             another body
"""

import ast
import hashlib
import json
import random
import re
import sys
from pathlib import Path

import patterns

HERE = Path(__file__).parent
DRAWS = 260  # per function template; classes get twice that


class Template:
    def __init__(self, line):
        self.is_class, self.names = line[0] == "%", line[1:].split()
        self.args, self.returns, self.docs, self.imports, self.locals = [], None, [], [], {}
        self.example, self.bodies = None, [[]]

    def read(self, line):
        mark, rest = line[:1], line[1:].strip()
        if mark == "@":
            for part in rest.split():
                left, _, names = part.partition("=")
                name, _, kind = left.partition(":")
                self.args.append((name, kind, names.split(",") if names else [name]))
        elif mark == ">":
            self.returns = rest
        elif mark == '"':
            self.docs.append(rest)
        elif mark == "^":
            self.imports.append(rest)
        elif mark == "~":
            for part in rest.split():
                name, _, names = part.partition("=")
                self.locals[name] = names.split(",")
        elif mark == "?":
            self.example = tuple(x.strip() for x in rest.split("=>"))
        elif line == "===":
            self.bodies.append([])
        else:
            self.bodies[-1].append(line)


def read_templates():
    templates = []
    for file in sorted((HERE / "idioms").glob("*.txt")):
        for line in file.read_text().split("\n"):
            if line[:2] in ("# ", "% "):
                templates.append(Template(line))
            elif line or (templates and templates[-1].bodies[-1]):
                templates[-1].read(line)
    return templates


def rename(source, names):
    """Whole words outside of string literals, but inside of their braces; keyword names stay."""
    def word(match):
        return names.get(match.group(0), match.group(0))

    def code(text):
        return re.sub(r"(?<!(?<!self)\.)\b[A-Za-z_]\w*\b(?!=\w)", word, text)

    out = []
    for part in re.split(r'(f?"""[^"]*"""|f?"[^"\n]*")', source):
        if part.startswith('f"'):
            out.append(re.sub(r"\{[^{}]*\}", lambda m: code(m.group(0)), part))
        elif part.startswith('"'):
            out.append(part)
        else:
            out.append(code(part))
    return "".join(out)


def draw_function(t, rng, name=None, body=None):
    """One rendering: (source, names chosen, the function's name, its docstring)."""
    name = name or rng.choice(t.names)
    chosen = {}
    for original, others in [(a, n) for a, _, n in t.args] + list(t.locals.items()):
        pick = rng.choice(others)
        chosen[original] = pick if pick not in chosen.values() else original
    if len(set(chosen.values())) < len(chosen):
        chosen = {k: k for k in chosen}
    body = rng.choice(t.bodies) if body is None else body
    text = "\n".join(line for line in body if not line.startswith("^")).rstrip().replace("SELF", name)
    used = set(re.findall(r"\b[A-Za-z_]\w*\b", text)) - set(chosen)
    chosen = {k: (v if v not in used and v != name else k) for k, v in chosen.items()}
    if len(set(chosen.values())) < len(chosen):
        chosen = {k: k for k in chosen}
    text = rename(text, chosen)
    hints = rng.random() < 0.25
    args = ", ".join(chosen[a] + (f": {k}" if hints and k not in ("object", "date", "callable", "") else "") for a, k, _ in t.args)
    arrow = f" -> {t.returns}" if hints and t.returns else ""
    doc = ""
    if t.docs:
        doc = rng.choice(t.docs)
        for original, new in chosen.items():
            doc = doc.replace("{" + original + "}", new)
    style, lines = rng.random(), [f"def {name}({args}){arrow}:"]
    if doc and style < 0.62:
        lines.append(f'    """{doc}"""')
    elif doc and style < 0.68:
        lines += ['    """', f"    {doc}", '    """']
    elif doc and style < 0.72:
        lines.insert(0, f"# {doc}")
    elif doc and style < 0.76 and t.example and not t.imports and not t.locals.get("SELF"):
        lines += [f'    """{doc}', "", f"    >>> {name}({t.example[0]})", f"    {t.example[1]}", '    """']
    return "\n".join(lines) + "\n" + text + "\n", name, doc


def imports_of(t, body):
    return [x for x in t.imports + [line[2:] for line in body if line.startswith("^")]]


def needed(imports, source):
    """Only what the body mentions."""
    keep = [x for x in imports if re.search(rf"\b{re.split(r'[ .]', x)[1] if x.startswith('import') else x.split()[-1]}\b", source)]
    return "\n".join(dict.fromkeys(keep))


def draw_class(t, rng):
    name = rng.choice(t.names)
    methods = re.split(r"\n\n(?=    def )", "\n".join(t.bodies[0]).rstrip())
    head, rest = methods[0], [m for m in methods[1:] if rng.random() < 0.8]
    if rng.random() < 0.25:
        rng.shuffle(rest)
    if rng.random() < 0.3:
        rest = [re.sub(r'\n        """.*?"""', "", m) for m in rest]
    chosen = {k: rng.choice(v) for k, v in t.locals.items()}
    if len(set(chosen.values())) < len(chosen):
        chosen = {k: k for k in chosen}
    body = rename("\n\n".join([head, *rest]).replace("NAME", name), chosen)
    doc = rng.choice(t.docs)
    lines = [f"class {name}:"]
    if rng.random() < 0.6:
        lines += [f'    """{doc}"""'] + ([""] if rng.random() < 0.8 else [])
    return "\n".join(lines) + "\n" + body + "\n", name, doc


def verify(templates):
    """Runs every body against its template's example."""
    space = {}
    exec("import math, re, os, heapq, string, random\nfrom collections import *", space)
    plain = random.Random(0)
    ready = [t for t in templates if not t.is_class]
    for t in ready:
        for helper in ready:
            if helper.names[0] in ("gcd", "factorial", "is_prime", "merge"):
                exec(draw_function(helper, plain, name=helper.names[0])[0], space)
        for body in t.bodies:
            for _ in range(4):
                source, name, _ = draw_function(t, plain, body=body)
                exec(source, space)
                if t.example:
                    got = eval(f"{name}({t.example[0]})", dict(space))
                    assert got == eval(t.example[1]), (source, got)


def apart(name, doc):
    return hashlib.sha256(f"{name}|{doc}".encode()).digest()[0] < 13


def main(work: Path):
    rng, templates = random.Random(11), read_templates()
    verify(templates)
    train, held_out = {}, {}

    def keep(source, name, doc):
        ast.parse(source)
        (held_out if apart(name, doc) else train)[source] = (name, doc)

    for t in templates:
        for _ in range(DRAWS * (2 if t.is_class else 1)):
            if t.is_class:
                source, name, doc = draw_class(t, rng)
                top = needed(t.imports, source)
            else:
                body = rng.choice(t.bodies)
                source, name, doc = draw_function(t, rng, body=body)
                top = needed(imports_of(t, body), source)
                if t.example and rng.random() < 0.06 and "self" not in source:
                    source += f"\n\ndef test_{name}():\n    assert {name}({t.example[0]}) == {t.example[1]}\n"
                elif t.example and rng.random() < 0.04:
                    source += f'\n\nif __name__ == "__main__":\n    print({name}({t.example[0]}))\n'
            keep(f"{top}\n\n\n{source}" if top and rng.random() < 0.5 else source, name, doc)
    for source, name, doc in patterns.draws(rng):
        keep(source, name, doc)
    documents = list(train)
    # Files of two or three definitions: what comes after a function is another one.
    single = [d for d in documents if not d.startswith(("import", "from")) and len(d) < 500]
    together = ["\n\n".join(rng.sample(single, rng.choice((2, 2, 3)))).replace("\n\ndef", "\n\n\ndef").replace("\n\nclass", "\n\n\nclass")
                for _ in range(len(documents) // 5)]
    documents += [re.sub(r"\n{3,}", "\n\n\n", d) for d in together]
    (work / "idioms.json").write_text(json.dumps(documents))
    (work / "idioms_held_out.json").write_text(json.dumps(list(held_out)))
    print(f"{len(templates)} templates, {len(documents)} documents, {sum(map(len, documents)) / 1e6:.1f} MB, {len(held_out)} held out")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
