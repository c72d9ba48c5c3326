// Reads what the page carries, and says numbers as people do.

const NEVER = 0xffffffff;

function column(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Kind(bytes.buffer);
}

function decodeRun(plain) {
  const run = { ...plain };
  const columns = (part, kinds) => {
    const decoded = { ...part };
    for (const [name, Kind] of Object.entries(kinds)) decoded[name] = column(part[name], Kind);
    return decoded;
  };
  const place = { block: Uint8Array, page: Float64Array };
  run.sends = columns(plain.sends, {
    ...place, start: Uint32Array, end: Uint32Array, pages: Uint32Array, kind: Uint8Array,
    bytes: Float32Array, urgent: Uint32Array,
  });
  run.waits = columns(plain.waits, {
    ...place, start: Uint32Array, wake: Uint32Array, vcpu: Uint8Array, latency: Float32Array,
    stages: Float32Array, send: Uint32Array,
  });
  run.requests = columns(plain.requests, { ...place, asked: Uint32Array, came: Uint32Array });
  run.placed = columns(plain.placed, { ...place, time: Uint32Array, pages: Uint32Array });
  for (const name of ["missing", "left"]) run[name] = columns(plain[name], { time: Uint32Array, bytes: Float64Array });
  let base = 0;
  run.bases = run.blocks.map((block) => {
    const mine = base;
    base += block.pages * block.page_bytes;
    return mine;
  });
  run.bytes = base;
  return run;
}

// A send's kind column holds three things.
const kindOf = (bits) => bits & 3;
const channelOf = (bits) => (bits >> 2) & 1;
const endOf = (bits) => bits >> 3;

// How a send is drawn: by urgency and channel together.  What a colour tells a pattern or its lightness
// tells too.
const BARS = [
  { name: "background", colour: "--background", pattern: null, words: "background, precopy channel" },
  { name: "urgent", colour: "--urgent", pattern: null, words: "sent on request, postcopy channel" },
  { name: "boosted", colour: "--boosted", pattern: "hatch", words: "rest of a half-sent page, sent on request, precopy channel" },
  { name: "in place", colour: "--inplace", pattern: "dots", words: "sent on request, precopy channel" },
  { name: "other", colour: "--other", pattern: "lines", words: "background, postcopy channel" },
];
function barOf(bits) {
  const [kind, channel] = [kindOf(bits), channelOf(bits)];
  if (kind === 2) return channel === 0 ? 2 : 1;
  if (kind === 1) return channel === 0 ? 3 : 1;
  return channel === 0 ? 0 : 4;
}

// Three digits, or all that stand before the point; no zeros at the end, never an exponent.
const threeDigits = (value) => (Math.abs(value) >= 99.95 ? value.toFixed(0) : String(Number(value.toPrecision(3))));
// A time as everywhere (time_us in scripts/screen/words.py): 17.9 s, 43 ms, 280 us.
const UNITS_US = [[999.5, "us", 1], [999.5e3, "ms", 1e3], [59.95e6, "s", 1e6], [3597e6, "min", 60e6], [Infinity, "h", 3600e6]];
function sayTime(us) {
  if (!isFinite(us)) return "?";
  const size = Math.abs(us), [, unit, scale] = UNITS_US.find(([limit]) => size < limit);
  return `${threeDigits(size < 1 ? Number(us.toFixed(3)) : us / scale)} ${unit}`;
}
// A moment, all alike in a column: milliseconds, to the microsecond.
const sayMoment = (us) => {
  const [whole, rest] = (Math.abs(us) / 1e3).toFixed(3).split(".");
  return `${us < 0 && (whole !== "0" || rest !== "000") ? "-" : ""}${sayCount(whole)}.${rest}`;
};
// Sizes and rates, too, are said as in reports (protocol/units.py).
function sayBytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${Number(count.toPrecision(4))} ${units[unit]}`;
}
function sayRate(bytes) {
  const units = ["B/s", "kB/s", "MB/s"];
  for (const unit of units) {
    if (bytes < 999.5) return `${Number(bytes.toPrecision(3))} ${unit}`;
    bytes /= 1000;
  }
  return `${Number(bytes.toPrecision(4))} GB/s`;
}
// A number and its unit stay on one line.
const keepUnits = (text) => text.replace(/(\d) (?=(?:us|ms|s|min|h|%|B|[KMGT]iB|[kMG]?B\/s|vCPUs?)\b|%)/g, "$1\u00a0");
const sayDigits = (value) => (value < 100 ? +value.toPrecision(2) : sayCount(Math.round(value)));
// Of what is not all or nothing neither is said.
const sayShare = (share) => (share > 0 && share < 0.01 ? "under 1 %" : share >= 0.995 && share < 1 ? "over 99 %" : `${Math.round(share * 100)} %`);
const sayMany = (count, one, many = `${one}s`) => `${sayCount(count)} ${count === 1 ? one : many}`;
const sayCount = (count) => String(count).replace(/\B(?=(\d{3})+(?!\d))/g, ",");

function sayPage(run, block, page) {
  return run.blocks.length > 1 ? `${run.blocks[block].name}:${page}` : String(page);
}

// Makes an element; texts are texts, never markup.
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "g", "rect", "title"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function table(caption, head, rows) {
  const cell = (tag, value, index) => make(tag, { ...(index ? { class: "n" } : {}), ...(tag === "th" ? { scope: index < 0 ? "row" : "col" } : {}) }, String(value));
  return make("div", { class: "scroll" }, make("table", {},
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...head.map((value, index) => cell("th", value, index)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {},
      make("th", { scope: "row" }, String(row[0])),
      ...row.slice(1).map((value) => cell("td", value, 1)))))));
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function niceSteps(low, high, about) {
  const raw = (high - low) / Math.max(about, 1);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= raw);
  const steps = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) steps.push(value);
  return steps;
}

const tip = make("div", { id: "tip", role: "status" });
function showTip(text, x, y) {
  tip.textContent = text;
  tip.style.display = text ? "block" : "none";
  if (!text) return;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 6))}px`;
  tip.style.top = `${y + 16 + box.height > innerHeight ? y - box.height - 10 : y + 16}px`;
}
