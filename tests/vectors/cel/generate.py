#!/usr/bin/env python3
"""Makes vectors.json: conditions and claims with the verdicts of Google's C++ engine for CEL.

Run:  pip install -r requirements.txt && python generate.py > vectors.json

The engine is `cel-expr-python`, Google's binding of cel-cpp. `assertion` is declared as map(string, dyn).
Expressions are those of expressions.json (written by hand), patterns of patterns.json held against texts, values
of expressions as comparisons, and conditions generated in the shape of real ones with a fixed seed; and expressions around the
bounds on nesting.

A row holds two verdicts, because it is not documented how Google's service reads the numbers of a token: with
integers as `int`, and with all numbers as `double`. A verdict is `true`, `false`, `error-at-compile` (the engine
rejects the expression, or it cannot come to true or false) or `error-at-eval`. `claims` is an object, `small` for the
first member of the file, or the name of a sample in ../claims. With `"strings": true` the engine had its strings extension.

`python generate.py check N SEED` compares nothing: it prints N other generated rows, for differential tests.
"""

import json
import pathlib
import random
import re
import sys

from cel_expr_python import cel
from cel_expr_python.ext import ext_strings

HERE = pathlib.Path(__file__).parent
VARIABLES = {"assertion": cel.Type.Map(cel.Type.STRING, cel.Type.DYN)}
PLAIN = cel.NewEnv(variables=VARIABLES)
STRINGS = cel.NewEnv(variables=VARIABLES, extensions=[ext_strings.ExtStrings()])

# For the expressions written by hand.
SMALL = {
    "a": 1, "s": "x", "f": 1.5, "n": None, "l": [1, 2, "a"], "m": {"k": "v"}, "mm": {"a": 1, "b": 2}, "t": True, "neg": -5,
    "big": 9007199254740993, "huge": 18446744073709551615, "z": 0, "fl": 2.0, "secboot": True, "hwmodel": "GCP_AMD_SEV",
    "iat": 1760000000, "exp": 1760003600, "oemid": 11129, "a b": "blank", "kubernetes.io": {"namespace": "ns"},
    "nested": {"deep": {"value": "x"}}, "list_of_maps": [{"name": "a", "value": 1}, {"name": "b", "value": 2}],
}
TOKENS = {path.stem: json.loads(path.read_text()) for path in sorted((HERE / "../claims").glob("*.json"))}
SAMPLES = TOKENS | {"small": SMALL}

TEXTS = ["", "a", "b", "é", "1", " ", "ab", "aa", "abc", "A", "k", "K", "s", "\u212a", "ſ", "[", "-", "_", "&", "foo", "a.b",
         "a{,2}", "{2}", "\n", "a\nb", "\\", "Q", "z", "]", "😀", "us-docker.pkg.dev/p-1/r", "projects/12/x",
         "sa@p.iam.gserviceaccount.com", "sha256:" + "0" * 64, "a" * 100, "{", "}"]

STRING_EXPRESSIONS = [
    "'a,b'.split(',') == ['a', 'b']", "'a,b'.split('') == ['a', ',', 'b']", "'é😀'.split('') == ['é', '😀']",
    "'a,b,c'.split(',', 2) == ['a', 'b,c']", "'a,b,c'.split(',', 0) == []", "'a,b,c'.split(',', 1) == ['a,b,c']",
    "'a,b'.split(',', -1) == ['a', 'b']", "''.split(',') == ['']", "''.split('') == []", "'abc'.split('', 2) == ['a', 'bc']",
    "'abc'.split('', 1) == ['abc']", "',a,'.split(',') == ['', 'a', '']", "'aXbXc'.split('X', 5) == ['a', 'b', 'c']",
    "['a', 'b'].join() == 'ab'", "['a', 'b'].join('-') == 'a-b'", "[].join('-') == ''", "['a', 1].join('-') == ''",
    "[1].join() == ''", "assertion.l.join(',') == ''", "['a'].join(1) == ''", "'Aé'.lowerAscii() == 'aé'",
    "'ÀB'.lowerAscii() == 'Àb'", "assertion.s.lowerAscii() == 'x'", "assertion.a.lowerAscii() == 'x'",
    "assertion.s.split('/')[0] == 'x'", "assertion.s.split('/')[1] == 'x'", "assertion.hwmodel.split('_').size() == 3",
    "assertion.hwmodel.split('_')[2].lowerAscii() == 'sev'", "assertion.hwmodel.split('_').exists(p, p == 'AMD')",
    "assertion.hwmodel.split('_').join('-') == 'GCP-AMD-SEV'", "'a'.split(1) == ['a']", "'a'.split(',', '1') == ['a']",
    "'a,b'.split(',', assertion.a) == ['a,b']", "split('a', ',') == ['a']", "'a'.lowerAscii(1) == 'a'",
    "assertion.n.split(',') == []", "[['a'].join(), 'b'].join(',') == 'a,b'", "'a b'.split(' ')[-1] == 'b'",
]


