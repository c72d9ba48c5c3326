// Puts the page together.

function summary(runs) {
  const rows = [
    ["status", (run) => run.status],
    ...(runs.some((run) => run.reason) ? [["reason", (run) => run.reason]] : []),
    ["memory", (run) => {
      if (run.lost_bytes) return `${sayBytes(run.lost_bytes)} lost`;
      if (run.verdict.equal === undefined) return "not compared";
      return run.verdict.equal && !run.verdict.mismatches ? "verified" : "WRONG";
    }],
    ["policy", (run) => run.run.policy ?? "?"],
    ["guest", (run) => `${sayBytes(run.bytes)}, ${run.waiter === "request" ? "seen between the two" : sayMany(run.vcpus, "vCPU")}, ${run.run.program ?? "?"}`],
    ["pages", (run) => run.blocks.map((block) => `${block.name}: ${sayCount(block.pages)}${block.known ? ` of ${sayBytes(block.page_bytes)}` : ""}`).join(", ")],
    ["total time", (run) => `${sayTime((run.end - run.begin) * run.tick_us)} from ${run.since}`, (run) => (run.end - run.begin) * run.tick_us, sayTime],
    ["downtime", sayDowntime, (run) => run.downtime_us, sayTime],
    ...(runs.some((run) => run.guest_blackout_us !== null) ? [["downtime by the guest's clock", sayBlackout], ["longest stall by its clock", sayStall]] : []),
    ["page requests", (run) => sayCount(requestsOf(run)), requestsOf, sayCount],
    ["preempted pages", (run) => sayKnown(run.preempted), (run) => run.preempted, sayCount],
    ["finished early on request", (run) => sayKnown(run.boosted), (run) => run.boosted, sayCount],
    ["waits", (run) => sayCount(run.wait_count), (run) => run.wait_count, sayCount],
    ["sum of all waits", (run) => (run.wait_count ? sayTime(run.waited_us) : "none"), (run) => run.waited_us, sayTime],
    ["median wait", (run) => (run.wait_count ? sayTime(run.percentiles_us.p50) : "none"), (run) => (run.wait_count ? run.percentiles_us.p50 : null), sayTime],
    ["longest wait", (run) => (run.wait_count ? sayTime(run.percentiles_us.max) : "none"), (run) => (run.wait_count ? run.percentiles_us.max : null), sayTime],
  ];
  return table("What was migrated, and what came of it", ["", ...runs.map((run) => run.name), ...differenceHead(runs)],
    rows.map(([name, value, number, say]) => [name, ...runs.map(value), ...differenceCell(runs, number, say)]));
}

// Of each run the verdict: how it ended, in a banner, and below it what it cost and what to try.
function verdicts(runs) {
  return make("div", { class: "verdicts" }, ...runs.map((run) => make("div", { class: `verdict ${run.tone}`, ...(run.tone === "bad" ? { role: "alert" } : {}) },
    runs.length > 1 ? make("h3", {}, run.name) : null,
    ...run.sentences.map(([kind, text]) => make("p", { class: kind }, keepUnits(text))))));
}

// A run's name, policy and status; a run that has its policy's name has it once.
function titleOf(run) {
  const policy = run.run.policy ?? "unknown policy";
  return [...(run.name === policy ? [policy] : [`${run.name}: ${policy}`]), run.status].join(", ");
}

const requestsOf = (run) => run.requests.count + run.left_out.requests;
const sayKnown = (count) => (count === null ? "not recorded" : sayCount(count));
const sayDowntime = (run) => (run.downtime_us === null ? "not recorded" : sayTime(run.downtime_us));

const sayOwn = (us) => (us === null ? "the guest has none" : sayTime(us));
const sayBlackout = (run) => sayOwn(run.guest_blackout_us);
const sayStall = (run) => sayOwn(run.guest_stall_us);

// What the runs have of it, and nothing that nobody will find in them.
function legend(runs) {
  const item = (style, words, name = "") => make("li", {}, make("i", { style, class: name }), words);
  const some = (holds) => runs.some((run) => run.sends.kind.some(holds)), waiters = [...new Set(runs.filter((run) => run.wait_count).map((run) => run.waiter))];
  return make("ul", { class: "legend" },
    ...BARS.filter((_, at) => some((bits) => barOf(bits) === at)).map((bar) => item({ backgroundColor: `var(${bar.colour})` }, bar.words, bar.pattern ?? "")),
    some((bits) => endOf(bits) === 1) ? item({ background: "var(--cut)", width: ".2rem" }, "interrupted here (preempted)") : null,
    runs.some((run) => run.breaks.length) ? item({ outline: "1px solid var(--cut)" }, "no connection", "stage8") : null,
    waiters.length ? item({ background: "var(--wait)", outline: "1px solid var(--waitedge)" }, waiters.map((waiter) => `a ${waiter} waits`).join(", or ")) : null);
}

