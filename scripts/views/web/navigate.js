// Moving about in a timeline: drag and keys zoom and move, and a cursor runs through all panels.

// How far a drag is no click any more, in pixels.
const DRAG_PX = 4;

Object.assign(Timeline.prototype, {
  tickAt(x) { return this.x[0] + (x - LEFT) / this.wide * (this.x[1] - this.x[0]); },

  listen() {
    const canvas = this.canvas;
    let drag = null;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("wheel", (event) => this.turn(event, place(event)), { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      const [x, y] = place(event);
      drag = { from: x, x, y, moved: false, moves: event.shiftKey };
      canvas.setPointerCapture?.(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = place(event);
      this.onpoint?.(this);
      if (!drag) { this.point(event, x, y); return; }
      if (!drag.moved && Math.hypot(x - drag.from, y - drag.y) <= DRAG_PX) return;
      drag.moved = true;
      showTip("");
      if (drag.moves) {
        this.move(-(x - drag.x) / this.wide, -(y - drag.y) / this.panels.pages.height);
        [drag.x, drag.y] = [x, y];
      } else this.drawCursor(this.us(this.tickAt(x)), [drag.from, x]);
    });
    canvas.addEventListener("pointerleave", () => { if (!drag) { this.oncursor?.(null); showTip(""); } });
    canvas.addEventListener("pointercancel", () => { drag = null; this.oncursor?.(null); });
    canvas.addEventListener("pointerup", (event) => {
      const [x, y] = place(event), was = drag;
      drag = null;
      if (!was) return;
      if (!was.moved) { this.choosePlace(x, y); return; }
      if (was.moves) return;
      const [low, high] = [was.from, x].map((at) => this.tickAt(Math.min(Math.max(at, LEFT), LEFT + this.wide))).sort((one, other) => one - other);
      if (high - low >= this.leastTicks) { this.x = [low, high]; this.bound(); }
      this.oncursor?.(null);
    });
    canvas.addEventListener("dblclick", () => this.show(this.migration));
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const act = {
        ArrowLeft: () => this.move(-0.15, 0), ArrowRight: () => this.move(0.15, 0),
        ArrowUp: () => this.move(0, -0.15), ArrowDown: () => this.move(0, 0.15),
      }[event.key];
      if (act) { event.preventDefault(); act(); }
    });
  },

  // A page that is scrolled past should not zoom: only with Ctrl or Shift.
  turn(event, [x, y]) {
    if (!event.ctrlKey && !event.shiftKey) return;
    event.preventDefault();
    const factor = Math.exp(Math.max(-300, Math.min(300, event.deltaY || event.deltaX)) / 400);
    const panel = this.panels.pages;
    if (event.shiftKey) this.zoom(factor, this.y[0] + (y - panel.top) / panel.height * (this.y[1] - this.y[0]), true);
    else this.zoom(factor, this.tickAt(x));
  },

  point(event, x, y) {
    const found = this.find(x, y), inside = x >= LEFT && x <= LEFT + this.wide;
    showTip(found ? describe(this.run, found) : "", event.clientX, event.clientY);
    this.oncursor?.(inside ? this.us(this.tickAt(x)) : null);
  },

  choosePlace(x, y) {
    const found = this.find(x, y);
    if (!found) return;
    const part = found.wait === undefined ? this.run.sends : this.run.waits;
    const index = found.wait === undefined ? found.send : found.wait;
    this.select(this.run, part.block[index], part.page[index], false, found.wait ?? null);
  },

  // Draws the cursor through all panels, with what there is at that moment; none for null.  A stretch
  // that is being dragged over, from and to in pixels, is shaded.
  drawCursor(us, dragged = null) {
    const over = this.over, ratio = window.devicePixelRatio || 1;
    this.cursor = us;
    over.width = this.canvas.width;
    over.height = this.canvas.height;
    if (us === null || this.paperWidth !== null) return;
    const pen = over.getContext("2d"), tick = us / this.run.tick_us + this.run.begin, x = this.px(tick);
    pen.scale(ratio, ratio);
    pen.font = "12px system-ui, sans-serif";
    const bottom = this.height - 34;
    if (dragged) {
      const [low, high] = [...dragged].sort((one, other) => one - other);
      pen.fillStyle = colour("--accent");
      pen.globalAlpha = 0.2;
      pen.fillRect(low, 8, high - low, bottom - 8);
      pen.globalAlpha = 1;
      this.flag(pen, sayTime((high - low) / this.wide * (this.x[1] - this.x[0]) * this.run.tick_us), (low + high) / 2, 8, "center");
    }
    if (x < LEFT || x > LEFT + this.wide) return;
    pen.fillStyle = colour("--accent");
    pen.fillRect(x - 0.5, 8, 1, bottom - 8);
    const { missing, waiting, rate } = this.panels, lacks = missingAt(this.run, tick);
    this.flag(pen, `${sayMoment(us)} ms`, x, bottom - 2, "center");
    if (lacks) this.flag(pen, `${sayBytes(lacks.bytes)} ${lacks.words}`, x, missing.top + missing.height - 18);
    this.flag(pen, `${this.waitingAt(tick)} waiting`, x, waiting.top + waiting.height - 18);
    const rates = this.ratesAt(tick);
    if (rates) this.flag(pen, rates, x, rate.top + rate.height - 18);
  },

  // Words in a box beside the cursor, on the side where there is room.
  flag(pen, words, x, y, align = "left") {
    const wide = pen.measureText(words).width + 8, most = LEFT + this.wide;
    let left = align === "center" ? x - wide / 2 : x + 5;
    if (align === "left" && left + wide > most) left = x - wide - 5;
    left = Math.min(Math.max(left, LEFT), most - wide);
    pen.fillStyle = colour("--ink");
    pen.fillRect(left, y, wide, 17);
    this.label(pen, words, left + 4, y + 13, "left", "--paper");
  },

  waitingAt(tick) {
    const { waits } = this.run;
    let count = 0;
    for (let i = 0; i < waits.count; i += 1) if (waits.start[i] <= tick && tick < this.wakeOf(i)) count += 1;
    return count;
  },

  ratesAt(tick) {
    const rates = this.viewed().rates, [from, to] = this.x;
    if (!rates || tick < from || tick >= to) return "";
    const step = Math.floor((tick - from) / (to - from) * rates[0].length);
    return this.run.channels.map((name, channel) => `${name} ${sayRate(rates[channel][step])}`).join(", ");
  },
});

// Keys for the whole page, as in other trace viewers; `line` gives the timeline that they act on.
function listenToKeys(line, others) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, select, textarea, dialog[open]")) return;
    const one = line();
    const centre = one.cursor === null ? null : one.cursor / one.run.tick_us + one.run.begin;
    const act = {
      w: () => one.zoom(0.7, centre), s: () => one.zoom(1.4, centre), a: () => one.move(-0.15, 0), d: () => one.move(0.15, 0),
      "+": () => one.zoom(0.7), "=": () => one.zoom(0.7), "-": () => one.zoom(1.4), 0: () => one.show(one.migration),
      ...others,
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (act) { event.preventDefault(); act(); }
  });
}
