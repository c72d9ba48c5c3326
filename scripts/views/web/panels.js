// What a timeline draws, panel by panel.

Object.assign(Timeline.prototype, {
  label(pen, words, x, y, align = "right", name = "--soft") {
    pen.fillStyle = colour(name);
    pen.textAlign = align;
    pen.fillText(words, x, y);
  },

  drawFrames(pen) {
    for (const panel of Object.values(this.panels)) {
      pen.fillStyle = colour("--lane");
      pen.fillRect(LEFT, panel.top, this.wide, panel.height);
    }
    const { channels, vcpus, state } = this.panels;
    this.label(pen, "source", LEFT - 6, state.top + 13);
    this.label(pen, "destination", LEFT - 6, state.top + LANE + 13);
    this.label(pen, "precopy ch.", LEFT - 6, channels.top + 14);
    this.label(pen, "postcopy ch.", LEFT - 6, channels.top + LANE + 18);
    const lane = vcpus.height / Math.max(this.run.vcpus, 1);
    const step = Math.ceil(11 / lane);
    for (let vcpu = 0; vcpu < this.run.vcpus; vcpu += step) {
      this.label(pen, `${this.run.waiter} ${vcpu}`, LEFT - 6, vcpus.top + lane * (vcpu + 0.5) + 4);
    }
    this.pageTicks(pen);
  },

  // Ticks of the page axis: page numbers of the block that lies there.
  pageTicks(pen) {
    const run = this.run, panel = this.panels.pages;
    let last = -Infinity;
    run.blocks.forEach((block, index) => {
      const end = run.bases[index] + block.pages * block.page_bytes;
      const low = Math.max(this.y[0], run.bases[index]), high = Math.min(this.y[1], end);
      if (high <= low) return;
      const tall = (high - low) / (this.y[1] - this.y[0]) * panel.height;
      const first = (low - run.bases[index]) / block.page_bytes;
      const beyond = (high - run.bases[index]) / block.page_bytes;
      const steps = beyond - first < 1 ? [Math.floor(first)] : niceSteps(first, beyond - 0.5, Math.max(1, tall / 34));
      for (const page of new Set(steps.map(Math.floor))) {
        const y = this.py(run.bases[index] + (page + 0.5) * block.page_bytes);
        if (y < panel.top || y > panel.top + panel.height) continue;
        // Of blocks that are thin beside each other not all have room for a label.
        if (y - last < 11) continue;
        last = y;
        this.label(pen, this.shortPage(pen, index, page), LEFT - 6, y + 4);
        pen.fillStyle = colour("--line");
        pen.fillRect(LEFT - 3, y, 3, 1);
      }
      if (index) { pen.fillStyle = colour("--soft"); pen.fillRect(LEFT, this.py(run.bases[index]), this.wide, 1); }
    });
    pen.save();
    pen.translate(12, panel.top + panel.height / 2);
    pen.rotate(-Math.PI / 2);
    this.label(pen, "guest memory (page number)", 0, 0, "center");
    pen.restore();
  },

  // A page's name with as much of its block's name, from the end, as there is room for.
  shortPage(pen, block, page) {
    const words = sayPage(this.run, block, page), room = LEFT - 28;
    let from = 0;
    const cut = () => (from ? `…${words.slice(from)}` : words);
    while (pen.measureText(cut()).width > room && from < words.length) from += 1;
    return cut();
  },

  drawStates(pen) {
    const panel = this.panels.state;
    ["source", "dest"].forEach((side, row) => {
      const states = this.run.states[side];
      states.forEach(([start, name], index) => {
        const stop = index + 1 < states.length ? states[index + 1][0] : this.run.end;
        const [left, right] = [Math.max(this.px(start), LEFT), Math.min(this.px(stop), LEFT + this.wide)];
        if (right < LEFT || left > LEFT + this.wide) return;
        pen.fillStyle = colour(index % 2 ? "--shade" : "--line");
        pen.fillRect(left, panel.top + row * LANE + 1, Math.max(right - left, 1), LANE - 2);
        if (right - left > pen.measureText(name).width + 8) {
          this.label(pen, name, (left + right) / 2, panel.top + row * LANE + 13, "center", "--ink");
        }
      });
    });
  },

  drawChannels(pen) {
    const { sends } = this.run, top = this.panels.channels.top;
    for (let i = 0; i < sends.count; i += 1) {
      if (sends.end[i] < this.x[0] || sends.start[i] > this.x[1]) continue;
      const y = top + channelOf(sends.kind[i]) * (LANE + 4) + 2;
      const bar = barOf(sends.kind[i]);
      this.drawBar(pen, i, bar, y, LANE - 4, 0.1);
      const [middle, wide] = this.seenOf(sends.start[i], sends.end[i]);
      if (wide > 26) {
        this.writePage(pen, sends.block[i], sends.page[i], middle, y + 11, wide - 4, this.colours[bar]);
        // A line between neighbours of one colour.
        pen.fillStyle = colour("--paper");
        pen.fillRect(this.px(sends.end[i]) - 0.5, y, 1, LANE - 4);
      }
    }
  },

  // The middle and the width of that part of a bar that is seen, so that no number is cut off at an edge.
  seenOf(start, end) {
    const left = Math.max(this.px(start), LEFT), right = Math.min(this.px(end), LEFT + this.wide);
    return [(left + right) / 2, right - left];
  },

  // A page's number alone says nothing where there are several blocks.
  writePage(pen, block, page, x, y, wide, ground) {
    const name = sayPage(this.run, block, page), long = pen.measureText(name).width;
    if (this.run.blocks.length > 1 && long > wide) return;
    // On its bar's own colour: a pattern under it would make it hard to read.
    const room = Math.min(long + 4, wide);
    pen.fillStyle = ground;
    pen.fillRect(x - room / 2, y - 9, room, 10);
    pen.fillStyle = readableOn(ground);
    pen.textAlign = "center";
    pen.fillText(name, x, y, wide);
  },

  drawVcpus(pen) {
    const { waits } = this.run, panel = this.panels.vcpus;
    const lane = panel.height / Math.max(this.run.vcpus, 1);
    for (let i = 0; i < waits.count; i += 1) {
      const wake = this.wakeOf(i);
      if (wake < this.x[0] || waits.start[i] > this.x[1]) continue;
      // Less than a pixel colours it in part, so that many of them look like the time they took.
      const left = this.px(waits.start[i]), wide = Math.max(this.px(wake) - left, 0.1);
      const gap = Math.min(1, lane * 0.1), top = panel.top + waits.vcpu[i] * lane + gap;
      pen.fillStyle = colour("--wait");
      pen.fillRect(left, top, wide, lane - 2 * gap);
      pen.strokeStyle = colour("--waitedge");
      pen.lineWidth = 1;
      if (wide > 3 && lane > 6) pen.strokeRect(left + 0.5, top + 0.5, wide - 1, lane - 3);
      const [middle, seen] = this.seenOf(waits.start[i], wake);
      if (seen > 26 && lane > 11) {
        this.writePage(pen, waits.block[i], waits.page[i], middle, top + lane - 4, seen - 4, colour("--wait"));
      }
    }
  },

  drawBlackout(pen) {
    if (!this.run.blackout) return;
    const [left, right] = this.run.blackout.map((tick) => this.px(tick));
    if (right < LEFT || left > LEFT + this.wide) return;
    pen.fillStyle = colour("--shade");
    const top = this.panels.pages.top;
    pen.fillRect(Math.max(left, LEFT), top, Math.max(right - Math.max(left, LEFT), 1.5), this.height - 34 - top - GAP);
  },

  drawAxis(pen) {
    const y = this.height - 34, run = this.run;
    const span = this.us(this.x[1]) - this.us(this.x[0]);
    const [unit, words] = span >= 5e6 ? [1e6, "seconds"] : span >= 5e3 ? [1e3, "milliseconds"] : [1, "microseconds"];
    for (const value of niceSteps(this.us(this.x[0]) / unit, this.us(this.x[1]) / unit, this.wide / 110)) {
      const x = this.px(value * unit / this.run.tick_us + this.run.begin);
      if (x < LEFT - 1) continue;
      pen.fillStyle = colour("--line");
      pen.fillRect(x, 8, 1, y - 8);
      // At the very edge there is no room on both sides.
      this.label(pen, String(+value.toPrecision(8)), Math.min(x, LEFT + this.wide + RIGHT - 14), y + 12, "center");
    }
    this.label(pen, `${words} since ${run.since}`, LEFT + this.wide / 2, y + 28, "center");
  },

  say() {
    const run = this.run;
    const row = (this.y[1] - this.y[0]) / this.panels.pages.height;
    const size = Math.max(...run.blocks.map((block) => block.page_bytes), 1);
    const stands = row > size ? `1 px = ${sayBytes(row)} (${sayDigits(row / size)} pages)` : `1 page (${sayBytes(size)}) = ${sayDigits(size / row)} px`;
    const joined = run.pages_per_bar > 1 ? ` Background that goes on from page to page is drawn as one bar of up to ${run.pages_per_bar} pages.` : "";
    const down = run.blackout ? " Grey from top to bottom: downtime." : "";
    const together = this.paperWidth === null && run.blocks.some((block) => this.isTogether(block)) ? ` Each row stands for ${sayDigits(TOGETHER_PX * row / size)} pages; where several were sent in one place, what was sent on request is shown.` : "";
    const left = Object.entries(run.left_out).filter(([, count]) => count).map(([name, count]) => `${sayCount(count)} ${name}`);
    // Paper has its own scale.
    this.note.textContent = `${this.paperWidth === null ? `${stands}.` : ""}${together}${joined}`
      + `${left.length ? ` Too many to show, and left out: ${left.join(", ")}.` : ""}${down}`;
  },
});