def as_double(value):
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return float(value)
    if isinstance(value, list):
        return [as_double(item) for item in value]
    if isinstance(value, dict):
        return {name: as_double(item) for name, item in value.items()}
    return value


def as_int(value):
    """Integers beyond int64 are doubles in this reading."""
    if isinstance(value, int) and not isinstance(value, bool) and not -2**63 <= value < 2**63:
        return float(value)
    if isinstance(value, list):
        return [as_int(item) for item in value]
    if isinstance(value, dict):
        return {name: as_int(item) for name, item in value.items()}
    return value


def evaluate(env, expression, claims):
    try:
        program = env.compile(expression)
    except Exception:
        return "error-at-compile", None
    try:
        kind = program.return_type()
        boolean = kind in (cel.Type.BOOL, cel.Type.DYN) or kind.name().startswith("T%")
    except RuntimeError:  # A map whose keys cannot be keys: no truth value.
        boolean = False
    verdict = "error-at-eval" if boolean else "error-at-compile"
    try:
        result = program.eval(data={"assertion": claims})
    except Exception:
        return verdict, None
    if result.type() == cel.Type.BOOL:
        return ("true" if result.value() else "false"), result
    return verdict, result


def row(expression, claims):
    strings = re.search(r"\b(split|join|lowerAscii)\(", expression) is not None
    env = STRINGS if strings else PLAIN
    known = SAMPLES[claims] if isinstance(claims, str) else claims
    made = {"expression": expression, "claims": claims}
    made["int"] = evaluate(env, expression, as_int(known))[0]
    made["double"] = evaluate(env, expression, as_double(known))[0]
    if strings:
        made["strings"] = True
    return made


def quoted(text):
    escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return "'" + "".join(escapes.get(c, c if ord(c) >= 32 else f"\\x{ord(c):02x}") for c in text) + "'"


def literal(result):
    """A literal of the value, for values that have one."""
    kind, value = result.type(), result.value()
    if kind == cel.Type.INT:
        return str(value)
    if kind == cel.Type.UINT:
        return f"{value}u"
    if kind == cel.Type.STRING and value.isprintable():
        return quoted(value)
    if kind == cel.Type.DOUBLE and value == value and abs(value) != float("inf"):
        return repr(value) if "." in repr(value) or "e" in repr(value) else repr(value) + ".0"
    return None


def of_values(expressions):
    """What expressions come to, as comparisons."""
    for expression in expressions:
        verdict, result = evaluate(PLAIN, expression, as_int(SMALL))
        if verdict != "error-at-compile" or result is None or "\n" in expression or "//" in expression:
            continue
        if (text := literal(result)) is not None:
            yield row(f"dyn({expression}) == {text}", "small")


def of_patterns(patterns):
    for pattern in patterns:
        matched = {True: [], False: [], None: []}
        for text in TEXTS:
            verdict = evaluate(PLAIN, f"assertion.s.matches({quoted(pattern)})", {"s": text})[0]
            matched[{"true": True, "false": False}.get(verdict)].append(text)
        for texts in (matched[True][:2], matched[False][:2], matched[None][:1]):
            for text in texts:
                yield row(f"assertion.s.matches({quoted(pattern)})", {"s": text})


