// The waits as a table: sorted by any column, some rows at a time, each with its stages as a bar.

const WAIT_ROWS = 30;

const WAIT_COLUMNS = [
  { name: "page", numeric: true, of: (run, i) => run.bases[run.waits.block[i]] + run.waits.page[i] * run.blocks[run.waits.block[i]].page_bytes },
  { name: "vCPU", numeric: true, of: (run, i) => run.waits.vcpu[i] },
  { name: "at, ms", numeric: true, of: (run, i) => run.waits.start[i] },
  { name: "answer", numeric: false, of: (run, i) => run.waits.answers[i] },
  { name: "stages", numeric: false, of: null },
  { name: "wait", numeric: true, of: (run, i) => run.waits.latency[i] },
];

class WaitTable {
  // `most` is how many microseconds a whole bar is: the same for all runs of a page; `ticks` how many
  // times its axis may name.
  constructor(run, number, most, ticks, select) {
    Object.assign(this, { run, number, most, ticks, select, at: 0, key: "wait", down: true, chosen: null });
    this.order = Array.from({ length: run.waits.count }, (_, index) => index);
    this.body = make("tbody");
    this.found = make("span", { class: "hint", role: "status" });
    this.heads = WAIT_COLUMNS.map((column) => this.head(column));
    this.earlier = make("button", { type: "button", onclick: () => this.page(this.at - WAIT_ROWS) }, "previous");
    this.later = make("button", { type: "button", onclick: () => this.page(this.at + WAIT_ROWS) }, "next");
    this.element = this.build();
    this.sort("wait", true);
  }

  head(column) {
    const name = column.name === "vCPU" ? this.run.waiter : column.name;
    const words = column.of ? make("button", { type: "button", class: "sort", onclick: () => this.sort(column.name) }, name) : name;
    return make("th", { scope: "col", class: `${column.numeric ? "n " : ""}${column.of ? "" : "wide"}`, "data-name": column.of ? name : "" }, words);
  }

  build() {
    const { run } = this;
    if (!this.order.length) return make("div", {}, make("h3", {}, run.name), make("p", {}, `No ${run.waiter} waited for a page.`));
    // Round times, and no more of them than have room beside another run's.
    const axis = niceSteps(0, this.most, this.ticks).map((us) => make("span", { style: { left: `${us / this.most * 100}%`, transform: `translateX(-${us / this.most * 100}%)` } }, us ? sayTime(us) : "0"));
    return make("div", {},
      make("h3", {}, run.name),
      make("div", { class: "scroll" }, make("table", { class: "waittable" },
        make("caption", {}, run.waiter === "request" ? "Requests, from each one's passing to its page's last byte" : "Waits; choose one to read why it was so long"),
        make("thead", {}, make("tr", {}, ...this.heads)),
        this.body,
        make("tfoot", { "aria-hidden": "true" }, make("tr", {}, make("td", { colspan: "4" }, ""), make("td", { class: "axis" }, make("div", {}, ...axis)), make("td"))))),
      make("div", { class: "bar" }, this.earlier, this.later, copyButton(() => waitsCsv(this.run, this.order)), this.found));
  }

  // Sorts by a column: the other way round if it already was.
  sort(name, down = null) {
    const column = WAIT_COLUMNS.find((each) => each.name === name && each.of);
    if (!column) return;
    this.down = down ?? (this.key === name ? !this.down : name === "wait");
    this.key = name;
    const values = this.order.map((_, i) => column.of(this.run, i)), sign = this.down ? -1 : 1;
    this.order.sort((one, other) => sign * (values[one] < values[other] ? -1 : values[one] > values[other] ? 1 : 0) || one - other);
    this.heads.forEach((head, at) => {
      if (WAIT_COLUMNS[at].name === name) head.setAttribute("aria-sort", this.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    this.page(0);
    this.onsort?.();
  }

  page(at) {
    this.at = Math.max(0, Math.min(at, Math.floor(Math.max(this.order.length - 1, 0) / WAIT_ROWS) * WAIT_ROWS));
    const last = Math.min(this.at + WAIT_ROWS, this.order.length);
    this.body.replaceChildren(...this.order.slice(this.at, last).map((i) => this.row(i)));
    this.earlier.disabled = this.at === 0;
    this.later.disabled = last >= this.order.length;
    const left = this.run.left_out.waits ? `; ${sayCount(this.run.left_out.waits)} shorter ones are left out` : "";
    this.found.textContent = `${sayCount(this.at + 1)} to ${sayCount(last)} of ${sayMany(this.order.length, "wait")}${left}`;
    this.press();
  }

  row(i) {
    const { run } = this, { waits } = run;
    const page = sayPage(run, waits.block[i], waits.page[i]), words = describeWait(run, i);
    const chosen = () => this.select(run, waits.block[i], waits.page[i], true, i);
    const button = make("button", {
      type: "button", class: "fall", "data-run": this.number, "data-wait": i, "data-page": page, "aria-label": words.replaceAll("\n", ", "),
      onfocus: (event) => { const box = event.target.getBoundingClientRect(); if (event.target.matches(":focus-visible")) showTip(words, box.left + 200, box.bottom - 10); },
      onblur: () => showTip(""),
    }, page);
    return make("tr", {
      onclick: chosen,
      onpointermove: (event) => showTip(words, event.clientX, event.clientY),
      onpointerleave: () => showTip(""),
    },
      make("td", { class: "n" }, button), make("td", { class: "n" }, String(waits.vcpu[i])),
      make("td", { class: "n" }, sayMoment((waits.start[i] - run.begin) * run.tick_us)), make("td", {}, waits.answers[i] || "not recorded"),
      make("td", { class: "wide" }, this.bar(i)), make("td", { class: "n" }, sayTime(waits.latency[i])));
  }

  bar(i) {
    let left = 0;
    const told = partsOf(this.run, i) ?? [[null, this.run.waits.latency[i]]];
    return make("span", { class: "lane" }, ...told.map(([at, value]) => {
      const part = make("i", { class: at === null ? "untold" : `stage${at}`, style: { left: `${left / this.most * 100}%`, width: `${value / this.most * 100}%` } });
      left += value;
      return part;
    }));
  }

  // Marks a page's waits, or one of them, which is then among the rows shown.
  choose(chosen) {
    this.chosen = chosen;
    if (chosen && chosen.wait !== null) {
      const row = this.order.indexOf(chosen.wait);
      if (row < this.at || row >= this.at + WAIT_ROWS) { this.page(row - row % WAIT_ROWS); return; }
    }
    this.press();
  }

  press() {
    for (const button of this.body.querySelectorAll(".fall")) {
      const is = this.chosen !== null && (this.chosen.wait === null ? button.dataset.page === this.chosen.page : button.dataset.wait === String(this.chosen.wait));
      button.setAttribute("aria-pressed", String(is));
    }
  }
}

function waitTables(runs, select) {
  const most = Math.max(1, ...runs.map((run) => (run.waits.count ? run.waits.latency.reduce((one, other) => Math.max(one, other), 0) : 0)));
  return runs.map((run, number) => new WaitTable(run, number, most, runs.length > 1 ? 2 : 4, select));
}

function stageLegend(run) {
  return make("ul", { class: "legend" }, ...run.stages.map((stage, at) => make("li", {}, make("i", { class: `stage${at}` }), `${stage}: ${run.stage_words[at]}`)));
}
