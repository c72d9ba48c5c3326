// How long the waits were: the distribution of all of them, and what they came to.

function distribution(runs) {
  const shown = runs.filter((run) => run.distribution_us.length);
  if (!shown.length) return make("p", {}, "No wait ended.");
  const [wide, tall, left, right, bottom] = [860, 300, 58, 30, 46];
  const all = shown.flatMap((run) => run.distribution_us.map(([value]) => Math.max(value, 0.1)));
  const low = Math.floor(Math.log10(Math.min(...all))), high = Math.ceil(Math.log10(Math.max(...all) * 1.0001));
  const x = (us) => left + (Math.log10(Math.max(us, 0.1)) - low) / Math.max(high - low, 1) * (wide - left - right);
  const y = (share) => 12 + (1 - share) * (tall - 12 - bottom);
  const svg = make("svg", { viewBox: `0 0 ${wide} ${tall}`, width: "100%", role: "img", "aria-label": `Cumulative distribution of waits. ${shown.map((run) => `${run.name}: half waited up to ${sayTime(run.percentiles_us.p50)}, the longest ${sayTime(run.percentiles_us.max)}`).join("; ")}` });
  for (let power = low; power <= high; power += 1) {
    svg.append(make("line", { x1: x(10 ** power), x2: x(10 ** power), y1: 12, y2: tall - bottom, stroke: "var(--line)" }));
    svg.append(make("text", { x: x(10 ** power), y: tall - bottom + 16, "text-anchor": "middle", class: "soft" }, sayTime(10 ** power)));
  }
  for (const share of [0, 0.25, 0.5, 0.75, 0.9, 1]) {
    svg.append(make("line", { x1: left, x2: wide - right, y1: y(share), y2: y(share), stroke: "var(--line)" }));
    svg.append(make("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end", class: "soft" }, `${share * 100} %`));
  }
  svg.append(make("text", { x: (left + wide) / 2, y: tall - 8, "text-anchor": "middle", class: "soft" }, `${waitWords(runs)} (logarithmic)`));
  shown.forEach((run) => {
    const number = runs.indexOf(run);
    let path = `M${x(run.distribution_us[0][0])},${y(0)}`;
    for (const [value, share] of run.distribution_us) path += `H${x(value).toFixed(1)}V${y(share).toFixed(1)}`;
    svg.append(make("path", { d: path, fill: "none", stroke: `var(--run${number % 4})`, "stroke-width": 2.2, "stroke-dasharray": ["", "7 4", "2 3", "9 3 2 3"][number % 4] }));
  });
  const legend = make("ul", { class: "legend" }, ...shown.map((run) => make("li", {}, make("i", { style: { background: `var(--run${runs.indexOf(run) % 4})` } }), run.name)));
  return make("div", {}, make("p", { class: "hint" }, "The share of waits that took at most so long"), runs.length > 1 ? legend : null, svg);
}

// What a wait is: between two QEMUs nobody knows of vCPUs, only of requests and their pages.
function waitWords(runs) {
  return runs.every((run) => run.waiter === "request") ? "way from a page's request to its last byte, both as seen between the two" : "wait of a vCPU, touch to wake-up";
}

function percentileTable(runs) {
  const names = Object.keys(runs[0].percentiles_us);
  return table(`Percentiles of the waits, each a ${waitWords(runs)}: nine in ten took at most p90`,
    ["run", "waits", ...names], [
      ...runs.map((run) => [run.name, sayCount(run.wait_count), ...names.map((name) => (run.wait_count ? sayTime(run.percentiles_us[name]) : "none"))]),
      ...differenceHead(runs).map((head) => [head, ...differenceCell(runs, (run) => run.wait_count, sayCount), ...names.flatMap((name) => differenceCell(runs, (run) => (run.wait_count ? run.percentiles_us[name] : null), sayTime))]),
    ]);
}

// Downtime: nobody ran. Brownout: it ran, and vCPUs waited for pages.
function standstill(runs) {
  const brown = (run) => {
    if (!run.blackout) return ["not recorded", "not recorded"];
    const lasted = Math.max((run.end - run.blackout[1]) * run.tick_us, 1);
    let last = run.blackout[1];
    for (let i = 0; i < run.waits.count; i += 1) if (run.waits.wake[i] !== NEVER) last = Math.max(last, run.waits.wake[i]);
    const share = run.waited_us / (Math.max((last - run.blackout[1]) * run.tick_us, 1) * Math.max(run.vcpus, 1));
    return [sayTime(Math.min((last - run.blackout[1]) * run.tick_us, lasted)), `${(Math.min(share, 1) * 100).toFixed(1)} %`];
  };
  const us = (run, name) => (run.accesses.count ? sayTime(run.accesses[`${name}-us`]) : "none");
  return table("Downtime (blackout): the guest runs nowhere. Brownout: it runs on the destination, from there until the last vCPU woke; accesses are measured from when each was due",
    ["run", "downtime", "brownout", "vCPUs' time spent waiting", "accesses", "p50", "p99", "p99.9", "longest"],
    runs.map((run) => [run.name, sayDowntime(run), ...brown(run), run.accesses.count ? sayCount(run.accesses.count) : "none", us(run, "p50"), us(run, "p99"), us(run, "p999"), us(run, "max")]));
}
