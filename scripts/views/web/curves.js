// Curves over time below the page map: what is missing, who waits, and what the channels carry.

// How many stretches of time the rate is shown in, at most: a step is some pixels wide.
const RATE_STEPS = 160;

// Each channel's bytes in equal stretches of a window of time, in bytes a second; null where no
// bytes were told.  What a send carried is spread evenly over the time that it took.
function ratesIn(run, from, to, steps) {
  const { sends } = run, width = (to - from) / steps;
  const bytes = run.channels.map(() => new Float64Array(steps));
  let told = false;
  for (let i = 0; i < sends.count; i += 1) {
    if (!sends.bytes[i]) continue;
    told = true;
    if (sends.end[i] < from || sends.start[i] > to) continue;
    const mine = bytes[channelOf(sends.kind[i])], lasted = sends.end[i] - sends.start[i];
    const first = Math.max(0, Math.floor((sends.start[i] - from) / width)), last = Math.min(steps - 1, Math.floor((sends.end[i] - from) / width));
    for (let step = first; step <= last; step += 1) {
      const low = Math.max(sends.start[i], from + step * width), high = Math.min(sends.end[i], from + (step + 1) * width);
      // One that took no time is in one stretch.
      mine[step] += lasted ? sends.bytes[i] * Math.max(high - low, 0) / lasted : sends.bytes[i] / (last - first + 1);
    }
  }
  if (!told) return null;
  const seconds = width * run.tick_us / 1e6;
  return bytes.map((each) => each.map((count) => count / seconds));
}

// The last point of a curve that is not after a moment; -1 where there is none.
function pointAt(times, tick) {
  let [low, high] = [0, times.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= tick) low = middle + 1; else high = middle;
  }
  return low - 1;
}

// Bytes that the destination lacks at a moment, or where that is not told those left to send; null before either is.
function missingAt(run, tick) {
  const { missing, left } = run;
  const at = pointAt(missing.time, tick);
  if (at >= 0) return { bytes: missing.bytes[at], words: "missing at the destination" };
  const before = pointAt(left.time, tick);
  return before < 0 ? null : { bytes: left.bytes[before], words: "left to send" };
}

