"""The events of a run as a data frame: for each stage of a fault, how long it took in all."""

import sys

import pandas as pd

import midstream

report = midstream.migrate(size=sys.argv[1] if len(sys.argv) > 1 else "64MiB", events=True)
frame = pd.DataFrame(report.events)
wakes = frame[frame["event"] == "vcpu-wake"]
stages = [name for name in frame.columns if name.endswith("-us") and name != "latency-us"]
print(wakes[stages].sum().sort_values(ascending=False) / 1000)
