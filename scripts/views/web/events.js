// What happened, as a table that can be filtered.

const ROWS = 100;

function rowsOf(run) {
  const rows = [];
  const add = (tick, side, what, block, page, words, wait = null) => rows.push({ run, tick, side, what, block, page, words, wait });
  const { sends, waits, requests } = run;
  for (let i = 0; i < sends.count; i += 1) {
    const what = run.ends[endOf(sends.kind[i])];
    const pages = sends.pages[i] > 1 ? `${sends.pages[i]} pages, ` : "";
    add(sends.end[i], "source", what, sends.block[i], sends.page[i], `${pages}${BARS[barOf(sends.kind[i])].words}, in ${sayTime((sends.end[i] - sends.start[i]) * run.tick_us)}${sends.bytes[i] ? `, ${sayBytes(sends.bytes[i])}` : ""}`);
  }
  for (let i = 0; i < waits.count; i += 1) {
    add(waits.start[i], "dest", run.waiter === "request" ? "request" : "vcpu-wait", waits.block[i], waits.page[i], `${run.waiter} ${waits.vcpu[i]} ${run.waiter === "request" ? "passes" : "touches the page"}`, i);
    if (waits.wake[i] !== NEVER) add(waits.wake[i], "dest", run.waiter === "request" ? "request-served" : "vcpu-wake", waits.block[i], waits.page[i], `${run.waiter} ${waits.vcpu[i]} ${run.waiter === "request" ? "is served" : "runs again"} after ${sayTime(waits.latency[i])}`, i);
  }
  for (let i = 0; i < requests.count; i += 1) {
    add(requests.asked[i], "dest", "page-request", requests.block[i], requests.page[i], "asked for");
    if (requests.came[i] !== NEVER) add(requests.came[i], "source", "page-request", requests.block[i], requests.page[i], requests.answers[requests.answer[i]]);
  }
  for (const [tick, side, event, fields] of run.notes) {
    if (event === "preempt") continue;
    const words = Object.entries(fields).filter(([name]) => name !== "block" && name !== "page").map(([name, value]) => `${name} ${value}`).join(", ");
    add(tick, side, event, fields.block ?? null, fields.page ?? null, words);
  }
  return rows;
}

function eventTable(runs, select) {
  const at_us = (row) => (row.tick - row.run.begin) * row.run.tick_us;
  const all = runs.flatMap(rowsOf).sort((one, other) => at_us(one) - at_us(other));
  const kinds = [...new Set(all.map((row) => row.what))].sort();
  const text = make("input", { type: "search", id: "words", placeholder: "words", "aria-describedby": "found" });
  const page = make("input", { type: "search", id: "pagefilter", placeholder: "number", inputmode: "numeric" });
  const kind = make("select", { id: "kind" }, make("option", { value: "" }, "all"), ...kinds.map((name) => make("option", { value: name }, name)));
  const urgent = make("input", { type: "checkbox", id: "nobackground", style: { width: "auto", minHeight: "0" } });
  const body = make("tbody"), found = make("p", { class: "hint", id: "found", role: "status" });
  let at = 0, hits = all;
  const several = runs.length > 1;

  function filter() {
    const words = text.value.trim().toLowerCase(), wanted = page.value.trim();
    hits = all.filter((row) => (!kind.value || row.what === kind.value)
      && (!wanted || (row.page !== null && (String(row.page) === wanted || sayPage(row.run, row.block, row.page) === wanted)))
      && (!urgent.checked || !row.words.includes("background"))
      && (!words || `${row.side} ${row.what} ${row.words} ${row.run.name}`.toLowerCase().includes(words)));
    at = 0;
    show();
  }
  function show() {
    body.replaceChildren(...hits.slice(at, at + ROWS).map((row) => make("tr", {},
      ...(several ? [make("td", {}, row.run.name)] : []),
      make("td", { class: "n" }, sayMoment(at_us(row))),
      make("td", {}, row.side === "dest" ? "destination" : row.side),
      make("td", {}, row.what),
      make("td", { class: "n" }, row.page === null ? "" : make("button", { type: "button", style: { minHeight: "0", padding: "0 .4rem" }, onclick: () => select(row.run, row.block, row.page, true, row.wait) }, sayPage(row.run, row.block, row.page))),
      make("td", {}, row.words))));
    const last = Math.min(at + ROWS, hits.length);
    found.textContent = hits.length ? `Rows ${sayCount(at + 1)} to ${sayCount(last)} of ${sayCount(hits.length)}${hits.length < all.length ? `, of ${sayCount(all.length)} in all` : ""}` : "Nothing fits the filter.";
    before.disabled = at === 0;
    after.disabled = last >= hits.length;
  }
  const before = make("button", { type: "button", onclick: () => { at = Math.max(0, at - ROWS); show(); } }, "earlier");
  const after = make("button", { type: "button", onclick: () => { at += ROWS; show(); } }, "later");
  for (const field of [text, page, kind, urgent]) field.addEventListener("input", filter);
  filter();
  const label = (words, field) => make("label", {}, words, field);
  return make("div", {},
    make("div", { class: "bar" }, label("event", kind), label("page", page), label("text", text), label("without background", urgent), before, after,
      copyButton(() => csvOf(["run", "time_us", "side", "event", "block", "page", "what"], hits.map((row) => [row.run.name, (at_us(row)).toFixed(3), row.side, row.what, row.block === null ? "" : row.run.blocks[row.block]?.name ?? row.block, row.page ?? "", row.words])))),
    found,
    make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Events" }, make("table", {},
      make("caption", {}, "Events in the order of time; a page's number shows it in the timeline"),
      make("thead", {}, make("tr", {}, ...[...(several ? ["run"] : []), `ms since ${runs[0].since}`, "side", "event", "page", "what"].map((name) => make("th", { scope: "col", ...(name === "page" || name.startsWith("ms ") ? { class: "n" } : {}) }, name)))),
      body)));
}
