"""The meter itself: it finds a leak that is planted and none between equal classes.

    python -m unittest discover -s benches/leakage

The tests of `Live` need CODESEAL_PROGRAMS, a directory with `codeseal` and `codeseal-server`.
"""

import json
import os
import random
import socket
import tempfile
import threading
import unittest
from pathlib import Path

import numpy as np

import measure
from capture import OBSERVED, PacketCapture, Segment, SocketCapture, parse
from classify import auc, classify, features, halves
from pairs import PAIRS, Maker, unique_end
from report import hidden, markdown, verdict
from sealed import bucket, path_key, post
from sealed import parse as parse_answer

VECTORS = Path(__file__).resolve().parents[2] / "tests" / "vectors" / "paths.json"
# Standard deviations of the AUC of classes that are alike: one run in 30,000 is further off.
SLACK = 4


def by_chance(count):
    """The highest AUC of `count` traces of each class that are alike; half of them are scored."""
    return 0.5 + SLACK * (1 / (6 * (count // 2))) ** 0.5


def trace(rng, first=50.0, gap=50.0, frames=32, size=1500, busy=0.0, until=0):
    """A stream on a clock with noise of 50 µs; while the model works, for `until` frames, each is `busy` ms late."""
    at, segments = 0.0, [Segment(0, False, 900)]
    for index in range(frames):
        late = busy * rng.random() if index < until else 0
        at = first + gap * index + late + rng.gauss(0, 0.05)
        segments.append(Segment(int(at * 1e6), True, size))
    return segments


def on_milliseconds(rng, late):
    """A stream with random departures on whole milliseconds; a thread that is woken late adds to them, 20 ms of jitter or not."""
    segments = [Segment(0, False, 900)]
    for index in range(32):
        at = 50 * (index + 1) + rng.randrange(20) + 0.06 + late * rng.random()
        segments.append(Segment(int(at * 1e6), True, 1500))
    return segments


def judged(zero, one, count=60, seed=3):
    """The figures for traces that two functions make."""
    rng, traces, labels = random.Random(seed), [], []
    for _ in range(count):
        for label in rng.sample([0, 1], 2):
            traces.append((zero, one)[label](rng))
            labels.append(label)
    return classify(traces, labels, seed)


class Synthetic(unittest.TestCase):
    def test_equal_classes_are_not_told_apart(self):
        for seed in range(2):
            result = judged(trace, trace, seed=seed)
            self.assertLess(abs(result.auc - 0.5), by_chance(60) - 0.5)

    def test_each_planted_leak_is_found(self):
        planted = {
            "number of frames": lambda rng: trace(rng, frames=33),
            "size of one segment": lambda rng: [*trace(rng)[:-1], Segment(2 * 10**9, True, 1501)],
            "size of the request": lambda rng: [Segment(0, False, 901), *trace(rng)[1:]],
            "time of the first frame": lambda rng: trace(rng, first=50.2),
            "late while the model works": lambda rng: trace(rng, busy=0.4, until=20),
            "timers of whole milliseconds": lambda rng: on_milliseconds(rng, 0.3),
            "pace": lambda rng: trace(rng, gap=50.01),
        }
        for name, one in planted.items():
            with self.subTest(name):
                zero = (lambda rng: on_milliseconds(rng, 0.0)) if "milliseconds" in name else trace
                result = judged(zero, one)
                self.assertGreater(result.low, 0.75, result)

    def test_a_leak_in_a_minority_of_traces_is_found_by_more_traces(self):
        result = judged(trace, lambda rng: trace(rng, first=60 if rng.random() < 0.3 else 50), count=150)
        self.assertGreater(result.low, 0.5, result)

    def test_drift_is_not_taken_for_a_leak(self):
        clock = {"turn": 0}

        def drifting(rng):
            clock["turn"] += 1
            return trace(rng, first=50 + clock["turn"] / 20)

        self.assertLess(judged(drifting, drifting).auc, by_chance(60))

    def test_permutations_show_what_chance_gives(self):
        rng = random.Random(5)
        traces, labels = zip(*[(trace(rng, frames=32 + label), label) for _ in range(30) for label in (0, 1)])
        result = classify(traces, labels, permutations=8)
        self.assertEqual(result.p, 1 / 9)
        self.assertLess(abs(result.chance - 0.5), 0.15)

    def test_the_same_seed_gives_the_same_figures(self):
        self.assertEqual(judged(trace, trace), judged(trace, trace))

    def test_sizes_and_times_are_told_apart(self):
        rng = random.Random(2)
        traces, labels = zip(*[(trace(rng, first=50 + 3 * label), label) for _ in range(40) for label in (0, 1)])
        self.assertEqual(classify(traces, labels, which="sizes").auc, 0.5)
        self.assertGreater(classify(traces, labels, which="times").auc, 0.95)

    def test_too_few_traces_are_refused(self):
        with self.assertRaises(ValueError):
            judged(trace, trace, count=5)

    def test_a_trace_must_have_an_answer(self):
        with self.assertRaises(ValueError):
            features([Segment(0, False, 10)])


class Parts(unittest.TestCase):
    def test_the_auc_counts_ties_half(self):
        score, labels = np.array([1, 2, 2, 3]), np.array([0, 0, 1, 1])
        self.assertEqual(auc(score, labels), 3.5 / 4)

    def test_the_classifier_is_fitted_on_the_first_half_of_each_class(self):
        labels = np.array([0, 1] * 20)
        self.assertEqual(list(halves(labels)), [True] * 20 + [False] * 20)
        self.assertEqual(list(halves(np.array([0, 0, 0, 1, 1]))), [True, False, False, True, False])

    def test_what_is_scored_has_no_part_in_fitting(self):
        # The classes differ in the first half only, so what was learnt there is worth nothing.
        rng = random.Random(7)
        traces = [trace(rng, frames=32 + label * (index < 40)) for index in range(80) for label in (0, 1)]
        result = classify(traces, [0, 1] * 80)
        self.assertLess(abs(result.auc - 0.5), by_chance(80) - 0.5)

    def test_keys_of_paths_are_those_of_the_vectors(self):
        vectors = json.loads(VECTORS.read_text())
        self.assertTrue(vectors["calls"])
        for vector in vectors["calls"]:
            self.assertEqual(path_key(vectors["dek"].encode(), vector["direction"], vector["path"]).decode(), vector["key"])

    def test_buckets_are_those_of_the_protocol(self):
        buckets = json.loads(VECTORS.read_text())["buckets"]
        self.assertTrue(buckets)
        for vector in buckets:
            self.assertEqual(bucket(vector["length"]), vector["padded"])

    def test_an_answer_in_chunks_is_put_together(self):
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        self.assertEqual(parse_answer(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), b"abcde")
        with self.assertRaises(ValueError):
            parse_answer(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab")
        with self.assertRaises(ValueError):
            parse_answer(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n")

    def test_an_end_is_unique(self):
        for text in ["abcabc", "aaaa", "xyzx", "z"]:
            end = unique_end(text)
            self.assertEqual(text.find(end), len(text) - len(end))

    def test_classes_of_a_pair_have_prompts_of_one_length_where_they_should(self):
        make = Maker(random.Random(1), None, None)
        for pair in ("topic", "whole-topic", "generate-topic", "sampling", "equal"):
            lengths = {len(PAIRS[pair](make, label).ask.body["prompt"]) for label in (0, 1) * 5}
            self.assertEqual(len(lengths), 1, pair)

    def test_a_row_is_hidden_only_within_both_limits(self):
        def row(auc, low, high):
            return {"all": {"auc": auc, "low": low, "high": high}}

        self.assertTrue(hidden(row(0.55, 0.48, 0.62)))
        self.assertEqual(verdict(row(0.56, 0.49, 0.62)), "undecided")
        self.assertEqual(verdict(row(0.54, 0.45, 0.63)), "undecided")
        self.assertEqual(verdict(row(0.84, 0.80, 0.94)), "**told apart**")

    def test_the_table_has_a_row_for_a_pair_that_was_not_measured(self):
        told = {"date": "", "commit": "", "machine": "", "observer": "", "seed": 1, "permutations": 0}
        row = {"pair": "topic", "model": "tiny", "mode": "off", "load": False, "lanes": 1, "missing": "no answers"}
        self.assertIn("not measured: no answers", markdown(told | {"rows": [row]}))

    def test_a_header_is_read_whatever_the_direction(self):
        def packet(source, to, ports, payload):
            ip = bytes([0x45, 0]) + (40 + payload).to_bytes(2, "big") + bytes(8) + socket.inet_aton(source)
            tcp = b"".join(port.to_bytes(2, "big") for port in ports) + bytes(8) + bytes([0x50]) + bytes(7)
            return ip + socket.inet_aton(to) + tcp

        self.assertEqual(parse(packet(OBSERVED, "127.0.0.1", (4000, 80), 7)), (False, 4000, 7))
        self.assertEqual(parse(packet("127.0.0.1", OBSERVED, (80, 4000), 1460)), (True, 4000, 1460))


class Observers(unittest.TestCase):
    """Each observer on a connection whose segments are known."""

    def observed(self, capture):
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n"
        with socket.create_server(("127.0.0.1", 0)) as server:

            def serve():
                connection, _ = server.accept()
                with connection:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    while b"question" not in connection.recv(1 << 16):
                        pass
                    connection.sendall(head)
                    connection.sendall(b"x" * 10)
                    connection.sendall(b"y" * 20)

            thread = threading.Thread(target=serve)
            thread.start()
            body, segments = post(server.getsockname(), "/", b"question", capture)
            thread.join()
        self.assertEqual(body, b"x" * 10 + b"y" * 20)
        return len(head), segments

    def test_a_packet_socket_sees_each_segment(self):
        try:
            capture = PacketCapture()
        except PermissionError:
            self.skipTest("a packet socket needs CAP_NET_RAW")
        self.addCleanup(capture.close)
        head, segments = self.observed(capture)
        self.assertEqual([segment.size for segment in segments if segment.down and segment.size], [head, 10, 20])
        self.assertEqual(len([segment for segment in segments if not segment.down and segment.size]), 1)
        self.assertEqual(sorted(segments, key=lambda segment: segment.at), segments)
        self.assertEqual(capture.flows, {})

    def test_without_a_packet_socket_the_kernel_stamps_what_is_received(self):
        head, segments = self.observed(SocketCapture())
        sent, *received = segments
        self.assertFalse(sent.down)
        self.assertEqual(sum(segment.size for segment in received), head + 30)
        self.assertTrue(all(segment.down and segment.at >= sent.at for segment in received))


@unittest.skipUnless("CODESEAL_PROGRAMS" in os.environ, "CODESEAL_PROGRAMS names no directory with the programs")
class Live(unittest.TestCase):
    """The whole command against real servers."""

    def run_meter(self, *words):
        with tempfile.TemporaryDirectory() as directory:
            flags = ["--programs", os.environ["CODESEAL_PROGRAMS"], "--work", directory, "--model", "tiny"]
            return measure.main([*flags, "--permutations", "0", *words])["rows"]

    def test_a_leak_that_is_planted_is_found_and_none_between_equal_classes(self):
        count = 50
        rows = self.run_meter("--mode", "off", "--pair", "max-tokens", "--pair", "equal", "--traces", str(count), "--lanes", "2")
        found = {row["pair"]: row for row in rows}
        self.assertGreater(found["max-tokens"]["all"]["low"], 0.9, rows)
        self.assertLess(found["equal"]["all"]["auc"], by_chance(count), rows)

if __name__ == "__main__":
    unittest.main()
