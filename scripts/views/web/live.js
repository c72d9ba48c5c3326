// Shows the present of a run: a snapshot first, then what changes.

const STATUS = [
  { name: "missing", colour: "--lane" }, { name: "here", colour: "--background" },
  { name: "arriving", colour: "--other" }, { name: "preempted", colour: "--inplace" },
  { name: "requested", colour: "--urgent" }, { name: "partly here", colour: "--background" },
];
const MISSING = 0, HERE = 1, PARTLY = 5;

const view = { frame: null, over: false };

function decodeCells(text) { return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)); }

function takeWhole(frame) {
  for (const block of frame.blocks) block.cells = decodeCells(block.cells);
  view.frame = frame;
}

function takeChanges(changed) {
  const frame = view.frame;
  if (!frame) return;
  for (const [name, value] of Object.entries(changed)) {
    if (name === "blocks") value.forEach(takeBlock);
    else if (name === "samples") frame.samples = [...frame.samples, ...value].slice(-240);
    else frame[name] = value;
  }
}

function takeBlock(block) {
  const { index, cells, ...rest } = block;
  const mine = (view.frame.blocks[index] ??= {});
  Object.assign(mine, rest);
  if (typeof cells === "string") mine.cells = decodeCells(cells);
  else for (const [at, status] of cells) mine.cells[at] = status;
}

const map = make("canvas", { role: "img", id: "map", "aria-label": "Page map: each cell is one page or several, its colour what they are" });
const chart = make("canvas", { role: "img", id: "rates", "aria-label": "Rates of both channels and the number of waiting vCPUs over the last moments" });
let paperWidth = null;
const mapNote = make("figcaption"), figures = make("div"), waiters = make("div"), bar = make("progress", { max: "1", value: "0", "aria-label": "how far the migration is" });

function paper(canvas, height) {
  const ratio = window.devicePixelRatio || 1, width = paperWidth ?? canvas.clientWidth;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = "12px system-ui, sans-serif";
  return [pen, width];
}

function drawMap(frame) {
  const width = paperWidth ?? map.clientWidth, count = frame.blocks.reduce((sum, block) => sum + block.cells.length, 0);
  if (!width || !count) return;
  const side = Math.max(4, Math.min(22, Math.floor(Math.sqrt(width * 300 / count))));
  const wide = Math.max(1, Math.floor(width / side));
  const several = frame.blocks.length > 1;
  const rows = frame.blocks.map((block) => Math.ceil(block.cells.length / wide));
  const [pen] = paper(map, rows.reduce((sum, each) => sum + each * side + (several ? 18 : 0), 0) + 2);
  const colours = STATUS.map((status) => colour(status.colour));
  let top = 1;
  frame.blocks.forEach((block, index) => {
    if (several) {
      pen.fillStyle = colour("--soft");
      pen.fillText(block.name, 2, top + 12);
      top += 18;
    }
    block.cells.forEach((status, at) => {
      const left = (at % wide) * side, y = top + Math.floor(at / wide) * side, half = Math.floor((side - 1) / 2);
      pen.fillStyle = colours[status === PARTLY ? MISSING : status];
      pen.fillRect(left, y, side - 1, side - 1);
      // A part of it is here, and of the cell, whatever the colours are.
      if (status === PARTLY) {
        pen.fillStyle = colours[HERE];
        pen.fillRect(left, y + half, side - 1, side - 1 - half);
      }
      // Told apart without colours, too: a dot for what is asked for, a bar for what was broken off.
      if (status === 4 || status === 3) {
        pen.fillStyle = "#101214";
        if (status === 4) pen.fillRect(left + side / 3, y + side / 3, side / 3, side / 3);
        else pen.fillRect(left + side / 2 - 1, y, 2, side - 1);
      }
    });
    top += rows[index] * side;
  });
  mapNote.textContent = frame.blocks.map((block) => {
    const each = block.pages / block.cells.length;
    return `${block.name}: 1 cell = ${each === 1 ? "1 page" : `${sayDigits(each)} pages`} of ${sayBytes(block.page_bytes)}`;
  }).join("; ") + (frame.knows_pages ? "" : ". Nothing is known of single pages yet.");
}

function drawChart(frame) {
  const [pen, width] = paper(chart, 130), samples = frame.samples;
  const left = 70, tall = 100, wide = width - left - 8;
  pen.fillStyle = colour("--lane");
  pen.fillRect(left, 6, wide, tall);
  if (samples.length < 2) return;
  const first = samples[0][0], last = Math.max(samples.at(-1)[0], first + 1);
  const most = Math.max(1, ...samples.map((sample) => Math.max(sample[1], sample[2])));
  const x = (ms) => left + (ms - first) / (last - first) * wide;
  const vcpus = Math.max(frame.vcpus, 1);
  pen.fillStyle = colour("--wait");
  samples.forEach((sample, at) => {
    const next = samples[at + 1]?.[0] ?? sample[0];
    const high = sample[3] / vcpus * tall;
    pen.fillRect(x(sample[0]), 6 + tall - high, Math.max(x(next) - x(sample[0]), 1), high);
  });
  // Seen on the waits' yellow, too, and in grey: as on the page of a whole run.
  [[1, []], [2, [5, 3]]].forEach(([part, dash]) => {
    pen.beginPath();
    for (const sample of samples) pen.lineTo(x(sample[0]), 6 + tall - sample[part] / most * (tall - 4));
    pen.strokeStyle = colour("--ink");
    pen.lineWidth = 2;
    pen.setLineDash(dash);
    pen.stroke();
    pen.setLineDash([]);
  });
  pen.fillStyle = colour("--soft");
  pen.textAlign = "right";
  if (most > 1) pen.fillText(sayRate(most), left - 6, 16);
  pen.fillText("0", left - 6, 6 + tall);
  pen.textAlign = "center";
  if (last - first > 1) pen.fillText(`${first > 0 ? sayTime(first * 1000) : "0"} to ${sayTime(last * 1000)} since the first page`, left + wide / 2, tall + 24);
}

