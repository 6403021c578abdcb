"""Damage: what transfers, editors, scripts and strangers do to files, drawn from a random stream."""

import copy
import json
import math
import re
import struct

WEIRD = [
    None, True, False, -1, 0, 1, 2, 3, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.5, 1e308, 5e-324, math.nan, math.inf, -math.inf,
    "", " ", "x", "ü€漢", "A" * 20_000, "[/]", "[bold]x", "$_{$ $", "../../../etc/passwd", "/etc/passwd", "\x1b[31m", "\u202e",
    "\ud800", "<script>alert(1)</script>", "nan", "1e5", "\n", "a\nb", "\x00", [], {}, [[]], [None], [1, 2, 3], {"a": 1},
    [1e308] * 3, [-1], ["x"],
]  # fmt: skip
NUMBERS = ["9" * 400, "1e400", "9" * 5000, "NaN", "Infinity", "-Infinity", "-0", "1e-400", "00", "0x10", "1_000"]
DTYPES = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "I64", "I32", "I16", "I8", "U8", "BOOL",
          "U16", "U64", "C64", "F33", "", None, 5, "f32"]  # fmt: skip
NAMES = ["layers.0.²", "x", "", ".", "..", "a/b", "../../x.weight", "layers." + "9" * 20 + ".q.weight", "layers.-1.q.weight",
         "layers." + "9" * 5000 + ".q.weight", "experts.0.x.weight", "0.0.0.weight", "[/].0.q.weight", "l.0.$_{$.weight",
         "__metadata__", "層.٣.重\u202e.weight", "a." * 3000 + "0.q.weight", "layers.0.q\n.weight", "layers.0.\x1b[31mq.weight"]  # fmt: skip


def encoded(document):
    """JSON, with whatever Python's own writer takes, lone halves of characters included."""
    return json.dumps(document).encode("utf-8", "surrogatepass")


def mutated_json(raw, rng):
    """A JSON file's content with one or several values changed, or its bytes."""
    if rng.random() < 0.2:
        return mutated_bytes(raw, rng)
    return encoded(mutated(json.loads(raw), rng, rng.choice([1, 1, 1, 2, 4])))


def mutated_lines(raw, rng):
    """The same for JSON lines, all of whose rows are one document."""
    if rng.random() < 0.3:
        return mutated_bytes(raw, rng)
    rows = mutated([json.loads(line) for line in raw.splitlines()], rng, rng.choice([1, 2, 3]))
    return b"".join(encoded(row) + b"\n" for row in rows) if isinstance(rows, list) else encoded(rows)


def mutated(document, rng, times=1):
    """A document with so many values replaced, removed, doubled, scaled, wrapped or swapped."""
    document = copy.deepcopy(document)
    for _ in range(times):
        paths = list(_paths(document))
        # Spread over depths, so that the keys at the top are hit as often as those of the sites.
        depth = rng.choice(sorted({len(path) for path in paths}))
        path = rng.choice([path for path in paths if len(path) == depth])
        if not path:
            if isinstance(document, dict) and rng.random() < 0.7:
                document[rng.choice(["extra", "", "kind ", "é"])] = rng.choice(WEIRD)
            elif rng.random() < 0.3:
                document = copy.deepcopy(rng.choice(WEIRD))
            continue
        parent, key = _at(document, path[:-1]), path[-1]
        parent[key], change = parent[key], rng.choice(["weird"] * 6 + ["delete", "double", "scale", "wrap", "text", "swap"])
        if change == "delete":
            del parent[key]
        elif change == "double" and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        elif change == "scale" and isinstance(parent[key], int | float):
            parent[key] = parent[key] * rng.choice([-1, 10, 1000, 10**6, 10**18, 1e-9, 0, 1e300])
        elif change == "wrap":
            parent[key] = [parent[key]]
        elif change == "text":
            parent[key] = str(parent[key])
        elif change == "swap":
            parent[key] = copy.deepcopy(_at(document, rng.choice(paths)))
        else:
            parent[key] = copy.deepcopy(rng.choice(WEIRD))
    return document


def _paths(document, at=()):
    yield at
    children = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, child in children:
        yield from _paths(child, (*at, key))


