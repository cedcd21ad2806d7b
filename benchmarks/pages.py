"""How long the page of a large diff takes to make, and to open in the browser that is installed, beside an empty page.

Run `python benchmarks/pages.py [--tensors N] [--repeat N]`; it prints a Markdown table and exits 1 when the page does
not open within three seconds. Needs the test extra and chromium.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

BAR = 3.0
EMPTY = "<!doctype html><html data-ready=true><title>empty</title>"

SCROLL = """new Promise((done) => {
  const box = document.querySelector(".scroller");
  const times = [];
  let last = performance.now();
  const step = () => {
    const now = performance.now();
    times.push(now - last);
    last = now;
    box.scrollTop += 300;
    if (times.length < 120) requestAnimationFrame(step);
    else done(times.slice(2).sort((a, b) => a - b)[Math.floor(0.95 * 118)]);
  };
  requestAnimationFrame(step);
})"""


def main() -> int:
    """Measure, and tell."""
    from ckptmap.__main__ import main as ckptmap
    from tests.browser.chromium import chromium, running
    from tests.browser.reports import experts, saved

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tensors", type=int, default=90_000)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    path = chromium()
    if path is None:
        print("no browser: install chromium", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        left = experts(60, args.tensors // 360)
        right = dict(left)
        for changed in list(right)[7::1000]:
            right[changed] = (65, 32)
        files = [saved(folder / f"{side}.safetensors", one) for side, one in (("left", left), ("right", right))]
        page, empty = folder / "report.html", folder / "empty.html"
        empty.write_text(EMPTY)
        start = time.perf_counter()
        ckptmap(["diff", *files, "-q", "--html", str(page)])
        made = time.perf_counter() - start
        opened: dict[Path, list[float]] = {page: [], empty: []}
        with running(path, folder / "profile") as browser:
            for _ in range(args.repeat):
                for one, times in opened.items():
                    with browser.tab() as tab:
                        times.append(tab.open(one))
            with browser.tab() as tab:
                tab.open(page)
                for switch in ("#grouped", "#expand"):
                    tab.click(switch)
                slowest = tab.run(SCROLL)
    took = median(opened[page])
    print(f"| diff of {len(left):,} tensors | |\n| --- | --- |")
    print(f"| made, `diff -q --html` | {made:.1f} s |")
    print(f"| opened | {took:.2f} s |")
    print(f"| an empty page opened | {median(opened[empty]):.2f} s |")
    print(f"| frame while scrolling through all rows, 95th percentile | {slowest:.0f} ms |")
    return 0 if took <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