function drawWords(frame) {
  const waits = frame.waits;
  document.getElementById("subtitle").textContent = [
    frame.phase, frame.elapsed_ms === null ? "" : frame.percent, frame.left, frame.policy,
    frame.downtime_ms === null ? "" : `downtime ${sayTime(frame.downtime_ms * 1000)}`,
    frame.elapsed_ms === null ? "" : sayTime(frame.elapsed_ms * 1000), frame.remaining_bytes === null || frame.elapsed_ms === null ? "" : `${sayBytes(frame.remaining_bytes)} left to send`,
    view.over ? "the run is over" : "",
  ].filter(Boolean).join(", ");
  bar.value = frame.done;
  figures.replaceChildren(
    table("Channels", ["channel", "rate", "carried"], Object.keys(frame.rates).map((name) => [name, ...(frame.knows_rates ? [sayRate(frame.rates[name]), sayBytes(frame.carried[name])] : ["not recorded", "not recorded"])])),
    table("Waits that ended", ["waits", "p50", "p90", "p99", "longest", "requests", "interrupted half-sent", "finished early on request"],
      [[sayCount(waits.count), ...["p50", "p90", "p99", "max"].map((name) => (waits.count ? sayTime(waits[`${name}_us`]) : "none")), sayCount(frame.requests), sayCount(frame.preempted), sayCount(frame.boosted)]]));
  waiters.replaceChildren(frame.waiters.length
    ? table("Longest first", ["vCPU", "page", "for"], frame.waiters.map(([vcpu, block, page, ms]) => [vcpu, frame.blocks.length > 1 ? `${block}:${page}` : page, sayTime(ms * 1000)]))
    : make("p", { class: "hint" }, frame.knows_waits ? "No vCPU waits." : "Only the destination knows which vCPUs wait."));
}

// Where the server stays, it has the whole run in the place of this page a moment after the end.
async function offerWhole() {
  for (let tries = 0; tries < 40; tries += 1) {
    await new Promise((resolve) => { setTimeout(resolve, 500); });
    const answer = await fetch("/", { cache: "no-store" }).catch(() => null);
    if (answer?.ok && (await answer.text()).includes('id="data"')) {
      document.querySelector("header").append(make("a", { href: "/", id: "whole" }, "the whole run"));
      return;
    }
  }
}

let asked = false;
function draw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    if (!view.frame) return;
    drawWords(view.frame);
    drawMap(view.frame);
    drawChart(view.frame);
  });
}

function begin() {
  const item = (style, words) => make("li", {}, make("i", { style }), words);
  const rateOf = (line) => ({ height: "0", width: "1.6rem", borderTop: `2px ${line} var(--ink)`, borderRadius: "0", verticalAlign: "middle" });
  const section = (id, title, ...parts) => make("section", { id: `s-${id}`, "aria-labelledby": `h-${id}` }, make("h2", { id: `h-${id}` }, title), ...parts);
  document.getElementById("main").append(
    bar,
    section("map", "Pages", make("ul", { class: "legend" }, ...STATUS.map((status, at) => item({ background: at === PARTLY ? `linear-gradient(var(--lane) 50%, var(${status.colour}) 50%)` : `var(${status.colour})`, outline: "1px solid var(--line)" }, status.name))), make("figure", {}, map, mapNote)),
    section("rates", "Channels and waiting vCPUs", make("ul", { class: "legend" }, item(rateOf("solid"), "precopy channel"), item(rateOf("dashed"), "postcopy channel"), item({ background: "var(--wait)" }, "waiting vCPUs (full height: all of them)")), make("figure", {}, chart), figures),
    section("waiters", "Waiting vCPUs", waiters));
  const source = new EventSource("/events");
  source.addEventListener("whole", (event) => { takeWhole(JSON.parse(event.data)); draw(); });
  source.addEventListener("changes", (event) => { takeChanges(JSON.parse(event.data)); draw(); });
  source.addEventListener("end", (event) => {
    view.over = true;
    source.close();
    draw();
    if (JSON.parse(event.data).stays) offerWhole();
  });
  source.addEventListener("error", () => {
    if (!view.over) document.getElementById("subtitle").textContent = "the connection is lost; trying again";
  });
  themeButton(draw);
  onPrint((width) => { paperWidth = width; if (view.frame) { drawMap(view.frame); drawChart(view.frame); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  window.addEventListener("resize", draw);
  window.midstream = view;
}
