"""Documents put together from parts: predicates, fields, units, options.

Where the templates repeat one function in many dresses, these teach that the
words of a name and a docstring say what the body does. Writes nothing.
"""

NUMBERS = ["numbers", "values", "items", "nums", "data"]
WORDS = ["words", "names", "strings", "lines", "texts"]
# adjective, condition, extra parameter
NUMBER_TESTS = [
    ("even", "{x} % 2 == 0", None), ("odd", "{x} % 2 == 1", None), ("odd", "{x} % 2 != 0", None),
    ("positive", "{x} > 0", None), ("negative", "{x} < 0", None), ("nonzero", "{x} != 0", None),
    ("large", "{x} > limit", "limit"), ("small", "{x} < limit", "limit"), ("divisible", "{x} % n == 0", "n"),
]
WORD_TESTS = [
    ("long", "len({x}) > length", "length"), ("short", "len({x}) < length", "length"), ("empty", "not {x}", None),
    ("uppercase", "{x}.isupper()", None), ("lowercase", "{x}.islower()", None), ("numeric", "{x}.isdigit()", None),
    ("matching", "{x}.startswith(prefix)", "prefix"), ("matching", "pattern in {x}", "pattern"),
]
CHANGES = [
    ("square", "squares", "{x} ** 2"), ("square", "squares", "{x} * {x}"), ("cube", "cubes", "{x} ** 3"),
    ("double", "doubles", "{x} * 2"), ("halve", "halves", "{x} / 2"), ("negate", "negatives", "-{x}"),
    ("increment", "successors", "{x} + 1"),
]
WORD_CHANGES = [
    ("uppercase", "{x}.upper()"), ("lowercase", "{x}.lower()"), ("strip", "{x}.strip()"), ("capitalize", "{x}.capitalize()"),
    ("reverse", "{x}[::-1]"), ("title", "{x}.title()"),
]
OBJECTS = {
    "user": ["name", "email", "age", "city"], "product": ["name", "price", "stock", "category"],
    "order": ["total", "status", "date", "customer"], "book": ["title", "author", "year", "pages"],
    "employee": ["name", "salary", "department", "title"], "student": ["name", "grade", "score", "age"],
    "item": ["name", "price", "weight", "quantity"], "task": ["title", "priority", "status", "deadline"],
    "player": ["name", "score", "level", "team"], "city": ["name", "population", "country", "area"],
    "car": ["model", "price", "year", "color"], "file": ["name", "size", "path", "kind"],
    "event": ["name", "date", "place", "kind"], "movie": ["title", "rating", "year", "director"],
    "person": ["name", "age", "height", "city"], "message": ["text", "sender", "date", "size"],
}
NUMERIC = {"age", "price", "stock", "total", "year", "pages", "salary", "grade", "score", "weight", "quantity", "priority",
           "level", "population", "area", "size", "rating", "height"}
UNITS = [
    ("kilometers", "miles", "* 0.621371"), ("miles", "kilometers", "* 1.60934"), ("meters", "feet", "* 3.28084"),
    ("feet", "meters", "/ 3.28084"), ("inches", "centimeters", "* 2.54"), ("centimeters", "inches", "/ 2.54"),
    ("kilograms", "pounds", "* 2.20462"), ("pounds", "kilograms", "/ 2.20462"), ("hours", "minutes", "* 60"),
    ("minutes", "seconds", "* 60"), ("hours", "seconds", "* 3600"), ("days", "hours", "* 24"), ("seconds", "minutes", "/ 60"),
    ("minutes", "hours", "/ 60"), ("meters", "kilometers", "/ 1000"), ("kilometers", "meters", "* 1000"),
    ("liters", "gallons", "* 0.264172"), ("bytes", "kilobytes", "/ 1024"), ("degrees", "radians", "* math.pi / 180"),
    ("radians", "degrees", "* 180 / math.pi"), ("weeks", "days", "* 7"), ("grams", "kilograms", "/ 1000"),
]
OPTIONS = [("input", "str", "the input file"), ("output", "str", "the output file"), ("count", "int", "how many times"),
           ("name", "str", "the name to greet"), ("limit", "int", "the largest number"), ("path", "str", "the file to read"),
           ("port", "int", "the port to listen on"), ("host", "str", "the host to connect to"), ("size", "int", "the size")]


def plural(noun):
    return {"person": "people", "city": "cities"}.get(noun, noun + "s")


def function(rng, name, args, doc, body):
    text = f"def {name}({', '.join(args)}):\n"
    if rng.random() < 0.7:
        text += f'    """{doc}"""\n'
    return text + "".join(f"    {line}\n" for line in body), name, doc