def _at(document, path):
    for key in path:
        document = document[key]
    return document


def mutated_bytes(raw, rng):
    """Any file's content, damaged as bytes are."""
    numbers = list(re.finditer(rb"(?<=[ :\[,])-?\d+(\.\d+)?(e-?\d+)?(?=[,\]}\s])", raw))
    change = rng.choice(list(BYTES) + ["number"] * 4 * bool(numbers))
    if change == "number":
        found = rng.choice(numbers)
        return raw[: found.start()] + rng.choice(NUMBERS).encode() + raw[found.end() :]
    return BYTES[change](raw, rng)


def _flipped(raw, rng):
    changed = bytearray(raw)
    for _ in range(rng.choice([1, 1, 5, 50]) if raw else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _inserted(raw, rng):
    at = rng.randrange(len(raw) + 1)
    return raw[:at] + rng.choice([b",", b"{", b"}", b"]", b'"', b"\x00", b"\xff", b"NaN", b"//x\n", b"\xe2\x80\xa8"]) + raw[at:]


def _deep(raw, rng):
    count = rng.choice([500, 5000, 200_000])
    return rng.choice([b"[" * count + b"]" * count, b'{"a":' * count + b"1" + b"}" * count])


BYTES = {
    "truncated": lambda raw, rng: raw[: rng.randrange(len(raw) + 1)],
    "flipped": _flipped,
    "inserted": _inserted,
    "mark": lambda raw, rng: b"\xef\xbb\xbf" + raw,
    "utf16": lambda raw, rng: raw.decode("utf-8", "replace").encode("utf-16"),
    "crlf": lambda raw, rng: raw.replace(b"\n", rng.choice([b"\r\n", b"\r"])),
    "zero": lambda raw, rng: raw + b"\x00",
    "empty": lambda raw, rng: rng.choice([b"", b" \n\t"]),
    "noise": lambda raw, rng: rng.randbytes(rng.choice([1, 10, 1000, 100_000])),
    "zeros": lambda raw, rng: bytes(len(raw)),
    "same size": lambda raw, rng: rng.randbytes(len(raw)),
    "deep": _deep,
    "twice": lambda raw, rng: raw + raw,
    "latin": lambda raw, rng: raw.replace(b"a", b"\xe9", 1),
    "backwards": lambda raw, rng: raw[::-1],
}


def mutated_safetensors(raw, rng):
    """A safetensors file with its length, its header or its bytes damaged."""
    (size,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry, change = header[name], rng.choice(["length", "bytes", "bytes", "header", "header", *ENTRIES, "name", "gone", "values"])
    if change == "length":
        return struct.pack("<Q", rng.choice([0, 7, 2**63, 2**64 - 1, 10**8, 10**12, len(raw)])) + raw[8:]
    if change == "bytes":
        return mutated_bytes(raw, rng)
    if change == "header":
        text = mutated_json(encoded(header), rng)
        return struct.pack("<Q", len(text)) + text + data
    if change == "name":
        header[rng.choice(NAMES)] = header.pop(name)
    elif change == "gone":
        header.pop(name)
    elif change == "values":
        changed = bytearray(data)
        start = entry["data_offsets"][0]
        changed[start : start + 4] = struct.pack("<f", rng.choice([math.nan, math.inf, 3e38, 1e-45]))
        data = bytes(changed)
    else:
        entry[change] = rng.choice(ENTRIES[change](entry, len(data)))
    text = encoded(header)
    return struct.pack("<Q", len(text)) + text + data


ENTRIES = {
    "dtype": lambda entry, size: DTYPES,
    "shape": lambda entry, size: [
        [],
        [0],
        [1],
        entry["shape"][::-1],
        [math.prod(entry["shape"])],
        [1, *entry["shape"]],
        [*entry["shape"], 1, 1, 1],
        [-side for side in entry["shape"]],
        [2**63],
        [2**32, 2**32],
        [10**30],
        None,
        "x",
        [2.5],
        [1] * 70,
    ],
    "data_offsets": lambda entry, size: [[size, size + 64], [-8, 0], entry["data_offsets"][::-1], [0, 8], [0], None, "x"],
}
