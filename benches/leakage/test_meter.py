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

import beside
import measure
import rhythm
from capture import OBSERVED, PacketCapture, Segment, SocketCapture, parse
from classify import auc, classify, features, halves
from pairs import PAIRS, Maker, unique_end
from report import hidden, markdown, verdict
from sealed import bucket, frames, path_key, post
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


def beside_own(rng, told, ends):
    """A stream beside one of the observer's own, in random order until its text `ends`; then it leaves first, if that is told."""
    segments, own = trace(rng, frames=16), []
    for index, segment in enumerate(segments[1:]):
        before = (told and index >= ends) or rng.random() < 0.5
        own.append(Segment(segment.at + (1 if before else -1) * rng.randrange(20_000, 90_000), True, 1500))
    return beside.Seen(segments, (own,))


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

    def test_an_order_that_tells_the_end_of_a_text_is_found_and_a_random_one_is_not(self):
        for told in (True, False):
            rng = random.Random(6)
            made = [(beside_own(rng, told, (2, 8)[label]), label) for _ in range(100) for label in (0, 1)]
            result = classify(*zip(*made, strict=True), seed=1, describe=beside.features)
            self.assertGreater(result.low, 0.8, result) if told else self.assertLess(result.auc, by_chance(100), result)

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


def window(rng, typing, cover, empty_bytes=44_000):
    """Windows of the network between a proxy and a server, made up: a request a key or a beat, each on a connection of its own."""
    at, seconds, times = 0.0, 8.0, []
    if cover:
        times = [beat * 0.3 + rng.random() * 0.03 for beat in range(26)]
    elif typing:
        while at < seconds:
            times.append(at)
            at += rng.lognormvariate(-1.7, 0.6)
    else:
        times = [0.0]
    flows = {}
    for port, at in enumerate(times):
        size = 44_000 if rng.random() < 0.5 or not cover else empty_bytes
        frames = [Segment(int((at + 0.05 * frame + 0.03) * 1e9), True, 1500) for frame in range(32)]
        flows[port] = [Segment(int(at * 1e9), False, size), *frames]
    return rhythm.Window(0, flows)


class Rhythm(unittest.TestCase):
    """The pair `typing`, on made-up windows."""

    def judged(self, zero, one, count=40):
        rng = random.Random(4)
        made = [(make(rng), label) for _ in range(count) for label, make in enumerate((zero, one))]
        return classify(*zip(*made, strict=True), seed=1, describe=rhythm.features)

    def test_typing_is_found_without_cover_and_not_in_an_even_rhythm(self):
        found = self.judged(lambda rng: window(rng, False, False), lambda rng: window(rng, True, False))
        self.assertGreater(found.low, 0.95, found)
        hidden = self.judged(lambda rng: window(rng, False, True), lambda rng: window(rng, True, True))
        self.assertLess(hidden.auc, by_chance(40), hidden)

    def test_empty_requests_of_another_size_and_requests_of_another_number_are_found(self):
        for one in (lambda rng: window(rng, True, True, 43_999), lambda rng: rhythm.Window(0, dict(list(window(rng, True, True).flows.items())[:-1]))):
            self.assertGreater(self.judged(lambda rng: window(rng, False, True), one).low, 0.7)

    def test_the_segments_of_a_request_are_put_together(self):
        def up(at, size):
            return Segment(at, False, size)

        def down(at, size):
            return Segment(at, True, size)

        flow = [up(0, 30_000), down(10, 0), up(1000, 14_000), down(50_000_000, 1500), up(90_000_000, 44_000), down(95_000_000, 1500)]
        requests = rhythm.bursts({7: flow, 8: [up(500, 9)]})
        self.assertEqual([(request["at"], request["bytes"], len(request["answers"])) for request in requests], [(0, 44_000, 1), (500, 9, 0), (90_000_000, 44_000, 1)])

    def test_a_window_ends_at_its_time(self):
        flows = {7: [Segment(at, True, 9) for at in (1, 5, 6)], 8: [Segment(6, False, 9)]}
        self.assertEqual(rhythm.within(flows, 6), {7: flows[7][:2]})

    def test_keys_fill_the_window(self):
        rng = random.Random(3)
        drawn = list(rhythm.pauses(rng, 8.0))
        self.assertAlmostEqual(sum(drawn), 8.0)
        self.assertGreater(len(drawn), 15)


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

    def test_classes_of_a_pair_have_answers_of_one_number_of_frames(self):
        label, accepted = 0, 0

        def oracle(body):
            return {"tokens": body["max_tokens"], "text": f"{make.name()} {make.name()}"}

        def counter(_):
            nonlocal accepted
            accepted += 60 * label
            return accepted

        self.assertEqual([frames(tokens) for tokens in (0, 32, 33, 64, 128, 256, 257, 9999)], [8, 8, 16, 16, 32, 64, 128, 128])
        make = Maker(random.Random(1), oracle, counter)
        for pair in PAIRS:
            numbers = set()
            for label in (0, 1):
                numbers.add(frames(PAIRS[pair](make, label).ask.body.get("max_tokens", 128)))
            self.assertEqual(len(numbers), 1, pair)

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

    def test_the_price_is_compared_round_by_round(self):
        told = {"date": "", "commit": "", "machine": "", "observer": "", "seed": 1, "permutations": 0, "rows": []}
        figure = {"first_text_ms": 60, "text_end_ms": 90, "end_ms": 1700, "requests_per_second": 9, "frame_us": None}
        modes = {"off": figure | {"of_off": [1, 1, 1]}, "pace-and-length": figure | {"of_off": [0.9, 0.98, 0.99]}}
        table = markdown(told | {"price": [{"model": "tiny", "modes": modes}]})
        self.assertIn("| `pace-and-length` | 60 | 90 | 1700 | 9.00 | 0.980 (0.900, 0.990) | – |", table)

    def test_a_header_is_read_whatever_the_direction(self):
        def packet(source, to, ports, payload):
            ip = bytes([0x45, 0]) + (40 + payload).to_bytes(2, "big") + bytes(8) + socket.inet_aton(source)
            tcp = b"".join(port.to_bytes(2, "big") for port in ports) + bytes(8) + bytes([0x50]) + bytes(7)
            return ip + socket.inet_aton(to) + tcp

        self.assertEqual(parse(packet(OBSERVED, "127.0.0.1", (4000, 80), 7)), (False, 4000, 7))
        self.assertEqual(parse(packet("127.0.0.1", OBSERVED, (80, 4000), 1460)), (True, 4000, 1460))
        self.assertEqual(parse(packet(OBSERVED, "127.0.0.1", (80, 4000), 7), serves=True), (True, 4000, 7))
        self.assertEqual(parse(packet("127.0.0.1", OBSERVED, (4000, 80), 9), serves=True), (False, 4000, 9))


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