function timelineSection(runs, select) {
  const lines = runs.map((run) => new Timeline(run, select));
  const part = (line, index) => {
    const wanted = make("input", { id: `find${index}`, inputmode: "numeric", placeholder: line.run.blocks.length > 1 ? "block:page" : "number" });
    const go = () => {
      const [page, name] = wanted.value.split(":").reverse();
      const block = name === undefined ? 0 : line.run.blocks.findIndex((each) => each.name === name);
      const number = Number.parseInt(page, 10);
      if (block < 0 || !(number >= 0 && number < line.run.blocks[block].pages)) { wanted.setCustomValidity("there is no such page"); wanted.reportValidity(); return; }
      select(line.run, block, number, true);
    };
    wanted.addEventListener("input", () => wanted.setCustomValidity(""));
    wanted.addEventListener("keydown", (event) => { if (event.key === "Enter") go(); });
    const button = (words, act, name) => make("button", { type: "button", onclick: act, ...(name ? { "aria-label": name } : {}) }, words);
    const after = line.run.postcopy;
    line.figure = make("figure", {},
      make("h3", {}, line.run.name),
      make("div", { class: "bar" },
        button("migration", () => line.show(line.migration)),
        button("with set-up", () => line.show(line.whole)),
        after === null ? null : button("postcopy", () => { const room = (line.run.end - after) * 0.03; line.show([after - room, line.run.end + room]); }),
        button("+", () => line.zoom(0.6), "zoom in on time"), button("−", () => line.zoom(1.6), "zoom out of time"),
        button("pages +", () => { line.zoom(0.5, null, true); }), button("pages −", () => { line.zoom(2, null, true); }),
        make("label", {}, "find page", wanted), button("show", go)),
      line.why, make("div", { class: "panels" }, line.canvas, line.over), line.note);
    return line.figure;
  };
  return [lines, make("section", { id: "timeline", "aria-labelledby": "h-timeline" },
    make("h2", { id: "h-timeline" }, "Pages over time"), legend(runs),
    runs.length > 1 ? make("label", { class: "bar" }, make("input", { type: "checkbox", id: "together", checked: "" }), "show the same time of all runs") : null, ...lines.map(part),
    make("p", { class: "hint" }, "Drag to zoom, Shift and drag to move, a click on a page tells its story; ? has all keys."))];
}

// Gives the timelines of several runs the same scales, and has them show the same time together.
function link(lines, isLinked) {
  const spans = lines.map((line) => line.migration.map((tick) => line.us(tick)));
  const missing = Math.max(...lines.map((line) => line.scale.missing));
  for (const line of lines) {
    line.peers = lines;
    line.scale.missing = missing;
    const low = Math.min(...spans.map((span) => span[0])), high = Math.max(...spans.map((span) => span[1]));
    line.migration = [low, high].map((us) => us / line.run.tick_us + line.run.begin);
    line.x = [...line.migration];
  }
  return (moved) => { if (isLinked()) for (const line of lines) if (line !== moved) line.follow(moved); };
}

function begin() {
  const runs = JSON.parse(document.getElementById("data").textContent).runs.map(decodeRun);
  const nothing = () => make("p", {}, "Choose a page: click it, find it by number, or choose one of the waits below.");
  const detail = make("div", { class: "detail", "aria-live": "polite", id: "story" }, nothing());
  const view = { runs, lines: [], tables: [], chosen: null, select, clear, linked: () => document.getElementById("together")?.checked ?? true };
  let changed = () => {};
  // Tells of a page, or of one wait for it (its number in the run), and shows it in its run's timeline.
  function select(run, block, page, zoom, wait = null) {
    view.chosen = { run, block, page, wait };
    document.documentElement.classList.remove("nothing");
    detail.replaceChildren(...detailOf(run, block, page, wait));
    for (const line of view.lines) {
      if (line.run === run) line.choose(block, page, zoom, wait);
      else if (line.run.blocks[block]?.pages > page) line.choose(block, page, false);
      line.why.textContent = line.run === run && wait !== null ? keepUnits(whyOf(run, wait)) : "";
    }
    for (const each of view.tables) each.choose(each.run === run ? { page: sayPage(run, block, page), wait } : null);
    if (zoom) view.lines.find((line) => line.run === run).figure.scrollIntoView({ block: "start" });
    changed();
  }
  function clear() {
    view.chosen = null;
    document.documentElement.classList.add("nothing");
    detail.replaceChildren(nothing());
    for (const line of view.lines) { line.chosen = null; line.why.textContent = ""; line.soon(); }
    for (const each of view.tables) each.choose(null);
    changed();
  }
  // Where nobody waited there is nothing to tell apart.
  const waited = runs.some((run) => run.wait_count);
  const section = (id, title, ...parts) => make("section", { id, "aria-labelledby": `h-${id}` }, make("h2", { id: `h-${id}` }, title), ...parts);
  const [lines, timeline] = timelineSection(runs, select);
  view.lines = lines;
  view.tables = waitTables(runs, select);
  document.getElementById("subtitle").textContent = runs.map(titleOf).join("; ");
  document.documentElement.classList.add("nothing");
  document.getElementById("main").classList.toggle("one", runs.length === 1);
  document.getElementById("main").append(
    section("verdict", "Verdict", verdicts(runs)),
    section("summary", "Summary", summary(runs)),
    timeline,
    section("page", "One page's story", detail),
    section("faults", "Waits", waited ? stageLegend(runs[0]) : null, make("div", { class: `runs${runs.length > 1 ? " two" : ""}` }, ...view.tables.map((each) => each.element)), stageTable(runs)),
    section("latency", "How long the waits were", distribution(runs), waited ? percentileTable(runs) : null),
    section("standstill", "Blackout and brownout", standstill(runs)),
    section("events", "Events", eventTable(runs, select)));
  document.body.append(tip);
  window.midstream = view;
  const along = link(lines, view.linked);
  let last = lines[0];
  for (const line of lines) {
    line.onmove = (moved) => { along(moved); changed(); };
    line.onpoint = (pointed) => { last = pointed; };
    line.oncursor = (us) => { for (const each of lines) if (each === line || view.linked()) each.drawCursor(us); };
  }
  listenToKeys(() => last, { "?": helpDialog(), Escape: clear });
  const again = () => lines.forEach((line) => line.soon());
  themeButton(again);
  onPrint((width) => lines.forEach((line) => { line.paperWidth = width; line.draw(); }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  lines.forEach((line) => line.draw());
  changed = keepAddress(view);
  for (const each of view.tables) each.onsort = changed;
}
