// What is shown, in the address behind its #, so that it can be kept, passed on and gone back to.
//
//   t=FROM,TO    the time that is shown, in microseconds since the first page; t1= that of the second run alone
//   y=FROM,TO    the memory that is shown, in bytes
//   run=, page=BLOCK:PAGE or wait=NUMBER    what is chosen
//   sort=COLUMN,down    the order of the waits

function addressOf(view) {
  const parts = [], [first] = view.lines;
  const span = (line) => line.x.map((tick) => Math.round(line.us(tick))).join(",");
  const alike = view.lines.every((line) => span(line) === span(first));
  (alike ? [first] : view.lines).forEach((line, number) => {
    if (line.x.some((tick, at) => tick !== line.migration[at])) parts.push(`t${number || ""}=${span(line)}`);
  });
  if (first.y[0] > 0 || first.y[1] < Math.max(first.run.bytes, 1)) parts.push(`y=${first.y.map(Math.round).join(",")}`);
  if (view.chosen) {
    const { run, block, page, wait } = view.chosen;
    if (view.runs.length > 1) parts.push(`run=${view.runs.indexOf(run)}`);
    parts.push(wait === null ? `page=${block}:${page}` : `wait=${wait}`);
  }
  const [table] = view.tables;
  if (table.key !== "wait" || !table.down) parts.push(`sort=${encodeURIComponent(table.key)},${table.down ? "down" : "up"}`);
  return parts.join("&");
}

// Shows what an address says; what it does not say, or says wrong, is as it is in the beginning.
function showAddress(view, text) {
  const told = new Map(text.split("&").map((part) => part.split("=", 2)));
  const pair = (name) => {
    const values = (told.get(name) ?? "").split(",").map(Number);
    return values.length === 2 && values.every(Number.isFinite) && values[0] < values[1] ? values : null;
  };
  const [key, way] = decodeURIComponent(told.get("sort") ?? "wait,down").split(",");
  view.tables.forEach((table) => table.sort(key, way === "down"));
  view.clear();
  const run = view.runs[Number(told.get("run") ?? 0)];
  if (run && told.has("wait")) {
    const wait = Number(told.get("wait"));
    if (Number.isInteger(wait) && wait >= 0 && wait < run.waits.count) view.select(run, run.waits.block[wait], run.waits.page[wait], false, wait);
  } else if (run && told.has("page")) {
    const [block, page] = told.get("page").split(":").map(Number);
    if (run.blocks[block]?.pages > page && page >= 0) view.select(run, block, page, false);
  }
  view.lines.forEach((line, number) => {
    const span = pair(`t${number || ""}`) ?? (view.linked() ? pair("t") : null);
    line.x = span ? span.map((us) => us / line.run.tick_us + line.run.begin) : [...line.migration];
    line.y = pair("y") ?? [0, Math.max(line.run.bytes, 1)];
    line.soon();
  });
}

// Keeps the address and what is shown alike; returns what is to be called when it changed.
function keepAddress(view) {
  let written = "", timer = null;
  const write = () => {
    timer = null;
    const text = addressOf(view);
    if (text === written) return;
    written = text;
    // A step of its own for each move would fill the browser's history.
    try { history.replaceState(null, "", `#${text}`); } catch { location.replace(`#${text}`); }
  };
  const read = () => {
    const text = location.hash.slice(1);
    if (text === written) return;
    written = text;
    showAddress(view, text);
  };
  window.addEventListener("hashchange", read);
  if (location.hash.length > 1) read();
  return () => { if (timer === null) timer = setTimeout(write, 150); };
}