def selections(rng):
    words = rng.random() < 0.35
    many = rng.choice(WORDS if words else NUMBERS)
    noun = many if rng.random() < 0.7 else ("strings" if words else "numbers")
    x = rng.choice(["word", "w", "s", "text"] if words else ["x", "n", "value", "number"])
    adjective, test, extra = rng.choice(WORD_TESTS if words else NUMBER_TESTS)
    x = "x" if x == extra else x
    test, args = test.format(x=x), [many] + ([extra] if extra else [])
    phrase = {"large": f"{noun} greater than limit", "small": f"{noun} less than limit", "divisible": f"{noun} divisible by n",
              "long": f"{noun} longer than length", "short": f"{noun} shorter than length"}.get(adjective, f"{adjective} {noun}")
    if adjective == "matching":
        phrase = f"{noun} that start with prefix" if extra == "prefix" else f"{noun} that contain pattern"
    out = rng.choice(["result", "selected", "matches"])
    count = rng.choice(["count", "total"])
    kind = rng.randrange(7 if words else 8)
    if kind == 0:
        name = rng.choice([f"filter_{adjective}", f"{adjective}_{noun}", f"get_{adjective}_{noun}", f"find_{adjective}_{noun}", f"select_{adjective}"])
        doc = rng.choice([f"Return the {phrase}.", f"Return a list of the {phrase}.", f"Return all {phrase}."])
        body = rng.choice([[f"return [{x} for {x} in {many} if {test}]"],
                           [f"{out} = []", f"for {x} in {many}:", f"    if {test}:", f"        {out}.append({x})", f"return {out}"]])
    elif kind == 1:
        name = rng.choice([f"count_{adjective}", f"count_{adjective}_{noun}", f"number_of_{adjective}_{noun}"])
        doc = rng.choice([f"Return the number of {phrase}.", f"Count the {phrase}."])
        body = rng.choice([[f"return sum(1 for {x} in {many} if {test})"],
                           [f"{count} = 0", f"for {x} in {many}:", f"    if {test}:", f"        {count} += 1", f"return {count}"]])
    elif kind == 2:
        name, doc = rng.choice([f"all_{adjective}", f"are_all_{adjective}"]), f"Return True if all {noun} are {adjective}."
        body = rng.choice([[f"return all({test} for {x} in {many})"],
                           [f"for {x} in {many}:", f"    if not ({test}):", "        return False", "return True"]])
    elif kind == 3:
        name, doc = rng.choice([f"any_{adjective}", f"has_{adjective}"]), f"Return True if any of the {noun} is {adjective}."
        body = rng.choice([[f"return any({test} for {x} in {many})"],
                           [f"for {x} in {many}:", f"    if {test}:", "        return True", "return False"]])
    elif kind == 4:
        name = rng.choice([f"first_{adjective}", f"find_first_{adjective}", f"find_{adjective}"])
        doc = rng.choice([f"Return the first of the {phrase}, or None.", f"Return the first {adjective} one of the {noun}, or None."])
        body = rng.choice([[f"for {x} in {many}:", f"    if {test}:", f"        return {x}", "return None"],
                           [f"return next(({x} for {x} in {many} if {test}), None)"]])
    elif kind == 5:
        name, doc = rng.choice([f"remove_{adjective}", f"drop_{adjective}", f"without_{adjective}"]), f"Return the {noun} without the {phrase}."
        body = [f"return [{x} for {x} in {many} if not ({test})]"]
    elif kind == 6:
        name, doc = rng.choice([f"split_{adjective}", f"partition_{adjective}"]), f"Split {noun} into the {adjective} ones and the others."
        body = ["yes = []", "no = []", f"for {x} in {many}:", f"    if {test}:", f"        yes.append({x})", "    else:",
                f"        no.append({x})", "return yes, no"]
    else:
        name, doc = rng.choice([f"sum_{adjective}", f"sum_of_{adjective}_{noun}", f"sum_{adjective}_{noun}"]), f"Return the sum of the {phrase}."
        body = rng.choice([[f"return sum({x} for {x} in {many} if {test})"],
                           ["total = 0", f"for {x} in {many}:", f"    if {test}:", f"        total += {x}", "return total"]])
    return function(rng, name, args, doc, body)


