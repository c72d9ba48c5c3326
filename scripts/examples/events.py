"""The events of a run as a data frame: for each stage of a fault, how long it took in all."""

import sys

import pandas as pd

import midstream

size = sys.argv[1] if len(sys.argv) > 1 else "64MiB"
# Nothing before the switch-over, and little in the background: vCPUs wait for what they touch.
report = midstream.migrate(
    size=size, events=True, postcopy_after=0, access_rate=0, max_postcopy_bandwidth="8Mbit/s"
)
frame = pd.DataFrame(report.events)
wakes = frame[frame["event"] == "vcpu-wake"]
stages = [name for name in frame.columns if name.endswith("-us") and name != "latency-us"]
print(wakes[stages].sum().sort_values(ascending=False) / 1000)
