// One run over time on a canvas: states, the page map, the channels, the vCPUs, who waits.

const LEFT = 106, RIGHT = 10, GAP = 16, LANE = 18;

const largestOf = (...columns) => columns.reduce((most, column) => column.reduce((one, other) => Math.max(one, other), most), 1);

class Timeline {
  constructor(run, select) {
    this.run = run;
    this.select = select;
    this.whole = [0, Math.max(run.end, 1)];
    const margin = (run.end - run.begin) * 0.02 + 1;
    this.migration = [Math.max(0, run.begin - margin), run.end + margin];
    this.x = [...this.migration];
    this.y = [0, Math.max(run.bytes, 1)];
    // Those that are drawn to one scale with this one.
    this.peers = [this];
    // What the curves are drawn against; several runs are given the same.
    this.scale = { missing: largestOf(run.missing.bytes, run.left.bytes) };
    this.chosen = null;
    this.paperWidth = null;
    this.canvas = make("canvas", {
      tabindex: "0", role: "img",
      "aria-label": `Page map, channels and waiting ${run.waiter}s of ${run.name} over time. `
        + "Arrow keys move, W and S zoom, 0 shows the whole migration, question mark tells more.",
    });
    // The cursor lies above, so that it moves without all below it being drawn anew.
    this.over = make("canvas", { class: "over", "aria-hidden": "true" });
    this.cursor = null;
    this.note = make("figcaption");
    this.why = make("p", { class: "why" });
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  layout() {
    const run = this.run;
    const vcpus = Math.min(run.vcpus, 24);
    const panels = [
      { name: "state", height: 2 * LANE },
      { name: "pages", height: 300 },
      { name: "channels", height: 2 * LANE + 4 },
      { name: "vcpus", height: Math.max(vcpus, 1) * (vcpus > 8 ? 10 : 14) },
      { name: "missing", height: 64 },
      { name: "waiting", height: 46 },
      { name: "rate", height: 64 },
    ];
    let top = 8;
    for (const panel of panels) { panel.top = top; top += panel.height + GAP; }
    this.panels = Object.fromEntries(panels.map((panel) => [panel.name, panel]));
    this.height = top + 34;
  }

  px(tick) { return LEFT + (tick - this.x[0]) / (this.x[1] - this.x[0]) * this.wide; }
  py(byte) {
    const panel = this.panels.pages;
    return panel.top + (byte - this.y[0]) / (this.y[1] - this.y[0]) * panel.height;
  }
  get leastTicks() { return 10 / this.run.tick_us; }
  us(tick) { return (tick - this.run.begin) * this.run.tick_us; }

  soon() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => { this.asked = false; this.draw(); });
  }

  draw() {
    this.layout();
    const canvas = this.canvas, ratio = window.devicePixelRatio || 1;
    const width = this.paperWidth ?? canvas.clientWidth;
    if (!width) return;
    this.wide = width - LEFT - RIGHT;
    canvas.style.height = `${this.height}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(this.height * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = "12px system-ui, sans-serif";
    this.colours = BARS.map((bar) => colour(bar.colour));
    this.manyCuts = this.cutsShown() > this.wide / 8;
    this.drawFrames(pen);
    this.drawAxis(pen);
    this.drawStates(pen);
    this.clip(pen, this.panels.pages, () => this.drawPages(pen));
    this.clip(pen, this.panels.channels, () => this.drawChannels(pen));
    this.clip(pen, this.panels.vcpus, () => this.drawVcpus(pen));
    this.drawMissing(pen);
    this.drawWaiting(pen);
    this.drawRates(pen);
    this.drawBlackout(pen);
    this.drawBreaks(pen);
    this.say();
    this.over.style.height = canvas.style.height;
    this.drawCursor(this.cursor);
  }

  // How many edges there would be to draw: very many would hide what they are edges of.
  cutsShown() {
    const { sends } = this.run;
    let count = 0;
    for (let i = 0; i < sends.count; i += 1) {
      if (endOf(sends.kind[i]) % 2 && sends.end[i] >= this.x[0] && sends.start[i] <= this.x[1]) count += 1;
    }
    return count;
  }

  clip(pen, panel, draw) {
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, panel.top, this.wide, panel.height);
    pen.clip();
    draw();
    pen.restore();
  }

  // Where a place on the canvas lies: the send or wait under it.
  find(x, y) {
    const tick = this.x[0] + (x - LEFT) / this.wide * (this.x[1] - this.x[0]);
    const near = 3 / this.wide * (this.x[1] - this.x[0]);
    const run = this.run, { pages, channels, vcpus } = this.panels;
    const inside = (panel) => y >= panel.top && y <= panel.top + panel.height;
    if (x < LEFT || x > LEFT + this.wide) return null;
    if (inside(vcpus)) {
      const vcpu = Math.floor((y - vcpus.top) / (vcpus.height / Math.max(run.vcpus, 1)));
      for (let i = 0; i < run.waits.count; i += 1) {
        if (run.waits.vcpu[i] === vcpu && run.waits.start[i] - near <= tick && tick <= this.wakeOf(i) + near) return { wait: i };
      }
      return null;
    }
    let best = null;
    if (!inside(pages) && !inside(channels)) return null;
    const byte = this.y[0] + (y - pages.top) / pages.height * (this.y[1] - this.y[0]);
    const row = 2.5 * (this.y[1] - this.y[0]) / pages.height;
    const channel = y > channels.top + LANE + 2 ? 1 : 0;
    for (let i = 0; i < run.sends.count; i += 1) {
      if (run.sends.start[i] - near > tick || run.sends.end[i] + near < tick) continue;
      const size = run.blocks[run.sends.block[i]].page_bytes;
      const base = run.bases[run.sends.block[i]] + run.sends.page[i] * size;
      const hit = inside(pages) ? base - row <= byte && byte <= base + run.sends.pages[i] * size + row : channelOf(run.sends.kind[i]) === channel;
      if (hit && (best === null || kindOf(run.sends.kind[i]) >= kindOf(run.sends.kind[best]))) best = i;
    }
    if (best !== null) return { send: best };
    return inside(pages) ? this.findWait(tick, byte, row) : null;
  }

  findWait(tick, byte, row) {
    const { waits, blocks, bases } = this.run;
    for (let i = 0; i < waits.count; i += 1) {
      const size = blocks[waits.block[i]].page_bytes;
      const base = bases[waits.block[i]] + waits.page[i] * size;
      if (waits.start[i] <= tick && tick <= this.wakeOf(i) && base - row <= byte && byte <= base + size + row) return { wait: i };
    }
    return null;
  }

  // Marks a page; zooms to what happened to it, or to one wait for it.
  choose(block, page, zoom, wait = null) {
    this.chosen = { block, page };
    const run = this.run, size = run.blocks[block].page_bytes;
    if (!zoom) {
      this.soon();
      return;
    }
    const [low, high] = wait === null ? this.spanOf(block, page) : [run.waits.start[wait], this.wakeOf(wait)];
    const room = (high - low) * 0.4 + 200 / run.tick_us;
    this.x = [low - room, high + room];
    const tall = Math.min(24 * size, run.bytes), middle = run.bases[block] + (page + 0.5) * size;
    this.y = [middle - tall / 2, middle + tall / 2];
    this.bound();
  }

  wakeOf(wait) {
    const tick = this.run.waits.wake[wait];
    return tick === NEVER ? this.run.end : tick;
  }

  // When the first and the last thing happened to a page; all that is shown, if nothing did.
  spanOf(block, page) {
    // What a vCPU waited for is looked at where it waited, not in the passes long before.
    const run = this.run, moments = momentsOf(run, block, page), since = run.postcopy ?? 0;
    const waited = moments.some((moment) => moment.kind === "wait");
    const ticks = moments.map((moment) => moment.tick).filter((tick) => !waited || tick >= since);
    return ticks.length ? [ticks[0], ticks.at(-1)] : this.x;
  }

  zoom(factor, centre = null, vertical = false) {
    const axis = vertical ? this.y : this.x;
    const at = centre ?? (axis[0] + axis[1]) / 2;
    const least = vertical ? 4096 : this.leastTicks;
    if ((axis[1] - axis[0]) * factor < least && factor < 1) return;
    axis[0] = at - (at - axis[0]) * factor;
    axis[1] = at + (axis[1] - at) * factor;
    this.bound();
  }

  move(dx, dy) {
    const [wide, tall] = [this.x[1] - this.x[0], this.y[1] - this.y[0]];
    this.x = this.x.map((value) => value + dx * wide);
    this.y = this.y.map((value) => value + dy * tall);
    this.bound();
  }

  bound() {
    // Of several runs the longest says how far it goes.
    const end = Math.max(this.run.end * 1.05 + 10, this.migration[1]);
    const wide = Math.min(this.x[1] - this.x[0], end), tall = Math.min(this.y[1] - this.y[0], this.run.bytes || 1);
    const left = Math.min(Math.max(this.x[0], 0), end - wide), top = Math.min(Math.max(this.y[0], 0), (this.run.bytes || 1) - tall);
    this.x = [left, left + wide];
    this.y = [top, top + tall];
    this.moved();
  }

  show(range) { this.x = [...range]; this.y = [0, Math.max(this.run.bytes, 1)]; this.moved(); }

  // Something else is shown now: whoever goes along with it is told.
  moved() {
    this.soon();
    this.onmove?.(this);
  }

  // Shows the time that another timeline shows, and the same memory where there is as much.
  follow(other) {
    this.x = other.x.map((tick) => other.us(tick) / this.run.tick_us + this.run.begin);
    if (this.run.bytes === other.run.bytes) this.y = [...other.y];
    this.soon();
  }
}