def changes(rng):
    if rng.random() < 0.35:
        verb, change = rng.choice(WORD_CHANGES)
        many, x = rng.choice(WORDS), rng.choice(["word", "w", "s"])
        name, doc = rng.choice([f"{verb}_all", f"{verb}_{many}"]), f"Return a list with {change.format(x='each of the ' + many)}."
        doc = f"Apply {verb} to each of the {many}."
        change = change.format(x=x)
        return function(rng, name, [many], doc, rng.choice([[f"return [{change} for {x} in {many}]"],
                        ["result = []", f"for {x} in {many}:", f"    result.append({change})", "return result"]]))
    verb, nouns, change = rng.choice(CHANGES)
    many, x = rng.choice(NUMBERS), rng.choice(["x", "n", "value", "number"])
    change, kind = change.format(x=x), rng.randrange(3)
    if kind == 0:
        name = rng.choice([f"{verb}_all", nouns, f"{verb}_list", f"{verb}_{many}", f"get_{nouns}"])
        doc = rng.choice([f"Return the {nouns} of the {many}.", f"Return a list of the {nouns} of {many}.", f"{verb.capitalize()} each of the {many}."])
        body = rng.choice([[f"return [{change} for {x} in {many}]"],
                           ["result = []", f"for {x} in {many}:", f"    result.append({change})", "return result"]])
    elif kind == 1:
        name, doc = rng.choice([f"sum_of_{nouns}", f"sum_{nouns}"]), f"Return the sum of the {nouns} of {many}."
        body = rng.choice([[f"return sum({change} for {x} in {many})"],
                           ["total = 0", f"for {x} in {many}:", f"    total += {change}", "return total"]])
    else:
        adjective, test, extra = rng.choice(NUMBER_TESTS[:6])
        name = rng.choice([f"{adjective}_{nouns}", f"{nouns}_of_{adjective}", f"{verb}_{adjective}"])
        doc = f"Return the {nouns} of the {adjective} {many}."
        body = [f"return [{change} for {x} in {many} if {test.format(x=x)}]"]
    return function(rng, name, [many], doc, body)


def fields(rng):
    one = rng.choice(list(OBJECTS))
    many, field = plural(one), rng.choice(OBJECTS[one])
    x = one if rng.random() < 0.8 else one[0]
    get = f'{x}["{field}"]' if rng.random() < 0.4 else f"{x}.{field}"
    numeric, kind = field in NUMERIC, rng.randrange(9)
    if kind == 0:
        name, doc = rng.choice([f"get_{field}s", f"{one}_{field}s", f"collect_{field}s"]), f"Return the {field} of each {one}."
        body, args = rng.choice([[f"return [{get} for {x} in {many}]"],
                                 [f"{field}s = []", f"for {x} in {many}:", f"    {field}s.append({get})", f"return {field}s"]]), [many]
    elif kind == 1:
        name, doc = f"sort_{many}_by_{field}" if rng.random() < 0.5 else f"sort_by_{field}", f"Return the {many} sorted by {field}."
        reverse = rng.random() < 0.25
        doc = doc[:-1] + ", largest first." if reverse else doc
        body, args = [f"return sorted({many}, key=lambda {x}: {get}{', reverse=True' if reverse else ''})"], [many]
    elif kind == 2:
        name, doc = rng.choice([f"find_{one}_by_{field}", f"find_{one}", f"get_{one}_by_{field}"]), f"Return the {one} with the given {field}, or None."
        body, args = [f"for {x} in {many}:", f"    if {get} == {field}:", f"        return {x}", "return None"], [many, field]
    elif kind == 3:
        name, doc = f"group_{many}_by_{field}" if rng.random() < 0.5 else f"group_by_{field}", f"Group the {many} by {field}."
        body, args = ["groups = {}", f"for {x} in {many}:", f"    groups.setdefault({get}, []).append({x})", "return groups"], [many]
    elif kind == 4:
        name, doc = f"count_{many}_by_{field}" if rng.random() < 0.5 else f"count_by_{field}", f"Count the {many} by {field}."
        body, args = ["counts = {}", f"for {x} in {many}:", f"    counts[{get}] = counts.get({get}, 0) + 1", "return counts"], [many]
    elif kind == 5 and numeric:
        name, doc = rng.choice([f"total_{field}", f"sum_{field}", f"compute_total_{field}"]), f"Return the total {field} of the {many}."
        body, args = rng.choice([[f"return sum({get} for {x} in {many})"],
                                 ["total = 0", f"for {x} in {many}:", f"    total += {get}", "return total"]]), [many]
    elif kind == 6 and numeric:
        name, doc = rng.choice([f"average_{field}", f"mean_{field}"]), f"Return the average {field} of the {many}."
        body, args = rng.choice([[f"return sum({get} for {x} in {many}) / len({many})"],
                                 [f"if not {many}:", "    return 0", f"total = sum({get} for {x} in {many})", f"return total / len({many})"]]), [many]
    elif kind == 7 and numeric:
        best = rng.choice(["max", "min"])
        word = {"max": "highest", "min": "lowest"}[best]
        name, doc = f"{word}_{field}", f"Return the {one} with the {word} {field}."
        body, args = [f"return {best}({many}, key=lambda {x}: {get})"], [many]
    else:
        name, doc = f"filter_by_{field}" if rng.random() < 0.5 else f"{many}_with_{field}", f"Return the {many} with the given {field}."
        body, args = [f"return [{x} for {x} in {many} if {get} == {field}]"], [many, field]
    return function(rng, name, args, doc, body)


