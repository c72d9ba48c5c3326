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
    ["to the end", (run) => `${sayTime((run.end - run.begin) * run.tick_us)} from ${run.since}`],
    ["downtime", sayDowntime],
    ...(runs.some((run) => run.guest_blackout_us !== null) ? [["downtime by the guest's clock", sayBlackout], ["longest stall by its clock", sayStall]] : []),
    ["page requests", (run) => sayCount(run.requests.count + run.left_out.requests)],
    ["preempted pages", (run) => sayKnown(run.preempted)],
    ["finished early on request", (run) => sayKnown(run.boosted)],
    ["waits", (run) => sayCount(run.wait_count)],
    ["median wait", (run) => (run.wait_count ? sayTime(run.percentiles_us.p50) : "none")],
    ["longest wait", (run) => (run.wait_count ? sayTime(run.percentiles_us.max) : "none")],
  ];
  return table("What was migrated, and what came of it", ["", ...runs.map((run) => run.name)], rows.map(([name, value]) => [name, ...runs.map(value)]));
}

// Of each run the verdict: how it ended, in a banner, and below it what it cost and what to try.
function verdicts(runs) {
  return make("div", { class: "verdicts" }, ...runs.map((run) => make("div", { class: `verdict ${run.tone}`, ...(run.tone === "bad" ? { role: "alert" } : {}) },
    runs.length > 1 ? make("h3", {}, run.name) : null,
    ...run.sentences.map(([kind, text]) => make("p", { class: kind }, text)))));
}

const sayKnown = (count) => (count === null ? "not recorded" : sayCount(count));
const sayDowntime = (run) => (run.downtime_us === null ? "not recorded" : sayTime(run.downtime_us));

const sayOwn = (us) => (us === null ? "the guest has none" : sayTime(us));
const sayBlackout = (run) => sayOwn(run.guest_blackout_us);
const sayStall = (run) => sayOwn(run.guest_stall_us);

function legend(runs) {
  const item = (style, words, name = "") => make("li", {}, make("i", { style, class: name }), words);
  return make("ul", { class: "legend" },
    ...BARS.filter((_, at) => at < 4 || runs.some((run) => run.sends.kind.some((bits) => barOf(bits) === at))).map((bar) => item({ backgroundColor: `var(${bar.colour})` }, bar.words, bar.pattern ?? "")),
    item({ background: "var(--cut)", width: ".2rem" }, "interrupted here (preempted)"),
    runs.some((run) => run.breaks.length) ? item({ outline: "1px solid var(--cut)" }, "no connection", "stage8") : null,
    item({ background: "var(--wait)", outline: "1px solid var(--waitedge)" }, "a vCPU waits, or a request"));
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
      line.why, line.canvas, line.note);
    return line.figure;
  };
  return [lines, make("section", { id: "timeline", "aria-labelledby": "h-timeline" },
    make("h2", { id: "h-timeline" }, "Pages over time"), legend(runs), ...lines.map(part),
    make("p", { class: "hint" }, "Drag to move; Ctrl and wheel zooms time, Shift and wheel zooms pages; a click on a page tells its story."))];
}

function begin() {
  const runs = JSON.parse(document.getElementById("data").textContent).runs.map(decodeRun);
  const detail = make("div", { class: "detail", "aria-live": "polite", id: "story" }, make("p", {}, "Choose a page: click it, find it by number, or choose one of the waits below."));
  let lines = [], tables = [];
  // Tells of a page, or of one wait for it (its number in the run), and shows it in its run's timeline.
  function select(run, block, page, zoom, wait = null) {
    detail.replaceChildren(...detailOf(run, block, page, wait));
    for (const line of lines) {
      if (line.run === run) line.choose(block, page, zoom, wait);
      else if (line.run.blocks[block]?.pages > page) line.choose(block, page, false);
      line.why.textContent = line.run === run && wait !== null ? whyOf(run, wait) : "";
    }
    for (const each of tables) each.choose(each.run === run ? { page: sayPage(run, block, page), wait } : null);
    if (zoom) lines.find((line) => line.run === run).figure.scrollIntoView({ block: "start" });
  }
  const section = (id, title, ...parts) => make("section", { id, "aria-labelledby": `h-${id}` }, make("h2", { id: `h-${id}` }, title), ...parts);
  let timeline;
  [lines, timeline] = timelineSection(runs, select);
  tables = waitTables(runs, select);
  document.getElementById("subtitle").textContent = runs.map((run) => `${run.name}: ${run.run.policy ?? "unknown policy"}, ${run.status}`).join("; ");
  document.getElementById("main").append(
    section("verdict", "Verdict", verdicts(runs)),
    section("summary", "Summary", summary(runs)),
    timeline,
    section("page", "One page's story", detail),
    section("faults", "Waits", stageLegend(runs[0]), make("div", { class: `runs${runs.length > 1 ? " two" : ""}` }, ...tables.map((each) => each.element))),
    section("latency", "How long the waits were", distribution(runs), percentileTable(runs)),
    section("standstill", "Blackout and brownout", standstill(runs)),
    section("events", "Events", eventTable(runs, select)));
  document.body.append(tip);
  window.midstream = { runs, lines, tables };
  const again = () => lines.forEach((line) => line.soon());
  themeButton(again);
  onPrint((width) => lines.forEach((line) => { line.paperWidth = width; line.draw(); }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  lines.forEach((line) => line.draw());
}
