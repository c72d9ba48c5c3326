// The page map: what was sent of which page when, and who waited for it.

// Pages lower than this are drawn together, in rows of so many pixels.
const TOGETHER_PX = 3;
// Which bar is seen where several lie in one place: what was sent on request, above all a half-sent page.
const BAR_RANK = [1, 4, 5, 3, 2];

Object.assign(Timeline.prototype, {
  isTogether(block) { return block.page_bytes / (this.y[1] - this.y[0]) * this.panels.pages.height < TOGETHER_PX; },

  drawPages(pen) {
    const { sends, blocks } = this.run;
    const together = blocks.map((block) => this.isTogether(block));
    if (together.some(Boolean)) this.drawTogether(pen, together);
    // Background first, so that what was asked for lies above it.
    for (const layer of [0, 1]) {
      for (let i = 0; i < sends.count; i += 1) {
        if (together[sends.block[i]] || !this.isShown(i)) continue;
        const bar = barOf(sends.kind[i]);
        if ((bar === 0 || bar === 4 ? 0 : 1) !== layer) continue;
        const [top, tall] = this.rowOf(i);
        this.drawBar(pen, i, bar, top, Math.max(tall - (tall > 6 ? 1 : 0), 1));
      }
    }
    this.drawPageWaits(pen);
    if (this.chosen) this.drawChosen(pen);
  },

  rowOf(i) {
    const { sends, bases, blocks } = this.run, size = blocks[sends.block[i]].page_bytes;
    const base = bases[sends.block[i]] + sends.page[i] * size, top = this.py(base);
    return [top, this.py(base + sends.pages[i] * size) - top];
  },

  isShown(i) {
    const { sends } = this.run, panel = this.panels.pages;
    if (sends.end[i] < this.x[0] || sends.start[i] > this.x[1]) return false;
    const [top, tall] = this.rowOf(i);
    return top + tall >= panel.top && top <= panel.top + panel.height;
  },

  // Pages too low to be seen one by one: a cell of the map has the colour of what ranks highest in it.
  drawTogether(pen, together) {
    const { sends } = this.run, panel = this.panels.pages;
    const wide = Math.ceil(this.wide), tall = Math.ceil(panel.height / TOGETHER_PX), cells = new Uint8Array(wide * tall);
    for (let i = 0; i < sends.count; i += 1) {
      if (!together[sends.block[i]] || !this.isShown(i)) continue;
      const [top, high] = this.rowOf(i), bar = barOf(sends.kind[i]), rank = BAR_RANK[bar] * 8 + bar;
      const rows = [Math.max(0, Math.floor((top - panel.top) / TOGETHER_PX)), Math.min(tall - 1, Math.floor((top + high - 0.01 - panel.top) / TOGETHER_PX))];
      const places = [Math.max(0, Math.floor(this.px(sends.start[i]) - LEFT)), Math.min(wide - 1, Math.floor(this.px(sends.end[i]) - LEFT))];
      for (let row = rows[0]; row <= rows[1]; row += 1) {
        for (let x = places[0]; x <= places[1]; x += 1) if (cells[row * wide + x] < rank) cells[row * wide + x] = rank;
      }
    }
    for (let row = 0; row < tall; row += 1) {
      for (let x = 0; x < wide;) {
        const rank = cells[row * wide + x], from = x;
        while (x < wide && cells[row * wide + x] === rank) x += 1;
        if (!rank) continue;
        pen.fillStyle = this.colours[rank % 8];
        pen.fillRect(LEFT + from, panel.top + row * TOGETHER_PX, x - from, TOGETHER_PX);
      }
    }
  },

  drawPageWaits(pen) {
    const { waits, bases, blocks } = this.run, [from, to] = this.x;
    pen.strokeStyle = colour("--waitedge");
    for (let i = 0; i < waits.count; i += 1) {
      const wake = this.wakeOf(i);
      if (wake < from || waits.start[i] > to) continue;
      const size = blocks[waits.block[i]].page_bytes;
      const middle = this.py(bases[waits.block[i]] + (waits.page[i] + 0.5) * size);
      const [left, right] = [this.px(waits.start[i]), this.px(wake)];
      // Where waits are many and short, what was sent for them is seen better without them.
      if (right - left < (this.isTogether(blocks[waits.block[i]]) ? this.wide / 40 : 4)) continue;
      pen.lineWidth = 1.5;
      pen.beginPath();
      pen.moveTo(left, middle - 4); pen.lineTo(left, middle + 4);
      pen.moveTo(left, middle); pen.lineTo(right, middle);
      pen.moveTo(right, middle - 4); pen.lineTo(right, middle + 4);
      pen.stroke();
    }
  },

  drawBar(pen, i, bar, top, tall, least = 1.5) {
    const { sends } = this.run;
    const left = this.px(sends.start[i]), wide = Math.max(this.px(sends.end[i]) - left, least);
    pen.fillStyle = this.colours[bar];
    pen.fillRect(left, top, wide, tall);
    if (sends.urgent[i] !== NEVER) {
      const since = this.px(sends.urgent[i]);
      pen.fillStyle = this.colours[0];
      pen.fillRect(left, top, Math.max(since - left, 0), tall);
    }
    if (wide > 3 && tall > 3) this.drawPattern(pen, bar, sends.urgent[i] === NEVER ? left : Math.max(left, this.px(sends.urgent[i])), top, left + wide, tall);
    if (endOf(sends.kind[i]) % 2 && (wide > 5 || !this.manyCuts)) {
      // Broken off, or lost with its connection: a dark edge where it stopped.
      pen.fillStyle = colour("--cut");
      pen.fillRect(left + wide - 1, top - 2, wide > 5 ? 2.5 : 1, tall + 4);
    }
  },

  // What the colour says once more, for those who do not see it.
  drawPattern(pen, bar, left, top, right, tall) {
    const draw = { hatch, dots, lines }[BARS[bar].pattern];
    if (!draw || right <= left) return;
    pen.fillStyle = draw(pen, colour("--paper"));
    pen.globalAlpha = 0.6;
    pen.fillRect(left, top, right - left, tall);
    pen.globalAlpha = 1;
  },

  drawChosen(pen) {
    const { block, page } = this.chosen;
    const size = this.run.blocks[block].page_bytes;
    const top = this.py(this.run.bases[block] + page * size);
    const tall = this.py(this.run.bases[block] + (page + 1) * size) - top;
    pen.strokeStyle = colour("--accent");
    pen.lineWidth = 1.5;
    pen.strokeRect(LEFT - 2, top - 3, this.wide + 4, Math.max(tall, 2) + 6);
  },
});