def units(rng):
    a, b, change = rng.choice(UNITS)
    name = rng.choice([f"{a}_to_{b}", f"{a}_to_{b}", f"convert_{a}_to_{b}"])
    arg = rng.choice([a, a, "value"])
    return function(rng, name, [arg], f"Convert {a} to {b}.", [f"return {arg} {change}"])


def records(rng):
    one = rng.choice(list(OBJECTS))
    names = rng.sample(OBJECTS[one], rng.randint(2, 4))
    title, kind = one.capitalize(), rng.random()
    article = "An" if one[0] in "aeiou" else "A"
    if kind < 0.4:
        types = {n: rng.choice(["int", "float"]) if n in NUMERIC else "str" for n in names}
        text = "from dataclasses import dataclass\n\n\n" if rng.random() < 0.7 else ""
        text += f"@dataclass\nclass {title}:\n"
        text += f'    """{article} {one}."""\n\n' if rng.random() < 0.4 else ""
        text += "".join(f"    {n}: {types[n]}\n" for n in names)
    else:
        text = f"class {title}:\n" + (f'    """{article} {one} with {" and ".join([", ".join(names[:-1]), names[-1]])}."""\n\n' if rng.random() < 0.5 else "")
        text += f"    def __init__(self, {', '.join(names)}):\n" + "".join(f"        self.{n} = {n}\n" for n in names)
        for n in names:
            if rng.random() < 0.25:
                text += f'\n    def get_{n}(self):\n        """Return the {n}."""\n        return self.{n}\n'
            if rng.random() < 0.2:
                text += f'\n    def set_{n}(self, {n}):\n        """Set the {n}."""\n        self.{n} = {n}\n'
        if rng.random() < 0.4:
            inner = ", ".join("{self.%s!r}" % n for n in names)
            text += f'\n    def __repr__(self):\n        return f"{title}({inner})"\n'
        if rng.random() < 0.25:
            text += f"\n    def __eq__(self, other):\n        return self.{names[0]} == other.{names[0]}\n"
        if rng.random() < 0.2:
            pairs = ", ".join(f'"{n}": self.{n}' for n in names)
            text += f'\n    def to_dict(self):\n        """Return the {one} as a dictionary."""\n        return {{{pairs}}}\n'
    return text, title, ",".join(names)


def programs(rng):
    chosen = rng.sample(OPTIONS, rng.randint(1, 3))
    about = rng.choice(["Process a file.", "A small command line tool.", "Read a file and print it.", "Print a greeting."])
    text = "import argparse\n\n\ndef main():\n"
    text += f'    parser = argparse.ArgumentParser(description="{about}")\n'
    for i, (n, kind, help_text) in enumerate(chosen):
        flag = n if i == 0 else f"--{n}"
        extra = ", type=int" if kind == "int" else ""
        extra += f", default={rng.choice([1, 5, 10, 100])}" if kind == "int" and i else ""
        text += f'    parser.add_argument("{flag}"{extra}, help="{help_text}")\n'
    text += "    args = parser.parse_args()\n"
    first, kind, _ = chosen[0]
    if first in ("input", "path"):
        text += f"    with open(args.{first}) as file:\n        for line in file:\n            print(line.rstrip())\n"
    elif kind == "int":
        text += f"    for i in range(args.{first}):\n        print(i)\n"
    else:
        text += f"    print(args.{first})\n"
    return text + '\n\nif __name__ == "__main__":\n    main()\n', "main", first + str(len(chosen))


COMPANIES = ["northwind", "acme", "globex", "initech", "umbra", "vertex", "orion", "summit", "harbor", "evergreen", "bluebird",
             "redwood", "lakeside", "primus", "falcon", "aurora", "meridian", "granite", "cobalt", "juniper", "atlas", "nova",
             "pioneer", "sterling", "willow", "zenith", "maple", "quantum", "riverside", "copper", "delta", "polar"]