Object.assign(Timeline.prototype, {
  drawMissing(pen) {
    const panel = this.panels.missing, { missing, left } = this.run;
    const most = this.scale.missing;
    const y = (bytes) => panel.top + panel.height - bytes / most * (panel.height - 3) - 1;
    const line = (curve, name, dash) => {
      if (!curve.time.length) return;
      pen.beginPath();
      let before = null;
      for (let i = 0; i < curve.time.length; i += 1) {
        const x = this.px(curve.time[i]);
        if (before !== null) pen.lineTo(x, before);
        before = y(curve.bytes[i]);
        pen.lineTo(x, before);
      }
      if (before !== null) pen.lineTo(this.px(this.run.end), before);
      pen.strokeStyle = colour(name);
      pen.lineWidth = 2;
      pen.setLineDash(dash);
      pen.stroke();
      pen.setLineDash([]);
    };
    this.clip(pen, panel, () => {
      line(left, "--soft", [2, 3]);
      line(missing, "--ink", []);
    });
    this.label(pen, "missing", LEFT - 6, panel.top + panel.height / 2 + 4);
    if (!missing.time.length && !left.time.length) { this.label(pen, "not recorded", LEFT + 6, panel.top + panel.height / 2 + 4, "left"); return; }
    this.words(pen, panel, `0 to ${sayBytes(most)}${this.wide > 500 && left.time.length ? "; solid: missing at the destination, dotted: left to send" : ""}`);
  },

  drawWaiting(pen) {
    const panel = this.panels.waiting, points = this.run.waiting, most = Math.max(this.run.vcpus, 1);
    const step = points.length > 1 ? points[1][0] - points[0][0] : 1;
    this.clip(pen, panel, () => {
      pen.fillStyle = colour("--wait");
      for (const [tick, mean] of points) {
        const tall = mean / most * panel.height;
        if (tall) pen.fillRect(this.px(tick), panel.top + panel.height - tall, Math.max(this.px(tick + step) - this.px(tick) + 0.5, 1), tall);
      }
    });
    this.label(pen, `waiting ${this.run.waiter}s`, LEFT - 6, panel.top + panel.height / 2 + 4);
    this.words(pen, panel, `0 to ${most}`);
  },

  drawRates(pen) {
    const panel = this.panels.rate, run = this.run, [from, to] = this.x, { rates: shown, peak } = this.viewed();
    this.label(pen, "rate", LEFT - 6, panel.top + panel.height / 2 + 4);
    if (!shown) { this.label(pen, "not recorded", LEFT + 6, panel.top + panel.height / 2 + 4, "left"); return; }
    // What a socket takes at once may be more than the link carries: it lies in the host's queues then.
    const most = Math.max(...this.peers.map((line) => Math.max(line.viewed().peak, line.run.link_rate * 1.05)), 1), y = (rate) => panel.top + panel.height - rate / most * (panel.height - 4) - 1;
    this.clip(pen, panel, () => {
      shown.forEach((rates, channel) => {
        if (!rates.some((rate) => rate)) return;
        pen.beginPath();
        rates.forEach((rate, step) => {
          pen.lineTo(this.px(from + step * (to - from) / rates.length), y(rate));
          pen.lineTo(this.px(from + (step + 1) * (to - from) / rates.length), y(rate));
        });
        pen.strokeStyle = colour("--ink");
        pen.lineWidth = 2;
        pen.setLineDash(channel === 0 ? [] : [5, 3]);
        pen.stroke();
        pen.setLineDash([]);
      });
      if (run.link_rate) { pen.fillStyle = colour("--ink"); pen.fillRect(LEFT, y(run.link_rate), this.wide, 1); }
    });
    if (run.link_rate) this.label(pen, `link ${sayRate(run.link_rate)}`, LEFT + 4, panel.top - 4, "left", "--ink");
    const carried = shown.reduce((sum, rates) => sum + rates.reduce((one, other) => one + other, 0), 0) / shown[0].length;
    const share = run.link_rate ? `, ${sayShare(Math.min(carried / run.link_rate, 1))} of the link` : "";
    this.words(pen, panel, `mean ${sayRate(carried)}${share}; peak ${sayRate(peak)}${this.wide > 620 ? "; precopy solid, postcopy dashed" : ""}`);
  },

  // The rates of what is shown and their peak; worked out anew when something else is shown.
  viewed() {
    const [from, to] = this.x, steps = Math.max(1, Math.min(RATE_STEPS, Math.floor((this.wide ?? 0) / 5))), key = `${from} ${to} ${steps}`;
    if (this.viewedAs?.key !== key) {
      const rates = ratesIn(this.run, from, to, steps);
      this.viewedAs = { key, rates, peak: rates ? rates.reduce((most, each) => each.reduce((one, other) => Math.max(one, other), most), 0) : 0 };
    }
    return this.viewedAs;
  },

  // Words at the upper right of a panel, in the gap above it, so that they hide no curve.
  words(pen, panel, words) { this.label(pen, words, LEFT + this.wide - 3, panel.top - 4); },

  // Where a connection was gone: a hatched stretch over all panels, from the break until the run went on.
  drawBreaks(pen) {
    const panels = Object.values(this.panels).filter((panel) => panel !== this.panels.state), top = this.panels.pages.top;
    // Where the words in each of some rows end: of breaks that follow each other closely the next one's go below.
    const ends = [0, 0, 0];
    for (const [lost, back] of this.run.breaks) {
      const left = Math.max(this.px(lost), LEFT), right = Math.min(this.px(back ?? this.run.end), LEFT + this.wide);
      if (right < LEFT || left > LEFT + this.wide) continue;
      // Not between the panels, where words are.
      for (const panel of panels) {
        pen.fillStyle = hatch(pen, colour("--cut"));
        pen.globalAlpha = 0.35;
        pen.fillRect(left, panel.top, Math.max(right - left, 1.5), panel.height);
        pen.globalAlpha = 1;
        pen.fillStyle = colour("--cut");
        pen.fillRect(left, panel.top, 1.5, panel.height);
      }
      const words = back === null ? "connection lost" : "connection lost, then resumed";
      const long = pen.measureText(words).width, at = Math.min(left + 4, LEFT + this.wide - long - 4);
      const row = ends.findIndex((end) => end < at);
      if (row < 0) continue;
      ends[row] = at + long + 6;
      pen.fillStyle = colour("--paper");
      pen.fillRect(at - 2, top + 2 + 17 * row, long + 4, 15);
      this.label(pen, words, at, top + 14 + 17 * row, "left", "--ink");
    }
  },
});