def of_depth():
    """Around the engine's bounds on nesting."""
    shapes = [
        lambda n: "(" * n + "true" + ")" * n, lambda n: "assertion" + ".a" * n + " == 1", lambda n: "1" + "+1" * n + " > 0",
        lambda n: "true ? true : " * n + "true", lambda n: "[" * n + "1" + "]" * n + " == []", lambda n: "true" + "==true" * n,
        lambda n: "string(" * n + "'a'" + ")" * n + " == 'a'", lambda n: "[1].all(x," * n + "true" + ")" * n,
        lambda n: "(true&&" * n + "true" + ")" * n, lambda n: "true||(true&&" * n + "true" + ")" * n, lambda n: "!(" * n + "true" + ")" * n,
        lambda n: "has(assertion" + ".a" * n + ")", lambda n: "assertion" + "['a']" * n + " == 1", lambda n: "!" * n + "true",
        lambda n: "true" + "&&true" * n + "&&" + "!(" * 25 + "true" + ")" * 25, lambda n: "-(" * n + "1" + ")" * n + " < 0",
        lambda n: "{'a':" * n + "1" + "}" * n + " == {}", lambda n: "([" * (n // 2) + "1" + "])" * (n // 2) + " == []",
        lambda n: "[1].exists(x, 1" + "+1" * n + " > 0)", lambda n: "1" + "+1" * n + " in [1" + "+1" * n + "]",
        lambda n: "true || " * (4 * n) + "1" + "+1" * (n - 5) + " > 0",
    ]
    for shape in shapes:
        for count in (1, 16, 28, 29, 30, 31, 32, 33, 34, 64):
            yield row(shape(count), "small")


class Generator:
    """Conditions in the shape of real ones, with mistakes."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def paths(self, value, path="assertion"):
        yield path, value
        if isinstance(value, dict):
            for name, item in value.items():
                plain = name.replace("_", "a").isalnum() and not name[0].isdigit()
                yield from self.paths(item, f"{path}.{name}" if plain else f"{path}[{quoted(name)}]")
        elif isinstance(value, list):
            for index, item in enumerate(value[:2]):
                yield from self.paths(item, f"{path}[{index}]")

    def text(self, value):
        pick = self.random.random()
        if pick < 0.1:
            return f'"{value}"' if value.isalnum() else quoted(value)
        if pick < 0.15 and "'" not in value and "\\" not in value and value.isprintable():
            return f"r'{value}'"
        return quoted(value)

    def near(self, value):
        return self.random.choice([value, value, value, value.lower(), value + "x", value[1:], "other", ""])

    def about(self, path, value):
        choose = self.random.choice
        if isinstance(value, bool):
            return choose([path, f"!{path}", f"{path} == true", f"{path} == false", f"{path} != false", f"{path} == 'true'",
                           f"string({path}) == '{str(value).lower()}'", f"{path} == {choose(['1', 'null', 'true'])}"])
        if isinstance(value, int):
            other = choose([value, value, value + 1, value - 1, 0])
            return choose([
                f"{path} == {other}", f"{path} >= {other}", f"{path} < {other}.0", f"{path} == {other}.0", f"{path} > {other}u",
                f"int({path}) == {other}", f"{path} + 1 > {other}", f"{path} - {other} == 0", f"int({path}) - {other} == 0",
                f"{path} in [{other}, 0]", f"string({path}) == '{other}'", f"timestamp(int({path})) >= timestamp({other})",
                f"timestamp({path}) > timestamp('2025-01-01T00:00:00Z')", f"type({path}) == int", f"-{path} < 0",
                f"{path} * 2 == {other * 2}", f"double({path}) == {other}.0", f"{path} != {other}u",
                f"int({path}) % 2 == {other % 2}", f"size(string(int({path}))) == {len(str(value))}",
            ])
        if isinstance(value, str):
            other = self.near(value)
            return choose([
                f"{path} == {self.text(other)}", f"{self.text(other)} == {path}", f"{path} != {self.text(other)}",
                f"{path} in [{self.text(other)}, 'x']", f"{path} in [{self.text(other)}, 1]", f"{path}.startsWith({self.text(other[:5])})",
                f"{path}.endsWith({self.text(other[-4:])})", f"{path}.contains({self.text(other[2:6])})",
                f"{path}.matches({self.pattern(other)})", f"matches({path}, {self.pattern(other)})", f"size({path}) == {len(other)}",
                f"{path}.size() > {len(other)}", f"{path} + 'x' == {self.text(other + 'x')}", f"{path} < {self.text(other)}",
                f"int({path}) >= 1", f"{path} == {choose(['null', '1', 'true'])}", f"{path}.{choose(['startswith', 'match', 'len'])}('x')",
                f"[{path}].exists(x, x == {self.text(other)})", f"bytes({path}) == b{quoted(other)}",
            ])
        if isinstance(value, list):
            items = [item for item in value if isinstance(item, str)] or ["none"]
            other = self.near(choose(items))
            return choose([
                f"{self.text(other)} in {path}", f"size({path}) == {choose([len(value), 1, 0])}", f"{path}.size() > 0",
                f"{path}.exists(item, item == {self.text(other)})", f"{path}.all(item, item != {self.text(other)})",
                f"{path}.exists_one(item, item == {self.text(other)})", f"{path}.filter(i, i == {self.text(other)}).size() == 1",
                f"{path}.all(x, x in [{', '.join(self.text(item) for item in items)}])", f"{path}[0] == {self.text(other)}",
                f"{path}[{choose(['1', '-1', '5', '1u', 'assertion.nope'])}] == {self.text(other)}", f"{path} == [{self.text(other)}]",
                f"{path}.map(x, x) == {path}", f"{path} == null", f"{path}.exists(x, x.name == 'y')", f"{path} + ['x'] == ['x']",
                f"{path}.all(x, {path}.exists(y, y == x))", f"{path}.exists(x, x.matches({self.pattern(other)}))",
            ])
        if isinstance(value, dict):
            name = choose(list(value) or ["none"])
            return choose([
                f"has({path}.{name if name.isidentifier() else 'other'})", f"!has({path}.nothing)", f"{quoted(name)} in {path}",
                f"size({path}) == {len(value)}", f"{path} == {{}}", f"{path}.exists(key, key == {quoted(name)})",
                f"{path}.all(key, key != 'other')", f"{path}[{quoted(name)}] != null", f"type({path}) == map", f"{path}.none == 1",
            ])
        return choose([f"{path} == null", f"{path} != null", f"!has({path})", f"{path} == 'x'", f"{path}.x == 1"])

    def pattern(self, value):
        choose = self.random.choice
        escaped = value.replace("\\", "\\\\").replace(".", r"\.").replace("+", r"\+").replace("*", r"\*")
        made = choose([f"^{escaped}$", escaped, f"^{escaped[:6]}", r"^\w+$", r"^[A-Z_]+$", r"^\S+@\S+\.com$", r"^[^/]+/", r"\d{2,}",
                       f"^({escaped}|other)$", f"(?i){escaped.upper()}", r"[[:alnum:]]+", r"^.{3,}$", "(", "a++", r"\bGCP\b"])
        if self.random.random() < 0.2 and "'" not in made:
            return f"r'{made}'"
        return quoted(made)

    def atom(self, claims):
        pick = self.random.random()
        if pick < 0.06:
            missing = self.random.choice(["assertion.nope", "assertion.submods.nope.x", "asserton.sub", "assertion.tdx.nope"])
            return self.random.choice([f"{missing} == 'x'", f"has({missing})" if missing.count(".") else missing, f"{missing}.startsWith('x')"])
        if pick < 0.1:
            return self.random.choice(["true", "false", "1 == 1", "1 == 1.0", "'a' < 'b'", "null == null", "[] == [1]", "1", "'x'", "-1 < 0u"])
        path, value = self.random.choice(list(self.paths(claims))[1:])
        return self.about(path, value)

    def condition(self, claims, depth=0):
        pick = self.random.random()
        if depth > 2 or pick < 0.3:
            return self.atom(claims)
        inner = lambda: self.condition(claims, depth + 1)
        if pick < 0.65:
            parts = [inner() for _ in range(self.random.randint(2, 4))]
            return self.random.choice([" && ", " &&\n", "&&", " && // and\n"]).join(self.wrap(part) for part in parts)
        if pick < 0.85:
            return " || ".join(self.wrap(inner()) for _ in range(self.random.randint(2, 3)))
        if pick < 0.92:
            return f"!({inner()})"
        if pick < 0.97:
            return f"({inner()}) ? ({inner()}) : ({inner()})"
        return f"({inner()})"

    def wrap(self, part):
        return f"({part})" if any(sign in part for sign in ("||", "?", "&&", "//")) or self.random.random() < 0.1 else part


def generated(count, seed):
    generator = Generator(seed)
    seen = set()
    while len(seen) < count:
        name = generator.random.choice(list(TOKENS))
        expression = generator.condition(TOKENS[name])
        if expression not in seen and len(expression) < 1500:
            seen.add(expression)
            yield row(expression, name)


def write(rows):
    lines = ",\n".join("  " + json.dumps(made, ensure_ascii=False) for made in rows)
    print(f'{{"small": {json.dumps(SMALL, ensure_ascii=False)},\n"rows": [\n{lines}\n]}}')


def main():
    if sys.argv[1:2] == ["check"]:
        return write(generated(int(sys.argv[2]), int(sys.argv[3])))
    expressions = json.loads((HERE / "expressions.json").read_text())
    rows = [row(expression, "small") for expression in expressions]
    rows += of_values(expressions)
    rows += of_patterns(json.loads((HERE / "patterns.json").read_text()))
    rows += [row(expression, "small") for expression in STRING_EXPRESSIONS]
    rows += of_depth()
    rows += generated(500, 17)
    write(rows)


if __name__ == "__main__":
    main()