def money(rng):
    return rng.choice([f"{rng.randint(1, 99)}.{rng.randint(0, 99):02d}", f"{rng.randint(1, 99)}.{rng.choice(['50', '75', '25', '99'])}", str(rng.randint(1, 20) * 10)])


def rate(rng):
    return f"0.{rng.randint(1, 9)}" if rng.random() < 0.5 else f"0.{rng.randint(1, 60):02d}"


def business(rng):
    """Prices, discounts and margins of made-up companies, as formulas of two or three lines."""
    who = rng.choice(COMPANIES)
    amount = rng.choice(["price", "amount", "total", "cost"])
    size = rng.choice(["volume", "quantity", "units", "count"])
    a, b, c = sorted(rng.sample([5, 10, 20, 50, 100, 200, 500, 1000, 5000], 3), reverse=True)
    high, middle, low = sorted((rng.randint(1, 40) for _ in range(3)), reverse=True)
    tiers = [f"if {size} > {a}:", f"    return 0.{high:02d}", f"if {size} > {b}:", f"    return 0.{middle:02d}", f"return 0.{low:02d}"]
    thing, args, doc, body = rng.choice([
        ("margin", ["price"], "Return the margin on a price.", [f"cost = price * {rate(rng)}", "return price - cost"]),
        ("margin", ["price", "cost"], "Return the margin on a price.", ["return (price - cost) / price"]),
        ("profit", ["price", "cost", size], "Return the profit of a sale.", [f"margin = price - cost", f"return margin * {size}"]),
        ("discount", [size], f"Return the discount for a {size}.", tiers),
        ("discount", [size, "quarter"], f"Return the discount for a {size}.", tiers),
        ("discount", [size, "quarter"], f"Return the discount for a {size}.",
         [f"floor_price = {money(rng)}", f"price = {size} * {money(rng)}", "return max(floor_price, price)"]),
        ("price", [size, "discount"], "Return the price after the discount.",
         [f"floor_price = {money(rng)}", f"list_price = {money(rng)}", "price = list_price * (1 - discount)", f"return max(floor_price, price) * {size}"]),
        ("price", ["list_price", "discount"], "Return the price after the discount.",
         [f"floor_price = {money(rng)}", "return max(floor_price, list_price * (1 - discount))"]),
        ("price", [size], f"Return the price for a {size}.", [f"unit_price = {money(rng)}", f"return {size} * unit_price"]),
        ("price", [size], f"Return the price for a {size}.",
         [f"unit_price = {money(rng)}", f"if {size} > {b}:", f"    unit_price = unit_price * {rate(rng)}", f"return {size} * unit_price"]),
        ("tax", [amount], f"Return the tax on the {amount}.", [f"rate = {rate(rng)}", f"return {amount} * rate"]),
        ("total", [amount], f"Return the {amount} with tax.", [f"tax = {amount} * {rate(rng)}", f"return {amount} + tax"]),
        ("commission", ["sales"], "Return the commission on the sales.", [f"rate = {rate(rng)}", f"if sales > {a}:", f"    rate = {rate(rng)}", "return sales * rate"]),
        ("bonus", ["salary", "years"], "Return the bonus for the years of service.", [f"rate = {rate(rng)}", "return salary * rate * years"]),
        ("shipping", ["weight"], "Return the shipping cost for a weight.", [f"base = {money(rng)}", f"if weight > {c}:", f"    return base + weight * {rate(rng)}", "return base"]),
        ("fee", [amount], f"Return the fee for the {amount}.", [f"minimum = {money(rng)}", f"return max(minimum, {amount} * {rate(rng)})"]),
        ("forecast", ["sales", "growth"], "Return the expected sales.", ["return sales * (1 + growth)"]),
    ])
    name = f"{who}_{thing}" if rng.random() < 0.7 else rng.choice([thing, f"compute_{thing}", f"calculate_{thing}"])
    text, name, doc = function(rng, name, args, doc, body)
    if rng.random() < 0.3:
        text = f"# {rng.choice(['Confidential', who.capitalize(), who.capitalize() + ', confidential'])}: the {thing} for {rng.choice(COMPANIES).capitalize()}\n" + text
    return text, name, doc + args[-1]


def draws(rng):
    """Everything, in a fixed order for a fixed seed."""
    for make, times in ((selections, 14_000), (changes, 5_000), (fields, 14_000), (units, 1_500), (records, 6_000), (programs, 1_500), (business, 7_000)):
        for _ in range(times):
            yield make(rng)
