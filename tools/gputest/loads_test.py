"""Of loads.py; run by tools/e2e (TestPartsOfGputest) and by `python3 -m unittest loads_test` in this folder."""

import unittest
from itertools import pairwise

from loads import arrivals, attained, highest, judged, ladder, median, quantile, settings


class Loads(unittest.TestCase):
    def test_arrivals(self):
        a = list(arrivals(1000, 10, 1))
        self.assertEqual(a, list(arrivals(1000, 10, 1)), "a seed gives the same ones")
        self.assertNotEqual(a, list(arrivals(1000, 10, 2)))
        self.assertTrue(all(x < y for x, y in pairwise(a)) and 0 < a[0] and a[-1] <= 10)
        self.assertLess(abs(len(a) - 10000), 500)  # five standard deviations
        gaps = sorted(y - x for x, y in pairwise(a))
        self.assertLess(abs(gaps[len(gaps) // 2] * 1000 - 0.693), 0.05, "exponential")
        self.assertEqual(list(arrivals(0, 10, 1)), [])

    def test_quantiles(self):
        self.assertEqual(quantile(range(100, 0, -1), 0.99), 100)
        self.assertEqual(quantile([3, 1, 2], 0.5), 2)
        self.assertEqual(quantile([7], 0.99), 7)
        self.assertIsNone(quantile([], 0.5))
        self.assertEqual(median([None, 4, None, 2, 9]), 4)
        self.assertIsNone(median([None]))
        self.assertEqual(attained([1, 2, 3, 4], 3), 0.75)
        self.assertIsNone(attained([], 1))

    def test_settings(self):
        two = {"HEDDLE_AHEAD": "30us", "HEDDLE_PREPARED": "0"}
        want = [("as it is", {}), ("HEDDLE_AHEAD=30us HEDDLE_PREPARED=0", two), ("HEDDLE_GATHER=5us", {"HEDDLE_GATHER": "5us"})]
        self.assertEqual(settings("-; HEDDLE_AHEAD=30us HEDDLE_PREPARED=0;; HEDDLE_GATHER=5us;"), want)
        self.assertEqual(settings(""), [])
        for bad in ("HEDDLE_AHEAD", "HEDDLE_AHEAD=", "PATH=/", "- HEDDLE_AHEAD=1us", "=1"):
            with self.assertRaisesRegex(ValueError, "HEDDLE_NAME=VALUE"):
                settings(bad)

    def test_judged(self):
        right = {
            "client": 0,
            "kernels": True,
            "first": True,
            "warm": True,
            "checked": 9,
            "differ": 0,
            "at": None,
            "changes": 0,
            "far": 0.0,
        }
        self.assertEqual(judged([right] * 8), (0, "same kernels: 8 of 8; theirs equal"))
        for k, v in (("first", False), ("warm", False), ("differ", 1), ("differ", None)):
            n, text = judged([right, {**right, k: v, "at": 32}])
            self.assertEqual(n, 1, k)
            self.assertIn("WRONG in 1", text)
        loop = {**right, "client": 5, "differ": 2, "at": 32, "changes": 2, "far": 0.25}
        self.assertIn("client 5: 2 of 9 looked at, from request 32 on, by 0.25, 2 unlike its own first", judged([right, loop])[1])
        other = {**loop, "kernels": False}
        self.assertEqual(judged([right, other]), (0, "same kernels: 1 of 2; theirs equal; of the others 1 differ"))
        self.assertEqual(judged([other, {**right, "kernels": False}]), (0, "same kernels: 0 of 2; of the others 1 differ"))
        self.assertEqual(judged([])[0], 0)

    def test_highest(self):
        levels = ladder(1.0, 2.0, 10)
        self.assertEqual(levels[-1], 512)
        for n in range(11):  # how many levels hold
            asked = []

            def holds(v, asked=asked, n=n):
                asked.append(v)
                return v < 2**n

            best, sure = highest(levels, holds)
            self.assertEqual(best, levels[n - 1] if n else None)
            self.assertEqual(sure, n < 10, "the top of the ladder is only a bound")
            self.assertLessEqual(len(asked), 4)
        self.assertEqual(highest(levels, lambda v: None), (None, False))
        answers = iter([True, None])
        self.assertEqual(highest(levels, lambda v: next(answers)), (levels[4], False))


if __name__ == "__main__":
    unittest.main()
