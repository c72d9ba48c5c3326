"""Two policies on three links, three seeds each: a data frame, and a plot of the slowest faults."""

import sys
from itertools import product

import pandas as pd

import midstream

size, picture = sys.argv[1:] or ("64MiB", "links.png")
runs = product(["ordered", "critical-first"], ["100Mbit/s", "400Mbit/s", "1Gbit/s"], range(3))
frame = pd.DataFrame(
    midstream.migrate(size=size, policy=policy, link=link, seed=seed).row(rate=link)
    for policy, link, seed in runs
)
p99_ms = frame.groupby(["rate", "policy"])["faults.p99-us"].median().unstack() / 1000
axes = p99_ms.plot.bar(logy=True, ylabel="99th percentile of fault latency (ms)", rot=0)
axes.figure.savefig(picture)
print(p99_ms)
